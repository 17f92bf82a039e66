"""Lengths of all texts, and the length bias: how well length alone predicts the preferred reply."""

from __future__ import annotations

import numpy as np

from pipeline.report.source import Batch
from pipeline.report.tallies import Distribution
from pipeline.report.texts import characters_of, word_counts
from schemas.report import Histogram, LengthFigures


class LengthTally:
    """Distributions of words, and counts of the examples whose longer reply is the chosen one."""

    def __init__(self) -> None:
        self._words = {name: Distribution() for name in ("prompt", "chosen", "rejected", "portrait", "comment")}
        self._ratio = Distribution(steps=100, limit=100)
        self._longer = np.zeros(2, dtype=np.int64)
        self._rows = np.zeros(2, dtype=np.int64)

    def add(self, batch: Batch) -> None:
        """Count a batch's texts: posts and replies once a pair, portraits and comments in every row."""
        pairs = len(batch.pairs)
        chosen, rejected = batch.reply_words.counts[:pairs], batch.reply_words.counts[pairs:]
        for name, counts in (
            ("prompt", word_counts(batch.prompts)),
            ("chosen", chosen),
            ("rejected", rejected),
            ("portrait", batch.portrait_words.counts),
            ("comment", word_counts(batch.comments.column("comment"))),
        ):
            self._words[name].add(counts)
        characters = characters_of(batch.replies).reshape(2, pairs)
        self._ratio.add(characters.max(axis=0) / np.maximum(characters.min(axis=0), 1))
        self._longer += (batch.longer.sum(), batch.longer[batch.pairs].sum())
        self._rows += (len(batch.longer), pairs)

    def merge(self, other: LengthTally) -> None:
        """Add the counts of another tally."""
        for name, distribution in self._words.items():
            distribution.merge(other._words[name])
        self._ratio.merge(other._ratio)
        self._longer += other._longer
        self._rows += other._rows

    def result(self) -> LengthFigures:
        """Return the figures."""
        auc = self._longer / (2 * np.maximum(self._rows, 1))
        words = {name: distribution.result() for name, distribution in self._words.items()}
        return LengthFigures(
            prompt=_required(words["prompt"]),
            chosen=_required(words["chosen"]),
            rejected=_required(words["rejected"]),
            portrait=_required(words["portrait"]),
            comment=words["comment"],
            length_ratio=_required(self._ratio.result(lowest=1.0)),
            length_auc=float(auc[0]),
            longer_chosen_unmirrored=float(auc[1]),
        )


def _required(histogram: Histogram | None) -> Histogram:
    """Return a histogram that must exist, since every reported build has an example."""
    if histogram is None:
        raise ValueError("nothing was counted")
    return histogram
