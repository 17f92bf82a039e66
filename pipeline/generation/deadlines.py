"""Deadlines of requests: a request is given up for silence, not for its duration.

*Silence* is the time since a request was sent, or since its last token. After the limit a request is given up while the
endpoint works on others, except one without a token yet: it waits in the server's queue, and is lost only if later ones
overtook it. Where the endpoint as a whole is silent, its health decides: reading one batch of prompts may hold up all
replies for minutes on a slow machine.
"""

from __future__ import annotations

import math
import time

from pipeline.generation.endpoints import Endpoint
from pipeline.generation.flight import Flight

_PATIENCE = 5
"""Limits for which an endpoint may be silent as a whole, while it says that it is healthy."""
_SLOW_SHARE = 0.1
"""Share of the limit from which on the usual duration of a request makes it worth a stream."""
_MEMORY = 0.125
"""Weight of the newest duration in the usual one."""


class Deadlines:
    """The requests in flight to one endpoint, and its signs of life. Times are of `time.monotonic`.

    Args:
        seconds: Longest silence.
    """

    def __init__(self, seconds: float) -> None:
        self.endpoint: Endpoint | None = None
        self._seconds = seconds
        self._flights: set[Flight] = set()
        self._worked_at = self._busy_since = -math.inf
        self._is_hung = False
        self._newest = -math.inf
        self._duration = math.inf

    def begin(self, flight: Flight) -> None:
        """Note that a request is sent."""
        # An idle endpoint is silent without a fault.
        if not self._flights and not self._is_hung:
            self._busy_since = flight.sent
        self.endpoint = flight.endpoint
        self._flights.add(flight)

    def end(self, flight: Flight) -> None:
        """Note that a request is no longer in flight."""
        self._flights.discard(flight)

    def record_work(self) -> None:
        """Note a token, or an answer of a working server."""
        self._worked_at, self._is_hung = time.monotonic(), False

    def record_completion(self, flight: Flight) -> None:
        """Note a completion. A trial request is short, so it shows nothing of the usual duration."""
        self._newest = max(self._newest, flight.sent)
        if not flight.is_trial:
            seconds = time.monotonic() - flight.sent
            usual = self._duration if math.isfinite(self._duration) else seconds
            self._duration = usual + _MEMORY * (seconds - usual)

    @property
    def is_slow(self) -> bool:
        """True while requests take so long that their silence must be seen, and before the first completion."""
        return self._duration > _SLOW_SHARE * self._seconds

    def worked_since(self, since: float) -> bool:
        """Return whether the endpoint has sent a token or an answer since then, and within the limit of silence."""
        return self._worked_at >= max(since, time.monotonic() - self._seconds)

    def needs_health(self) -> bool:
        """Return whether the server's health decides on a request."""
        now = time.monotonic()
        return any(self._is_overdue(f, now, is_healthy=False) != self._is_overdue(f, now, True) for f in self._flights)

    def give_up(self, is_healthy: bool) -> None:
        """Give up the requests that are past their deadline."""
        now = time.monotonic()
        for flight in [f for f in self._flights if self._is_overdue(f, now, is_healthy)]:
            self._flights.discard(flight)
            self._is_hung = not self.worked_since(flight.sent)
            self._duration = self._seconds
            flight.scope.reschedule(0.0)

    def _is_overdue(self, flight: Flight, now: float, is_healthy: bool) -> bool:
        if now - flight.heard < self._seconds:
            return False
        silence = now - max(self._worked_at, self._busy_since)
        if silence < self._seconds:
            return flight.has_token or self._newest - flight.sent >= self._seconds
        patience = _PATIENCE if flight.is_patient and is_healthy else 1
        return silence >= patience * self._seconds
