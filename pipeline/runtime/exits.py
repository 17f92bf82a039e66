"""The end of a process that has daemon threads of Beam and of storage clients."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
from typing import NoReturn


def end_process(code: int) -> NoReturn:
    """End this process with an exit code, without Python's finalization.

    Finalization unwinds daemon threads wherever they are. In C++ code that must not throw, this can abort the process
    after all work is done ("terminate called without an active exception").
    """
    # What modules registered for the end, such as the removal of temporary folders. `os._exit` would skip it.
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)
