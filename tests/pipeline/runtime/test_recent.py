from __future__ import annotations

import pytest

from pipeline.runtime.recent import Recent


def test_pace_is_that_of_the_last_seconds_and_not_of_the_whole_run() -> None:
    tokens = Recent(30.0)
    for second in range(601):
        tokens.add(float(second), second)
    for second in range(1, 61):
        tokens.add(600.0 + second, 600 + 10 * second)

    assert tokens.rate == 10.0


def test_a_count_that_moves_rarely_has_the_pace_of_its_steps() -> None:
    tokens = Recent(30.0)
    for second in range(0, 901, 10):
        tokens.add(float(second), 200 * (second // 300))

    assert tokens.rate == pytest.approx(200 / 300)


def test_a_count_that_stopped_has_no_pace_and_says_for_how_long() -> None:
    tokens = Recent(30.0)
    changed = [tokens.add(second, count) for second, count in ((0.0, 0), (5.0, 100), (20.0, 100), (65.0, 100))]

    assert changed == [False, True, False, False]
    assert (tokens.rate, tokens.quiet_seconds) == (0.0, 60.0)


def test_nothing_is_known_before_the_first_look() -> None:
    tokens = Recent(30.0)
    assert (tokens.rate, tokens.quiet_seconds) == (0.0, 0.0)

    tokens.add(5.0, 100)
    assert (tokens.rate, tokens.quiet_seconds) == (0.0, 0.0)
