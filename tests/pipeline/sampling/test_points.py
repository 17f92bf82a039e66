from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.sampling.assignment import kinds_of
from pipeline.sampling.points import Points, draw_points
from preference_space.direction import Direction
from preference_space.sampling import Sampler
from preference_space.space import load_space
from tests.pipeline.helpers import tiny

ALIGNX = load_space("alignx")
NUMBERS = np.arange(500)
KINDS: dict[str, Any] = {"kinds": {"near": 0.4, "restraint": 0.2}}


def drawn(attempt: int = 0, users: Direction | None = None, **keys: Any) -> Points:
    config = tiny(**KINDS | keys)
    sampler = Sampler(ALIGNX, config.sampling, config.seed)
    return draw_points(config, sampler, "train", attempt, NUMBERS, [("humor",)] * len(NUMBERS), users)


def of_kind(points: Points, kind: str) -> Any:
    return np.array(points.kinds) == kind


def test_near_pair_has_a_direction_in_the_flipped_traits_alone() -> None:
    points = drawn()
    near = of_kind(points, "near")

    assert ((points.directions == 0) | (points.directions == points.traits)).all()
    flips = np.count_nonzero(points.directions[near], axis=1)
    assert set(flips.tolist()) == {1, 2}
    assert (flips < np.count_nonzero(points.traits[near], axis=1)).all()
    assert np.array_equal(points.directions[~near], points.traits[~near])


def test_kinds_are_those_of_the_pairs_in_every_attempt() -> None:
    kinds = kinds_of(tiny(**KINDS), "train", NUMBERS).tolist()

    assert drawn().kinds == drawn(1).kinds == kinds
    assert not np.array_equal(drawn().traits, drawn(1).traits)


def test_pair_without_a_neighbour_is_one_of_the_opposite_person() -> None:
    single = drawn(sampling={"min_active": 1, "max_active": 2})

    near, alone = of_kind(single, "near"), np.count_nonzero(single.traits, axis=1) == 1
    wanted = kinds_of(tiny(**KINDS), "train", NUMBERS) == "near"
    assert (near == (wanted & ~alone)).all()
    assert (wanted & alone).any()
    assert np.array_equal(single.directions[wanted & alone], single.traits[wanted & alone])


def test_kinds_change_neither_the_traits_nor_the_other_pairs() -> None:
    without = drawn(kinds={})

    assert np.array_equal(drawn().traits, without.traits)
    assert set(without.kinds) == {"opposite"}
    assert np.array_equal(without.directions, without.traits)


def test_pairs_of_users_are_written_for_parts_of_them() -> None:
    config = tiny()
    users = Sampler(ALIGNX, config.sampling, config.seed).users(NUMBERS, 8, 16)

    points = drawn(users=users)

    assert ((points.traits == 0) | (points.traits == users)).all()
    assert np.count_nonzero(points.traits, axis=1).max() == config.sampling.max_active


def test_restraint_pair_shows_what_a_user_likes_whatever_the_post_is_about() -> None:
    topical = next(
        d for d, dimension in enumerate(ALIGNX.dimensions) if dimension.topical and dimension.slug != "humor"
    )
    users = np.zeros((len(NUMBERS), len(ALIGNX)), dtype=np.int8)
    users[:, topical] = -1

    points = drawn(users=users)

    assert (points.traits.any(axis=1) == of_kind(points, "restraint")).all()
