"""The number of requests in flight, and the backoff between retries."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

_LONGEST_PAUSE = 30.0
"""Seconds: the longest backoff that no server asked for."""


@dataclass
class Window:
    """Adaptive concurrency: additive increase, multiplicative decrease (Chiu and Jain, 1989)."""

    maximum: int
    limit: float = field(init=False)
    _shrunk_at: float = field(default=-1.0, init=False)

    def __post_init__(self) -> None:
        self.limit = float(self.maximum)

    def grow(self, sequences: int = 1) -> None:
        """Widen by about one for each full window of sequences that succeeded."""
        if self.limit < self.maximum:
            self.limit = min(self.maximum, self.limit + min(1.0, sequences / self.limit))

    def shrink(self, now: float) -> None:
        """Halve the limit as the server is busy. Responses within half a second count once."""
        if now - self._shrunk_at > 0.5:
            self._shrunk_at = now
            self.limit = max(1.0, self.limit / 2)


def backoff_seconds(retries: int) -> float:
    """Return the wait before the next retry: exponential, with jitter. Rows do not depend on it."""
    return random.uniform(0.5, 1.0) * min(_LONGEST_PAUSE, 0.25 * 2.0 ** min(retries, 16))
