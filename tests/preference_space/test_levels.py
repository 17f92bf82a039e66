from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from preference_space.direction import Direction
from preference_space.levels import claimed, is_shown, majority, one_hot

SIZES = [1, 2, 7, 90, 300]


def random_levels(seed: int, rows: int, size: int) -> Direction:
    return np.random.default_rng(seed).integers(-1, 2, size=(rows, size)).astype(np.int8)


def rows(*values: Sequence[int]) -> Direction:
    return np.array(values, dtype=np.int8)


def equal_levels(a: Sequence[int], b: Sequence[int]) -> int:
    return sum(x == y for x, y in zip(a, b, strict=True))


def cosine(a: Sequence[float], b: Sequence[float]) -> float:
    product = sum(x * y for x, y in zip(a, b, strict=True))
    return product / math.sqrt(sum(x * x for x in a)) / math.sqrt(sum(y * y for y in b))


def plain_vote(column: Sequence[int]) -> int:
    for pole in (1, -1):
        if 2 * sum(level == pole for level in column) > len(column):
            return pole
    return 0


def test_one_hot_has_one_number_for_each_level_of_each_dimension() -> None:
    hot = one_hot(rows([1, 0, -1], [-1, -1, 1]))

    assert hot.shape == (2, 9)
    assert hot.tolist() == [[1, 0, 0, 0, 1, 0, 0, 0, 1], [0, 0, 1, 0, 0, 1, 1, 0, 0]]


@pytest.mark.parametrize("size", SIZES)
def test_one_hot_rows_hold_as_many_ones_as_there_are_dimensions(size: int) -> None:
    hot = one_hot(random_levels(0, 20, size))

    assert hot.dtype == np.float32
    assert set(hot.ravel().tolist()) <= {0.0, 1.0}
    assert (hot.reshape(20, size, 3).sum(axis=2) == 1).all()


def test_one_hot_of_no_rows_has_the_same_width() -> None:
    assert one_hot(np.empty((0, 4), dtype=np.int8)).shape == (0, 12)


def test_one_hot_of_a_view_is_that_of_its_copy() -> None:
    levels = random_levels(1, 30, 12)

    assert np.array_equal(one_hot(levels[::3, ::2]), one_hot(levels[::3, ::2].copy()))


@pytest.mark.parametrize("size", SIZES)
def test_product_of_one_hot_rows_counts_the_equal_levels_exactly(size: int) -> None:
    a, b = random_levels(2, 25, size), random_levels(3, 40, size)

    matches = one_hot(a) @ one_hot(b).T

    assert matches.tolist() == [[equal_levels(x, y) for y in b.tolist()] for x in a.tolist()]


@pytest.mark.parametrize("size", SIZES)
def test_product_over_dimensions_is_the_cosine_of_one_hot_rows(size: int) -> None:
    hot = one_hot(random_levels(4, 20, size))

    found = hot @ hot.T / size

    for x, row in zip(hot.tolist(), found.tolist(), strict=True):
        assert row == pytest.approx([cosine(x, y) for y in hot.tolist()])


@pytest.mark.parametrize("voters", range(1, 8))
def test_majority_is_that_of_a_plain_count(voters: int) -> None:
    for seed in range(20):
        levels = random_levels(seed, voters, 30)
        assert majority(levels).tolist() == [plain_vote(column) for column in levels.T.tolist()]


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        ([1], 1),
        ([-1], -1),
        ([0], 0),
        ([1, -1], 0),
        ([1, 0], 0),
        ([1, 1, -1, -1], 0),
        ([1, 1, 0, 0], 0),
        ([1, 1, 0, -1], 0),
        ([1, 1, 1, 0, -1], 1),
        ([-1, -1, 0], -1),
        ([0, 0, 1], 0),
    ],
)
def test_half_of_the_votes_are_no_majority(column: list[int], expected: int) -> None:
    assert majority(rows(*([level] for level in column))).tolist() == [expected]


def test_majority_of_the_negated_rows_is_negated() -> None:
    levels = random_levels(5, 5, 90)

    assert np.array_equal(majority(-levels), -majority(levels))


def test_majority_of_many_voters_overflows_nothing() -> None:
    assert majority(np.ones((300, 2), dtype=np.int8)).tolist() == [1, 1]
    assert majority(rows(*([[1]] * 150 + [[-1]] * 150))).tolist() == [0]


def test_nobody_has_no_majority() -> None:
    assert majority(np.empty((0, 3), dtype=np.int8)).tolist() == [0, 0, 0]


def test_results_are_int8() -> None:
    assert majority(random_levels(6, 3, 5)).dtype == np.int8


def test_restraint_pairs_claim_the_opposite_of_their_direction() -> None:
    directions = rows([1, 0, -1], [1, 0, -1], [1, 0, -1])

    assert claimed(directions, ["opposite", "restraint", "near"]).tolist() == [[1, 0, -1], [-1, 0, 1], [1, 0, -1]]
    assert claimed(directions[:0], []).shape == (0, 3)


def test_what_is_claimed_is_shown_by_a_margin_of_its_sign() -> None:
    margins = np.array([[-0.5, 0.5, 0.5]], dtype=np.float32)

    assert is_shown(margins, claimed(rows([1, 0, -1]), ["restraint"])).tolist() == [[True, False, True]]
    assert is_shown(margins, claimed(rows([1, 0, -1]), ["near"])).tolist() == [[False, False, False]]
