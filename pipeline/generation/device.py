"""The device of the build's own model server, and how many sequences it takes at once."""

from __future__ import annotations

import contextlib
import os
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pipeline.io.processes import usable_cores
from schemas.config import VllmEngine

_GIB = 2**30
_BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
"""Features that Linux lists of a CPU with instructions for bfloat16, x86-64 and ARM."""


@dataclass(frozen=True)
class Device:
    """A CPU or a GPU, or the half of it that one of two servers gets.

    `size` is the number of usable cores, or GiB of the smallest GPU's memory (0: unknown). `half` is None for the whole
    device.
    """

    is_cpu: bool
    size: int
    half: Literal[0, 1] | None = None

    def __str__(self) -> str:
        whole = "" if self.half is None else "half of the device: "
        if self.is_cpu:
            return f"{whole}{self.size} CPU core{'s' if self.size > 1 else ''}"
        return f"{whole}GPU memory of {self.size} GiB" if self.size else f"{whole}GPU memory unknown"

    def halved(self, half: Literal[0, 1]) -> Device:
        """Return a half of the device, the first of a CPU with the odd core. A single core is shared."""
        size = max(1, (self.size + 1 - half) // 2) if self.is_cpu else self.size // 2
        return replace(self, size=size, half=half)

    @property
    def cores(self) -> list[int]:
        """Cores of a server on this CPU."""
        cores = usable_cores()
        return cores[: self.size] if self.half != 1 else cores[-self.size :]

    def bound(self, engine: VllmEngine) -> int:
        """Return the most sequences in flight: `engine.in_flight`, or what keeps the device busy by a rule of thumb.

        A CPU gets 12 a core. A GPU gets 6 for each GiB: with half of the memory left for the cache of tokens, 6
        sequences of 680 tokens fit where a token takes 128 KiB (a model of 8 billion parameters).
        """
        if engine.in_flight is not None:
            return engine.in_flight
        if self.is_cpu:
            return min(128, max(16, 12 * self.size))
        return min(512, max(32, 6 * self.size)) if self.size else 128


def find_device(engine: VllmEngine) -> Device:
    """Return the device on which the engine serves."""
    size = None if engine.device == "cpu" else _gpu_gib()
    if size is not None or engine.device == "cuda":
        return Device(is_cpu=False, size=size or 0)
    return Device(is_cpu=True, size=len(usable_cores()))


def _gpu_gib() -> int | None:
    """Return the smallest GPU's memory in GiB, 0 where it is unknown, or None where `nvidia-smi` does not succeed.

    Its mere presence says nothing about the driver.
    """
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode:
        return None
    # MiB, a line each; a GPU that shares the machine's memory has no number.
    sizes = [int(line) for line in done.stdout.split("\n") if line.strip().isdigit()]
    return round(min(sizes, default=0) / 1024)


def cpu_dtype(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return the type that this CPU computes in fastest: bfloat16 is several times slower without such instructions."""
    try:
        flags = set(cpuinfo.read_text().split())
    except OSError:
        return "float32"
    return "bfloat16" if flags & _BFLOAT16_FLAGS else "float32"


def cpu_cache_gib(in_flight: int) -> int:
    """Return the size of a CPU's cache of tokens: 64 MiB a sequence, and at most a quarter of the machine's memory.

    That is 1,170 tokens of a model of 1.5 billion parameters in float32, which takes 56 KiB a token.
    """
    return max(2, min(in_flight // 16, total_memory() // _GIB // 4))


def total_memory(cgroups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int:
    """Return the bytes of memory of this machine, or of its container where that has fewer.

    Args:
        cgroups: Mounted control groups. Their limits hold for all groups within: each group on the way is read.
        own: The file that names this process's groups.
    """
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    with contextlib.suppress(OSError):
        for line in own.read_text().splitlines():
            _, controllers, name = line.split(":", 2)
            if controllers not in ("", "memory"):
                continue
            root, file = (cgroups / "memory", "memory.limit_in_bytes") if controllers else (cgroups, "memory.max")
            group = root / name.lstrip("/")
            for folder in (group, *group.parents):
                # "max" is no limit.
                with contextlib.suppress(OSError, ValueError):
                    limits.append(int((folder / file).read_text()))
                if folder == root:
                    break
    return min(limits)
