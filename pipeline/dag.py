"""The DAG: the picture of docs/design.md as Beam. Two phases, each a pipeline; a shard is one element of it.

No GroupByKey stands between generation and disk: the only shuffle is that of the shard specifications (in `Create`),
a few bytes each, so that a distributed runner can spread them. A stage calls a pure function that a test can call too.
A build that mines has two short pipelines before these, which gather the threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics

from pipeline import coder, examples, pairs, portraits
from pipeline.generation.stage import Generate
from pipeline.mining import annotate, gather
from pipeline.mining import pairs as mined
from pipeline.mining.sources import Slice
from pipeline.plan import BuildPlan, ShardSpec
from pipeline.progress import tally
from pipeline.publishing import upload
from schemas.base import UserError
from schemas.config import PublishConfig

coder.register()

_JUDGED_FROM = 1000
"""Pairs that a process must have finished before its share of lost ones can fail the run."""


def partition_threads(root: beam.Pipeline, plan: BuildPlan, slices: Sequence[Slice]) -> None:
    """Before phase one: read each slice of the forum's posts and responses, and write its events part by part."""
    root | "Slices" >> beam.Create(slices) | "Partition" >> beam.Map(gather.partition, plan)


def join_threads(root: beam.Pipeline, plan: BuildPlan, parts: Sequence[int]) -> None:
    """Then join each part's posts with their responses, and clean them."""
    root | "Parts" >> beam.Create(parts) | "Join" >> beam.Map(gather.join, plan)


def upload_shards(root: beam.Pipeline, folder: Path, settings: PublishConfig, todo: Sequence[upload.Batch]) -> None:
    """After the build, where it is published: each batch of finished shards to the Hub, where nobody sees them yet."""
    root | "Shards" >> beam.Create(todo) | "Upload" >> beam.Map(upload.upload, folder, settings)


def build_pairs(root: beam.Pipeline, plan: BuildPlan, shards: Sequence[ShardSpec]) -> None:
    """Phase one: pairs of both sources, each shard to its file in the pool."""
    for source, build in (("sampled", sample_pairs), ("mined", mine_pairs)):
        specs = [spec for spec in shards if spec.source == source]
        if specs:
            stored = build(root | f"Plan {source}" >> beam.Create(specs), plan)
            stored | f"Report {source}" >> beam.Map(report, plan, "pairs")


def sample_pairs(specs: beam.PCollection, plan: BuildPlan) -> beam.PCollection:
    """Sample a point, render the prompts, generate both replies, validate; then store the pool shard.

    A row that fails goes round again with a fresh counter, `attempts` times at most. The rounds are laid out one after
    another, as a DAG has no loops; all of them feed the one window of requests.
    """
    drafts = specs | "Open" >> _pairs(pairs.open_shard, plan)
    for attempt in range(plan.config.attempts):
        last = attempt + 1 == plan.config.attempts
        drafts = (
            drafts
            | f"Sample {attempt}" >> _pairs(pairs.sample_points, plan, attempt)
            | f"Render {attempt}" >> _pairs(pairs.render_prompts, plan)
            | f"Generate {attempt}" >> beam.ParDo(Generate(plan, last)).with_output_types(pairs.PairShard)
            | f"Validate {attempt}" >> _pairs(validate, plan, last)
        )
    return drafts | "Store" >> beam.Map(pairs.store_pairs, plan)


def mine_pairs(specs: beam.PCollection, plan: BuildPlan) -> beam.PCollection:
    """Annotate every response of the shard's threads, cluster them, draw pairs; then store the pool shard."""
    threads = specs | "Open threads" >> _mined(mined.open_threads, plan)
    for attempt in range(annotate.rounds(plan)):
        last = attempt + 1 == annotate.rounds(plan)
        threads = (
            threads
            | f"Ask {attempt}" >> _mined(annotate.ask, plan, attempt)
            | f"Annotate {attempt}" >> beam.ParDo(Generate(plan, last)).with_output_types(annotate.MinedShard)
            | f"Levels {attempt}" >> _mined(annotate.take_levels, plan, attempt)
        )
    return threads | "Select" >> _mined(select, plan) | "Store mined" >> beam.Map(mined.store_mined, plan)


def build_examples(root: beam.Pipeline, plan: BuildPlan, shards: Sequence[ShardSpec]) -> None:
    """Phase two: draw each pair's history from blocks of the pool, write the portraits, validate; then store."""
    personas = root | "Plan" >> beam.Create(shards) | "Assemble" >> _examples(examples.assemble, plan)
    if plan.config.portrait == "template":
        personas |= "Portraits" >> _examples(portraits.portray, plan)
    else:
        personas = (
            personas
            | "Render" >> _examples(portraits.render_portraits, plan)
            | "Generate" >> beam.ParDo(Generate(plan, last=True)).with_output_types(examples.ExampleShard)
            | "Portraits" >> _examples(portraits.take_portraits, plan)
        )
    personas | "Store" >> beam.Map(examples.store_examples, plan) | "Report" >> beam.Map(report, plan, "examples")


def _pairs(function: Callable[..., pairs.PairShard], *arguments: Any) -> beam.PTransform:
    return beam.Map(function, *arguments).with_output_types(pairs.PairShard)


def _mined(function: Callable[..., annotate.MinedShard], *arguments: Any) -> beam.PTransform:
    return beam.Map(function, *arguments).with_output_types(annotate.MinedShard)


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


def select(shard: annotate.MinedShard, plan: BuildPlan) -> annotate.MinedShard:
    """`mining.pairs.select_pairs`, counted for the display."""
    selected = mined.select_pairs(shard, plan)
    counts = tally(plan.output)
    counts.add("accepted", len(selected.pairs))
    counts.add("rejected", len(selected.rejections))
    counts.add("settled", shard.spec.count)
    return selected


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
