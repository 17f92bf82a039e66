from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.generation.completions import OPTIONS
from pipeline.mining.annotate import render_questions
from pipeline.mining.choice_levels import confident_levels, option_orders
from tests.pipeline.mining.shards import choice_requests, make_plan, opened, options_of

# The order of the options


def test_option_orders_are_a_function_of_seed_and_ids() -> None:
    orders = option_orders(7, "post", "response", 90)

    assert (orders == option_orders(7, "post", "response", 90)).all()
    assert orders.shape == (90,)
    for other in (option_orders(8, "post", "response", 90), option_orders(7, "post", "other", 90)):
        assert 0.05 < (orders == other).mean() < 0.35
    assert not (orders == option_orders(7, "other", "response", 90)).all()


def test_fewer_dimensions_get_the_first_of_the_orders() -> None:
    assert (option_orders(0, "p", "r", 90)[:5] == option_orders(0, "p", "r", 5)).all()


def test_all_six_orders_occur_about_equally_often() -> None:
    orders = np.concatenate([option_orders(0, f"p{k % 50}", f"r{k}", 90) for k in range(400)])

    counts = np.bincount(orders, minlength=6)

    assert len(counts) == 6
    assert abs(counts - len(orders) / 6).max() < 0.04 * len(orders) / 6


def test_no_dimension_prefers_an_order() -> None:
    orders = np.stack([option_orders(0, "p", f"r{k}", 10) for k in range(3000)])

    for column in orders.T:
        assert abs(np.bincount(column, minlength=6) - 500).max() < 100


def test_each_meaning_stands_behind_each_letter_equally_often(tmp_path: Path) -> None:
    shard = render_questions(opened(*[6] * 100), make_plan(tmp_path), 0)

    counts = Counter(
        pair
        for request in choice_requests(shard)
        for question in request.questions
        for pair in options_of(question).items()
    )

    assert counts.keys() == {(letter, level) for letter in OPTIONS for level in (1, -1, 0)}
    assert all(900 < count < 1100 for count in counts.values())


def test_fixed_options_are_positive_negative_cannot_tell(tmp_path: Path) -> None:
    shard = render_questions(opened(2, 3), make_plan(tmp_path, annotation={"option_order": "fixed"}), 0)

    orders = {tuple(options_of(question).items()) for r in choice_requests(shard) for question in r.questions}

    assert orders == {(("A", 1), ("B", -1), ("C", 0))}


def test_the_drawn_number_says_how_the_options_stand(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    shard = render_questions(opened(*[1] * 20), plan, 0)

    seen: dict[int, set[tuple[int, ...]]] = {}
    for row, request in enumerate(choice_requests(shard)):
        numbers = option_orders(plan.config.seed, f"p{row}", f"r{row}", 5).tolist()
        for number, question in zip(numbers, request.questions, strict=True):
            seen.setdefault(number, set()).add(tuple(options_of(question).values()))

    assert seen.keys() == set(range(6))
    assert all(len(orders) == 1 for orders in seen.values())
    assert len(set.union(*seen.values())) == 6
    assert seen[0] == {(1, -1, 0)}


# From probabilities to levels


def levels_of(shares: Any, min_confidence: float = 0.5) -> Any:
    return confident_levels(np.array(shares, dtype=np.float32), min_confidence).tolist()


def test_the_likeliest_meaning_is_the_level() -> None:
    assert levels_of([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]]) == [1, -1, 0]


def test_a_less_likely_pole_than_the_threshold_counts_as_cannot_tell() -> None:
    shares = [[0.59, 0.41, 0.0], [0.61, 0.39, 0.0], [0.39, 0.61, 0.0], [0.2, 0.2, 0.6], [0.3, 0.3, 0.4]]

    assert levels_of(shares, 0.6) == [0, 1, -1, 0, 0]


@pytest.mark.parametrize("byte", range(100, 256))
def test_the_threshold_itself_is_enough(byte: int) -> None:
    share = np.float32(byte) / np.float32(255)

    assert levels_of([share, 0, 0], float(share)) == 1
    assert levels_of([0, share, 0], byte / 255) == -1


def test_no_answer_is_cannot_tell_even_without_a_threshold() -> None:
    assert levels_of([0.0, 0.0, 0.0], 0.0) == 0


def test_without_a_threshold_the_likeliest_pole_counts() -> None:
    assert levels_of([[0.4, 0.3, 0.3], [0.3, 0.4, 0.3], [0.3, 0.3, 0.4]], 0.0) == [1, -1, 0]


def test_certainty_may_be_asked_for() -> None:
    assert levels_of([[1.0, 0.0, 0.0], [254 / 255, 1 / 255, 0.0]], 1.0) == [1, 0]


@pytest.mark.parametrize("shares", [(0.5, 0.5, 0.0), (1 / 3, 1 / 3, 1 / 3), (0.5, 0.0, 0.5), (0.0, 0.5, 0.5)])
def test_a_tie_tells_nothing(shares: tuple[float, float, float]) -> None:
    assert levels_of(shares, 0.3) == 0


def test_levels_keep_the_shape_of_the_shares() -> None:
    assert confident_levels(np.zeros((4, 7, 3), dtype=np.float32), 0.5).shape == (4, 7)
    assert confident_levels(np.zeros((0, 3), dtype=np.float32), 0.5).shape == (0,)
