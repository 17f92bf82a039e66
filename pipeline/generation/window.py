"""Pace: how many requests are under way at once, and how long to wait between tries."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

_LONGEST_PAUSE = 30.0
"""Seconds: the longest wait between two tries that we choose ourselves."""


@dataclass
class Window:
    """Adaptive concurrency: additive increase, multiplicative decrease (Chiu and Jain, 1989)."""

    largest: int
    limit: float = field(init=False)
    _shrunk_at: float = field(default=-1.0, init=False)

    def __post_init__(self) -> None:
        self.limit = float(self.largest)

    def grow(self, sequences: int = 1) -> None:
        """A request of so many sequences succeeded: about one more for each window full of them."""
        if self.limit < self.largest:
            self.limit = min(self.largest, self.limit + min(1.0, sequences / self.limit))

    def shrink(self, now: float) -> None:
        """The server is busy. Answers that were under way together count once."""
        if now - self._shrunk_at > 0.5:
            self._shrunk_at = now
            self.limit = max(1.0, self.limit / 2)


def back_off(tries: int) -> float:
    """Return seconds: exponential back-off with jitter, which decides when and never what."""
    return random.uniform(0.5, 1.0) * min(_LONGEST_PAUSE, 0.25 * 2.0 ** min(tries, 16))
