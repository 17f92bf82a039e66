"""Availability of the endpoints: how long they have been down or busy, and when that ends the run."""

from __future__ import annotations

import logging
import time
from datetime import datetime, timedelta

from pipeline.runtime.progress import Counters
from schemas.base import UserError
from schemas.config import RequestsConfig

logger = logging.getLogger(__name__)

_REPORTED_SECONDS = 5.0
"""Length of an outage from which on it is logged: a single request that times out is none."""
_AGAIN = "run the same command again, finished work is kept"


class Availability:
    """Times since which the endpoints are down or busy. Times are of `time.monotonic`, endpoints are names."""

    def __init__(self, config: RequestsConfig, counters: Counters) -> None:
        self._config = config
        self._counters = counters
        self._last_success: dict[str, float] = {}
        self._down_since: float | None = None
        self._busy_since: float | None = None
        self._is_reported = False

    def record_success(self, endpoint: str, now: float) -> None:
        """Note that an endpoint has completed a request."""
        self._last_success[endpoint] = now
        self._busy_since = None
        self.record_up()

    def succeeded_since(self, endpoint: str, since: float) -> bool:
        """Return whether an endpoint has completed any request since then."""
        return self._last_success.get(endpoint, -1.0) >= since

    def record_up(self) -> None:
        """Note that some server responds, even by a token or an error of the request alone."""
        if self._down_since is not None:
            self._down_since = None
            self._counters.set_gauge("outage", 0)
        if self._is_reported:
            self._is_reported = False
            logger.warning("an endpoint answers again")

    def record_down(self, now: float) -> None:
        """Note that no endpoint responds. An outage begins with its first failure."""
        if self._down_since is None:
            self._down_since = now
            self._counters.set_gauge("outage", 1)

    def check_outage(self, now: float, detail: str) -> None:
        """Raise `UserError` where no endpoint has responded for `outage_seconds`."""
        if self._down_since is not None and not self._is_reported and now - self._down_since > _REPORTED_SECONDS:
            self._is_reported = True
            logger.warning(
                "no endpoint answers (%s); waiting for up to %g s (requests.outage_seconds)",
                detail[:200],
                self._config.outage_seconds,
            )
        if self._down_since is not None and now - self._down_since > self._config.outage_seconds:
            raise UserError(
                f"no endpoint has answered for {now - self._down_since:.0f} s ({detail}); when it is back, {_AGAIN}"
            )

    def exceeds_wait(self, pause: float) -> bool:
        """Return whether all endpoints will have been busy for `max_wait_seconds` after a pause."""
        end = time.monotonic() + pause
        return self._busy_since is not None and end - self._busy_since > self._config.max_wait_seconds

    def check_wait(self, now: float, until: float, detail: str) -> None:
        """Note that all endpoints are busy until then; raise `UserError` where that exceeds `max_wait_seconds`."""
        self._busy_since = now if self._busy_since is None else self._busy_since
        if until - self._busy_since > self._config.max_wait_seconds:
            when = datetime.now().astimezone() + timedelta(seconds=until - now)
            raise UserError(
                f"{detail}; the next retry would be at {when:%Y-%m-%d %H:%M:%S}, later than requests.max_wait_seconds "
                f"({self._config.max_wait_seconds:g}) allows; after that time, {_AGAIN}"
            )
