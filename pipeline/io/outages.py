"""Outages of object stores: requests are repeated until the store answers again.

Every request to a store goes through `retry_outages`. A store's client retries by itself for 20 to 50 seconds; after
that, `retry_outages` repeats the request for as long as `waiting_for_stores` allows. A refusal, a missing bucket and a
wrong key are answers: they are raised at once.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from upath import UPath

logger = logging.getLogger(__name__)

R = TypeVar("R")

_PROBE_SECONDS = 5
_LONGEST_PAUSE = 3.0
_ANSWERS = (FileNotFoundError, FileExistsError, PermissionError, NotADirectoryError, IsADirectoryError)
_OUTAGES = frozenset(
    {
        # Python's own, and those of fsspec.
        *("ConnectionError", "TimeoutError", "gaierror"),
        # s3fs, by botocore
        *("HTTPClientError", "EndpointConnectionError", "ResponseParserError", "IncompleteRead"),
        # gcsfs, by aiohttp, requests and google.auth
        *("ClientConnectionError", "ClientPayloadError", "Timeout", "ChunkedEncodingError", "TransportError"),
        "ChecksumError",
        # adlfs, by azure.core
        *("ServiceRequestError", "ServiceResponseError"),
    }
)
"""Class names of errors or of their bases. Names, because the packages need not be installed."""
_CERTIFICATES = ("SSL", "Certificate")
_TRANSIENT_STATUSES = frozenset({408, 429, 500, 502, 503, 504})


class _State:
    """Outages that this process knows of, and how it treats them."""

    limit_seconds = 0.0
    notify: Callable[[str], None] | None = None

    def __init__(self) -> None:
        self.cancelled = threading.Event()
        self.lock = threading.Lock()
        self.down: set[str] = set()
        self.thread = threading.local()

    def record_outage(self, path: UPath, error: Exception) -> None:
        with self.lock:
            is_new = _root(path) not in self.down
            self.down.add(_root(path))
        # Without a limit nobody waits, and the error itself is shown.
        if is_new and self.limit_seconds:
            cause = error_text(error)[:120]
            notify(f"{_root(path)} does not answer ({cause}); waiting for up to {self.limit_seconds:g} s")

    def record_answer(self, path: UPath) -> None:
        if not self.down:
            return
        with self.lock:
            was_down = _root(path) in self.down
            self.down.discard(_root(path))
        if was_down:
            notify(f"{_root(path)} answers again")


_state = _State()


def set_outage_limit(seconds: float) -> None:
    """Set how long this process repeats a request to a store that is down."""
    _state.limit_seconds = seconds


def notify(line: str) -> None:
    """Show the user a line while a build runs. Log it in a process without a user, such as a remote worker."""
    (_state.notify or logger.warning)(line)


@contextmanager
def waiting_for_stores(seconds: float, notify: Callable[[str], None]) -> Iterator[None]:
    """Repeat requests to stores that are down within the block; all threads stop waiting at its end.

    Args:
        seconds: Longest outage.
        notify: Is called with a line when a store goes down, and when it answers again.
    """
    _state.cancelled.clear()
    _state.notify = notify
    set_outage_limit(seconds)
    try:
        yield
    finally:
        set_outage_limit(0.0)
        _state.notify = None
        _state.cancelled.set()
        _state.down.clear()


@contextmanager
def without_retries() -> Iterator[None]:
    """Send each request of this thread once within the block: for heartbeats and live counts, which follow soon."""
    before = getattr(_state.thread, "tries_once", False)
    _state.thread.tries_once = True
    try:
        yield
    finally:
        _state.thread.tries_once = before


def retry_outages(path: UPath, request: Callable[[], R]) -> R:
    """Return the result of `request`, repeated while its store is down. Raises the store's error."""
    until, pause = None, 0.25
    while True:
        try:
            result = request()
        except Exception as error:
            if not is_outage(error):
                _state.record_answer(path)
                raise
            _state.record_outage(path, error)
            # Counted from here, as a long upload may have failed in its last second.
            until = until or time.monotonic() + _state.limit_seconds
            if getattr(_state.thread, "tries_once", False) or not _wait_until_reachable(path, until, pause):
                raise
            pause = min(_LONGEST_PAUSE, 2 * pause)
        else:
            _state.record_answer(path)
            return result


def _wait_until_reachable(path: UPath, until: float, pause: float) -> bool:
    """Return False where the store stays down, or the wait is cancelled."""
    while time.monotonic() < until:
        if _state.cancelled.wait(min(pause, max(0.0, until - time.monotonic()))):
            return False
        if is_reachable(path):
            return True
    return False


def is_down(path: object) -> bool:
    """Return whether the last request to a store got no answer. Counts requests of all threads of this process."""
    return isinstance(path, UPath) and _root(path) in _state.down


def is_reachable(path: object) -> bool:
    """Return whether a store answers within 5 s, not the 30 s of its client. A local folder always does."""
    if not isinstance(path, UPath):
        return True
    try:
        path.fs.info(path.path, timeout=_PROBE_SECONDS)
    except Exception as error:
        # Any other error is an answer, or comes from a file system without time limits.
        return not is_outage(error)
    return True


def is_outage(error: BaseException) -> bool:
    """Return whether an error means that a store cannot be reached, or cannot answer for now."""
    current: BaseException | None = error
    while current is not None:
        if isinstance(current, _ANSWERS):
            return False
        names = [kind.__name__ for kind in type(current).__mro__]
        if any(word in name for name in names for word in _CERTIFICATES):
            return False
        if _status(current) in _TRANSIENT_STATUSES or not _OUTAGES.isdisjoint(names):
            return True
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    return False


def _status(error: BaseException) -> int | None:
    """Return the HTTP status that a client's error carries."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        return _number(response.get("ResponseMetadata", {}).get("HTTPStatusCode"))
    return next(
        (number for name in ("code", "status", "status_code") if (number := _number(getattr(error, name, None)))), None
    )


def _number(value: object) -> int | None:
    text = str(value)
    return int(text) if text.isdecimal() else None


def _root(path: UPath) -> str:
    """Return the bucket's address."""
    return f"{path.protocol}://{path.path.strip('/').split('/')[0]}"


def error_text(error: Exception) -> str:
    """Return an error of any file system as one line."""
    text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return " ".join(text.split())[:300]
