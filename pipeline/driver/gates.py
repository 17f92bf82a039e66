"""Gates: limits on what the judge found in all pairs. A build that misses one is neither finished nor published."""

from __future__ import annotations

from schemas.config import LimitsConfig
from schemas.manifest import VerificationCounts

_ROUNDING = 1e-6
"""Dimensions, far below one: 0.56 of 25 is 14.000000000000002."""


def missed_gates(counts: VerificationCounts, limits: LimitsConfig) -> list[str]:
    """Return a sentence for each gate that a build misses: by how much, and what to do."""
    missed = []
    least, most = limits.min_recovery, limits.max_drift
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
    return missed


def _part(part: int, whole: int) -> str:
    return f"{part} ({100 * part / whole:.1f} %) of {whole}"


def _distance(part: int, whole: int, limit: float) -> str:
    return f"{100 * abs(part / whole - limit):.1f} points"
