"""The card's tables of what a judge found: from the counts of the build, and with intervals from its report."""

from __future__ import annotations

from typing import get_args

from schemas.manifest import Manifest, VerificationCounts
from schemas.records import Kind
from schemas.report import Estimate, Report

_RECOVERY = "Asked dimensions found, in all pairs that were judged"
_HIGH = "high; guessing gives 50 %"


def verification_rows(manifest: Manifest, report: Report | None) -> list[tuple[str, str, str]]:
    """Return figure, value and wanted value, recovery first; empty where no judge was asked."""
    counts, found = manifest.counts.verification, report and report.verification
    rows = []
    if found:
        rows.append((_RECOVERY, _of(found.recovery), _HIGH))
    elif counts.asked:
        rows.append((_RECOVERY, f"{_percent(counts.recovered / counts.asked)} of {counts.asked}", _HIGH))
    if counts.asked:
        neutral = f"{counts.neutral} of {counts.neutral + counts.kept}"
        rows.append(("Asked dimensions of accepted pairs made neutral", neutral, "few"))
    if found and found.drift:
        where = f"Dimensions outside the direction that differ (margin beyond {found.drift_margin:g})"
        rows.append((where, _of(found.drift), "few"))
    if found and found.quality_gap:
        gap = found.quality_gap
        interval = "" if gap.low is None else f", 95 % interval {gap.low:+.3f} to {gap.high:+.3f}"
        rows.append(("Quality of chosen less rejected replies, by the judge", f"{gap.value:+.3f}{interval}", "0"))
    if found and found.order_agreement is not None:
        rows.append(("Questions with one answer in all orders", _percent(found.order_agreement), "high"))
    return rows + _second_rows(report)


def kind_rows(manifest: Manifest, report: Report | None) -> list[tuple[str, int, str]]:
    """Return kind, accepted pairs and recovery of each kind; empty where near and restraint pairs are missing."""
    counts = manifest.counts
    if not counts.kinds.keys() & {"near", "restraint"}:
        return []
    found = {figures.kind: figures.recovery for figures in report.kinds} if report else {}
    rows = []
    for kind in get_args(Kind):
        share, judged = found.get(kind), counts.verification_by_kind.get(kind, VerificationCounts())
        recovery = (
            _of(share)
            if share
            else f"{_percent(judged.recovered / judged.asked)} of {judged.asked}"
            if judged.asked
            else ""
        )
        if kind in counts.kinds:
            rows.append((kind, counts.kinds[kind], recovery))
    return rows


def _second_rows(report: Report | None) -> list[tuple[str, str, str]]:
    """Return the rows of a judge who was asked about the finished build."""
    second = report and report.second_judge
    rows = []
    if second and second.found:
        rows.append(
            (f"Asked dimensions found by {second.found.judge}, of a sample", _of(second.found.recovery), "high")
        )
        if second.found.recovery_after:
            rows.append(("Kept dimensions found by the same", _of(second.found.recovery_after), "high"))
    if second and second.swap:
        rows.append(("Given a portrait, the reply of that person preferred", _of(second.swap.preferred), "high"))
    return rows


def _of(share: Estimate) -> str:
    interval = "" if share.low is None or share.high is None else f", 95 % interval {_bounds(share.low, share.high)}"
    return f"{_percent(share.value)} of {share.number}{interval}"


def _bounds(low: float, high: float) -> str:
    return f"{100 * low:.1f} to {_percent(high)}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
