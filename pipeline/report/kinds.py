"""Kinds of pairs: how many there are of each, and what length and a judge say of them."""

from __future__ import annotations

from collections import Counter, defaultdict
from functools import partial
from typing import get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.report.source import Batch
from pipeline.report.verification import VerificationTally
from preference_space.space import PreferenceSpace
from schemas.records import Kind
from schemas.report import KindFigures, VerificationFigures

KINDS: tuple[Kind, ...] = get_args(Kind)


class KindTally:
    """Counts of rows and pairs, and of a judge's findings, by kind."""

    def __init__(self, space: PreferenceSpace, drift_margin: float) -> None:
        self._examples: Counter[str] = Counter()
        self._pairs: Counter[str] = Counter()
        # Twice the pairs whose longer reply is the chosen one; a tie counts 1.
        self._longer: Counter[str] = Counter()
        self._new_tally = partial(VerificationTally, space, drift_margin)
        self._verified = defaultdict[str, VerificationTally](self._new_tally)

    def add(self, batch: Batch) -> None:
        """Count a batch's rows."""
        kinds = np.array(batch.table["kind"].to_pylist())
        of_pairs, longer = kinds[batch.pairs], batch.longer[batch.pairs]
        for kind in np.unique(kinds).tolist():
            self._examples[kind] += int((kinds == kind).sum())
            self._pairs[kind] += int((of_pairs == kind).sum())
            self._longer[kind] += int(longer[of_pairs == kind].sum())

    def add_pool(self, pool: pa.Table) -> None:
        """Count what a judge found in a pool shard's pairs, given `verification.COLUMNS`."""
        for kind in pc.unique(pool["kind"]).to_pylist():
            self._verified[kind].add(pool.filter(pc.equal(pool["kind"], kind)))

    def add_rejected(self, rejected: pa.Table) -> None:
        """Count the same of a shard's rejected pairs, given `verification.REJECTED_COLUMNS`."""
        for kind in pc.unique(rejected["kind"].drop_null()).to_pylist():
            self._verified[kind].add_rejected(rejected.filter(pc.equal(rejected["kind"], kind)))

    def merge(self, other: KindTally) -> None:
        """Add the counts of another tally."""
        self._examples += other._examples
        self._pairs += other._pairs
        self._longer += other._longer
        for kind, tally in other._verified.items():
            self._verified[kind].merge(tally)

    def result(self) -> tuple[KindFigures, ...]:
        """Return the figures of each kind that occurs."""
        return tuple(self._figures(kind) for kind in KINDS if self._examples[kind])

    def _figures(self, kind: Kind) -> KindFigures:
        found = self._verified[kind].result()
        return KindFigures(
            kind=kind,
            examples=self._examples[kind],
            pairs=self._pairs[kind],
            longer_chosen=self._longer[kind] / (2 * max(1, self._pairs[kind])),
            recovery=found.recovery if found else None,
            drift=found.drift if found else None,
            quality_gap=found.quality_gap if found else None,
        )

    def verification(self) -> VerificationFigures | None:
        """Return what the judge found in all pairs; None where no judge was asked about a dimension."""
        total = self._new_tally()
        for tally in self._verified.values():
            total.merge(tally)
        return total.result()
