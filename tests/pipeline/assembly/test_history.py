from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.assembly.history import History, Pool, choose_histories, deal
from schemas.config import HistoryConfig

Floats = npt.NDArray[np.float64]

SIZES = [(0, 0), (1, 0), (0, 1), (0, 4), (3, 1), (1, 3), (4, 4), (2, 5)]


def config(ugc: int, pair: int, min_support: float = 0.5) -> HistoryConfig:
    return HistoryConfig(ugc=ugc, pair=pair, min_support=min_support)


def pool_of(*directions: list[int], posts: Sequence[int] | None = None, replies: Sequence[int] | None = None) -> Pool:
    """Rows with posts and replies of their own, unless given; `replies` are all chosen ones, then all rejected."""
    rows = len(directions)
    return sampled_pool(
        np.array(directions, dtype=np.int8),
        np.array(range(rows) if posts is None else posts),
        np.array(range(2 * rows) if replies is None else replies),
    )


def sampled_pool(
    directions: npt.NDArray[np.int8], posts: npt.NDArray[np.int64], replies: npt.NDArray[np.int64]
) -> Pool:
    """A pool whose replies have the levels of their pair's direction."""
    rows = len(directions)
    levels = np.concatenate([directions, -directions])
    every = np.ones(rows, dtype=bool)
    return Pool(directions, levels, posts, replies[:rows], replies[rows:], has_mirror=every, has_comments=every)


def random_pool(seed: int) -> tuple[Pool, Floats, Floats]:
    """A pool in which posts and replies repeat and directions clash, with its `order` and its rows' `shift`."""
    numbers = np.random.default_rng(seed)
    rows, size = int(numbers.integers(2, 40)), int(numbers.integers(2, 9))
    directions = numbers.choice([-1, 0, 0, 0, 1], size=(rows, size)).astype(np.int8)
    directions[np.arange(rows), numbers.integers(0, size, rows)] = numbers.choice([-1, 1], rows)
    posts = numbers.integers(0, rows, rows)
    replies = np.where(numbers.random(2 * rows) < 0.8, np.arange(2 * rows), numbers.integers(0, 2 * rows, 2 * rows))
    pool = sampled_pool(directions, posts, replies)
    return pool, numbers.random(rows), numbers.random(rows)


def level(pool: Pool, view: int) -> npt.NDArray[np.int8]:
    """The direction of a view."""
    direction: npt.NDArray[np.int8] = pool.directions[view % len(pool)]
    return direction if view < len(pool) else np.negative(direction)


def contradicts(pool: Pool, target: npt.NDArray[np.int8], view: int) -> bool:
    return bool((target * level(pool, view) < 0).any())


def supports(pool: Pool, target: npt.NDArray[np.int8], view: int) -> npt.NDArray[np.bool_]:
    agreeing: npt.NDArray[np.bool_] = (target * level(pool, view)) > 0
    return agreeing


def texts_of(pool: Pool, rows: Sequence[int]) -> list[int]:
    return [int(text) for row in rows for text in {pool.chosen[row], pool.rejected[row]}]


def naive(pool: Pool, target: int, config: HistoryConfig, order: Floats, shift: float) -> History | str:
    """What `choose_histories` documents, one item at a time, without a single vectorised step."""
    direction, size = pool.directions[target], config.ugc + config.pair
    active = [d for d in range(len(direction)) if direction[d]]

    def tie(row: int) -> float:
        return float((order[row] + shift) % 1.0)

    def overlap(row: int) -> list[int]:
        return [d for d in active if pool.directions[row][d]]

    def consistent(row: int) -> bool:
        return len({int(pool.directions[row][d] * direction[d]) for d in overlap(row)}) <= 1

    def fits(row: int) -> bool:
        taken = [target, *picked]
        return pool.posts[row] not in {pool.posts[other] for other in taken} and not (
            set(texts_of(pool, [row])) & set(texts_of(pool, taken))
        )

    if size == 0:
        return History(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64), 0.0)
    picked: list[int] = []
    while len(picked) < size:
        covered = {d for row in picked for d in overlap(row)}
        candidates = [row for row in range(len(pool)) if overlap(row) and consistent(row) and fits(row)]
        if not candidates:
            break
        picked.append(max(candidates, key=lambda row: (len({*overlap(row)} - covered), len(overlap(row)), -tie(row))))
    for row in sorted((row for row in range(len(pool)) if not overlap(row)), key=tie):
        if len(picked) < size and fits(row):
            picked.append(row)
    if len(picked) < size:
        return "history_too_short"
    support = len({d for row in picked for d in overlap(row)}) / len(active)
    if support < config.min_support:
        return "history_without_support"
    views = []
    for row in sorted(picked, key=lambda row: (-len(overlap(row)), tie(row))):
        opposed = any(pool.directions[row][d] == -direction[d] for d in overlap(row))
        views.append(row + len(pool) * (opposed if overlap(row) else tie(row) < 0.5))
    ugc: list[int] = []
    pair: list[int] = []
    for k, view in enumerate(views):
        # Dealt out as evenly as the two numbers allow.
        (ugc if (k + 1) * config.ugc // size > k * config.ugc // size else pair).append(view)
    return History(np.array(ugc, dtype=np.int64), np.array(pair, dtype=np.int64), support)


class Case(NamedTuple):
    """A target of a random pool, and the history that was chosen for it."""

    pool: Pool
    target: int
    rules: HistoryConfig
    order: Floats
    shift: float
    history: History | str


@cache
def cases() -> list[Case]:
    """Every row of many random pools."""
    result = []
    for seed in range(160):
        pool, order, shift = random_pool(seed)
        ugc, pair = SIZES[seed % len(SIZES)]
        rules = config(ugc, pair, min_support=(0.0, 0.3, 0.7, 1.0)[seed // len(SIZES) % 4])
        chosen = choose_histories(pool, len(pool), rules, order, shift)
        result += [
            Case(pool, target, rules, order, float(shift[target]), history) for target, history in enumerate(chosen)
        ]
    return result


def accepted() -> list[tuple[Pool, int, HistoryConfig, History]]:
    return [(case.pool, case.target, case.rules, case.history) for case in cases() if isinstance(case.history, History)]


def one(pool: Pool, rules: HistoryConfig) -> History | str:
    """The history of row 0."""
    order = np.linspace(0.01, 0.99, len(pool))
    return next(choose_histories(pool, 1, rules, order, np.zeros(1)))


def test_histories_are_those_of_the_naive_algorithm() -> None:
    outcomes = {"history": 0, "history_too_short": 0, "history_without_support": 0}

    for pool, target, rules, order, shift, found in cases():
        expected = naive(pool, target, rules, order, shift)
        if isinstance(expected, str):
            outcomes[expected] += 1
            assert found == expected, (target, rules)
        else:
            outcomes["history"] += 1
            assert isinstance(found, History), (target, rules, found)
            assert found.ugc.tolist() == expected.ugc.tolist(), (pool, target, rules)
            assert found.pair.tolist() == expected.pair.tolist(), (pool, target, rules)
            assert found.support == pytest.approx(expected.support)

    assert min(outcomes.values()) > 50


def test_history_has_exactly_the_asked_number_of_each_kind() -> None:
    for _, _, rules, history in accepted():
        assert (len(history.ugc), len(history.pair)) == (rules.ugc, rules.pair)


@pytest.mark.parametrize(("ugc", "pair"), [(0, 0), (0, 4), (4, 0), (3, 1), (4, 4), (16, 0), (16, 16), (1, 16)])
def test_history_of_any_shape_is_found_where_there_is_plenty(ugc: int, pair: int) -> None:
    history = one(pool_of(*[[1, 0]] * 40), config(ugc, pair))

    assert isinstance(history, History)
    assert (len(history.ugc), len(history.pair)) == (ugc, pair)


def test_no_item_contradicts_the_target() -> None:
    for pool, target, _, history in accepted():
        for view in (*history.ugc, *history.pair):
            assert not contradicts(pool, pool.directions[target], int(view))


def test_turned_history_does_not_contradict_the_opposite_person() -> None:
    for pool, target, _, history in accepted():
        mirrored = history.mirrored(pool)
        assert mirrored.support == history.support
        for view in (*mirrored.ugc, *mirrored.pair):
            assert not contradicts(pool, np.negative(pool.directions[target]), int(view))


def test_turning_twice_gives_the_same_view() -> None:
    pool = pool_of([1], [1], [1])
    views = np.array([0, 4, 2])

    assert pool.mirrored(views).tolist() == [3, 1, 5]
    assert pool.mirrored(pool.mirrored(views)).tolist() == [0, 4, 2]


def test_no_post_and_no_reply_is_repeated_nor_equals_the_targets() -> None:
    for pool, target, _, history in accepted():
        rows = [target, *(int(view) % len(pool) for view in (*history.ugc, *history.pair))]

        posts, replies = [int(pool.posts[row]) for row in rows], texts_of(pool, rows)
        assert len(set(posts)) == len(posts)
        assert len(set(replies)) == len(replies)


def test_support_is_the_share_of_target_dimensions_that_an_item_supports() -> None:
    for pool, target, rules, history in accepted():
        direction, views = pool.directions[target], [*history.ugc, *history.pair]
        covered = np.any([supports(pool, direction, int(view)) for view in views], axis=0) if views else np.zeros(1)

        assert history.support == pytest.approx(covered.sum() / np.abs(direction).sum())
        assert not views or history.support >= rules.min_support


def test_most_supportive_items_come_first_in_both_parts() -> None:
    for pool, target, _, history in accepted():
        for part in (history.ugc, history.pair):
            support = [int(supports(pool, pool.directions[target], int(view)).sum()) for view in part]
            assert all(first >= second for first, second in pairwise(support))


def test_both_parts_carry_support() -> None:
    pool = pool_of([1, 1], *[[1, 0]] * 2, *[[0, -1]] * 2, *[[0, 0]] * 20)

    history = one(pool, config(4, 4))

    assert isinstance(history, History)
    for part in (history.ugc, history.pair):
        assert [int(supports(pool, pool.directions[0], int(view)).sum()) for view in part] == [1, 1, 0, 0]


def test_uncovered_dimensions_are_served_before_more_support_for_covered_ones() -> None:
    pool = pool_of([1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 0, 0], [0, 0, 0, -1])

    history = one(pool, config(1, 1, min_support=1))

    assert isinstance(history, History)
    assert [*history.ugc % len(pool), *history.pair % len(pool)] in ([1, 3], [3, 1])
    assert history.support == 1


def test_row_that_agrees_in_one_dimension_and_opposes_in_another_is_never_used() -> None:
    assert one(pool_of([1, 1], [1, -1], [-1, 1]), config(1, 0, min_support=0)) == "history_too_short"


def test_row_of_the_opposite_direction_is_used_turned_round() -> None:
    history = one(pool_of([1, 0], [-1, 1]), config(1, 0))

    assert isinstance(history, History)
    assert history.ugc.tolist() == [3]


def test_too_few_rows_are_too_short_a_history() -> None:
    assert one(pool_of([1], [1], [1]), config(2, 1)) == "history_too_short"


def test_rows_about_the_targets_post_do_not_count() -> None:
    assert one(pool_of([1], [1], [1], posts=[5, 5, 6]), config(1, 1)) == "history_too_short"


def test_rows_that_share_a_post_count_once() -> None:
    assert one(pool_of([1], [1], [1], posts=[5, 6, 6]), config(1, 1)) == "history_too_short"


@pytest.mark.parametrize("replies", [[0, 0, 2, 3, 4, 5], [0, 1, 2, 3, 0, 5], [0, 1, 2, 3, 4, 1], [0, 1, 1, 3, 4, 5]])
def test_rows_that_share_a_reply_with_the_target_or_with_one_another_count_once(replies: list[int]) -> None:
    assert one(pool_of([1], [1], [1], replies=replies), config(1, 1)) == "history_too_short"


def test_row_whose_own_replies_are_equal_codes_is_taken_once() -> None:
    assert isinstance(one(pool_of([1], [1], replies=[0, 1, 2, 1]), config(1, 0)), History)


def test_too_little_support_is_told_apart_from_too_few_rows() -> None:
    pool = pool_of([1, 1, 1], [1, 0, 0], [0, 0, 0], [0, 0, 0])

    assert isinstance(one(pool, config(1, 1, min_support=0.33)), History)
    assert one(pool, config(1, 1, min_support=0.34)) == "history_without_support"


def test_a_restraint_row_needs_no_support() -> None:
    pool = pool_of([1, 1, 1], [1, 0, 0], [0, 0, 0], [0, 0, 0])
    pool = replace(pool, has_mirror=np.array([False, True, True, True]))

    history = one(pool, config(1, 1, min_support=1))

    assert isinstance(history, History)
    assert history.support == pytest.approx(1 / 3)


def test_only_the_first_rows_are_targets() -> None:
    pool, order, shift = random_pool(1)

    assert len(list(choose_histories(pool, 2, config(1, 0, 0), order, shift))) == 2


def test_ties_are_broken_differently_for_different_targets() -> None:
    pool = pool_of(*[[1]] * 50)
    order, shift = np.random.default_rng(0).random((2, 50))

    histories = list(choose_histories(pool, 50, config(1, 1), order, shift))

    items = {int(view) for history in histories if isinstance(history, History) for view in history.ugc}
    assert len(items) > 10


def test_space_of_many_dimensions_overflows_nothing() -> None:
    agreeing, clashing = [1] * 300, [1] * 172 + [-1] * 128

    history = one(pool_of([1] * 300, agreeing, agreeing), config(1, 1))

    assert isinstance(history, History)
    assert sorted(history.ugc.tolist() + history.pair.tolist()) == [1, 2]
    assert one(pool_of([1] * 300, clashing), config(1, 0, min_support=0)) == "history_too_short"


@pytest.mark.parametrize("seed", range(30))
def test_near_pairs_are_in_p_pair_alone_and_restraint_pairs_in_no_history(seed: int) -> None:
    pool, order, shift = random_pool(seed)
    draws = np.random.default_rng(seed).random((2, len(pool)))
    pool = replace(pool, has_mirror=draws[0] < 0.7, has_comments=draws[1] < 0.5)

    for history in choose_histories(pool, len(pool), config(2, 2, 0), order, shift):
        if isinstance(history, History):
            assert (len(history.ugc), len(history.pair)) == (2, 2)
            assert pool.has_comments[history.ugc % len(pool)].all()
            assert pool.has_mirror[np.concatenate([history.ugc, history.pair]) % len(pool)].all()


def test_a_near_pair_whose_turn_is_in_p_ugc_gives_it_to_a_later_item() -> None:
    pool = pool_of([1, 1], [1, 1], [1, 1], [1, 0], [1, 0])
    pool = replace(pool, has_comments=np.array([True, False, False, True, True]))

    history = deal(pool, np.array([1, 2, 3, 4]), 1.0, config(2, 2))

    assert (history.ugc.tolist(), history.pair.tolist()) == ([3, 4], [1, 2])
