from __future__ import annotations

import pickle
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from pipeline.plan import SPLITS, BuildPlan, ShardSpec, first_user
from schemas.config import apportion
from tests.pipeline.helpers import NOWHERE, mining, of_users, tiny


def plan_of(pairs: int, shard_pairs: int, output: Path = Path("out")) -> BuildPlan:
    return BuildPlan(output, "f" * 64, tiny(pairs=pairs, shard_pairs=shard_pairs))


@pytest.mark.parametrize("total", [1, 7, 100, 999])
def test_part_without_a_share_gets_nothing(total: int) -> None:
    assert apportion(total, {"train": 0.29, "validation": 0.71, "test": 0.0})["test"] == 0
    whole = {"train": total, "validation": 0, "test": 0}
    assert apportion(total, {"train": 1.0, "validation": 0.0, "test": 0.0}) == whole


def test_largest_remainders_are_rounded_up() -> None:
    assert apportion(10, {"a": 0.33, "b": 0.28, "c": 0.39}) == {"a": 3, "b": 3, "c": 4}


def test_equal_remainders_go_to_the_first() -> None:
    assert apportion(1, {"a": 0.5, "b": 0.5}) == {"a": 1, "b": 0}
    assert apportion(5, {"a": 0.25, "b": 0.25, "c": 0.5}) == {"a": 1, "b": 1, "c": 3}


def test_whole_share_that_floating_point_makes_smaller_stays_whole() -> None:
    assert 100 * 0.29 < 29
    assert apportion(100, {"a": 0.29, "b": 0.71}) == {"a": 29, "b": 71}


@pytest.mark.parametrize("shard_pairs", [1, 7, 16, 1000])
@pytest.mark.parametrize("pairs", [1, 2, 15, 16, 17, 60, 1000])
def test_shards_cover_every_pair_once_in_order(pairs: int, shard_pairs: int) -> None:
    plan = plan_of(pairs, shard_pairs)

    covered = [(spec.split, spec.start + k) for spec in plan.shards() for k in range(spec.count)]

    counts = apportion(pairs, plan.config.splits.model_dump())
    assert covered == [(split, k) for split, count in counts.items() for k in range(count)]


@pytest.mark.parametrize("shard_pairs", [1, 7, 16, 1000])
@pytest.mark.parametrize("pairs", [1, 17, 60, 997])
def test_shards_of_a_split_are_nearly_equal_and_not_too_large(pairs: int, shard_pairs: int) -> None:
    shards = plan_of(pairs, shard_pairs).shards()

    for split in ("train", "validation", "test"):
        sizes = [spec.count for spec in shards if spec.split == split]
        assert not sizes or max(sizes) - min(sizes) <= 1
        assert not sizes or 0 < max(sizes) <= shard_pairs
        assert len(sizes) == -(-sum(sizes) // shard_pairs)


def test_shards_are_named_as_the_hub_names_them() -> None:
    names = [spec.name for spec in plan_of(60, 16).shards()]

    assert names == [
        "train-00000-of-00003",
        "train-00001-of-00003",
        "train-00002-of-00003",
        "validation-00000-of-00001",
        "test-00000-of-00001",
    ]


def mined_plan(threads: dict[str, int], share: float = 1.0, pairs_per_post: int = 1, **keys: Any) -> BuildPlan:
    section = mining(Path("threads.jsonl"), share=share, pairs_per_post=pairs_per_post)
    return BuildPlan(Path("out"), "f" * 64, tiny(**{"pairs": None, "mining": section} | keys), threads)


def test_mined_shards_cover_every_pair_of_every_thread_once_and_cut_no_thread() -> None:
    threads = {"train": 21, "validation": 7, "test": 0}

    for each, shard_pairs in product((1, 3, 5), (1, 4, 16, 1000)):
        shards = mined_plan(threads, pairs_per_post=each, shard_pairs=shard_pairs).shards()

        covered = [(spec.split, spec.start + k) for spec in shards for k in range(spec.count)]
        assert covered == [(split, k) for split, count in threads.items() for k in range(count * each)]
        assert all(spec.start % each == spec.count % each == 0 for spec in shards)
        assert all(0 < spec.count <= max(shard_pairs, each) for spec in shards)


def test_shards_of_both_sources_are_numbered_together_the_sampled_ones_first() -> None:
    plan = mined_plan({"train": 18, "validation": 6, "test": 6}, share=0.5, pairs=60)

    assert [(spec.name, spec.source, spec.start, spec.count) for spec in plan.shards()] == [
        ("train-00000-of-00004", "sampled", 0, 9),
        ("train-00001-of-00004", "sampled", 9, 9),
        ("train-00002-of-00004", "mined", 0, 9),
        ("train-00003-of-00004", "mined", 9, 9),
        ("validation-00000-of-00002", "sampled", 0, 6),
        ("validation-00001-of-00002", "mined", 0, 6),
        ("test-00000-of-00002", "sampled", 0, 6),
        ("test-00001-of-00002", "mined", 0, 6),
    ]


def test_pairs_of_both_sources_have_different_ids() -> None:
    plan = mined_plan({"train": 18, "validation": 6, "test": 6}, share=0.5, pairs=60)

    ids = [spec.record_id("0123456789", spec.start + k) for spec in plan.shards() for k in range(spec.count)]

    assert len(set(ids)) == len(ids) == 60
    assert ids[0] == "01234567-train-0000000"
    assert ids[18] == "01234567-train-mined-0000000"


def test_build_that_mines_has_no_mined_shards_before_its_threads_are_counted() -> None:
    assert not mined_plan({}).shards()
    assert {spec.source for spec in mined_plan({}, share=0.5, pairs=60).shards()} == {"sampled"}


def test_threads_of_a_split_begin_after_those_of_the_splits_before() -> None:
    plan = mined_plan({"train": 21, "validation": 7, "test": 5})

    assert [plan.first_thread(split) for split in ("train", "validation", "test")] == [0, 21, 28]


@pytest.mark.parametrize(("mirror", "sides"), [(True, (1, -1)), (False, (1,))])
def test_pair_is_emitted_mirrored_unless_told_otherwise(mirror: bool, sides: tuple[int, ...]) -> None:
    assert BuildPlan(Path("out"), "f" * 64, tiny(mirror=mirror)).sides == sides


def test_path_of_a_shard_lies_in_its_folder() -> None:
    spec = ShardSpec("test", 3, 12, 0, 5)

    assert plan_of(60, 16, Path("some/where")).path("rejected/pairs", spec) == Path(
        "some/where/rejected/pairs/test-00003-of-00012.parquet"
    )


def test_plan_is_the_same_whatever_engine_works_on_it() -> None:
    here = BuildPlan(Path("out"), "f" * 64, tiny())
    there = BuildPlan(Path("out"), "f" * 64, tiny(engine={"kind": "openai", "base_urls": [NOWHERE, NOWHERE]}))

    assert here == there
    assert hash(here) == hash(there)


def test_pickled_plan_holds_no_list_of_its_shards() -> None:
    plan = plan_of(10_000, 1)
    size = len(pickle.dumps(plan))
    shards = plan.shards()

    restored = pickle.loads(pickle.dumps(plan))  # noqa: S301 - made here

    assert len(pickle.dumps(plan)) == size
    assert restored.shards() == shards


def test_shards_follow_the_threads_of_a_plan() -> None:
    plan = mined_plan({})
    assert not plan.shards()
    assert sum(spec.count for spec in replace(plan, threads={"train": 7}).shards()) == 7


SEEN = {"train": 0.6, "validation": 0.1, "test": 0.1, "test_seen_users": 0.2}


@pytest.mark.parametrize("shard_pairs", [4, 7, 16, 1000])
def test_shards_of_users_hold_each_pair_once_and_cut_no_user(shard_pairs: int) -> None:
    plan = BuildPlan(Path("out"), "f" * 64, of_users(count=40, each=4, splits=SEEN, shard_pairs=shard_pairs))

    covered = [(spec.split, spec.start + k) for spec in plan.shards() for k in range(spec.count)]

    assert plan.config.people == {"train": 30, "validation": 5, "test": 5, "test_seen_users": 10}
    assert covered == [(split, k) for split, users in plan.config.people.items() for k in range(4 * users)]
    assert all(spec.start % 4 == spec.count % 4 == 0 for spec in plan.shards())
    assert max(spec.count for spec in plan.shards()) <= shard_pairs


def test_users_are_numbered_over_the_splits_and_seen_ones_have_the_numbers_of_train() -> None:
    config = of_users(count=40, each=4, splits=SEEN)

    assert {split: first_user(config, split) for split in SPLITS} == {
        "train": 0,
        "validation": 30,
        "test": 35,
        "test_seen_users": 0,
    }


def test_mined_pairs_of_a_build_of_users_are_in_splits_of_new_people() -> None:
    config = of_users(count=40, each=4, splits=SEEN, mining=mining(Path("threads.jsonl"), share=0.5))

    shards = BuildPlan(Path("out"), "f" * 64, config, config.splits.of_people(config.mined_pairs)).shards()

    assert config.mined_pairs == config.sampled_pairs == 200
    assert {spec.split for spec in shards if spec.source == "mined"} == {"train", "validation", "test"}
    assert sum(spec.count for spec in shards if spec.source == "mined") == 200


def test_user_has_an_id() -> None:
    assert BuildPlan(Path("out"), "0123456789", of_users()).user_id(12) == "01234567-u0000012"
