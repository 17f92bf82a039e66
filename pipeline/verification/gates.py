"""Gates: limits on what a whole build lost, and on what the judge found. One that misses a gate is not published."""

from __future__ import annotations

from pipeline.io.manifests import MANIFEST
from pipeline.io.storage import AnyPath
from pipeline.verification.findings import DIGITS
from schemas.base import UserError
from schemas.config import LimitsConfig
from schemas.loader import validate
from schemas.manifest import Manifest, VerificationCounts

_ROUNDING = 1e-6
"""Of a count, far below one: 0.56 of 25 is 14.000000000000002."""
_STEPS = 10**DIGITS
"""Steps of a quality of 1 in `VerificationCounts.quality_gaps`."""


def check_gates(output: AnyPath, manifest: Manifest) -> None:
    """Raise `UserError` where a build misses a gate of its limits: then all rows are there to look at."""
    missed = gates_missed_by(manifest)
    if missed:
        raise UserError(
            f"{'; '.join(missed)}; all rows are stored: `everyuser report {output}` shows more; or change the limit, "
            "and the same command judges them again"
        )


def gates_missed_by(manifest: Manifest) -> list[str]:
    """Return a sentence for each gate that a build misses, by the counts and limits in its manifest."""
    limits, counts = validate(LimitsConfig, manifest.config["limits"], MANIFEST), manifest.counts
    missed = missed_gates(counts.verification, limits)
    if not limits.allows(counts.pairs_lost, counts.pairs_asked):
        retry = "--retry-lost asks again for those of failed requests; " if counts.pairs_unanswered else ""
        missed.append(
            f"{counts.pairs_lost} of {counts.pairs_asked} pairs were lost, more than limits.max_lost_share = "
            f"{limits.max_lost_share:g}; {retry}rejected/ holds each with its reason"
        )
    return missed


def missed_gates(counts: VerificationCounts, limits: LimitsConfig) -> list[str]:
    """Return a sentence for each gate that the counts miss: by how much, and what to do."""
    least, most, widest = limits.min_recovery, limits.max_drift, limits.max_quality_gap
    cases = {
        "min_recovery": (least, counts.asked, "no asked dimension"),
        "max_drift": (most, counts.drift_asked, "no dimension that nobody asked for"),
        "max_quality_gap": (widest, counts.quality_pairs, "the quality of no pair"),
    }
    missed = [
        f"the judge answered about {nothing}, so limits.{name} = {limit:g} cannot be judged; ask another one "
        "(verification.model)"
        for name, (limit, number, nothing) in cases.items()
        if limit is not None and counts.pairs and not number
    ]
    if least is not None and counts.recovered < least * counts.asked - _ROUNDING:
        missed.append(
            f"the judge found {_part(counts.recovered, counts.asked)} asked dimensions in the replies, "
            f"{_distance(counts.recovered, counts.asked, least)} below limits.min_recovery = {least:g}; use a stronger "
            "generation.model or verification.model, or leave out dimensions that replies do not show (sampling)"
        )
    if most is not None and counts.drifted > most * counts.drift_asked + _ROUNDING:
        missed.append(
            f"replies differ in {_part(counts.drifted, counts.drift_asked)} dimensions that nobody asked for, "
            f"{_distance(counts.drifted, counts.drift_asked, most)} above limits.max_drift = {most:g}; use a stronger "
            "generation.model, or templates that ask for nothing else"
        )
    if widest is not None and counts.quality_gaps > _STEPS * widest * counts.quality_pairs + _ROUNDING:
        mean = counts.quality_gaps / counts.quality_pairs / _STEPS
        missed.append(
            f"the replies of {counts.quality_pairs} pairs differ in quality by {mean:.3f} on average, "
            f"{mean - widest:.3f} above limits.max_quality_gap = {widest:g}; use a stronger generation.model, or a "
            "reply template that asks the same care of both replies"
        )
    return missed


def _part(part: int, whole: int) -> str:
    return f"{part} ({100 * part / whole:.1f} %) of {whole}"


def _distance(part: int, whole: int, limit: float) -> str:
    return f"{100 * abs(part / whole - limit):.1f} points"
