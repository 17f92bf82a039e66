from __future__ import annotations

import heapq
import random
from collections.abc import Callable

import pytest

from pipeline.generation.window import Window


class Engine:
    """A simulated engine, kept full by a window: its tokens/s are shared equally by all sequences in flight.

    Args:
        total: Tokens/s in all, of the number in flight and the time.
        window: Decides how many are in flight.
        noise: Relative standard deviation of the speed from one reply to the next.
        size: Sequences of each request.
    """

    def __init__(self, total: Callable[[int, float], float], window: Window, noise: float = 0.0, size: int = 1) -> None:
        self.now = 0.0
        self.done = 0
        self.tokens = 0
        self.limits: list[int] = []
        """The window at each reply."""
        self._total = total
        self._window = window
        self._noise = noise
        self._size = size
        self._draw = random.Random(17)
        self._share = 0.0
        """Tokens that a sequence would have got that has been there from the beginning."""
        self._flights: list[tuple[float, float, int]] = []
        """Of each sequence: the share at which it ends, when it was sent, its tokens."""

    def reply(self, requests: int) -> None:
        """Answer so many requests."""
        for _ in range(requests):
            while not self._flights or (len(self._flights) + 1) * self._size <= self._window.limit:
                tokens = max(5, int(self._draw.gauss(60, 24)))
                heapq.heappush(self._flights, (self._share + tokens, self.now, tokens))
            in_flight = len(self._flights) * self._size
            end, sent, tokens = heapq.heappop(self._flights)
            # In steps of a second at most, as the total may change meanwhile.
            while self._share < end:
                speed = self._total(in_flight, self.now) / in_flight * max(0.1, self._draw.gauss(1.0, self._noise))
                step = min(1.0, (end - self._share) / speed)
                self.now += step
                self._share = end if step < 1.0 else self._share + step * speed
            self.done += 1
            self.tokens += tokens * self._size
            self._window.record(sent, self.now, self._size, tokens * self._size, in_flight)
            self.limits.append(self._window.limit)


def engine(total: Callable[[int, float], float], noise: float = 0.0, maximum: int = 256) -> Engine:
    return Engine(total, Window(maximum, start=16), noise)


def rate_of(simulated: Engine, requests: int) -> float:
    """Tokens/s of the next requests."""
    began, before = simulated.now, simulated.tokens
    simulated.reply(requests)
    return (simulated.tokens - before) / (simulated.now - began)


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.3])
def test_a_fast_engine_is_full_after_a_few_rounds_and_stays_so(noise: float) -> None:
    fast = engine(lambda n, _: 78.0 * n, noise, maximum=250)

    fast.reply(500)
    reached = fast.now
    rate = rate_of(fast, 20_000)

    assert max(fast.limits[:500]) == 250
    assert reached < 10
    best = Engine(lambda n, _: 78.0 * n, Window(250), noise)
    assert rate > 0.95 * rate_of(best, 20_000)
    assert max(fast.limits) == 250
    assert fast.limits[-10_000:].count(250) > 9_500


@pytest.mark.parametrize("noise", [0.0, 0.1])
@pytest.mark.parametrize("knee", [3, 13, 40, 100])
def test_the_window_settles_where_more_in_flight_is_no_faster(knee: int, noise: float) -> None:
    slow = engine(lambda n, _: 2.0 * min(n, knee), noise)

    slow.reply(20 * max(knee, 16))
    rate = rate_of(slow, 2000)

    assert rate > 0.94 * 2.0 * knee
    late = sorted(slow.limits[-2000:])
    assert knee * 0.9 <= late[len(late) // 2] <= knee * 1.5


def test_a_gently_saturating_engine_is_used_to_nearly_its_best() -> None:
    def total(n: int, _: float) -> float:
        return 5000.0 * n / (n + 16)

    saturating = engine(total)

    saturating.reply(3000)

    assert rate_of(saturating, 5000) > 0.95 * total(256, 0)


@pytest.mark.parametrize("factor", [10.0, 0.1])
def test_the_window_follows_an_engine_that_changes_its_speed(factor: float) -> None:
    def total(n: int, now: float) -> float:
        return 2.0 * min(n, 13) * (factor if now > 1000 else 1.0)

    changed = engine(total)
    while changed.now < 1000:
        changed.reply(1)

    changed.reply(500)

    assert rate_of(changed, 1000) > 0.94 * total(13, 2000)
    late = sorted(changed.limits[-1000:])
    assert 12 <= late[len(late) // 2] <= 20


def test_the_window_follows_an_engine_that_takes_more_at_once() -> None:
    grown = engine(lambda n, now: 2.0 * min(n, 13 if now < 1000 else 100))
    while grown.now < 1000:
        grown.reply(1)

    grown.reply(3000)

    assert rate_of(grown, 2000) > 0.94 * 200


def test_a_change_of_speed_ends_the_rest() -> None:
    freed = engine(lambda n, now: 2.0 * min(n, 13) if now < 10_000 else 4.0 * min(n, 100))
    while freed.now < 10_000:
        freed.reply(1)
    freed.reply(13)  # sent to the slow engine

    freed.reply(300)

    assert freed.limits[-1] > 80


def test_a_stall_says_nothing_about_the_window() -> None:
    stalled = engine(lambda n, now: 0.001 if 1000 < now < 1100 else 2.0 * min(n, 13))
    while stalled.now < 1000:
        stalled.reply(1)

    stalled.reply(300)

    assert rate_of(stalled, 1000) > 0.94 * 26
    late = sorted(stalled.limits[-1000:])
    assert 12 <= late[len(late) // 2] <= 20


def test_a_window_that_is_not_full_does_not_change() -> None:
    window = Window(256, start=16)

    for k in range(1000):
        window.void(now=float(k))
        window.record(sent=float(k - 3), now=float(k), sequences=1, tokens=60, in_flight=3)

    assert window.limit == 16


def test_a_window_is_not_tried_in_which_a_few_slow_requests_hold_up_all_others() -> None:
    slow = engine(lambda n, _: 25.0)

    slow.reply(2000)

    assert min(slow.limits) == 4


def test_calls_of_many_sequences_count_as_those() -> None:
    window = Window(256, start=60)

    window.record(sent=0.0, now=1.0, sequences=20, tokens=20, in_flight=60)
    before = window.limit
    window.record(sent=0.0, now=1.0, sequences=20, tokens=20, in_flight=60)

    assert (before, window.limit) == (60, 120)


def test_a_window_for_calls_of_many_sequences_is_filled_by_them() -> None:
    calls = Engine(lambda n, _: 2.0 * min(n, 150), Window(256, start=16), size=30)

    calls.reply(500)

    assert rate_of(calls, 500) > 0.94 * 300
    assert sorted(calls.limits[-500:])[250] in (150, 180)


def test_the_window_of_a_server_that_schedules_itself_stays_full() -> None:
    managed = Engine(lambda n, _: 25.0, Window(24))

    managed.reply(1000)

    assert set(managed.limits) == {24}


def test_the_window_halves_once_for_requests_sent_together_and_grows_by_one_a_round() -> None:
    window = Window(16)

    window.shrink(now=100.0, sent=90.0)
    window.shrink(now=103.0, sent=91.0)
    halved = window.limit
    for _ in range(9):
        window.record(sent=104.0, now=105.0, sequences=1, tokens=60, in_flight=8)
    grown = window.limit
    window.shrink(now=106.0, sent=104.0)

    assert (halved, grown, window.limit) == (8, 9, 4)


def test_a_window_that_was_shrunk_measures_when_it_has_its_size_again_and_doubles_no_more() -> None:
    window = Window(64, start=8)
    window.shrink(now=1.0, sent=0.0)
    while window.limit < 8:
        window.record(sent=1.0, now=2.0, sequences=1, tokens=60, in_flight=8)

    for _ in range(8):
        window.record(sent=1.5, now=3.0, sequences=1, tokens=60, in_flight=8)
    before = window.limit
    for _ in range(8):
        window.record(sent=2.5, now=4.0, sequences=1, tokens=60, in_flight=8)

    assert (before, window.limit) == (8, 10)


@pytest.mark.parametrize("start", [None, 16])
def test_the_window_returns_to_its_former_size_after_it_was_shrunk(start: int | None) -> None:
    window = Window(16, start)
    for now in range(10):
        window.shrink(now=float(now), sent=float(now))
    smallest = window.limit

    for _ in range(1000):
        window.void(now=20.0)
        window.record(sent=15.0, now=20.0, sequences=1, tokens=60, in_flight=1)

    assert smallest == 1
    assert window.limit == 16
