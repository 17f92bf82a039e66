"""Freed memory goes back to the system."""

from __future__ import annotations

import subprocess
import sys

import pytest

_FREED_BETWEEN_LIVE_OBJECTS = """
import os
from pipeline.runtime.memory import release_memory

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20

# Larger than Python's own arenas take, so that the C heap holds them.
texts = ["x" * 20000 for _ in range(5000)]
last = texts.pop()
del texts[:]
before = resident()
release_memory()
print(before - resident())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc alone has malloc_trim")
def test_freed_memory_is_returned() -> None:
    command = [sys.executable, "-c", _FREED_BETWEEN_LIVE_OBJECTS]

    released = subprocess.run(command, capture_output=True, text=True, check=True).stdout

    # Of 95 MiB, in MiB.
    assert int(released) > 50
