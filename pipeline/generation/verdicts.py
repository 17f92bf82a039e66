"""Whose fault is it? What single answers leave open: outages, long waits, and failures that wait for a verdict."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Generic, TypeVar

from pipeline.generation.completions import Failure
from schemas.base import UserError
from schemas.config import RequestsConfig

T = TypeVar("T")

logger = logging.getLogger(__name__)

_STREAK = 8
"""Failures without a success after them, from which on an endpoint is asked a trial question."""
_REPORTED_SECONDS = 5.0
"""Length of an outage from which on it is logged: a single request that times out is none."""
_AGAIN = "run the same command again, finished work is kept"


class Clocks:
    """Since when nothing has succeeded. Times are those of `time.monotonic`, endpoints are names."""

    def __init__(self, config: RequestsConfig) -> None:
        self._config = config
        self._answered: dict[str, float] = {}
        self._failing_since: float | None = None
        self._busy_since: float | None = None
        self._is_reported = False

    def succeeded(self, endpoint: str, now: float) -> None:
        """An endpoint has done what it was asked for."""
        self._answered[endpoint] = now
        self._busy_since = None
        self.works()

    def has_answered(self, endpoint: str, since: float) -> bool:
        """Whether anything has succeeded there since then."""
        return self._answered.get(endpoint, -1.0) >= since

    def works(self) -> None:
        """Some server is there, even if it does not do what it is asked for."""
        self._failing_since = None
        if self._is_reported:
            self._is_reported = False
            logger.warning("an endpoint answers again")

    def fails(self, now: float) -> None:
        """No endpoint works just now. The outage begins with the first failure, however long that took to show."""
        self._failing_since = now if self._failing_since is None else self._failing_since

    @property
    def is_outage(self) -> bool:
        """Whether no endpoint works just now."""
        return self._failing_since is not None

    def bound_outage(self, now: float, detail: str) -> None:
        """Raise `UserError` where no endpoint has worked for `outage_seconds`."""
        if self._failing_since is not None and not self._is_reported and now - self._failing_since > _REPORTED_SECONDS:
            self._is_reported = True
            logger.warning(
                "no endpoint answers (%s); waiting for up to %g s (requests.outage_seconds)",
                detail[:200],
                self._config.outage_seconds,
            )
        if self._failing_since is not None and now - self._failing_since > self._config.outage_seconds:
            raise UserError(
                f"no endpoint has answered for {now - self._failing_since:.0f} s ({detail}); when it is back, {_AGAIN}"
            )

    def is_over(self, pause: float) -> bool:
        """Whether all endpoints will have been busy for `max_wait_seconds` after a pause."""
        end = time.monotonic() + pause
        return self._busy_since is not None and end - self._busy_since > self._config.max_wait_seconds

    def bound_wait(self, now: float, until: float, detail: str) -> None:
        """Raise `UserError` where all endpoints are busy, and at that time will have been for `max_wait_seconds`."""
        self._busy_since = now if self._busy_since is None else self._busy_since
        if until - self._busy_since > self._config.max_wait_seconds:
            when = datetime.now().astimezone() + timedelta(seconds=until - now)
            raise UserError(
                f"{detail}; the next try would be at {when:%Y-%m-%d %H:%M:%S}, and requests.max_wait_seconds "
                f"({self._config.max_wait_seconds:g}) does not allow so long a wait; after that time, {_AGAIN}"
            )


@dataclass(frozen=True, slots=True)
class _Held(Generic[T]):
    item: T
    failure: Failure
    at: float


class Verdicts(Generic[T]):
    """Failures of requests that may be the run's (a spent budget, a changed server), until something tells.

    They are the requests' own when their endpoint does what another request asks, sent after they failed.
    """

    def __init__(self) -> None:
        self._held: dict[str, list[_Held[T]]] = {}

    @property
    def pending(self) -> int:
        """How many failures wait for a verdict."""
        return sum(map(len, self._held.values()))

    def hold(self, endpoint: str, item: T, failure: Failure) -> None:
        """Wait for a verdict."""
        self._held.setdefault(endpoint, []).append(_Held(item, failure, time.monotonic()))

    def take(self, endpoint: str, sent: float) -> Iterable[tuple[T, Failure]]:
        """Return the failures for which a success there tells that they were the requests' own."""
        held = self._held.pop(endpoint, [])
        later = [entry for entry in held if entry.at > sent]
        if later:
            self._held[endpoint] = later
        return [(entry.item, entry.failure) for entry in held if entry.at <= sent]

    def due(self, is_last: bool) -> list[str]:
        """Return the endpoints that must be asked. `is_last`: nothing else is under way."""
        return [endpoint for endpoint, held in self._held.items() if is_last or len(held) >= _STREAK]
