"""What the judge found in the pairs: recovery of the asked directions, drift, and quality of both replies.

Recovery and drift are of all pairs that were judged, also of those that were rejected, since filtering rejects pairs
by what the judge has found in them. Agreement of orders and quality are known of accepted pairs only.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.reading.text import hash_texts
from pipeline.report.intervals import GROUPS, estimate_mean, estimate_share, group_of
from pipeline.report.texts import Integers
from preference_space.levels import claimed
from preference_space.space import PreferenceSpace
from schemas.report import MarginBin, PoleRecovery, VerificationFigures, VerifiedDimension

COLUMNS = (
    *("post_id", "direction", "asked_direction", "direction_margin", "order_agreement"),
    *("quality_chosen", "quality_rejected", "judge", "kind"),
)
"""Columns of the pool that the tally reads."""
REJECTED_COLUMNS = ("post_id", "direction", "direction_margin", "kind")
"""Columns of the rejections that it reads. The direction of a rejected pair is the asked one."""

_STEPS = 1000
"""Steps of a margin or a quality of 1. Both are counted in whole steps, so that sums do not depend on their order."""
_WIDEST = 2 * _STEPS
_BINS = 10


class VerificationTally:
    """Counts of the judge's findings, by group of posts where an interval needs them."""

    def __init__(self, space: PreferenceSpace, drift_margin: float) -> None:
        self._slugs = [dimension.slug for dimension in space.dimensions]
        self._drift_margin = drift_margin
        self._judges: Counter[str] = Counter()
        self._rejected = 0
        self._made_neutral = 0
        size = len(space)
        # Asked and recovered; by group, pole and dimension.
        self._found: Integers = np.zeros((2, GROUPS, 2, size), dtype=np.int64)
        # Sums of the margin towards the asked pole, in the same order.
        self._sums: Integers = np.zeros((GROUPS, 2, size), dtype=np.int64)
        self._kept: Integers = np.zeros((2, size), dtype=np.int64)
        # Kept, and recovered of these; by group.
        self._after: Integers = np.zeros((2, GROUPS), dtype=np.int64)
        # Asked and recovered, by absolute margin.
        self._margins: Integers = np.zeros((2, _WIDEST + 1), dtype=np.int64)
        # Asked about and drifted, by group and dimension.
        self._drift: Integers = np.zeros((2, GROUPS, size), dtype=np.int64)
        # Questions, and those with the same answer in all orders.
        self._orders: Integers = np.zeros(2, dtype=np.int64)
        # Pairs, and sums of the gap, by group.
        self._gap: Integers = np.zeros((2, GROUPS), dtype=np.int64)
        # Sums of both qualities, and of the absolute gap.
        self._quality: Integers = np.zeros(2, dtype=np.int64)

    def add(self, pool: pa.Table) -> None:
        """Count a pool shard's pairs, given its `COLUMNS`. Pairs that no judge was asked about do not count."""
        pool = pool.filter(pa.compute.not_equal(pool["judge"], ""))
        if not len(pool):
            return
        self._judges.update(pool["judge"].to_pylist())
        groups = group_of(hash_texts(pool["post_id"].to_pylist()))
        margins = _margins(pool)
        asked, kept = _matrix(pool["asked_direction"]), _matrix(pool["direction"])
        self._made_neutral += int((asked != 0).sum() - (kept != 0).sum())
        self._add_recovery(groups, margins, asked, kept)
        self._add_drift(groups, margins, asked)
        self._add_orders(margins, pool["order_agreement"].to_numpy())
        self._add_quality(groups, *(pool[name].to_numpy() for name in ("quality_chosen", "quality_rejected")))

    def add_rejected(self, rejected: pa.Table) -> None:
        """Count a shard's rejected pairs, given `REJECTED_COLUMNS`. Those that were not judged do not count."""
        rejected = rejected.filter(pa.compute.greater(pa.compute.list_value_length(rejected["direction_margin"]), 0))
        if not len(rejected):
            return
        self._rejected += len(rejected)
        groups = group_of(hash_texts(rejected["post_id"].to_pylist()))
        margins, asked = _margins(rejected), _matrix(rejected["direction"])
        self._add_recovery(groups, margins, asked, np.zeros_like(asked))
        self._add_drift(groups, margins, asked)

    def _add_recovery(self, groups: Integers, margins: Any, asked: Any, kept: Any) -> None:
        rows, dimensions = np.nonzero(asked)
        levels, found = asked[rows, dimensions], margins[rows, dimensions]
        is_right, is_kept = np.sign(found) == levels, kept[rows, dimensions] == levels
        poles = (levels < 0).astype(np.int64)
        # A question without an answer has no margin, and finds nothing.
        towards = np.rint(np.nan_to_num(found) * levels * _STEPS).astype(np.int64)
        steps = np.abs(towards)
        np.add.at(self._sums, (groups[rows], poles, dimensions), towards)
        for k, counted in enumerate((np.ones_like(is_right), is_right)):
            np.add.at(self._found[k], (groups[rows], poles, dimensions), counted)
            np.add.at(self._margins[k], steps, counted)
            np.add.at(self._after[k], groups[rows], counted & is_kept)
        np.add.at(self._kept, (poles, dimensions), is_kept)

    def _add_drift(self, groups: Integers, margins: Any, asked: Any) -> None:
        rows, dimensions = np.nonzero((asked == 0) & ~np.isnan(margins))
        is_beyond = np.abs(margins[rows, dimensions]) > self._drift_margin
        for k, counted in enumerate((np.ones_like(is_beyond), is_beyond)):
            np.add.at(self._drift[k], (groups[rows], dimensions), counted)

    def _add_orders(self, margins: Any, agreement: npt.NDArray[np.float64]) -> None:
        is_known = ~np.isnan(agreement)
        # Each dimension is asked about both replies.
        questions = 2 * (~np.isnan(margins[is_known])).sum(axis=1)
        self._orders += (questions.sum(), np.rint(agreement[is_known] * questions).astype(np.int64).sum())

    def _add_quality(self, groups: Integers, chosen: Any, rejected: Any) -> None:
        is_known = ~(np.isnan(chosen) | np.isnan(rejected))
        both = np.rint(np.stack([chosen, rejected])[:, is_known] * _STEPS).astype(np.int64)
        gap = both[0] - both[1]
        np.add.at(self._gap[0], groups[is_known], 1)
        np.add.at(self._gap[1], groups[is_known], gap)
        self._quality += (both.sum(), np.abs(gap).sum())

    def merge(self, other: VerificationTally) -> None:
        """Add the counts of another tally."""
        self._judges += other._judges
        self._rejected += other._rejected
        self._made_neutral += other._made_neutral
        self._found += other._found
        self._sums += other._sums
        self._kept += other._kept
        self._after += other._after
        self._margins += other._margins
        self._drift += other._drift
        self._orders += other._orders
        self._gap += other._gap
        self._quality += other._quality

    def result(self) -> VerificationFigures | None:
        """Return the figures; None where no judge was asked about a dimension."""
        asked, recovered = self._found
        recovery = estimate_share(recovered.sum(axis=(1, 2)), asked.sum(axis=(1, 2)))
        if recovery is None:
            return None
        judged = int(self._gap[0].sum())
        return VerificationFigures(
            judge=", ".join(sorted(self._judges, key=lambda judge: (-self._judges[judge], judge))),
            pairs=self._judges.total() + self._rejected,
            recovery=recovery,
            recovery_after=estimate_share(self._after[1], self._after[0]),
            made_neutral=self._made_neutral,
            dimensions=self._dimensions(),
            calibration=tuple(_bins(*self._margins)),
            order_agreement=float(self._orders[1] / self._orders[0]) if self._orders[0] else None,
            drift=estimate_share(self._drift[1].sum(axis=1), self._drift[0].sum(axis=1)),
            drift_margin=self._drift_margin,
            quality=float(self._quality[0] / (2 * judged * _STEPS)) if judged else None,
            quality_gap=estimate_mean(self._gap[1], self._gap[0], 1 / _STEPS),
            quality_distance=float(self._quality[1] / (judged * _STEPS)) if judged else None,
        )

    def _dimensions(self) -> tuple[VerifiedDimension, ...]:
        undirected, drifted = self._drift.sum(axis=1)
        asked_about = np.flatnonzero(self._found[0].sum(axis=(0, 1)) + undirected)
        return tuple(
            VerifiedDimension(
                slug=self._slugs[d],
                positive=self._pole(0, d),
                negative=self._pole(1, d),
                undirected=int(undirected[d]),
                drifted=int(drifted[d]),
            )
            for d in asked_about.tolist()
        )

    def _pole(self, pole: int, d: int) -> PoleRecovery | None:
        asked, recovered = self._found[:, :, pole, d]
        recovery = estimate_share(recovered, asked)
        margin = estimate_mean(self._sums[:, pole, d], asked, 1 / _STEPS)
        if recovery is None or margin is None:
            return None
        return PoleRecovery(recovery=recovery, margin=margin, kept=int(self._kept[pole, d]))


def _margins(table: pa.Table) -> Any:
    """Return margins towards the reply that was asked to show the direction, which in restraint pairs is rejected."""
    signs = claimed(np.ones((len(table), 1), dtype=np.int8), table["kind"].to_pylist())
    return _matrix(table["direction_margin"]) * signs


def _matrix(column: pa.ChunkedArray) -> Any:
    """Return lists of equal length as a matrix; a null is NaN."""
    return column.combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)


def _bins(asked: Integers, recovered: Integers) -> list[MarginBin]:
    """Return bins of the margins with about equal numbers, given the counts of each step of a margin."""
    below = np.cumsum(asked)
    quantiles = np.searchsorted(below, np.arange(1, _BINS + 1) * below[-1] / _BINS - 1e-9)
    # A bin ends with the step that completes its share. Where many margins are equal, there are fewer bins.
    ends = np.unique(quantiles) + 1
    starts = np.concatenate([[0], ends[:-1]])
    return [
        MarginBin(
            low=start / _STEPS,
            high=min(end, _WIDEST) / _STEPS,
            asked=int(asked[start:end].sum()),
            recovered=int(recovered[start:end].sum()),
        )
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True)
    ]
