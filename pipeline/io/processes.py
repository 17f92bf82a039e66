"""Identity of a process, by which other processes can tell that it is gone, also from another container.

A host name and a number do not identify a process: two containers may have the same host name, and each has a
process 1. So a process is identified by the boot of its machine, its namespace of process numbers, its number there,
and its start time.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import sys
import uuid
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Self


@dataclass(frozen=True)
class Process:
    """A process. `machine` is empty where the visible processes cannot be identified."""

    machine: str
    number: int
    started: int | None

    @classmethod
    def current(cls) -> Self:
        """Return this process."""
        return cls(_machine(), os.getpid(), (_stat(os.getpid()) or (None, None))[1])

    @property
    def is_here(self) -> bool:
        """True for a process of the same machine and container, which is visible from here."""
        return self.machine != "" and self.machine == _machine()

    @property
    def is_gone(self) -> bool:
        """True where the process has ended for sure. Of a process that is not visible, nothing is sure."""
        if not self.is_here:
            return False
        try:
            os.kill(self.number, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
        found = _stat(self.number)
        if found is None or self.started is None:
            return False
        state, started = found
        # The number belongs to another process now, or the process has ended and its parent has not noticed.
        return started != self.started or state in ("Z", "X")


@lru_cache(maxsize=1)
def _machine() -> str:
    """Identify the set of process numbers: on Linux a boot and a namespace, elsewhere a host."""
    if sys.platform != "linux":
        # Without containers a host has one set of numbers.
        parts = [socket.gethostname(), f"{uuid.getnode():x}"]
    else:
        try:
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
            parts = [boot, str(Path("/proc/self/ns/pid").readlink())]
        except OSError:
            return ""
        with contextlib.suppress(OSError):
            # Start times are by the clock of this namespace.
            parts.append(str(Path("/proc/self/ns/time").readlink()))
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:12]


def _stat(number: int) -> tuple[str, int] | None:
    """Return state and start time (in ticks since the boot) of a process, where the system reports them."""
    try:
        text = Path(f"/proc/{number}/stat").read_text(errors="replace")
        # The process's name, in parentheses, may contain spaces and parentheses.
        fields = text.rpartition(")")[2].split()
        return fields[0], int(fields[19])
    except (OSError, ValueError, IndexError):
        return None


def usable_cores() -> list[int]:
    """Return the numbers of the cores that this process may use: a container may have fewer than its machine."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))
