"""Seconds of each shard: logged when it is stored, with a warning for one far slower than the others of its phase."""

from __future__ import annotations

import logging
import statistics
import threading
import time
from collections import defaultdict, deque

from pipeline.io.storage import AnyPath

logger = logging.getLogger(__name__)

_COMPARED = 8
"""Shards that a process must have stored before it calls one slow."""
_REMEMBERED = 1000
_SLOW_FACTOR = 5
_SLOW_SECONDS = 60.0

_lock = threading.Lock()
_begun: dict[AnyPath, float] = {}
_seconds: defaultdict[AnyPath, deque[float]] = defaultdict(lambda: deque(maxlen=_REMEMBERED))


def begin(path: AnyPath) -> None:
    """Remember that this process begins the shard at `path`."""
    with _lock:
        _begun[path] = time.monotonic()


def stored(path: AnyPath, counts: str) -> None:
    """Log a stored shard with its counts, and its seconds where this process began it."""
    name = f"{path.parent.name}/{path.name}"
    with _lock:
        begun = _begun.pop(path, None)
        if begun is None:
            logger.info("stored %s: %s", name, counts)
            return
        seconds, others = time.monotonic() - begun, _seconds[path.parent]
        median = statistics.median(others) if len(others) >= _COMPARED else None
        others.append(seconds)
    logger.info("stored %s: %s, in %.1f s", name, counts, seconds)
    if median is not None and seconds >= max(_SLOW_SECONDS, _SLOW_FACTOR * median):
        logger.warning("slow shard %s: %.0f s, where the median of this process is %.1f s", name, seconds, median)
