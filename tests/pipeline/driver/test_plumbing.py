from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pipeline.driver import plumbing
from pipeline.mining.annotate import MinedShard
from pipeline.plan import BuildPlan
from pipeline.runtime.progress import counters_for
from pipeline.sampling.pairs import load_drafts
from tests.pipeline.helpers import answered, asked, good_reply, prepared, reply, tiny, write_jsonl
from tests.pipeline.mining.levels import plan_of, shard_of


def verdicts(plan: BuildPlan) -> dict[str, int]:
    counts = counters_for(plan.output)
    return {name: counts.get(name) for name in ("accepted", "rejected", "settled")}


def test_validation_is_counted(tmp_path: Path) -> None:
    plan = prepared(tmp_path / "out", tiny(attempts=2))
    shard = answered(asked(plan.shards()[0], plan))
    bad = [replace(draft, outcomes=(reply("no"), reply("no"))) for draft in shard.drafts[:4]]

    plumbing.validate(replace(shard, drafts=[*bad, *shard.drafts[4:]]), plan, last=False)

    assert verdicts(plan) == {"accepted": 8, "rejected": 4, "settled": 8}
    assert counters_for(plan.output).get("rejected/validate/too_short") == 4


def test_first_pairs_of_a_shard_are_judged_before_the_others_are_answered(tmp_path: Path) -> None:
    plan = prepared(tmp_path / "out", tiny(shard_pairs=64, pairs=100))
    shard = asked(plan.shards()[0], plan)
    outcomes = [
        reply("no") if number % 8 == 0 else good_reply(request) for number, request in enumerate(shard.requests())
    ]

    # Of 31 pairs both replies are there, of the next only one.
    assert not plumbing.judge_early(shard, [*outcomes[:63], *[None] * (len(outcomes) - 63)], plan)
    assert plumbing.judge_early(shard, [*[None] * 2, *outcomes[2:66], *[None] * (len(outcomes) - 66)], plan)

    counts = counters_for(plan.output)
    assert (counts.get("early/accepted"), counts.get("early/rejected/validate/too_short")) == (24, 8)
    assert verdicts(plan) == {"accepted": 0, "rejected": 0, "settled": 0}


def test_posts_that_no_dimension_fits_are_counted(tmp_path: Path) -> None:
    posts = [{"id": f"p{k}", "text": f"post {k}", "topics": ["travel"] if k % 2 else []} for k in range(60)]
    seeds = {"path": str(write_jsonl(tmp_path / "posts.jsonl", posts))}
    plan = prepared(tmp_path / "out", tiny(seeds=seeds, sampling={"dimensions": ["interests"], "min_active": 1}))

    shard = plumbing.sample(load_drafts(plan.shards()[0], plan), plan, 0)

    lost = 12 - len(shard.drafts)
    assert 0 < lost < 12
    assert verdicts(plan) == {"accepted": 0, "rejected": lost, "settled": lost}


def test_responses_without_levels_are_not_counted_as_rejected_pairs(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    shard: MinedShard = shard_of([(1,), (-1,)], [(1,), (1,)])
    first = plumbing.select(shard, plan)

    plumbing.select(replace(shard, rejections=first.rejections), plan)

    assert len(first.rejections) == 1
    assert verdicts(plan) == {"accepted": 2, "rejected": 2, "settled": 4}
