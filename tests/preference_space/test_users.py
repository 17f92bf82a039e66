"""Users, the parts of them that pairs are written for, and near neighbours."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preference_space.direction import Direction
from preference_space.sampling import Sampler
from preference_space.space import load_space
from schemas.config import Correlation, Marginal, SamplingConfig
from tests.preference_space.spaces import space_of
from tests.preference_space.test_sampling import assert_share

ALIGNX = load_space("alignx")
TOPICAL = np.array([dimension.topical for dimension in ALIGNX.dimensions])
TAGS = [dimension.slug for dimension in ALIGNX.dimensions if dimension.topical]
ALL = np.arange(4000)


def sampler(**keys: Any) -> Sampler:
    return Sampler(ALIGNX, SamplingConfig(**keys), 7)


def active(points: Direction) -> Any:
    return np.count_nonzero(points, axis=1)


def test_user_has_as_many_active_dimensions_as_the_range_says() -> None:
    counts = active(sampler().users(ALL, 8, 16))

    for count in range(8, 17):
        assert_share(float((counts == count).mean()), 1 / 9, len(ALL))
    assert counts.min() == 8


def test_user_alone_equals_the_user_among_others() -> None:
    users = sampler().users(ALL, 8, 16)

    for number in (0, 1, 77, 3999):
        assert np.array_equal(sampler().users(np.array([number]), 8, 16)[0], users[number])


def test_tags_and_other_dimensions_are_active_in_users_by_their_marginals_alone() -> None:
    heavy = {TAGS[0]: Marginal(weight=3.0)}
    users = sampler(topical_weight=100.0, marginals=heavy).users(ALL, 1, 1)

    shares = (users != 0).mean(axis=0)
    assert_share(shares[TOPICAL].sum(), (TOPICAL.sum() + 2) / 92, len(ALL))
    assert_share(shares[ALIGNX.index[TAGS[0]]], 3 / 92, len(ALL))


def test_poles_of_users_follow_marginals_and_correlations() -> None:
    space = space_of("a", "b", "c")
    config = SamplingConfig(
        marginals={"c": Marginal(positive=0.9)}, correlations=(Correlation(a="a", b="b", rho=0.8),), min_active=1
    )
    users = Sampler(space, config, 1).users(ALL, 3, 3)

    assert_share(float((users[:, 2] > 0).mean()), 0.9, len(ALL))
    assert float((users[:, 0] * users[:, 1]).mean()) == pytest.approx(2 / np.pi * np.arcsin(0.8), abs=0.05)


def test_users_have_no_forbidden_combination_and_their_opposites_neither() -> None:
    space = space_of("a", "b", "c", "d")
    sampled = Sampler(space, SamplingConfig(min_active=1, forbidden=({"a": "positive", "b": "negative"},)), 1)

    users = sampled.users(ALL, 3, 4)

    assert ((users[:, 0] * users[:, 1]) == 1).any()
    assert not ((users[:, 0] * users[:, 1]) == -1).any()


@settings(max_examples=40)
@given(
    st.integers(1, 40),
    st.integers(0, 30),
    st.integers(1, 9),
    st.integers(0, 5),
    st.lists(st.sampled_from([*TAGS, "nonsense", "age_group"]), max_size=4),
    st.integers(0, 10**6),
)
def test_part_has_fitting_dimensions_of_its_user_with_the_poles_of_the_user(
    fewest: int, more: int, low: int, wide: int, topics: list[str], first: int
) -> None:
    sampled = sampler(min_active=low, max_active=low + wide)
    users = sampled.users(np.arange(50), fewest, fewest + more)
    records = np.arange(first, first + 50)

    parts = sampled.parts("train", 1, records, sampled.fits([topics] * 50), users)

    assert ((parts == 0) | (parts == users)).all()
    fits = ~TOPICAL | np.isin([dimension.slug for dimension in ALIGNX.dimensions], topics)
    assert not parts[:, ~fits].any()
    possible = active(users[:, fits])
    assert (active(parts) <= np.minimum(low + wide, possible)).all()
    assert (active(parts) >= np.minimum(low, possible)).all()
    alone = sampled.parts("train", 1, records[7:8], sampled.fits([topics]), users[7:8])
    assert np.array_equal(alone[0], parts[7])


def test_other_attempts_and_splits_draw_other_parts_of_the_same_user() -> None:
    sampled = sampler()
    user = np.repeat(sampled.users(np.array([3]), 16, 16), 50, axis=0)

    def parts(split: str, attempt: int) -> Direction:
        return sampled.parts(split, attempt, np.arange(50), sampled.fits([[]] * 50), user)

    assert not np.array_equal(parts("train", 0), parts("train", 1))
    assert not np.array_equal(parts("train", 0), parts("test_seen_users", 0))


def test_tag_that_the_post_is_about_is_preferred_by_the_topical_weight() -> None:
    space = space_of("a", "b", "c", topical=["music"])
    sampled = Sampler(space, SamplingConfig(min_active=1, max_active=1, topical_weight=6.0), 1)
    user = np.ones((len(ALL), 4), dtype=np.int8)

    parts = sampled.parts("train", 0, ALL, sampled.fits([["music"]] * len(ALL)), user)

    assert_share(float((parts[:, 3] != 0).mean()), 6 / 9, len(ALL))


@settings(max_examples=40)
@given(st.integers(1, 6), st.integers(0, 6), st.integers(1, 5), st.integers(0, 10**6))
def test_flips_are_some_traits_of_the_point_but_never_all(low: int, wide: int, most: int, first: int) -> None:
    sampled = sampler(min_active=low, max_active=low + wide)
    records = np.arange(first, first + 60)
    points = sampled.draw("train", 0, records, [[]] * 60)

    flips = sampled.flips("train", 0, records, points, most)

    assert ((flips == 0) | (flips == points)).all()
    assert (active(flips) <= np.minimum(most, active(points) - 1)).all()
    assert np.array_equal(active(flips) > 0, active(points) > 1)
    assert np.array_equal(sampled.flips("train", 0, records[9:10], points[9:10], most)[0], flips[9])


def test_number_of_flips_and_the_flipped_traits_are_uniform() -> None:
    points = np.ones((len(ALL), 4), dtype=np.int8)

    flips = Sampler(space_of("a", "b", "c", "d"), SamplingConfig(), 1).flips("train", 0, ALL, points, 2)

    assert_share(float((active(flips) == 1).mean()), 0.5, len(ALL))
    for share in (flips != 0).mean(axis=0):
        assert_share(float(share), 1.5 / 4, len(ALL))


def test_neighbour_with_a_forbidden_combination_is_drawn_again() -> None:
    config = SamplingConfig(min_active=1, forbidden=({"a": "positive", "b": "negative"},))
    points = np.tile(np.array([1, 1, 1, 1], dtype=np.int8), (200, 1))

    flips = Sampler(space_of("a", "b", "c", "d"), config, 1).flips("train", 0, np.arange(200), points, 1)

    # To flip one of a and b alone gives the combination, in the neighbour or in its mirror image.
    assert not flips[:, :2].any()
    assert (active(flips) == 1).all()


def test_point_whose_neighbours_are_all_forbidden_has_none() -> None:
    config = SamplingConfig(min_active=1, forbidden=({"a": "positive", "b": "negative"},))
    points = np.tile(np.array([1, 1], dtype=np.int8), (20, 1))

    flips = Sampler(space_of("a", "b"), config, 1).flips("train", 0, np.arange(20), points, 1)

    assert not flips.any()
