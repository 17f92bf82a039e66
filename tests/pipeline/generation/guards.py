"""Finding the guard and the server of a build or a test, and waiting for their end."""

from __future__ import annotations

from pathlib import Path

import psutil

from tests.waiting import wait_until

GONE_SECONDS = 60.0
"""A server lingers some seconds after its last client."""


def find_guard(folder: Path, ancestor: psutil.Process | None = None) -> psutil.Process:
    """The guard of this test's server: a descendant of a process that this test has started."""
    guards: list[psutil.Process] = []

    def look() -> bool:
        guards[:] = [
            process
            for process in (ancestor or psutil.Process()).children(recursive=True)
            if "pipeline.generation.guard" in command_line(process)
            and any(str(folder) in part for part in command_line(process))
            and process.children()
        ]
        return len(guards) == 1

    wait_until(look)
    return guards[0]


def command_line(process: psutil.Process) -> list[str]:
    try:
        parts: list[str] = process.cmdline()
    except psutil.Error:
        return []
    return parts


def find_server(folder: Path, ancestor: psutil.Process | None = None) -> psutil.Process:
    (server,) = find_guard(folder, ancestor).children()
    return server


def still_there(*processes: psutil.Process) -> list[psutil.Process]:
    """Those that have not ended after the time in which they should."""
    alive: list[psutil.Process] = psutil.wait_procs(processes, timeout=GONE_SECONDS)[1]
    return alive
