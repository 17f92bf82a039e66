from __future__ import annotations

from pipeline.generation.window import Window


def test_window_halves_once_for_answers_that_come_together_and_grows_by_one_a_round() -> None:
    window = Window(16)

    window.shrink(now=100.0)
    window.shrink(now=100.1)
    halved = window.limit
    for _ in range(8):
        window.grow()
    grown = window.limit

    assert halved == 8
    assert 8.8 < grown < 9.0


def test_window_stays_between_one_and_its_largest() -> None:
    window = Window(4)

    for k in range(10):
        window.shrink(now=float(k))
    smallest = window.limit
    for _ in range(100):
        window.grow()

    assert smallest == 1
    assert window.limit == 4
