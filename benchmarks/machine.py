"""Figures that all benchmarks share: the machine and its work, the command, and a process tree's memory."""

from __future__ import annotations

import platform
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import psutil


class Measured(NamedTuple):
    """Result of a command."""

    seconds: float
    peak_bytes: int
    output: str


def describe() -> str:
    """Return machine and command as two lines."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    script = Path(sys.argv[0])
    name = script.parent.name if script.stem == "__main__" else script.stem
    return (
        f"machine: {psutil.cpu_count()} cores, {cpu}, Python {platform.python_version()}\n"
        f"command: python -m benchmarks.{name} {' '.join(sys.argv[1:])}"
    )


def measure(command: list[str]) -> Measured:
    """Run a command to its end. Raise `SystemExit` with its output if it fails."""
    started = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        peak = 0
        while process.poll() is None:
            peak = max(peak, tree_memory(process.pid))
            time.sleep(0.05)
        said = process.stdout.read() if process.stdout else ""
    if process.returncode:
        sys.exit(f"failed: {' '.join(command)}\n{said}")
    return Measured(time.monotonic() - started, peak, said)


def tree_memory(pid: int) -> int:
    """Return resident bytes of a process and all its children."""
    try:
        root = psutil.Process(pid)
        return sum(process.memory_info().rss for process in (root, *root.children(recursive=True)))
    except psutil.Error:
        return 0


def tree_pss(pid: int) -> int:
    """Return the proportional set size of a process and all its children in bytes: shared pages count once."""
    root = psutil.Process(pid)
    return sum(process.memory_full_info().pss for process in (root, *root.children(recursive=True)))


def busy_seconds() -> float:
    """Return processor seconds that this machine has spent."""
    spent = psutil.cpu_times()._asdict()
    return float(sum(spent.get(kind, 0.0) for kind in ("user", "nice", "system", "irq", "softirq", "steal")))


def free_port() -> int:
    """Return a free port of the loopback interface."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
