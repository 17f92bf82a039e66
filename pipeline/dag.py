"""The DAG: the picture of docs/design.md in Beam. A shard is one element; each stage calls a function of a shard.

Nothing is grouped between generation and disk. Only specifications of work, such as those of shards, are shuffled, so
that a distributed runner can spread them. A driver that waits runs each phase as a pipeline; a detached build is one
job (`build_all`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import apache_beam as beam

from pipeline.assembly import examples, portraits
from pipeline.assembly.mirror import mirror
from pipeline.assembly.validate import validate_examples
from pipeline.driver.finish import close_pool, finish_build
from pipeline.driver.plumbing import (
    Shards,
    after,
    ask,
    emit,
    judge_early,
    read_answers,
    report,
    sample,
    select,
    settle,
    validate,
)
from pipeline.generation.roles import Role
from pipeline.generation.stage import generate
from pipeline.io.storage import AnyPath
from pipeline.mining import annotate, pairing
from pipeline.plan import BuildPlan, ShardSpec
from pipeline.runtime import coder
from pipeline.runtime.stages import stage
from pipeline.sampling import pairs
from pipeline.threads import gather
from pipeline.threads.sources import Slice
from pipeline.verification.ask import VerifyShard
from schemas.config import PublishConfig
from schemas.records import Source

if TYPE_CHECKING:
    from pipeline.publishing.upload import Batch

coder.register(pairs.PairShard, VerifyShard, annotate.MinedShard, examples.ExampleShard)


@dataclass(eq=False)
class SamplePairs(beam.PTransform):
    """Phase one of sampled pairs: shard specifications to pool shards."""

    plan: BuildPlan

    def expand(self, specs: beam.PCollection) -> beam.PCollection:
        """Lay out the attempts one after another, as a DAG has no loops; all feed one window of requests."""
        drafts = specs | "Open" >> stage(pairs.load_drafts, self.plan)
        for number in range(self.plan.config.attempts):
            drafts |= f"Attempt {number}" >> Attempt(self.plan, number)
        return drafts | "Store" >> stage(pairs.store_pairs, self.plan)


@dataclass(eq=False)
class Attempt(beam.PTransform):
    """Draw, write and judge every pair of a shard that is still open. A rejected pair is drawn again in the next."""

    plan: BuildPlan
    number: int

    def expand(self, drafts: beam.PCollection) -> beam.PCollection:
        """Sample a point, render both prompts, generate both replies, validate the pair, verify what it shows."""
        plan, last = self.plan, self.number + 1 == self.plan.config.attempts
        early = judge_early if self.number == 0 else None
        then: Role | None = "verification" if plan.config.verification.is_on else None
        validated = (
            drafts
            | "Sample" >> stage(sample, plan, self.number)
            | "Render" >> stage(pairs.render_prompts, plan)
            | "Generate" >> generate(plan, pairs.PairShard, first=self.number == 0, last=last, early=early, then=then)
            | "Validate" >> stage(validate, plan, last)
        )
        return validated | "Verify" >> Verify(plan, self.number, last) if plan.config.verification.is_on else validated


@dataclass(eq=False)
class Verify(beam.PTransform):
    """Ask the judge what both replies of each pair show. A rejected pair is drawn again in the next attempt."""

    plan: BuildPlan
    number: int
    last: bool

    def expand(self, validated: beam.PCollection) -> beam.PCollection:
        """Render the questions, generate the answers, settle the pairs."""
        return (
            validated
            | "Ask" >> stage(ask, self.plan, self.number)
            | "Generate"
            >> generate(self.plan, VerifyShard, first=self.number == 0, last=self.last, role="verification")
            | "Settle" >> stage(settle, self.plan, self.last)
        )


@dataclass(eq=False)
class MinePairs(beam.PTransform):
    """Phase one of mined pairs: shard specifications to pool shards."""

    plan: BuildPlan

    def expand(self, specs: beam.PCollection) -> beam.PCollection:
        """Annotate every response of a shard's threads, then cluster them and draw pairs."""
        plan, rounds = self.plan, annotate.max_attempts(self.plan)
        threads = specs | "Open" >> stage(pairing.load_threads, plan)
        for number in range(rounds):
            threads |= f"Round {number}" >> Annotate(plan, number, number + 1 == rounds)
        return threads | "Select" >> stage(select, plan) | "Store" >> stage(pairing.store_mined, plan)


@dataclass(eq=False)
class Annotate(beam.PTransform):
    """Ask about every response without levels, and read the levels from the answers."""

    plan: BuildPlan
    number: int
    last: bool

    def expand(self, threads: beam.PCollection) -> beam.PCollection:
        """Render the questions, generate the answers, read the levels."""
        return (
            threads
            | "Ask" >> stage(annotate.render_questions, self.plan, self.number)
            | "Generate" >> generate(self.plan, annotate.MinedShard, first=self.number == 0, last=self.last)
            | "Levels" >> stage(read_answers, self.plan, self.number)
        )


@dataclass(eq=False)
class BuildExamples(beam.PTransform):
    """Phase two: shard specifications to shards of finished examples."""

    plan: BuildPlan

    def expand(self, specs: beam.PCollection) -> beam.PCollection:
        """Choose histories, portray both persons, emit a row for each, validate the rows."""
        return (
            specs
            | "Assemble" >> stage(examples.assemble, self.plan)
            | "Portray" >> Portray(self.plan)
            | "Mirror" >> stage(mirror, self.plan)
            | "Validate" >> stage(validate_examples, self.plan)
            | "Store" >> stage(examples.store_examples, self.plan)
        )


@dataclass(eq=False)
class Portray(beam.PTransform):
    """Write the portraits: by template, or by the model."""

    plan: BuildPlan

    def expand(self, personas: beam.PCollection) -> beam.PCollection:
        """Write at once, or render, generate and read."""
        if self.plan.config.portrait == "template":
            return personas | "Write" >> stage(portraits.write_portraits, self.plan)
        return (
            personas
            | "Render" >> stage(portraits.render_portraits, self.plan)
            | "Generate" >> generate(self.plan, examples.ExampleShard, first=True, last=True)
            | "Read" >> stage(portraits.read_portraits, self.plan)
        )


_SOURCES: dict[Source, Callable[[BuildPlan], beam.PTransform]] = {"sampled": SamplePairs, "mined": MinePairs}


def pairs_of(start: beam.PCollection, plan: BuildPlan, shards: Sequence[ShardSpec]) -> beam.PCollection:
    """Phase one: the pairs of each source, each shard to its file in the pool."""
    stored = []
    for source, transform in _SOURCES.items():
        mine = [spec for spec in shards if spec.source == source]
        if mine:
            specs = start | f"Shards of {source} pairs" >> Shards(plan, mine, "pool")
            stored.append(specs | transform(plan))
    return stored | "Pool" >> beam.Flatten() | "Report pairs" >> stage(report, plan, "pairs")


def examples_of(start: beam.PCollection, plan: BuildPlan, shards: Sequence[ShardSpec]) -> beam.PCollection:
    """Phase two: the examples of each pool shard to a data shard of the same name."""
    specs = start | "Shards of examples" >> Shards(plan, shards, "data")
    return specs | BuildExamples(plan) | "Report examples" >> stage(report, plan, "examples")


def partition_threads(root: beam.Pipeline, plan: BuildPlan, slices: Sequence[Slice]) -> None:
    """Read each slice of the forum's posts and responses, and write its events part by part. Runs before phase one."""
    read = root | "Slices" >> beam.Create(slices) | "Partition" >> stage(gather.partition, plan)
    read | "Count" >> stage(emit, plan)


def join_threads(root: beam.Pipeline, plan: BuildPlan, parts: Sequence[int]) -> None:
    """Join each part's posts with their responses, and clean them. Runs after `partition_threads`."""
    joined = root | "Parts" >> beam.Create(parts) | "Join" >> stage(gather.join, plan)
    joined | "Count" >> stage(emit, plan)


def build_pairs(root: beam.Pipeline, plan: BuildPlan, shards: Sequence[ShardSpec]) -> None:
    """Run phase one by itself."""
    pairs_of(_start(root), plan, shards)


def build_examples(root: beam.Pipeline, plan: BuildPlan, shards: Sequence[ShardSpec]) -> None:
    """Run phase two by itself."""
    examples_of(_start(root), plan, shards)


def build_all(root: beam.Pipeline, plan: BuildPlan) -> None:
    """Run both phases as one job, with what a driver does between and after them."""
    start, shards = _start(root), plan.shards()
    closed = after(start, "Close the pool", pairs_of(start, plan, shards), close_pool, plan)
    after(start, "Finish", examples_of(closed, plan, shards), finish_build, plan)


def upload_shards(root: beam.Pipeline, folder: AnyPath, settings: PublishConfig, todo: Sequence[Batch]) -> None:
    """Upload each batch of finished shards to the Hub, ahead of the commit that shows them."""
    # Most builds publish nothing, and the Hub's client takes a while to import.
    from pipeline.publishing.upload import upload

    root | "Batches" >> beam.Create(todo) | "Upload" >> stage(upload, folder, settings)


def _start(root: beam.Pipeline) -> beam.PCollection:
    return root | "Start" >> beam.Create([None], reshuffle=False)
