"""An object store that is away for a moment is waited for, as a model is.

Every request to a store goes through `asked`. Clients of stores try again by themselves for 20 to 50 seconds; what they
give up then is asked again here as soon as the store answers, for as long as `patience` allows. A refusal, a bucket
that does not exist and a wrong key are answers, and nothing waits for another one.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from upath import UPath

R = TypeVar("R")

logger = logging.getLogger(__name__)

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
"""Names of errors, or of what they are derived from: their packages need not be installed."""
_CERTIFICATES = ("SSL", "Certificate")
_PASSING = frozenset({408, 429, 500, 502, 503, 504})


class _Waiting:
    """What this process knows of stores that are away."""

    seconds = 0.0
    say: Callable[[str], None] | None = None

    def __init__(self) -> None:
        self.over = threading.Event()
        self.lock = threading.Lock()
        self.away: set[str] = set()
        self.thread = threading.local()

    def begins(self, path: UPath, error: Exception) -> None:
        with self.lock:
            is_new = _root(path) not in self.away
            self.away.add(_root(path))
        if is_new:
            notice(f"{_root(path)} does not answer ({error_text(error)[:120]}); waiting for up to {self.seconds:g} s")

    def ends(self, path: UPath) -> None:
        if not self.away:
            return
        with self.lock:
            was_away = _root(path) in self.away
            self.away.discard(_root(path))
        if was_away:
            notice(f"{_root(path)} answers again")


_waiting = _Waiting()


def wait_for_stores(seconds: float) -> None:
    """Set how long this process waits for a store that is away."""
    _waiting.seconds = seconds


def notice(line: str) -> None:
    """Show the user a line while a build runs; log it in a process without one, such as another machine's worker."""
    (_waiting.say or logger.warning)(line)


@contextmanager
def patience(seconds: float, say: Callable[[str], None]) -> Iterator[None]:
    """Wait for stores within the block; `say` is given a line when one goes away and when it is back.

    At the end of the block all threads that still wait give up.
    """
    _waiting.over.clear()
    _waiting.say = say
    wait_for_stores(seconds)
    try:
        yield
    finally:
        wait_for_stores(0.0)
        _waiting.say = None
        _waiting.over.set()
        _waiting.away.clear()


@contextmanager
def without_waiting() -> Iterator[None]:
    """Ask once in this block and thread. For what is asked again soon, such as live counts and leases."""
    before = getattr(_waiting.thread, "asks_once", False)
    _waiting.thread.asks_once = True
    try:
        yield
    finally:
        _waiting.thread.asks_once = before


def asked(path: UPath, request: Callable[[], R]) -> R:
    """Return what `request` does. Where its store is away, ask again until it is back; raises the store's error."""
    until, pause = None, 0.25
    while True:
        try:
            result = request()
        except Exception as error:
            if not is_outage(error):
                _waiting.ends(path)
                raise
            _waiting.begins(path, error)
            # The wait begins now: a long upload may have failed in its last second.
            until = until or time.monotonic() + _waiting.seconds
            if getattr(_waiting.thread, "asks_once", False) or not _until_it_answers(path, until, pause):
                raise
            pause = min(_LONGEST_PAUSE, 2 * pause)
        else:
            _waiting.ends(path)
            return result


def _until_it_answers(path: UPath, until: float, pause: float) -> bool:
    """Wait for the store; False where it stays away."""
    while time.monotonic() < until:
        if _waiting.over.wait(min(pause, max(0.0, until - time.monotonic()))):
            return False
        if answers(path):
            return True
    return False


def is_away(path: object) -> bool:
    """Return whether the last request to a store, of any thread of this process, got no answer."""
    return isinstance(path, UPath) and _root(path) in _waiting.away


def answers(path: object) -> bool:
    """Return whether a store answers within some seconds. A folder of this machine always does."""
    if not isinstance(path, UPath):
        return True
    try:
        path.fs.info(path.path, timeout=_PROBE_SECONDS)
    except Exception as error:
        # Nothing is there, or it may not be seen, or this file system knows no time limits.
        return not is_outage(error)
    return True


def is_outage(error: BaseException) -> bool:
    """Return whether an error says that a store could not be reached, or is unable to answer for now."""
    current: BaseException | None = error
    while current is not None:
        if isinstance(current, _ANSWERS):
            return False
        names = [kind.__name__ for kind in type(current).__mro__]
        if any(word in name for name in names for word in _CERTIFICATES):
            return False
        if _status(current) in _PASSING or not _OUTAGES.isdisjoint(names):
            return True
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    return False


def _status(error: BaseException) -> int | None:
    """The HTTP status of an answer that a client made an error of."""
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
    """The bucket."""
    return f"{path.protocol}://{path.path.strip('/').split('/')[0]}"


def error_text(error: Exception) -> str:
    """An error in a line, by whichever file system it was raised."""
    text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return " ".join(text.split())[:300]
