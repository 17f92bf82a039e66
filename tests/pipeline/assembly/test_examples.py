from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.assembly.examples import ExampleShard, assemble, open_block, store_examples
from pipeline.assembly.history import History
from pipeline.assembly.leaks import made_of, read_pool_state
from pipeline.assembly.mirror import mirror
from pipeline.assembly.portraits import read_portraits, render_portraits, write_portraits
from pipeline.assembly.validate import rows_of, validate_examples
from pipeline.generation.completions import Failure, Outcome
from pipeline.io.shards import read_meta, read_shard
from pipeline.plan import BuildPlan, ShardSpec
from pipeline.runtime.resources import resources
from preference_space.direction import from_released, verbalise
from schemas.config import HistoryConfig
from schemas.records import Example
from tests.pipeline.helpers import body_of, fill_pool, good_reply, prepared, reply, specs_of, tiny
from tests.schemas.records import DIRECTION, PAIR, PORTRAIT, UGC
from tests.stub import good_text

LONG = "The person of whom I speak is kind, patient and rather fond of long evenings."


def plan_with_pool(folder: Path, **keys: Any) -> BuildPlan:
    plan = prepared(folder / "build", tiny(**keys))
    fill_pool(plan)
    return plan


def portrayed(plan: BuildPlan, spec: ShardSpec | None = None) -> ExampleShard:
    return write_portraits(assemble(spec or plan.shards()[0], plan), plan)


def stored(plan: BuildPlan, spec: ShardSpec | None = None) -> list[dict[str, Any]]:
    """The examples of a shard, by template."""
    shard = portrayed(plan, spec)
    finish(shard, plan)
    return list(read_shard(plan.path("data", shard.spec)).to_pylist())


def finish(shard: ExampleShard, plan: BuildPlan) -> dict[str, Any]:
    """What follows a portrayed shard in the DAG."""
    return store_examples(validate_examples(mirror(shard, plan), plan), plan)


def rejections_of(plan: BuildPlan, spec: ShardSpec) -> list[dict[str, Any]]:
    return list(read_shard(plan.path("rejected/examples", spec)).to_pylist())


def listed(value: Any) -> Any:
    """Tuples as lists, as Arrow gives them back."""
    if isinstance(value, dict):
        return {key: listed(inner) for key, inner in value.items()}
    return [listed(inner) for inner in value] if isinstance(value, list | tuple) else value


def opposite(direction: list[float]) -> list[float]:
    return [1 - value for value in direction]


def split_of(pair_id: str) -> str:
    return pair_id.split("-")[1]


def asked_portraits(plan: BuildPlan) -> ExampleShard:
    return render_portraits(assemble(plan.shards()[0], plan), plan)


def taken(shard: ExampleShard, plan: BuildPlan, bad: dict[int, Outcome] | None = None) -> ExampleShard:
    """The shard's portraits written by the model, well, but for the requests at the positions in `bad`."""
    outcomes = [(bad or {}).get(k, good_reply(request)) for k, request in enumerate(shard.requests())]
    return read_portraits(shard.with_outcomes(outcomes), plan)


SHAPES = [{"ugc": 1, "pair": 1}, {"ugc": 4, "pair": 4}, {"ugc": 0, "pair": 3}, {"ugc": 3, "pair": 1}]


@pytest.mark.parametrize("history", [*SHAPES, {"ugc": 0, "pair": 0}])
def test_rows_are_validated_as_they_are_stored(tmp_path: Path, history: dict[str, int]) -> None:
    plan = plan_with_pool(tmp_path, history=history | {"min_support": 0})
    shard = mirror(portrayed(plan), plan)

    examples = stored(plan)

    assert len(examples) == 24
    assert [listed(row) for row in rows_of(shard.examples)] == examples
    assert examples == [
        listed(Example.model_validate(row).model_dump(by_alias=True)) for row in rows_of(shard.examples)
    ]


@pytest.mark.parametrize("history", SHAPES)
def test_mirrored_twin_is_the_exact_mirror(tmp_path: Path, history: dict[str, int]) -> None:
    plan = plan_with_pool(tmp_path, history=history | {"min_support": 0})
    examples = stored(plan)

    for first, twin in zip(examples[::2], examples[1::2], strict=True):
        assert (first["mirrored"], twin["mirrored"]) == (False, True)
        assert (first["id"], twin["id"]) == (f"{first['pair_id']}-a", f"{first['pair_id']}-b")
        assert (twin["chosen"], twin["rejected"]) == (first["rejected"], first["chosen"])
        assert twin[DIRECTION] == opposite(first[DIRECTION])
        for same in ("prompt", "pair_id", "post_id", "topics", "source", "model", "history_support"):
            assert twin[same] == first[same]
        for item, mirrored in zip(first[PAIR], twin[PAIR], strict=True):
            assert mirrored["prompt"] == item["prompt"]
            assert (mirrored["chosen"], mirrored["rejected"]) == (item["rejected"], item["chosen"])
            assert mirrored[DIRECTION] == opposite(item[DIRECTION])
        for item, mirrored in zip(first[UGC], twin[UGC], strict=True):
            assert mirrored["prompt"] == item["prompt"]
            assert mirrored["comment"] != item["comment"]
            assert mirrored[DIRECTION] == opposite(item[DIRECTION])


def test_history_items_are_pairs_of_the_pool_seen_from_one_of_their_sides(tmp_path: Path) -> None:
    plan = plan_with_pool(tmp_path, history={"ugc": 2, "pair": 2, "min_support": 0})
    pool = {
        row["prompt"]: row
        for spec in specs_of(plan, "train")
        for row in read_shard(plan.path("pool", spec)).to_pylist()
    }

    for example in stored(plan):
        for item in example[PAIR]:
            pair, levels = pool[item["prompt"]], from_released(item[DIRECTION]).tolist()
            sides = [
                (pair["chosen"], pair["rejected"], pair["direction"]),
                (pair["rejected"], pair["chosen"], [-level for level in pair["direction"]]),
            ]
            assert (item["chosen"], item["rejected"], levels) in sides
        for item in example[UGC]:
            pair, levels = pool[item["prompt"]], from_released(item[DIRECTION]).tolist()
            sides_of_comment = [
                (pair["chosen"], pair["direction"]),
                (pair["rejected"], [-level for level in pair["direction"]]),
            ]
            assert (item["comment"], levels) in sides_of_comment


def test_profile_names_the_direction_and_support_is_that_of_the_history(tmp_path: Path) -> None:
    plan = plan_with_pool(tmp_path, history={"ugc": 4, "pair": 4, "min_support": 0})
    space = resources(plan).space

    for example in stored(plan):
        direction = from_released(example[DIRECTION])
        items = [from_released(item[DIRECTION]) for item in (*example[UGC], *example[PAIR])]
        agreeing = np.any([item * direction > 0 for item in items], axis=0)

        assert example["profile"] == verbalise(space, direction)
        assert example["history_support"] == pytest.approx(agreeing.sum() / np.abs(direction).sum())
        assert not any((item * direction < 0).any() for item in items)


def test_portrait_describes_the_direction_and_nothing_else(tmp_path: Path) -> None:
    plan = plan_with_pool(tmp_path)
    space = resources(plan).space

    for example in stored(plan):
        described = [trait["description"] for trait in space.traits(from_released(example[DIRECTION]))]
        assert example[PORTRAIT] == f"This person {'; '.join(described)}."


def test_portrait_is_the_same_whatever_the_replies_are(tmp_path: Path) -> None:
    plans = [prepared(tmp_path / name, tiny()) for name in ("here", "there")]
    fill_pool(plans[0])
    fill_pool(plans[1], lambda pair_id, role: good_text({"another": [pair_id, role]}))

    here, there = (stored(plan) for plan in plans)

    assert [example[PORTRAIT] for example in here] == [example[PORTRAIT] for example in there]
    assert {example["chosen"] for example in here}.isdisjoint({example["chosen"] for example in there})


def test_model_is_asked_for_portraits_by_the_direction_alone(tmp_path: Path) -> None:
    plan = plan_with_pool(tmp_path, portrait="model")
    shard = asked_portraits(plan)
    space, pool = resources(plan).space, shard.block.pool

    for persona, request in zip(shard.personas, shard.requests(), strict=True):
        text = body_of(request)["messages"][-1]["content"]
        assert [line for line in text.splitlines() if line.startswith("- ")] == [
            f"- {trait['label']}: {trait['description']}."
            for trait in space.traits(persona.side * pool.directions[persona.row])
        ]
        row = {name: shard.block.table[name][persona.row].as_py() for name in ("prompt", "chosen", "rejected")}
        assert not any(value in text for value in row.values())


def test_model_portraits_are_asked_for_once_for_each_side(tmp_path: Path) -> None:
    requests = asked_portraits(plan_with_pool(tmp_path, portrait="model")).requests()

    assert len(requests) == len({request.key for request in requests}) == 24
    assert len({body_of(request)["seed"] for request in requests}) == 24


def test_model_portraits_reach_their_examples(tmp_path: Path) -> None:
    plan = plan_with_pool(tmp_path, portrait="model")
    asking = asked_portraits(plan)

    finish(taken(asking, plan, {3: reply(f' "{LONG}" ')}), plan)

    examples = read_shard(plan.path("data", asking.spec)).to_pylist()
    expected = [getattr(good_reply(request), "text", "") for request in asking.requests()]
    assert [example[PORTRAIT] for example in examples] == [*expected[:3], LONG, *expected[4:]]


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        (Failure("http_400", "HTTP 400: no", may_pass=False), "http_400"),
        (reply("This person likes to tell everybody", "length"), "unfinished"),
        (reply(""), "empty"),
        (reply("This person."), "too_short"),
        (reply("As an AI, I cannot describe anybody at all."), "refusal_or_meta"),
    ],
)
def test_one_bad_portrait_rejects_both_examples_of_its_pair(
    tmp_path: Path, side: int, outcome: Outcome, reason: str
) -> None:
    plan = plan_with_pool(tmp_path, portrait="model")
    asking = asked_portraits(plan)

    meta = finish(taken(asking, plan, {10 + side: outcome}), plan)

    bad = asking.block.table["pair_id"][asking.personas[10].row].as_py()
    examples = read_shard(plan.path("data", asking.spec)).to_pylist()
    (rejection,) = rejections_of(plan, asking.spec)
    assert (rejection["record_id"], rejection["stage"], rejection["reason"]) == (bad, "portrait", reason)
    assert rejection["texts"][side] == getattr(outcome, "text", "")
    assert len(examples) == 22
    assert bad not in {example["pair_id"] for example in examples}
    assert (meta["lost"], meta["examples"], meta["rejected"]) == (1, 22, {f"portrait/{reason}": 1})


def test_block_holds_its_own_rows_first_and_rows_of_its_split_alone(tmp_path: Path) -> None:
    plan = plan_with_pool(tmp_path, history={"ugc": 1, "pair": 1, "min_support": 0, "blocks": 1})

    for spec in plan.shards():
        block, _ = open_block(spec, plan)
        pair_ids = block.table["pair_id"].to_pylist()
        shards_of_split = len(specs_of(plan, spec.split))
        assert block.own == spec.count
        assert pair_ids[: block.own] == read_shard(plan.path("pool", spec))["pair_id"].to_pylist()
        assert {split_of(pair_id) for pair_id in pair_ids} == {spec.split}
        assert len(set(pair_ids)) == len(pair_ids) == len(block.pool) == spec.count * min(2, shards_of_split)


@pytest.mark.parametrize(("blocks", "rows"), [(0, 12), (1, 24), (2, 36), (5, 36)])
def test_block_has_as_many_other_shards_as_configured_and_as_there_are(tmp_path: Path, blocks: int, rows: int) -> None:
    plan = plan_with_pool(tmp_path, history={"ugc": 1, "pair": 1, "min_support": 0, "blocks": blocks})

    assert len(open_block(plan.shards()[0], plan)[0].pool) == rows


def test_blocks_are_chosen_by_the_seed_anew_for_each_shard(tmp_path: Path) -> None:
    history = {"ugc": 1, "pair": 1, "min_support": 0, "blocks": 1}
    plans = [plan_with_pool(tmp_path / str(seed), seed=seed, shard_pairs=4, history=history) for seed in (0, 1)]

    chosen = [
        [int(open_block(spec, plan)[0].table["pair_id"][-1].as_py()[-7:]) // 4 for spec in specs_of(plan, "train")]
        for plan in plans
    ]

    assert chosen[0] != chosen[1]
    assert all(len(set(others)) > 2 for others in chosen)
    assert all(other != own for others in chosen for own, other in enumerate(others))


def test_histories_come_from_the_other_blocks_too(tmp_path: Path) -> None:
    plan = plan_with_pool(tmp_path, history={"ugc": 4, "pair": 4, "min_support": 0})

    shard = assemble(plan.shards()[0], plan)

    rows = np.concatenate([persona.history.ugc for persona in shard.personas]) % len(shard.block.pool)
    assert rows.min() < shard.block.own <= rows.max()


def test_pairs_without_a_history_are_rejected_with_the_reason(tmp_path: Path) -> None:
    plan = plan_with_pool(tmp_path, shard_pairs=4, history={"ugc": 1, "pair": 0, "min_support": 0, "blocks": 0})
    longer = HistoryConfig(ugc=2, pair=2, min_support=0, blocks=0)
    plan = replace(plan, config=plan.config.model_copy(update={"history": longer}))

    assert stored(plan) == []

    rejections = rejections_of(plan, plan.shards()[0])
    assert {(r["stage"], r["reason"], r["final"]) for r in rejections} == {("assemble", "history_too_short", True)}
    assert len(rejections) == 4
    pool = read_shard(plan.path("pool", plan.shards()[0])).to_pylist()
    assert [row["texts"] for row in rejections] == [[pair["chosen"], pair["rejected"]] for pair in pool]


def test_pairs_without_support_are_rejected_with_the_reason(tmp_path: Path) -> None:
    plan = plan_with_pool(tmp_path, history={"ugc": 1, "pair": 0, "min_support": 0, "blocks": 0})
    # A build in which no pair can have a history is refused at its start.
    history = plan.config.history.model_copy(update={"min_support": 1.0})
    plan = replace(plan, config=plan.config.model_copy(update={"history": history}))

    assert stored(plan) == []
    assert {row["reason"] for row in rejections_of(plan, plan.shards()[0])} == {"history_without_support"}


def test_example_that_breaks_a_rule_of_its_record_is_rejected_with_its_twin(tmp_path: Path) -> None:
    plan = plan_with_pool(tmp_path)
    shard = portrayed(plan)
    first, twin, second, *rest = shard.personas
    own_post = History(np.array([first.row]), np.array([second.row]), 0.5)
    broken = replace(first, history=own_post)

    meta = finish(replace(shard, personas=[broken, twin, second, *rest]), plan)

    (rejection,) = rejections_of(plan, shard.spec)
    assert (rejection["stage"], rejection["reason"]) == ("assemble", "schema")
    assert "repeated" in rejection["detail"]
    assert (meta["examples"], meta["lost"]) == (22, 1)


def test_example_whose_history_contradicts_it_is_rejected_with_its_twin(tmp_path: Path) -> None:
    plan = plan_with_pool(tmp_path)
    shard = portrayed(plan)
    pool, (first, *rest) = shard.block.pool, shard.personas
    clashes = (pool.directions * pool.directions[first.row] < 0).any(axis=1)
    clashing = np.flatnonzero(clashes & (pool.posts != pool.posts[first.row]))
    broken = replace(first, history=History(clashing[:1], clashing[1:2], 0.5))

    meta = finish(replace(shard, personas=[broken, *rest]), plan)

    (rejection,) = rejections_of(plan, shard.spec)
    assert (rejection["stage"], rejection["reason"]) == ("assemble", "schema")
    assert "contradicts" in rejection["detail"]
    assert (meta["examples"], meta["lost"]) == (22, 1)


def test_without_mirror_only_the_first_example_of_each_pair_is_stored(tmp_path: Path) -> None:
    plans = [plan_with_pool(tmp_path / name, mirror=mirror) for name, mirror in (("one", False), ("two", True))]

    one, two = (stored(plan) for plan in plans)

    assert len(one) == 12
    assert not any(example["mirrored"] for example in one)
    # All but the ids, which begin with the fingerprint.
    told_apart = {"id": "", "pair_id": ""}
    assert [example | told_apart for example in one] == [example | told_apart for example in two[::2]]


def test_without_mirror_one_portrait_is_asked_for(tmp_path: Path) -> None:
    plan = plan_with_pool(tmp_path, portrait="model", mirror=False)
    asking = asked_portraits(plan)

    meta = finish(taken(asking, plan, {3: reply("no")}), plan)

    assert len(asking.requests()) == 12
    assert (meta["examples"], meta["lost"]) == (11, 1)


def test_stored_shards_are_the_same_bytes_every_time(tmp_path: Path) -> None:
    plans = [plan_with_pool(tmp_path / name) for name in ("here", "there")]

    for plan in plans:
        stored(plan)

    here, there = (plan.path("data", plan.shards()[0]).read_bytes() for plan in plans)
    assert here == there


def test_footer_counts_the_shard(tmp_path: Path) -> None:
    plan = plan_with_pool(tmp_path)
    spec = plan.shards()[0]
    stored(plan)

    assert read_meta(plan.path("data", spec)) == {
        "file": f"data/{spec.name}.parquet",
        "fingerprint": plan.fingerprint,
        "asked": 12,
        "accepted": 0,
        "examples": 24,
        "lost": 0,
        "unanswered": 0,
        "open": 0,
        "rejected": {},
        "prompt_tokens": 0,
        "completion_tokens": 0,
        "reasoning_tokens": 0,
        "cleaned": {},
        "made_of": made_of(read_pool_state(plan), [plan.path("pool", other).name for other in specs_of(plan, "train")]),
    }


def test_large_shard_is_written_in_several_row_groups_in_order(tmp_path: Path) -> None:
    splits = {"train": 1.0, "validation": 0.0, "test": 0.0}
    plan = plan_with_pool(tmp_path, pairs=300, shard_pairs=512, splits=splits)

    examples = stored(plan)

    metadata = pq.read_metadata(plan.path("data", plan.shards()[0]))
    assert metadata.num_row_groups > 1
    assert [example["id"] for example in examples] == sorted(example["id"] for example in examples)
    assert len(examples) == 600


@pytest.mark.parametrize("emptied", ["train", "validation"])
def test_shard_whose_pairs_were_all_rejected_gives_an_empty_shard(tmp_path: Path, emptied: str) -> None:
    plan = prepared(tmp_path / "build", tiny())
    spec = specs_of(plan, emptied)[0]
    rows = {f"{plan.fingerprint[:8]}-{emptied}-{k:07d}" for k in range(spec.count)}
    fill_pool(plan, lambda pair_id, role: "no" if pair_id in rows else None)

    examples = stored(plan, spec)

    assert examples == []
    assert rejections_of(plan, spec) == []
    assert pq.read_metadata(plan.path("data", spec)).num_rows == 0
