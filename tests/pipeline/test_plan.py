from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

from pipeline.plan import BuildPlan, ShardSpec, apportion
from tests.pipeline.helpers import NOWHERE, tiny

SHARES = [
    {"train": 0.9, "validation": 0.05, "test": 0.05},
    {"train": 0.6, "validation": 0.2, "test": 0.2},
    {"train": 1 / 3, "validation": 1 / 3, "test": 1 / 3},
    {"train": 0.29, "validation": 0.71, "test": 0.0},
    {"train": 1.0, "validation": 0.0, "test": 0.0},
]


def plan_of(pairs: int, shard_pairs: int, output: Path = Path("out")) -> BuildPlan:
    return BuildPlan(output, "f" * 64, tiny(pairs=pairs, shard_pairs=shard_pairs))


@pytest.mark.parametrize("shares", SHARES)
def test_parts_sum_to_the_total_and_lie_within_one_of_their_shares(shares: dict[str, float]) -> None:
    for total in range(300):
        counts = apportion(total, shares)

        assert sum(counts.values()) == total
        assert all(abs(counts[key] - total * share) < 1 for key, share in shares.items())


@pytest.mark.parametrize("shares", SHARES)
def test_part_without_a_share_gets_nothing(shares: dict[str, float]) -> None:
    for total, (key, share) in product((1, 7, 100, 999), shares.items()):
        assert share > 0 or apportion(total, shares)[key] == 0


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
