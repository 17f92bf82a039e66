"""Support of the target by the persona's history, contradictions, and repeated texts."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from pipeline.report.source import Batch
from pipeline.report.tallies import Distribution
from pipeline.report.texts import Integers
from schemas.report import HistoryFigures


class HistoryTally:
    """Counts of items, support, contradictions and repeated texts over all rows."""

    def __init__(self) -> None:
        self._items: Integers = np.zeros(1, dtype=np.int64)
        self._support = Distribution(steps=1000, limit=1)
        self._contradicting = 0
        self._repeated = 0

    def add(self, batch: Batch) -> None:
        """Count a batch's rows."""
        self._items = add_padded(self._items, np.bincount(batch.comments.counts + batch.feedback.counts))
        self._support.add(batch.table["history_support"].to_numpy())
        self._contradicting += len(contradicting(batch))
        self._repeated += len(repeated(batch))

    def merge(self, other: HistoryTally) -> None:
        """Add the counts of another tally."""
        self._items = add_padded(self._items, other._items)
        self._support.merge(other._support)
        self._contradicting += other._contradicting
        self._repeated += other._repeated

    def result(self) -> HistoryFigures:
        """Return the figures."""
        support = self._support.result(highest=1.0)
        if support is None:
            raise ValueError("nothing was counted")
        return HistoryFigures(
            items=tuple(np.trim_zeros(self._items, "b").tolist()),
            support=support,
            contradicting=self._contradicting,
            repeated=self._repeated,
        )


def contradicting(batch: Batch) -> Integers:
    """Return the rows with an item of the opposite pole in an active dimension of the row."""
    rows = []
    for items in (batch.comments, batch.feedback):
        opposes = (items.directions * batch.directions[items.rows]).min(axis=1, initial=1) < 0
        rows.append(items.rows[opposes])
    return np.unique(np.concatenate(rows))


def repeated(batch: Batch) -> Integers:
    """Return the rows in which a post or a reply occurs twice, in target and history together."""
    table, comments, feedback = batch.table, batch.comments, batch.feedback
    own = np.arange(len(table))
    posts = [
        (table["prompt"].combine_chunks(), own),
        (comments.column("prompt"), comments.rows),
        (feedback.column("prompt"), feedback.rows),
    ]
    replies = [
        (table["chosen"].combine_chunks(), own),
        (table["rejected"].combine_chunks(), own),
        (comments.column("comment"), comments.rows),
        (feedback.column("chosen"), feedback.rows),
        (feedback.column("rejected"), feedback.rows),
    ]
    return np.unique(np.concatenate([_rows_with_repeats(posts), _rows_with_repeats(replies)]))


def _rows_with_repeats(texts: list[tuple[pa.Array, Integers]]) -> Integers:
    """Return the rows that hold a text twice."""
    encoded = pa.concat_arrays([array for array, _ in texts]).dictionary_encode()
    rows = np.concatenate([owners for _, owners in texts])
    held = np.sort(rows * max(1, len(encoded.dictionary)) + encoded.indices.to_numpy())
    found: Integers = held[1:][held[1:] == held[:-1]] // max(1, len(encoded.dictionary))
    return found


def add_padded(one: Integers, other: Integers) -> Integers:
    """Return the sum of two arrays, the shorter of which has zeros at its end."""
    total = np.zeros(max(len(one), len(other)), dtype=np.int64)
    total[: len(one)] += one
    total[: len(other)] += other
    return total
