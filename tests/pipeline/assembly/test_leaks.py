from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from pipeline.assembly.examples import assemble, open_block
from pipeline.assembly.leaks import find_shared_replies, has_shared_reply, read_pool_state
from pipeline.plan import BuildPlan
from tests.pipeline.helpers import fill_pool, prepared, specs_of, tiny

TWICE = "You should call your sister tonight, tell her everything, and then sleep on it for a whole week."


def pool_with(folder: Path, *where: tuple[str, int, str]) -> BuildPlan:
    """A pool in which the given (split, row, role) all hold the same reply."""
    plan = prepared(folder / "build", tiny())
    holders = {(f"{plan.fingerprint[:8]}-{split}-{row:07d}", role) for split, row, role in where}
    fill_pool(plan, lambda pair_id, role: TWICE if (pair_id, role) in holders else None)
    return plan


def rejected(plan: BuildPlan, split: str) -> list[tuple[int, str]]:
    """Row number and reason of what the first shard of a split rejects."""
    _, rejections = open_block(specs_of(plan, split)[0], plan)
    return [(int(rejection.record_id[-7:]), rejection.reason) for rejection in rejections]


def test_reply_of_two_splits_is_rejected_in_both(tmp_path: Path) -> None:
    plan = pool_with(tmp_path, ("train", 3, "chosen"), ("test", 5, "chosen"))

    assert len(read_pool_state(plan).shared) == 1
    assert rejected(plan, "train") == [(3, "reply_in_another_split")]
    assert rejected(plan, "test") == [(5, "reply_in_another_split")]
    assert rejected(plan, "validation") == []


def test_chosen_reply_of_one_split_and_rejected_reply_of_another_are_a_leak(tmp_path: Path) -> None:
    plan = pool_with(tmp_path, ("train", 3, "rejected"), ("validation", 0, "chosen"))

    assert rejected(plan, "train") == [(3, "reply_in_another_split")]
    assert rejected(plan, "validation") == [(0, "reply_in_another_split")]


def test_reply_that_one_split_holds_twice_stays(tmp_path: Path) -> None:
    plan = pool_with(tmp_path, ("train", 3, "chosen"), ("train", 4, "rejected"), ("train", 30, "chosen"))

    assert len(read_pool_state(plan).shared) == 0
    assert rejected(plan, "train") == []


def test_rejection_keeps_both_replies(tmp_path: Path) -> None:
    plan = pool_with(tmp_path, ("train", 3, "chosen"), ("test", 5, "chosen"))

    _, (rejection,) = open_block(specs_of(plan, "train")[0], plan)

    assert (rejection.stage, rejection.final) == ("assemble", True)
    assert rejection.texts[0] == TWICE
    assert len(rejection.texts) == 2


def test_shared_reply_is_in_no_history_either(tmp_path: Path) -> None:
    plan = pool_with(tmp_path, ("train", 3, "chosen"), ("test", 5, "chosen"))

    for spec in plan.shards():
        shard = assemble(spec, plan)
        assert TWICE not in shard.block.table["chosen"].to_pylist() + shard.block.table["rejected"].to_pylist()


def test_pair_is_leaked_when_either_reply_is(tmp_path: Path) -> None:
    plan = pool_with(tmp_path, ("train", 3, "chosen"), ("test", 5, "chosen"))
    table = pa.table({"chosen": ["a", TWICE, "b", "c"], "rejected": ["d", "e", TWICE, "f"]})

    assert has_shared_reply(table, read_pool_state(plan).shared).tolist() == [False, True, True, False]


def test_finding_again_finds_the_same(tmp_path: Path) -> None:
    plan = pool_with(tmp_path, ("train", 3, "chosen"), ("test", 5, "chosen"))
    before = read_pool_state(plan).shared.tolist()
    assert len(before) == 1

    find_shared_replies(plan)
    assert read_pool_state(plan).shared.tolist() == before
