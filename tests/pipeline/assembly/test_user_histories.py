"""Histories of users: first from hand-made pools, then all promises about the rows of small builds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.assembly.examples import ExampleShard, assemble, open_block, store_examples
from pipeline.assembly.history import History, Pool
from pipeline.assembly.mirror import mirror
from pipeline.assembly.portraits import read_portraits, render_portraits, write_portraits
from pipeline.assembly.user_histories import Items, choose_user_histories, count_pairs
from pipeline.assembly.validate import validate_examples
from pipeline.generation.completions import Outcome
from pipeline.io.shards import read_shard
from pipeline.plan import BuildPlan, ShardSpec
from pipeline.runtime.resources import resources
from preference_space.direction import from_released
from schemas.config import HistoryConfig
from tests.pipeline.assembly.test_history import sampled_pool
from tests.pipeline.helpers import body_of, fill_pool, good_reply, posts_in, prepared, reply, tiny, write_posts
from tests.schemas.records import DIRECTION, PAIR, PORTRAIT, UGC

Row = dict[str, Any]


# Hand-made pools


def random_pool(seed: int) -> tuple[Pool, Items]:
    """Users with up to six pairs each of all kinds, some of them lost; posts and replies repeat."""
    numbers = np.random.default_rng(seed)
    each, size = 6, 5
    pairs = np.flatnonzero(numbers.random(4 * each) < 0.8)
    people = numbers.choice([-1, 1], size=(4, size)).astype(np.int8)
    is_active = numbers.random((len(pairs), size)) < 0.4
    is_active[np.arange(len(pairs)), numbers.integers(0, size, len(pairs))] = True
    directions = (people[pairs // each] * is_active).astype(np.int8)
    posts = numbers.integers(0, 12, len(pairs))
    replies = np.where(numbers.random(2 * len(pairs)) < 0.8, np.arange(2 * len(pairs)), numbers.integers(0, 9))
    pool = sampled_pool(directions, posts, replies)
    is_restraint, is_near = numbers.random(len(pairs)) < 0.2, numbers.random(len(pairs)) < 0.3
    pool = replace(pool, has_mirror=~is_restraint, has_comments=~is_near)
    return pool, Items(pairs // each, pairs % each, numbers.random((len(pairs), each)))


def naive(
    pool: Pool, items: Items, target: int, config: HistoryConfig, min_items: int
) -> tuple[list[int], float] | str:
    """What `choose_user_histories` documents, one pair at a time: the rows in their order, and the support."""
    texts = [{("post", pool.posts[row]), pool.chosen[row], pool.rejected[row]} for row in range(len(pool))]
    others = [row for row in range(len(pool)) if items.users[row] == items.users[target] and pool.has_mirror[row]]
    rows: list[int] = []
    for row in sorted(others, key=lambda row: items.order[target, items.places[row]]):
        is_new = not texts[row] & set().union(*(texts[k] for k in [target, *rows]))
        near = sum(not pool.has_comments[k] for k in [*rows, row])
        if is_new and near <= config.pair and len(rows) < config.ugc + config.pair:
            rows.append(row)
    if len(rows) < min_items:
        return "history_too_short"
    active = np.flatnonzero(pool.directions[target])
    support = sum(any(pool.directions[row, d] for row in rows) for d in active) / len(active)
    is_enough = support >= config.min_support or not pool.has_mirror[target]
    return (rows, support) if is_enough else "history_without_support"


@pytest.mark.parametrize("sizes", [(4, 4), (1, 1), (2, 1), (0, 3), (3, 0)])
@pytest.mark.parametrize("seed", range(20))
def test_histories_are_those_of_the_definition(seed: int, sizes: tuple[int, int]) -> None:
    pool, items = random_pool(seed)
    config = HistoryConfig(ugc=sizes[0], pair=sizes[1], min_support=0.5)

    found = list(choose_user_histories(pool, items, config, min_items=1))

    assert len(found) == len(pool)
    for row in range(len(pool)):
        history, expected = found[row], naive(pool, items, row, config, 1)
        if isinstance(history, str) or isinstance(expected, str):
            assert history == expected
            continue
        rows, support = expected
        # Items are dealt in turn, each part in the order of the rows.
        assert sorted([*history.ugc, *history.pair]) == sorted(rows)
        assert [row for row in rows if row in history.ugc] == history.ugc.tolist()
        assert [row for row in rows if row in history.pair] == history.pair.tolist()
        assert len(history.ugc) <= config.ugc and len(history.pair) <= config.pair
        assert pool.has_comments[history.ugc].all()
        assert history.support == pytest.approx(support)


def own_pool(pairs: int, size: int = 3) -> tuple[Pool, Items]:
    """One user's pairs, each on another post, in the order of their numbers."""
    directions = np.ones((pairs, size), dtype=np.int8)
    pool = sampled_pool(directions, np.arange(pairs), np.arange(2 * pairs))
    return pool, Items(
        np.zeros(pairs, dtype=np.int64), np.arange(pairs), np.tile(np.linspace(0, 0.9, pairs), (pairs, 1))
    )


def first(pool: Pool, items: Items, ugc: int, pair: int, min_items: int = 0) -> History | str:
    return next(choose_user_histories(pool, items, HistoryConfig(ugc=ugc, pair=pair, min_support=0), min_items))


@pytest.mark.parametrize(("pairs", "sizes"), [(9, (4, 4)), (8, (3, 4)), (6, (2, 3)), (3, (1, 1)), (2, (0, 1))])
def test_few_items_are_dealt_to_both_parts(pairs: int, sizes: tuple[int, int]) -> None:
    history = first(*own_pool(pairs), ugc=4, pair=4)

    assert isinstance(history, History)
    assert (len(history.ugc), len(history.pair)) == sizes


@pytest.mark.parametrize(("min_items", "expected"), [(3, History), (4, str)])
def test_a_history_has_at_least_min_items(min_items: int, expected: type) -> None:
    assert isinstance(first(*own_pool(4), ugc=4, pair=4, min_items=min_items), expected)


def test_no_items_are_needed_where_histories_are_empty() -> None:
    history = first(*own_pool(1), ugc=0, pair=0)

    assert isinstance(history, History)
    assert len(history.ugc) == len(history.pair) == history.support == 0


def test_pairs_are_counted_by_user_and_not_by_side() -> None:
    ids = ["u1-a", "u1-b", "u1-a", "u2-a", "u2-b", "", ""]

    assert count_pairs(ids, [False, True, False, False, True, False, True]) == [2, 2, 2, 1, 1, 0, 0]


# Small builds

KEYS: dict[str, Any] = {
    "pairs": None,
    "persona": "users",
    "users": {"count": 12, "pairs_per_user": 6, "active": {"min": 6, "max": 9}, "min_items": 2},
    "kinds": {"near": 0.3, "restraint": 0.15},
    "sampling": {"min_active": 2, "max_active": 4},
    "splits": {"train": 0.5, "validation": 0.0, "test": 0.25, "test_seen_users": 0.25},
    "shard_pairs": 24,
    "history": {"ugc": 2, "pair": 2, "min_support": 0},
}


def plan_at(folder: Path, **keys: Any) -> BuildPlan:
    """A build of users whose phase one has ended."""
    posts = write_posts(folder / "posts.jsonl", 120)
    plan = prepared(folder / "build", tiny(**{"seeds": {"path": str(posts)}} | KEYS | keys))
    fill_pool(plan)
    return plan


def finish(shard: ExampleShard, plan: BuildPlan) -> list[Row]:
    """Store a portrayed shard as the DAG does, and return its rows."""
    store_examples(validate_examples(mirror(shard, plan), plan), plan)
    rows: list[Row] = read_shard(plan.path("data", shard.spec)).to_pylist()
    return rows


def built(plan: BuildPlan, spec: ShardSpec) -> list[Row]:
    return finish(write_portraits(assemble(spec, plan), plan), plan)


def pool_of(plan: BuildPlan, spec: ShardSpec) -> list[Row]:
    rows: list[Row] = read_shard(plan.path("pool", spec)).to_pylist()
    return rows


def levels(released: Sequence[float]) -> list[int]:
    found: list[int] = from_released(released).tolist()
    return found


def side_of(row: Row) -> int:
    return -1 if row["mirrored"] else 1


def test_items_are_the_users_other_pairs_of_the_split_as_the_person_sees_them(tmp_path: Path) -> None:
    plan = plan_at(tmp_path)
    items = 0
    for spec in plan.shards():
        pairs = {(pair["user_id"], pair["prompt"]): pair for pair in pool_of(plan, spec)}
        for row in built(plan, spec):
            side, roles = side_of(row), ("chosen", "rejected")[:: side_of(row)]
            for item in (*row[UGC], *row[PAIR]):
                source = pairs[row["user_id"][:-2], item["prompt"]]
                assert source["pair_id"] != row["pair_id"]
                assert source["kind"] in ({"opposite"} if "comment" in item else {"opposite", "near"})
                assert levels(item[DIRECTION]) == [side * level for level in source["direction"]]
                shown = (item["comment"],) if "comment" in item else (item["chosen"], item["rejected"])
                assert shown == tuple(source[role] for role in roles)[: len(shown)]
                items += 1
            assert 2 <= len(row[UGC]) + len(row[PAIR]) <= 4
            assert len(posts_in(row)) == 1 + len(row[UGC]) + len(row[PAIR])
    assert items > 100


def test_rows_and_their_histories_are_parts_of_the_users_direction(tmp_path: Path) -> None:
    plan = plan_at(tmp_path)
    for spec in plan.shards():
        for row in built(plan, spec):
            user = levels(row["user_direction"])
            assert 6 <= np.count_nonzero(user) <= 9
            for part in (row, *row[UGC], *row[PAIR]):
                assert all(level in (0, own) for level, own in zip(levels(part[DIRECTION]), user, strict=True))


def test_every_pair_but_restraint_has_an_exact_mirror_image(tmp_path: Path) -> None:
    plan = plan_at(tmp_path)
    kinds: Counter[str] = Counter()
    for spec in plan.shards():
        rows = {row["id"]: row for row in built(plan, spec)}
        for row in [row for row in rows.values() if not row["mirrored"]]:
            kinds[row["kind"]] += 1
            twin = rows.pop(f"{row['pair_id']}-b", None)
            if row["kind"] == "restraint":
                assert twin is None
                continue
            assert twin is not None
            assert (row["user_id"][:-1], row["user_id"][-2:], twin["user_id"][-2:]) == (
                twin["user_id"][:-1],
                "-a",
                "-b",
            )
            assert (twin["chosen"], twin["rejected"], twin["kind"]) == (row["rejected"], row["chosen"], row["kind"])
            for name in (DIRECTION, "user_direction"):
                assert twin[name] == [1 - value for value in row[name]]
            assert (twin["user_pairs"], twin["history_support"]) == (row["user_pairs"], row["history_support"])
            for part in (UGC, PAIR):
                for item, mirrored in zip(row[part], twin[part], strict=True):
                    assert mirrored["prompt"] == item["prompt"]
                    assert mirrored[DIRECTION] == [1 - value for value in item[DIRECTION]]
            for item, mirrored in zip(row[PAIR], twin[PAIR], strict=True):
                assert (mirrored["chosen"], mirrored["rejected"]) == (item["rejected"], item["chosen"])
    assert set(kinds) == {"opposite", "near", "restraint"}


def test_rows_count_the_pairs_of_their_user(tmp_path: Path) -> None:
    plan = plan_at(tmp_path)
    for spec in plan.shards():
        rows = built(plan, spec)
        pairs = Counter(row["user_id"] for row in rows if not row["mirrored"])
        assert all(row["user_pairs"] == pairs[row["user_id"][:-1] + "a"] for row in rows)
        assert sum(pairs.values()) == len({row["pair_id"] for row in rows})


def test_a_user_has_one_portrait_which_is_of_the_whole_direction(tmp_path: Path) -> None:
    plan = plan_at(tmp_path)
    space = resources(plan).space
    portraits: dict[str, str] = {}
    for spec in plan.shards():
        for row in built(plan, spec):
            traits = space.traits(from_released(row["user_direction"]))
            assert row[PORTRAIT] == f"This person {'; '.join(trait['description'] for trait in traits)}."
            # Users of test_seen_users have their portrait in two splits.
            assert portraits.setdefault(row["user_id"], row[PORTRAIT]) == row[PORTRAIT]
    assert len(set(portraits.values())) == len(portraits)


def asked_portraits(plan: BuildPlan) -> ExampleShard:
    return render_portraits(assemble(plan.shards()[0], plan), plan)


def answered(shard: ExampleShard, plan: BuildPlan, bad: dict[int, Outcome] | None = None) -> ExampleShard:
    outcomes = [(bad or {}).get(k, good_reply(request)) for k, request in enumerate(shard.requests())]
    return read_portraits(shard.with_outcomes(outcomes), plan)


def test_the_model_is_asked_once_for_each_user_and_side(tmp_path: Path) -> None:
    plan = plan_at(tmp_path, portrait="model")
    shard = asked_portraits(plan)

    rows = finish(answered(shard, plan), plan)

    people = {row["user_id"] for row in rows}
    assert len(shard.requests()) == len({request.key for request in shard.requests()}) == len(people) == 8
    assert len({body_of(request)["seed"] for request in shard.requests()}) == 8
    texts = {row["user_id"]: row[PORTRAIT] for row in rows}
    assert {row[PORTRAIT] for row in rows} == set(texts.values()) and len(set(texts.values())) == 8


def test_a_bad_portrait_costs_the_pairs_of_its_user_alone(tmp_path: Path) -> None:
    plan = plan_at(tmp_path, portrait="model")
    shard = asked_portraits(plan)
    (user, side) = [*shard.asked][1]

    read = answered(shard, plan, {1: reply("no")})

    assert side == -1
    lost = {rejection.record_id for rejection in read.rejections}
    of_user = [row for row in pool_of(plan, shard.spec) if row["user_id"] == user]
    # A restraint pair has no opposite person, and needs no portrait of one.
    assert lost == {row["pair_id"] for row in of_user if row["kind"] != "restraint"}
    assert all(rejection.reason == "too_short" and rejection.texts[1] == "no" for rejection in read.rejections)
    assert {row["user_id"] for row in finish(read, plan)}.isdisjoint({f"{user}-b"})


def test_a_shard_of_users_needs_no_other(tmp_path: Path) -> None:
    plan = plan_at(tmp_path)

    for spec in plan.shards():
        block, _ = open_block(spec, plan)
        assert block.own == len(block.pool) == spec.count
        assert [name for name in block.made_of if name.endswith(".parquet")] == [plan.path("pool", spec).name]


def test_a_pair_that_breaks_a_rule_does_not_count_as_one_of_its_user(tmp_path: Path) -> None:
    plan = plan_at(tmp_path)
    shard = write_portraits(assemble(plan.shards()[0], plan), plan)
    broken, *rest = shard.personas
    own_post = History(np.array([broken.row]), np.empty(0, dtype=np.int64), 0.0)

    rows = finish(replace(shard, personas=[replace(broken, history=own_post), *rest]), plan)

    lost = shard.block.table["pair_id"][broken.row].as_py()
    user = shard.block.owners[broken.row]
    assert lost not in {row["pair_id"] for row in rows}
    assert {row["user_pairs"] for row in rows if row["user_id"][:-2] == user} == {5}


def test_orders_of_a_users_items_differ_from_row_to_row(tmp_path: Path) -> None:
    plan = plan_at(tmp_path)
    rows = [row for row in built(plan, plan.shards()[0]) if not row["mirrored"]]
    user = [row for row in rows if row["user_id"] == rows[0]["user_id"]]

    orders = [[item["prompt"] for item in (*row[UGC], *row[PAIR])] for row in user]

    # Not the same items first in each, left out only where they are the row's own post.
    ranked = list(dict.fromkeys(prompt for order in orders for prompt in order))
    assert any(order != [prompt for prompt in ranked if prompt in order] for order in orders)


# Kinds of pairs in matched builds

MATCHED: dict[str, Any] = {"kinds": {"near": 0.3, "restraint": 0.3}, "history": {"ugc": 2, "pair": 2, "min_support": 0}}


def test_matched_restraint_pairs_have_one_row_and_are_in_no_history(tmp_path: Path) -> None:
    plan = prepared(tmp_path / "build", tiny(**MATCHED))
    fill_pool(plan)
    kinds: Counter[tuple[str, bool]] = Counter()
    for spec in plan.shards():
        pool = {row["pair_id"]: row for row in pool_of(plan, spec)}
        every = {row["prompt"]: row["kind"] for other in plan.shards() for row in pool_of(plan, other)}
        for row in built(plan, spec):
            kinds[row["kind"], row["mirrored"]] += 1
            assert row["kind"] == pool[row["pair_id"]]["kind"]
            assert all(every[item["prompt"]] == "opposite" for item in row[UGC])
            assert all(every[item["prompt"]] != "restraint" for item in row[PAIR])
            assert (row["user_id"], row["user_direction"], row["user_pairs"]) == ("", [], 0)
    assert kinds["restraint", False] and not kinds["restraint", True]
    assert kinds["near", False] == kinds["near", True] > 0
    assert kinds["opposite", False] == kinds["opposite", True] > 0
