"""Beam plumbing of a build's pipelines: shards handed out, counts passed on, and calls that wait for a phase."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import apache_beam as beam
import numpy as np

from pipeline.driver.losses import losses_message
from pipeline.driver.resume import needs_building
from pipeline.generation.completions import Outcome
from pipeline.io import storage
from pipeline.mining.annotate import MinedShard, read_levels
from pipeline.mining.pairing import select_pairs
from pipeline.plan import BuildPlan, ShardSpec
from pipeline.runtime import metrics
from pipeline.runtime.progress import counters_for
from pipeline.sampling.pairs import PairShard, sample_directions, settle_pairs, validate_pairs
from pipeline.verification.ask import Claim, VerifyShard, ask_judge
from pipeline.verification.judging import judge_claims
from schemas.base import UserError
from schemas.manifest import Counts

_EARLY_PAIRS = 32
"""Pairs of a first shard whose replies are judged as soon as they are there."""
_JUDGED_FROM = 1000
"""Pairs that a process must have finished before its share of lost ones can fail the run."""


@dataclass(eq=False)
class Shards(beam.PTransform):
    """Emit shards in a shuffled order, so that splits and sources mix and no worker idles.

    The job's description holds four bytes a shard: 40 KB for ten thousand. Shards that an earlier try of a bundle has
    finished are left out. `folder` is `pool` or `data`.
    """

    plan: BuildPlan
    shards: Sequence[ShardSpec]
    folder: str

    def expand(self, start: beam.PCollection) -> beam.PCollection:
        """Expand one element into shard specifications."""
        places = {spec: place for place, spec in enumerate(self.plan.shards())}
        numbers = np.array([places[spec] for spec in self.shards], dtype="<u4")
        np.random.default_rng(self.plan.config.seed).shuffle(numbers)
        return (
            start
            | "Plan" >> beam.FlatMap(specs_of, self.plan, numbers.tobytes())
            | "Spread" >> beam.Reshuffle()
            | "Unfinished" >> beam.Filter(needs_building, self.plan, self.folder)
        )


def specs_of(start: None, plan: BuildPlan, numbers: bytes) -> list[ShardSpec]:
    """Return the shards of these numbers (four bytes each), in their order."""
    shards = plan.shards()
    return [shards[number] for number in np.frombuffer(numbers, dtype="<u4")]


def after(
    start: beam.PCollection, name: str, waited: beam.PCollection, function: Callable[[BuildPlan], None], plan: BuildPlan
) -> beam.PCollection:
    """Call `function(plan)` once, when everything in `waited` is done. Returns one element, emitted after the call."""
    everything = waited | f"Until {name}" >> beam.combiners.Count.Globally()
    return start | name >> beam.Map(_call, beam.pvalue.AsSingleton(everything), function, plan)


def _call(start: None, waited: int, function: Callable[[BuildPlan], None], plan: BuildPlan) -> None:
    function(plan)


def sample(shard: PairShard, plan: BuildPlan, attempt: int) -> PairShard:
    """Call `sample_directions`, and count the drafts that it rejects."""
    sampled = sample_directions(shard, plan, attempt)
    _count_verdicts(shard, sampled, len(shard.drafts) - len(sampled.drafts), plan)
    return sampled


def judge_early(shard: PairShard, outcomes: Sequence[Outcome | None], plan: BuildPlan) -> bool:
    """Judge the first pairs of a shard whose other requests are open. Return False while they are too few.

    All verdicts on a shard fall together, and one of 1,024 pairs may take hours. The early ones only tell the user how
    the run goes: they are counted apart, as the pairs are judged again.
    """
    answered, position = [], 0
    for draft in shard.drafts:
        mine = outcomes[position : position + len(draft.requests)]
        position += len(draft.requests)
        if all(mine):
            answered.append(replace(draft, outcomes=tuple(filter(None, mine))))
    if len(answered) < _EARLY_PAIRS:
        return False
    judged = validate_pairs(replace(shard, drafts=answered), plan, last=False)
    # The judge is asked later; the rules alone say how the run goes.
    judged = replace(judged, pairs=[*judged.pairs, *(pair for _, pair in judged.unverified)])
    _count(shard, judged, plan, "early/")
    return True


def validate(shard: PairShard, plan: BuildPlan, last: bool) -> PairShard:
    """Call `validate_pairs`, and count its verdicts."""
    judged = validate_pairs(shard, plan, last)
    _count_verdicts(shard, judged, len(shard.drafts) - len(judged.drafts) - len(judged.unverified), plan)
    counters_for(plan.output).add("validated", len(judged.unverified))
    return judged


def read_answers(shard: MinedShard, plan: BuildPlan, attempt: int) -> MinedShard:
    """Call `read_levels`, and count the responses with and without levels."""
    read = read_levels(shard, plan, attempt)
    counters_for(plan.output).add("annotated", int(read.threads.annotated.sum() - shard.threads.annotated.sum()))
    _count_reasons(shard, read, plan)
    return read


def select(shard: MinedShard, plan: BuildPlan) -> MinedShard:
    """Call `select_pairs`, and count its verdicts."""
    selected = select_pairs(shard, plan)
    _count_verdicts(shard, selected, shard.spec.count, plan)
    return selected


def ask(shard: PairShard, plan: BuildPlan, attempt: int) -> VerifyShard:
    """Call `ask_judge` about the unverified pairs."""
    claims = [Claim(draft.index, draft.post, pair) for draft, pair in shard.unverified]
    return ask_judge(VerifyShard(shard.spec, claims, shard), plan, attempt)


def settle(asked: VerifyShard, plan: BuildPlan, last: bool) -> PairShard:
    """Call `judge_claims`, settle the shard's pairs by its verdicts, and count these."""
    shard: PairShard = asked.origin
    verified = judge_claims(asked.claims, plan)
    counts: dict[str, dict[str, int]] = {kind: found.model_dump() for kind, found in verified.counts.items()}
    settled = settle_pairs(shard, verified.verdicts, verified.tokens, counts, last)
    counters_for(plan.output).add("judged", len(shard.unverified))
    _count_verdicts(shard, settled, len(shard.unverified) - len(settled.drafts) + len(shard.drafts), plan)
    return settled


_Shard = TypeVar("_Shard", PairShard, MinedShard)


def _count_verdicts(before: _Shard, after: _Shard, settled: int, plan: BuildPlan) -> None:
    """Count pairs accepted, rejected and settled by a stage, for the display and the record of the run's pace."""
    _count(before, after, plan)
    counters_for(plan.output).add("settled", settled)


def _count(before: _Shard, after: _Shard, plan: BuildPlan, prefix: str = "") -> None:
    counts = counters_for(plan.output)
    counts.add(f"{prefix}accepted", len(after.pairs) - len(before.pairs))
    counts.add(f"{prefix}rejected", len(after.rejections) - len(before.rejections))
    _count_reasons(before, after, plan, prefix)


def _count_reasons(before: _Shard, after: _Shard, plan: BuildPlan, prefix: str = "") -> None:
    """Count the rejections of a stage by reason. Those before are of earlier stages."""
    for rejection in after.rejections[len(before.rejections) :]:
        counters_for(plan.output).add(f"{prefix}rejected/{rejection.stage}/{rejection.reason}", 1)


def report(meta: dict[str, Any], plan: BuildPlan, phase: str) -> None:
    """Count a stored shard. Raise `UserError` where this process has lost too many pairs."""
    counts = counters_for(plan.output)
    counts.add("shards", 1)
    for name in ("asked", "lost", "unanswered", "examples"):
        counts.add(f"{phase}/{name}", meta[name])
    if phase == "examples":
        # Those of pairs are counted as they fall: a shard may take hours.
        for reason, number in meta["rejected"].items():
            counts.add(f"rejected/{reason}", number)
    emit(None, plan)
    asked, lost = counts.get(f"{phase}/asked"), counts.get(f"{phase}/lost")
    limits = plan.config.limits
    if asked >= _JUDGED_FROM and not limits.allows(lost, asked):
        unanswered = counts.get(f"{phase}/unanswered")
        # Where a runner splits the stages, another process may have judged.
        rejected = {
            reason: max(number, counts.get(f"rejected/{reason}")) for reason, number in meta["rejected"].items()
        }
        found = Counts(pairs_asked=asked, pairs_lost=lost, pairs_unanswered=unanswered, rejected=rejected)
        raise UserError(losses_message(plan.output, found, limits))


def emit(done: object, plan: BuildPlan) -> None:
    """Pass on what this process has counted: to Beam's metrics, and to the display of a driver on this machine."""
    counts = counters_for(plan.output)
    metrics.emit(counts)
    if storage.is_local(plan.output):
        counts.flush()
