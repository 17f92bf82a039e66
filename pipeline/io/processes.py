"""Which process it was: a process that others recognise as gone, also from another container.

A host name and a number do not identify a process. Two containers may have the same host name, and each its own
process 1. So a process is known by the boot of its machine and its namespace of process numbers, by its number there,
and by the time at which it started.
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
    """A process. `machine` is empty where nothing says which processes can be seen from here."""

    machine: str
    number: int
    started: int | None

    @classmethod
    def current(cls) -> Self:
        """Return this very process."""
        return cls(_machine(), os.getpid(), (_stat(os.getpid()) or (None, None))[1])

    @property
    def is_here(self) -> bool:
        """True where this process could see it: of the same machine, and of the same container."""
        return self.machine != "" and self.machine == _machine()

    @property
    def is_gone(self) -> bool:
        """True where the process is surely over. Nothing is sure of a process that cannot be seen from here."""
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
        # A number that was given to another process, or a process that nobody has waited for.
        return started != self.started or state in ("Z", "X")


@lru_cache(maxsize=1)
def _machine() -> str:
    """Identify what process numbers belong to: on Linux a boot and a namespace, elsewhere a host."""
    if sys.platform != "linux":
        # No containers of its own: there is one set of numbers.
        parts = [socket.gethostname(), f"{uuid.getnode():x}"]
    else:
        try:
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
            parts = [boot, str(Path("/proc/self/ns/pid").readlink())]
        except OSError:
            return ""
        with contextlib.suppress(OSError):
            # Start times are told by the clock of this one.
            parts.append(str(Path("/proc/self/ns/time").readlink()))
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:12]


def _stat(number: int) -> tuple[str, int] | None:
    """State and start time (in ticks since the boot) of a process, where the system tells."""
    try:
        text = Path(f"/proc/{number}/stat").read_text(errors="replace")
        # The name, in parentheses, may hold anything.
        fields = text.rpartition(")")[2].split()
        return fields[0], int(fields[19])
    except (OSError, ValueError, IndexError):
        return None
