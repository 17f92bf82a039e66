"""The DAG: the picture of docs/design.md as Beam. Two phases, each a pipeline; a shard is one element of it.

No GroupByKey stands between generation and disk: the only shuffle is that of the shard specifications (in `Create`),
a few bytes each, so that a distributed runner can spread them. A stage calls a pure function that a test can call too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics

from pipeline import coder, examples, pairs
from pipeline.generation.stage import Generate
from pipeline.plan import BuildPlan, ShardSpec
from pipeline.progress import tally
from schemas.base import UserError

coder.register()

_JUDGED_FROM = 1000
"""Pairs that a process must have finished before its share of lost ones can fail the run."""


def build_pairs(root: beam.Pipeline, plan: BuildPlan, shards: Sequence[ShardSpec]) -> None:
    """Phase one: sample a point, render the prompts, generate both replies, validate; then store the pool shard.

    A row that fails goes round again with a fresh counter, `attempts` times at most. The rounds are laid out one after
    another, as a DAG has no loops; all of them feed the one window of requests.
    """
    drafts = root | "Plan" >> beam.Create(shards) | "Open" >> _pairs(pairs.open_shard, plan)
    for attempt in range(plan.config.attempts):
        last = attempt + 1 == plan.config.attempts
        drafts = (
            drafts
            | f"Sample {attempt}" >> _pairs(pairs.sample_points, plan, attempt)
            | f"Render {attempt}" >> _pairs(pairs.render_prompts, plan)
            | f"Generate {attempt}" >> beam.ParDo(Generate(plan, last)).with_output_types(pairs.PairShard)
            | f"Validate {attempt}" >> _pairs(validate, plan, last)
        )
    drafts | "Store" >> beam.Map(pairs.store_pairs, plan) | "Report" >> beam.Map(report, plan, "pairs")


def build_examples(root: beam.Pipeline, plan: BuildPlan, shards: Sequence[ShardSpec]) -> None:
    """Phase two: draw each pair's history from blocks of the pool, write the portraits, validate; then store."""
    personas = root | "Plan" >> beam.Create(shards) | "Assemble" >> _examples(examples.assemble, plan)
    if plan.config.portrait == "model":
        personas = (
            personas
            | "Render" >> _examples(examples.render_portraits, plan)
            | "Generate" >> beam.ParDo(Generate(plan, last=True)).with_output_types(examples.ExampleShard)
            | "Portraits" >> _examples(examples.take_portraits, plan)
        )
    else:
        personas |= "Portraits" >> _examples(examples.portray, plan)
    personas | "Store" >> beam.Map(examples.store_examples, plan) | "Report" >> beam.Map(report, plan, "examples")


def _pairs(function: Callable[..., pairs.PairShard], *arguments: Any) -> beam.PTransform:
    return beam.Map(function, *arguments).with_output_types(pairs.PairShard)


def _examples(function: Callable[..., examples.ExampleShard], *arguments: Any) -> beam.PTransform:
    return beam.Map(function, *arguments).with_output_types(examples.ExampleShard)


def validate(shard: pairs.PairShard, plan: BuildPlan, last: bool) -> pairs.PairShard:
    """`pairs.validate_pairs`, counted for the display."""
    judged = pairs.validate_pairs(shard, plan, last)
    counts = tally(plan.output)
    counts.add("accepted", len(judged.pairs) - len(shard.pairs))
    counts.add("rejected", len(judged.rejections) - len(shard.rejections))
    counts.add("settled", len(shard.drafts) - len(judged.drafts))
    return judged


def report(meta: dict[str, Any], plan: BuildPlan, phase: str) -> None:
    """Count a stored shard, for the display and for Beam's metrics; fail a run that loses too much."""
    counts = tally(plan.output)
    counts.add("shards", 1)
    for name in ("asked", "lost", "examples"):
        counts.add(f"{phase}/{name}", meta[name])
        Metrics.counter("everyuser", f"{phase}/{name}").inc(meta[name])
    counts.flush()
    for reason, count in meta["rejected"].items():
        Metrics.counter("everyuser", f"rejected/{reason}").inc(count)
    asked, lost = counts.get(f"{phase}/asked"), counts.get(f"{phase}/lost")
    limit = plan.config.limits.max_rejected
    if asked >= _JUDGED_FROM and lost > limit * asked:
        raise UserError(too_many_lost(lost, asked, limit))


def too_many_lost(lost: int, asked: int, limit: float) -> str:
    """The message for a run that loses more rows than it may."""
    return (
        f"{lost} of {asked} pairs were lost, more than limits.max_rejected = {limit:g}; rejected/ holds each with its "
        "reason; change the model, the templates or the rules, or raise the limit"
    )
