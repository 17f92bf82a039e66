"""Overlap of posts and replies with benchmarks: shared runs of words."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.report.copies import add_runs
from pipeline.report.source import Batch
from pipeline.report.tallies import Excerpts, HashCounts
from pipeline.report.texts import Hashes, Words
from schemas.report import ContaminationFigures


class BenchmarkRuns(NamedTuple):
    """A benchmark. Its `number` runs of words are in a file that all processes map into memory."""

    name: str
    rows: int
    number: int
    path: Path


class ContaminationTally:
    """Posts and rows that share a run of words with one benchmark."""

    def __init__(self, runs: BenchmarkRuns, words: int, pairs: int, limit: int) -> None:
        self._runs = runs
        self._words = words
        self._posts = HashCounts(pairs, limit)
        self._rows = 0
        self._texts = Excerpts()

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the mapped runs, which another process maps itself."""
        return {name: value for name, value in self.__dict__.items() if name != "_known"}

    @cached_property
    def _known(self) -> Hashes:
        known: Hashes = np.load(self._runs.path, mmap_mode="r")
        return known

    def add(self, batch: Batch) -> None:
        """Count a batch's texts."""
        posts = self._overlapping(batch.prompts, batch.prompt_words)
        self._posts.add(batch.prompt_hashes[posts])
        replies = self._overlapping(batch.replies, batch.reply_words)
        # Each reply of a pair is in both of its rows.
        pairs = replies[: len(batch.pairs)] | replies[len(batch.pairs) :]
        self._rows += int((pairs[batch.pair_of] & (batch.pair_of >= 0)).sum())

    def _overlapping(self, texts: pa.Array, words: Words) -> npt.NDArray[np.bool_]:
        """Return whether each text overlaps, shape (T,)."""
        grams, known = words.grams(self._words), self._known
        places = np.minimum(np.searchsorted(known, grams.hashes), max(0, len(known) - 1))
        found = np.flatnonzero(known[places] == grams.hashes) if len(known) else places[:0]
        add_runs(self._texts, texts, words, grams, found, self._words)
        overlaps = np.zeros(len(texts), dtype=bool)
        overlaps[words.texts[grams.first[found]]] = True
        return overlaps

    def merge(self, other: ContaminationTally) -> None:
        """Add the counts of another tally."""
        self._posts.merge(other._posts)
        self._rows += other._rows
        self._texts.merge(other._texts)

    def result(self) -> ContaminationFigures:
        """Return the figures."""
        return ContaminationFigures(
            file=self._runs.name,
            rows=self._runs.rows,
            words=self._words,
            posts=self._posts.distinct,
            replies=self._rows,
            examples=self._texts.result(),
        )
