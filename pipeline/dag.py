"""The DAG: the picture of docs/design.md as Beam. Two phases; a shard is one element of them.

No GroupByKey stands between generation and disk: the only shuffle is that of the shard specifications (`_spread`), a
few bytes each, so that a distributed runner can hand them out. A stage calls a pure function that a test can call too.
A driver that stays runs each phase as a pipeline; a job that is left alone has all of them in one (`build_all`). A
build that mines has two short pipelines before these, which gather the threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import apache_beam as beam
import numpy as np

from pipeline.assembly import examples, portraits
from pipeline.assembly.leaks import find_shared_replies
from pipeline.driver.finish import check_losses, finish_build
from pipeline.driver.losses import losses_message
from pipeline.driver.resume import needs_building
from pipeline.generation.stage import GenerateFn
from pipeline.io import storage
from pipeline.io.storage import AnyPath
from pipeline.mining import annotate, pairing
from pipeline.plan import BuildPlan, ShardSpec
from pipeline.publishing import upload
from pipeline.runtime import coder, metrics
from pipeline.runtime.progress import counters_for
from pipeline.sampling import pairs
from pipeline.threads import gather
from pipeline.threads.sources import Slice
from schemas.base import UserError
from schemas.config import PublishConfig
from schemas.manifest import Counts

coder.register(pairs.PairShard, annotate.MinedShard, examples.ExampleShard)

_JUDGED_FROM = 1000
"""Pairs that a process must have finished before its share of lost ones can fail the run."""


def partition_threads(root: beam.Pipeline, plan: BuildPlan, slices: Sequence[Slice]) -> None:
    """Before phase one: read each slice of the forum's posts and responses, and write its events part by part."""
    read = root | "Slices" >> beam.Create(slices) | "Partition" >> beam.Map(gather.partition, plan)
    read | "Count" >> beam.Map(count, plan)


def join_threads(root: beam.Pipeline, plan: BuildPlan, parts: Sequence[int]) -> None:
    """Then join each part's posts with their responses, and clean them."""
    joined = root | "Parts" >> beam.Create(parts) | "Join" >> beam.Map(gather.join, plan)
    joined | "Count" >> beam.Map(count, plan)


def upload_shards(root: beam.Pipeline, folder: AnyPath, settings: PublishConfig, todo: Sequence[upload.Batch]) -> None:
    """After the build, where it is published: each batch of finished shards to the Hub, where nobody sees them yet."""
    root | "Shards" >> beam.Create(todo) | "Upload" >> beam.Map(upload.upload, folder, settings)


def build_all(root: beam.Pipeline, plan: BuildPlan) -> None:
    """All phases as one job, for a driver that does not wait: what it would do between and after them is in here."""
    start = root | "Start" >> beam.Create([None], reshuffle=False)
    shards = plan.shards()
    stored = pairs_of(start, plan, shards)
    between = _after(start, "Between", stored, share_replies, plan)
    _after(start, "Finish", examples_of(between, plan, shards), finish_build, plan)


def build_pairs(root: beam.Pipeline, plan: BuildPlan, shards: Sequence[ShardSpec]) -> None:
    """Phase one by itself."""
    pairs_of(root | "Start" >> beam.Create([None], reshuffle=False), plan, shards)


def build_examples(root: beam.Pipeline, plan: BuildPlan, shards: Sequence[ShardSpec]) -> None:
    """Phase two by itself."""
    examples_of(root | "Start" >> beam.Create([None], reshuffle=False), plan, shards)


def pairs_of(start: beam.PCollection, plan: BuildPlan, shards: Sequence[ShardSpec]) -> beam.PCollection:
    """Phase one: pairs of both sources, each shard to its file in the pool."""
    reports = []
    for source, build in (("sampled", sample_pairs), ("mined", mine_pairs)):
        if any(spec.source == source for spec in shards):
            wanted = [spec for spec in shards if spec.source == source]
            stored = build(_spread(start, source, plan, wanted, "pool"), plan)
            reports.append(stored | f"Report {source}" >> beam.Map(report, plan, "pairs"))
    return reports | "Pairs" >> beam.Flatten()


def sample_pairs(specs: beam.PCollection, plan: BuildPlan) -> beam.PCollection:
    """Sample a point, render the prompts, generate both replies, validate; then store the pool shard.

    A row that fails goes round again with a fresh counter, `attempts` times at most. The rounds are laid out one after
    another, as a DAG has no loops; all of them feed the one window of requests.
    """
    drafts = specs | "Open" >> _pairs(pairs.load_drafts, plan)
    for attempt in range(plan.config.attempts):
        last = attempt + 1 == plan.config.attempts
        drafts = (
            drafts
            | f"Sample {attempt}" >> _pairs(pairs.sample_directions, plan, attempt)
            | f"Render {attempt}" >> _pairs(pairs.render_prompts, plan)
            | f"Generate {attempt}" >> _generate(plan, attempt == 0, last, pairs.PairShard)
            | f"Validate {attempt}" >> _pairs(validate, plan, last)
        )
    return drafts | "Store" >> beam.Map(pairs.store_pairs, plan)


def mine_pairs(specs: beam.PCollection, plan: BuildPlan) -> beam.PCollection:
    """Annotate every response of the shard's threads, cluster them, draw pairs; then store the pool shard."""
    threads = specs | "Open threads" >> _mined(pairing.load_threads, plan)
    for attempt in range(annotate.max_attempts(plan)):
        last = attempt + 1 == annotate.max_attempts(plan)
        threads = (
            threads
            | f"Ask {attempt}" >> _mined(annotate.render_questions, plan, attempt)
            | f"Annotate {attempt}" >> _generate(plan, attempt == 0, last, annotate.MinedShard)
            | f"Levels {attempt}" >> _mined(annotate.read_levels, plan, attempt)
        )
    return threads | "Select" >> _mined(select, plan) | "Store mined" >> beam.Map(pairing.store_mined, plan)


def examples_of(start: beam.PCollection, plan: BuildPlan, shards: Sequence[ShardSpec]) -> beam.PCollection:
    """Phase two: draw each pair's history from blocks of the pool, write the portraits, validate; then store."""
    specs = _spread(start, "examples", plan, shards, "data")
    personas = specs | "Assemble" >> _examples(examples.assemble, plan)
    if plan.config.portrait == "template":
        personas |= "Portraits" >> _examples(portraits.portray, plan)
    else:
        personas = (
            personas
            | "Render" >> _examples(portraits.render_portraits, plan)
            | "Generate" >> _generate(plan, True, True, examples.ExampleShard)
            | "Portraits" >> _examples(portraits.take_portraits, plan)
        )
    stored = personas | "Store examples" >> beam.Map(examples.store_examples, plan)
    return stored | "Report examples" >> beam.Map(report, plan, "examples")


def _spread(
    start: beam.PCollection, label: str, plan: BuildPlan, shards: Sequence[ShardSpec], folder: str
) -> beam.PCollection:
    """The shards, each by itself and in an order of chance, so that splits and sources mix and no worker idles.

    The job's description holds their numbers only: ten thousand shards take 40 KB of it. What an earlier try of a
    bundle has finished is not done again.
    """
    places = {spec: place for place, spec in enumerate(plan.shards())}
    numbers = np.array([places[spec] for spec in shards], dtype="<u4")
    np.random.default_rng(plan.config.seed).shuffle(numbers)
    return (
        start
        | f"Plan {label}" >> beam.FlatMap(cut, plan, numbers.tobytes())
        | f"Spread {label}" >> beam.Reshuffle()
        | f"Unfinished {label}" >> beam.Filter(needs_building, plan, folder)
    )


def _generate(plan: BuildPlan, first: bool, last: bool, kind: type) -> beam.PTransform:
    """The generation stage: the only one that needs an accelerator, where the model is served by its worker."""
    stage = beam.ParDo(GenerateFn(plan, first, last)).with_output_types(kind)
    workers = plan.config.workers
    hints: dict[str, str] = {}
    if plan.config.engine.kind == "vllm":
        hints |= {"accelerator": workers.accelerator} if workers.accelerator else {}
        hints |= {"min_ram": workers.memory} if workers.memory else {}
    return stage.with_resource_hints(**hints) if hints else stage


def _after(
    start: beam.PCollection, name: str, waited: beam.PCollection, function: Callable[[BuildPlan], None], plan: BuildPlan
) -> beam.PCollection:
    """Call `function` once, when everything in `waited` is done; an element when that is done too."""
    everything = waited | f"Until {name}" >> beam.combiners.Count.Globally()
    return start | name >> beam.Map(_call, beam.pvalue.AsSingleton(everything), function, plan)


def _call(start: None, waited: int, function: Callable[[BuildPlan], None], plan: BuildPlan) -> None:
    function(plan)


def _pairs(function: Callable[..., pairs.PairShard], *arguments: Any) -> beam.PTransform:
    return beam.Map(function, *arguments).with_output_types(pairs.PairShard)


def _mined(function: Callable[..., annotate.MinedShard], *arguments: Any) -> beam.PTransform:
    return beam.Map(function, *arguments).with_output_types(annotate.MinedShard)


def _examples(function: Callable[..., examples.ExampleShard], *arguments: Any) -> beam.PTransform:
    return beam.Map(function, *arguments).with_output_types(examples.ExampleShard)


def validate(shard: pairs.PairShard, plan: BuildPlan, last: bool) -> pairs.PairShard:
    """`pairs.validate_pairs`, counted for the display."""
    judged = pairs.validate_pairs(shard, plan, last)
    counts = counters_for(plan.output)
    counts.add("accepted", len(judged.pairs) - len(shard.pairs))
    counts.add("rejected", len(judged.rejections) - len(shard.rejections))
    counts.add("settled", len(shard.drafts) - len(judged.drafts))
    return judged


def select(shard: annotate.MinedShard, plan: BuildPlan) -> annotate.MinedShard:
    """`pairing.select_pairs`, counted for the display."""
    selected = pairing.select_pairs(shard, plan)
    counts = counters_for(plan.output)
    counts.add("accepted", len(selected.pairs))
    counts.add("rejected", len(selected.rejections))
    counts.add("settled", shard.spec.count)
    return selected


def cut(start: None, plan: BuildPlan, numbers: bytes) -> list[ShardSpec]:
    """The shards of these numbers, in their order; four bytes a number."""
    shards = plan.shards()
    return [shards[number] for number in np.frombuffer(numbers, dtype="<u4")]


def share_replies(plan: BuildPlan) -> None:
    """What stands between the phases: see that not too much was lost, and find the replies that splits share."""
    # Examples that an earlier run has left may be of a pool that was another.
    check_losses(plan, ["pool"])
    find_shared_replies(plan)


def report(meta: dict[str, Any], plan: BuildPlan, phase: str) -> None:
    """Count a stored shard, for the display and for Beam's metrics; fail a run that loses too much."""
    counts = counters_for(plan.output)
    counts.add("shards", 1)
    for name in ("asked", "lost", "unanswered", "examples"):
        counts.add(f"{phase}/{name}", meta[name])
    for reason, number in meta["rejected"].items():
        counts.add(f"rejected/{reason}", number)
    count(None, plan)
    asked, lost = counts.get(f"{phase}/asked"), counts.get(f"{phase}/lost")
    limit = plan.config.limits.max_lost_share
    if asked >= _JUDGED_FROM and lost > limit * asked:
        unanswered = counts.get(f"{phase}/unanswered")
        rejected = {reason: counts.get(f"rejected/{reason}") for reason in meta["rejected"]}
        found = Counts(pairs_asked=asked, pairs_lost=lost, pairs_unanswered=unanswered, rejected=rejected)
        raise UserError(losses_message(plan.output, found, limit))


def count(done: object, plan: BuildPlan) -> None:
    """Hand on what this process has counted."""
    counts = counters_for(plan.output)
    metrics.emit(counts)
    if storage.is_local(plan.output):
        counts.flush()
