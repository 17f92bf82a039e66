"""Rows per second and peak memory of whole builds against an instant stub: `python benchmarks/throughput.py`.

A row is a pair: two requests, 64 in flight, both phases to finished shards. Prints one line a size.
"""

from __future__ import annotations

import argparse
import json
import platform
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

_HERE = Path(__file__).parent


def main() -> None:
    """Run each size and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, nargs="+", default=[5_000, 20_000, 100_000])
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--set", action="append", default=[], help="passed on to `everyuser build`")
    arguments = parser.parse_args()
    cpu = next(
        (line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")), platform.processor()
    )
    print(f"machine: {psutil.cpu_count()} cores, {cpu}, Python {platform.python_version()}")
    print(f"command: python {' '.join(sys.argv)}")
    with tempfile.TemporaryDirectory() as scratch:
        for pairs in arguments.pairs:
            print(measure(Path(scratch), pairs, arguments.in_flight, arguments.set), flush=True)


def measure(scratch: Path, pairs: int, in_flight: int, overrides: list[str]) -> str:
    """One build; the line of its figures."""
    port = _free_port()
    config, output = scratch / "bench.yaml", scratch / f"out-{pairs}"
    config.write_text(
        f"pairs: {pairs}\n"
        "generation: {model: stub}\n"
        f"engine: {{kind: openai, base_urls: ['http://127.0.0.1:{port}/v1'], in_flight: {in_flight}}}\n"
    )
    stub = subprocess.Popen([sys.executable, str(_HERE / "stub_server.py"), str(port)], stdout=subprocess.PIPE)
    assert stub.stdout is not None  # noqa: S101 - for the type checker
    stub.stdout.readline()
    started = time.monotonic()
    sets = [part for override in overrides for part in ("--set", override)]
    build = subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli", "build", str(config), "--output", str(output), *sets],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    peak, pool_at = 0, 0.0
    while build.poll() is None:
        peak = max(peak, _tree_memory(build.pid))
        if not pool_at and (output / "pool" / "shared_replies.json").exists():
            pool_at = time.monotonic() - started
        time.sleep(0.05)
    seconds = time.monotonic() - started
    stub.kill()
    stub.wait()
    said = build.stdout.read() if build.stdout else ""
    if build.returncode:
        return f"{pairs} pairs: failed\n{said}"
    manifest = json.loads((output / "manifest.json").read_text())
    size = sum(entry["bytes"] for entry in manifest["files"])
    return (
        f"{pairs:>7} pairs: {pairs / seconds:6.0f} rows/s ({seconds:.1f} s, of which pairs {pool_at:.1f} s), "
        f"{manifest['counts']['examples']} examples, peak {peak / 2**20:.0f} MiB, {size / 2**20:.0f} MiB of shards"
    )


def _tree_memory(pid: int) -> int:
    """Resident bytes of a process and all its children."""
    try:
        root = psutil.Process(pid)
        return sum(process.memory_info().rss for process in (root, *root.children(recursive=True)))
    except psutil.Error:
        return 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


if __name__ == "__main__":
    main()
