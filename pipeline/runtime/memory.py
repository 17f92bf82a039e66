"""Memory of a process that lives on after a step with many objects."""

from __future__ import annotations

import ctypes
import gc


def release_memory() -> None:
    """Return freed memory to the system.

    Python and glibc keep it where a few live objects lie between the freed ones. Workers on the same machine need it.
    """
    # A full collection also clears the free lists of small objects, each of which keeps a whole arena.
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
