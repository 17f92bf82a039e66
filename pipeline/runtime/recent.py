"""The recent pace of a count that is read now and then."""

from __future__ import annotations

from collections import deque


class Recent:
    """A count's pace over the last `seconds`. Where it did not change for longer, its last change begins the span.

    So a count that moves once in five minutes has that pace, and not the tenfold in the moment when it moves.

    >>> tokens = Recent(30.0)
    >>> for now, count in ((0.0, 0), (300.0, 600), (310.0, 600)):
    ...     is_new = tokens.add(now, count)
    >>> tokens.rate, tokens.quiet_seconds
    (1.935483870967742, 10.0)
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._now = 0.0
        self._changes: deque[tuple[float, float]] = deque()

    def add(self, now: float, count: float) -> bool:
        """Note the count at `now`, a monotonic time. Return whether it has changed since the first call."""
        self._now = now
        is_first = not self._changes
        is_new = is_first or count != self._changes[-1][1]
        if is_new:
            self._changes.append((now, count))
        while len(self._changes) > 1 and self._changes[1][0] <= now - self._seconds:
            self._changes.popleft()
        return is_new and not is_first

    @property
    def rate(self) -> float:
        """Return the pace in units a second; 0 before a first change, and where nothing has changed lately."""
        if not self._changes:
            return 0.0
        (began, before), (_, count) = self._changes[0], self._changes[-1]
        return max(0.0, count - before) / (self._now - began) if self._now > began else 0.0

    @property
    def quiet_seconds(self) -> float:
        """Return for how long the count has not changed."""
        return self._now - self._changes[-1][0] if self._changes else 0.0
