"""Verdicts on claims: pairs with what the judge found, and in mode `filter` the reasons to reject some."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.generation.completions import Failure, count_tokens, is_voted
from pipeline.plan import BuildPlan
from pipeline.quality.rules import Violation
from pipeline.runtime.resources import resources
from pipeline.runtime.results import Tokens
from pipeline.verification.ask import Claim
from pipeline.verification.findings import DIGITS, Findings, read_findings
from preference_space.direction import Direction
from preference_space.levels import claimed, is_shown
from schemas.config import VerificationConfig
from schemas.manifest import VerificationCounts
from schemas.records import Kind, Pair


class Verdict(NamedTuple):
    """A pair with the judge's findings, and the cause of its rejection; None where it is accepted."""

    pair: Pair
    cause: Violation | Failure | None


@dataclass(frozen=True)
class Verified:
    """Verdicts on claims, one each, in their order; counts by kind of pair; and the tokens of all of it."""

    verdicts: Sequence[Verdict]
    counts: Mapping[Kind, VerificationCounts]
    tokens: Tokens


class _Directions(NamedTuple):
    """Directions of N claims, shape (N, D): as asked, what the replies then differ in (`claimed`), and what is kept."""

    asked: Direction
    claimed: Direction
    kept: Direction


def judge_claims(claims: Sequence[Claim], plan: BuildPlan) -> Verified:
    """Return a verdict on each claim. A claim without an answer is rejected in every mode, as it cannot be verified.

    In mode `filter` the direction of a pair keeps the dimensions that its replies show, and a pair is rejected beyond
    the thresholds of the configuration.
    """
    settings, size = plan.config.verification, len(resources(plan).space)
    asked = np.array([claim.pair.direction for claim in claims], dtype=np.int8).reshape(-1, size)
    levels = claimed(asked, [claim.pair.kind for claim in claims])
    findings = read_findings(claims, size, settings.orders)
    shown = is_shown(findings.margins, levels, settings.min_margin)
    kept = np.where(shown, asked, 0).astype(np.int8) if settings.mode == "filter" else asked
    verdicts = []
    for number, claim in enumerate(claims):
        cause, pair = findings.unanswered.get(number), claim.pair
        if cause is None:
            pair = pair.model_copy(update=_fields(findings, number, kept[number], claim, plan.config.judge))
            if settings.mode == "filter":
                cause = _violation(findings, number, asked[number], kept[number], pair.kind, settings)
        verdicts.append(Verdict(pair, cause))
    by_kind: dict[Kind, list[int]] = {}
    for number, claim in enumerate(claims):
        by_kind.setdefault(claim.pair.kind, []).append(number)
    directions, accepted = _Directions(asked, levels, kept), [verdict.cause is None for verdict in verdicts]
    counts = {
        kind: VerificationCounts(
            **_count(findings, directions, accepted, numbers, settings),
            **_count_questions([claims[number] for number in numbers]),
        )
        for kind, numbers in by_kind.items()
    }
    return Verified(verdicts, counts, count_tokens(outcome for claim in claims for outcome in claim.outcomes))


def _fields(findings: Findings, number: int, kept: Direction, claim: Claim, judge: str) -> dict[str, Any]:
    """Return the fields of a pair that verification fills. They need no check, which would take most of the time."""
    chosen, rejected = _with_null(findings.qualities[number])
    return {
        "direction": tuple(kept.tolist()),
        "asked_direction": claim.pair.direction,
        "direction_margin": _with_null(findings.margins[number]),
        "order_agreement": _with_null(findings.agreement[number : number + 1])[0],
        "quality_chosen": chosen,
        "quality_rejected": rejected,
        "judge": judge,
    }


def _with_null(numbers: npt.NDArray[Any]) -> tuple[float | None, ...]:
    return tuple([None if number != number else number for number in numbers.tolist()])


def _violation(
    findings: Findings, number: int, asked: Direction, kept: Direction, kind: Kind, settings: VerificationConfig
) -> Violation | None:
    """Return the first threshold that a pair breaks."""
    margins, (chosen, rejected) = findings.margins[number], findings.qualities[number].tolist()
    left, of = int(np.count_nonzero(kept)), int(np.count_nonzero(asked))
    shows = f"the replies show {left} of {of} dimensions"
    # A near neighbour may differ in fewer dimensions than any other pair has to show.
    least = min(settings.min_dimensions, of) if kind == "near" else settings.min_dimensions
    if left < least:
        return Violation("too_few_dimensions", shows)
    if left < settings.min_share * of:
        return Violation("too_small_share", shows)
    if settings.max_drift is not None:
        drift = np.nanmax(np.abs(margins), initial=0, where=asked == 0)
        if drift > settings.max_drift:
            return Violation("drift", f"the replies differ by {drift:.2f} in a dimension that nobody asked for")
    qualities = f"quality {chosen:.2f} (chosen) and {rejected:.2f} (rejected)"
    # A quality without an answer is NaN, and meets no threshold.
    if settings.min_quality is not None and not (chosen >= settings.min_quality and rejected >= settings.min_quality):
        return Violation("quality", qualities)
    gap = round(abs(chosen - rejected), DIGITS)
    if settings.max_quality_gap is not None and not gap <= settings.max_quality_gap:
        return Violation("quality_gap", qualities)
    if settings.max_margin is not None:
        # What is kept has a margin in the claimed direction.
        mean = round(float(np.abs(margins[kept != 0]).mean(dtype=np.float64)), DIGITS)
        if mean > settings.max_margin:
            return Violation("margin", f"the mean margin is {mean:.2f}")
    return None


def _count(
    findings: Findings,
    directions: _Directions,
    accepted: Sequence[bool],
    numbers: Sequence[int],
    settings: VerificationConfig,
) -> dict[str, int]:
    """Return what was found about the claims of these numbers."""
    asked, levels, kept = (found[numbers] for found in directions)
    margins, qualities = findings.margins[numbers], findings.qualities[numbers]
    is_accepted = np.array(accepted, dtype=bool)[numbers]
    is_answered = np.array([number not in findings.unanswered for number in numbers], dtype=bool)
    drift = np.where(asked == 0, np.abs(margins), np.nan)
    gaps = np.abs(np.diff(qualities))[is_answered]
    counts = {
        "pairs": is_answered.sum(),
        "asked": np.count_nonzero(asked[is_answered]),
        "recovered": is_shown(margins, levels).sum(),
        "verified": is_shown(margins, levels, settings.min_margin).sum(),
        "drift_asked": np.count_nonzero(~np.isnan(drift)),
        "drifted": np.count_nonzero(drift > settings.drift_margin),
        "quality_pairs": np.count_nonzero(~np.isnan(gaps)),
        "quality_gaps": np.nansum(np.rint(10**DIGITS * gaps)),
        "pairs_accepted": is_accepted.sum(),
        "kept": np.count_nonzero(kept[is_accepted]),
        "neutral": np.count_nonzero((asked != kept)[is_accepted]),
    }
    return {name: int(count) for name, count in counts.items()}


def _count_questions(claims: Sequence[Claim]) -> dict[str, int]:
    answered = [pair for claim in claims for pair in zip(claim.requests, claim.outcomes, strict=True)]
    tokens = count_tokens(outcome for _, outcome in answered)
    return {
        "questions": sum(request.sequences for request, _ in answered),
        "voted": sum(request.sequences for request, outcome in answered if is_voted(outcome)),
        "prompt_tokens": tokens.prompt,
        "completion_tokens": tokens.completion,
    }
