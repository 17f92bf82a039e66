"""The number of sequences in flight, which finds its size, and the backoff between retries."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

_LONGEST_PAUSE = 30.0
"""Seconds: the longest backoff that no server asked for."""
_LOWEST = 4
"""Smallest window that is tried: in a smaller one a few slow requests hold up all others."""
_FEWEST = 8
"""Sequences in the shortest round. The rate of fewer is mostly noise."""
_RAMP_GAIN = 1.1
"""Doubling the window has paid off if it raised the rate by this factor."""
_ENOUGH = 0.97
"""Share of the best rate that is enough, once the window has been doubled in vain: a smaller one costs less latency."""
_STEADY = 0.75
"""Two rates of the same window whose ratio is lower are of an engine that changed its speed."""
_SHORTEST_REST, _LONGEST_REST = 8, 64
"""Rounds between two looks at the neighbouring windows. Each look takes two rounds at another window than the best."""


@dataclass(slots=True)
class _Round:
    """Completions of requests that were sent at `since` or later, when the window had its size and was full."""

    since: float = -math.inf
    completions: int = 0
    sequences: int = 0
    largest: int = 1
    """Sequences of the largest request."""
    tokens: float = 0.0
    busy_seconds: float = 0.0
    """Seconds in flight, summed over the sequences."""
    in_flight: int = 0
    """Sequences in flight, summed over the completions."""

    @property
    def rate(self) -> float:
        """Tokens a second of all sequences in flight, by Little's law.

        It is the mean number in flight times the tokens a second of one sequence. Lengths of replies cancel out, so it
        varies far less than completed tokens divided by elapsed time, and needs no wait for the requests sent earlier.
        """
        return self.in_flight / self.completions * self.tokens / max(self.busy_seconds, 1e-9)


class Window:
    """A limit of sequences in flight that climbs towards the highest rate of tokens, and yields to a busy server.

    It is the smallest window with nearly the best rate: a larger one only makes each request wait longer. A *round*,
    completions of half a window, measures the rate:

    - At first the window doubles each round while that raises the rate by a tenth (the startup of BBR: Cardwell et al.,
      "BBR: Congestion-Based Congestion Control", 2016).
    - Then it tries neighbours, x 1.25 and x 0.8, moves to a better one, and rests a while before it looks again (hill
      climbing on throughput: Hellerstein, Morrison and Eilebrecht, "Optimizing concurrency levels in the .NET
      ThreadPool", 2009).
    - Rates of other windows are forgotten with each rest, or when the same window suddenly has another rate: the
      engine has become faster or slower, or stood still. The window then stays until two rounds agree.
    - A busy server or a timeout halves the window. It then grows by one for each window of completions, to its former
      size (additive increase, multiplicative decrease: Chiu and Jain, 1989).

    Args:
        maximum: Upper bound.
        start: First size; None for a server that the build starts itself. That one has an own scheduler, sized by the
            same bound: requests that it cannot run wait in its queue at no cost, while a smaller window would leave
            places in its batches empty. So its window is `maximum`, and only a busy server or a timeout shrinks it.
    """

    def __init__(self, maximum: int, start: int | None = None) -> None:
        self.maximum = maximum
        self._climbs = start is not None
        self._size = float(maximum if start is None else min(start, maximum))
        self._goal = self._size
        """Size to which the window has climbed, and returns after a shrink."""
        self._shrunk_at = -math.inf
        self._round = _Round()
        self._rates: dict[int, float] = {}
        """Recent rates by window."""
        self._is_ramp = True
        self._rest = 0
        """Rounds to stay, whatever they measure."""
        self._next_rest = _SHORTEST_REST
        self._settled = 0
        """Window of the last rest."""

    @property
    def limit(self) -> int:
        """Most sequences in flight at present."""
        return int(self._size)

    def record(self, sent: float, now: float, sequences: int, tokens: float, in_flight: int) -> None:
        """Record a completion.

        Args:
            sent: When its request was sent.
            now: When it came.
            sequences: Those of the request.
            tokens: Completed tokens, or another measure of work that is the same for all requests.
            in_flight: Sequences in flight, these included.
        """
        if self._size < self._goal:
            self._size = min(self._goal, self._size + min(1.0, sequences / self._size))
            self.void(now)
            return
        if not self._climbs or sent < self._round.since:
            return
        measured = self._round
        measured.completions += 1
        measured.sequences += sequences
        measured.largest = max(measured.largest, sequences)
        measured.tokens += tokens
        measured.busy_seconds += sequences * (now - sent)
        measured.in_flight += in_flight
        if measured.sequences >= max(self.limit / 2, _FEWEST):
            self._end_round(measured.rate, measured.largest)
            self.void(now)

    def void(self, now: float) -> None:
        """Begin another round, as too little is in the queue to fill the window, or the endpoints are paused."""
        self._round = _Round(now)

    def shrink(self, now: float, sent: float) -> None:
        """Halve the window as the server is busy or timed out.

        Requests that were `sent` before the window shrank say nothing about the smaller one, so they count once.
        """
        if sent < self._shrunk_at:
            return
        self._shrunk_at = now
        self._size = max(1.0, self._size / 2)
        self._is_ramp = False
        self.void(now)

    def _end_round(self, rate: float, unit: int) -> None:
        earlier = self._rates.get(self.limit, rate)
        if min(rate, earlier) < _STEADY * max(rate, earlier):
            self._rates.clear()
            self._is_ramp = True
            self._rest, self._next_rest = 1, _SHORTEST_REST
        self._rates[self.limit] = rate
        if self._rest:
            self._rest -= 1
        else:
            self._size = self._goal = float(self._choose(unit))

    def _choose(self, unit: int) -> int:
        """Return the window of the next round: a multiple of `unit`, the sequences of one request, so that it fills."""
        enough = max(self._rates.values()) * (1 / _RAMP_GAIN if self._is_ramp else _ENOUGH)
        best = min(window for window, rate in self._rates.items() if rate >= enough)
        if best == max(self._rates) and best < self.maximum:
            return min(self.maximum, math.ceil((2 if self._is_ramp else 1.25) * best / unit) * unit)
        if self._is_ramp:
            self._is_ramp = False
            return self._choose(unit)
        lower = int(0.8 * best / unit) * unit
        if lower >= _LOWEST and not any(lower <= window < best for window in self._rates):
            return lower
        # Both neighbours are known. They are forgotten, as an engine may change, and asked again after the rest.
        self._rates = {best: self._rates[best]}
        self._rest = self._next_rest
        self._next_rest = min(_LONGEST_REST, 2 * self._rest) if best == self._settled else _SHORTEST_REST
        self._settled = best
        return best


def backoff_seconds(retries: int) -> float:
    """Return the wait before the next retry: exponential, with jitter. Rows do not depend on it."""
    return random.uniform(0.5, 1.0) * min(_LONGEST_PAUSE, 0.25 * 2.0 ** min(retries, 16))
