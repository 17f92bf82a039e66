from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from preference_space.coverage import Coverage
from preference_space.direction import Direction
from preference_space.space import PreferenceSpace, load_space
from tests.preference_space.spaces import space_of


def random_points(rows: int, size: int) -> Direction:
    return np.random.default_rng(0).integers(-1, 2, size=(rows, size)).astype(np.int8)


def covered(space: PreferenceSpace, *rows: list[int]) -> Coverage:
    coverage = Coverage(space)
    coverage.add(np.array(rows, dtype=np.int8))
    return coverage


def naive_pairs(points: Direction) -> list[list[int]]:
    """Return the points with both poles, counted one by one. Pole 2d is positive, pole 2d + 1 negative."""
    poles = [(d, level) for d in range(points.shape[1]) for level in (1, -1)]
    return [
        [sum(int(row[d] == level and row[e] == other) for row in points) for e, other in poles] for d, level in poles
    ]


def test_pair_counts_equal_a_naive_count() -> None:
    points = random_points(60, 4)
    coverage = Coverage(space_of("a", "b", "c", "d"))

    coverage.add(points)

    assert coverage.pairs.tolist() == naive_pairs(points)


def test_counts_of_each_pole_equal_a_naive_count() -> None:
    points = random_points(200, 90)
    coverage = Coverage(load_space("alignx"))

    coverage.add(points)

    assert coverage.positive.tolist() == [sum(row[d] == 1 for row in points) for d in range(90)]
    assert coverage.negative.tolist() == [sum(row[d] == -1 for row in points) for d in range(90)]


def test_active_counts_points_by_their_number_of_active_dimensions() -> None:
    coverage = covered(space_of("a", "b", "c"), [0, 0, 0], [1, 0, 0], [0, -1, 0], [1, -1, 1])

    assert coverage.active.tolist() == [1, 2, 0, 1]


def test_points_are_counted() -> None:
    assert covered(space_of("a"), [1], [0], [-1]).points == 3


def test_batches_add_up() -> None:
    points = random_points(100, 3)
    whole, parts = Coverage(space_of("a", "b", "c")), Coverage(space_of("a", "b", "c"))

    whole.add(points)
    for batch in (points[:1], points[1:70], points[70:]):
        parts.add(batch)

    assert parts.points == whole.points
    assert np.array_equal(parts.pairs, whole.pairs)
    assert np.array_equal(parts.active, whole.active)


def test_batch_without_points_changes_nothing() -> None:
    coverage = covered(space_of("a", "b"), [1, -1])
    before = coverage.pairs.copy()

    coverage.add(np.zeros((0, 2), dtype=np.int8))

    assert coverage.points == 1
    assert np.array_equal(coverage.pairs, before)


def test_unseen_names_the_poles_that_no_point_has() -> None:
    coverage = covered(space_of("a", "b", "c"), [1, 0, -1], [1, -1, 1])

    assert coverage.unseen() == ["a negative", "b positive"]


def test_everything_is_unseen_at_first() -> None:
    assert Coverage(space_of("a", "b")).unseen() == ["a positive", "a negative", "b positive", "b negative"]


def test_nothing_is_unseen_where_every_pole_occurs() -> None:
    assert covered(space_of("a", "b"), [1, -1], [-1, 1]).unseen() == []


@pytest.mark.parametrize(
    ("rows", "share"),
    [([[1, 1]], 1 / 4), ([[1, 1], [1, 1]], 1 / 4), ([[1, 1], [-1, 1]], 2 / 4), ([[1, 0], [0, -1]], 0.0)],
)
def test_pair_share_is_the_share_of_pole_pairs_that_occur(rows: list[list[int]], share: float) -> None:
    assert covered(space_of("a", "b"), *rows).pair_share() == share


def test_pair_share_is_one_where_every_pair_occurs() -> None:
    every = [list(point) for point in product((1, -1), repeat=3)]

    assert covered(space_of("a", "b", "c"), *every).pair_share() == 1.0


def test_pair_share_counts_pairs_of_different_dimensions_only() -> None:
    # 12 pairs of poles (3 pairs of dimensions, 4 of poles each); one point of three dimensions has 3 of them.
    assert covered(space_of("a", "b", "c"), [1, -1, 1]).pair_share() == 3 / 12


def test_pair_share_is_zero_at_first() -> None:
    assert Coverage(space_of("a", "b")).pair_share() == 0.0


def test_space_of_one_dimension_has_no_pair_to_miss() -> None:
    assert covered(space_of("a"), [1]).pair_share() == 1.0
