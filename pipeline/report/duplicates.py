"""Posts and replies that occur more than once: equal ones by hash, similar ones by MinHash (`near_duplicates.py`)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.io.shards import read_groups
from pipeline.report.near_duplicates import THRESHOLD, NearPairs, NearSample, Replies, find_near
from pipeline.report.settings import ReportSettings
from pipeline.report.source import Batch, Build, row_of, shard_of
from pipeline.report.tallies import HashCounts
from schemas.report import DuplicateFigures, SplitFigures

_EXAMPLES = 10
_SHORTENED = 300
"""Most characters of a text that is shown as an example."""


class DuplicateTally:
    """Counts of examples, pairs, posts and replies of each split, with a sample of replies for near-duplicates."""

    def __init__(self, splits: Sequence[str], pairs: int, settings: ReportSettings) -> None:
        self._splits = splits
        self.replies = [HashCounts(2 * pairs, settings.hashes) for _ in splits]
        self.posts = [HashCounts(pairs, settings.hashes) for _ in splits]
        self._examples = [0] * len(splits)
        self._pairs = [0] * len(splits)
        self.near = NearSample(2 * pairs, settings.near_replies, settings.seed)

    def add(self, batch: Batch) -> None:
        """Count a batch's pairs."""
        self._examples[batch.split] += len(batch.table)
        self._pairs[batch.split] += len(batch.pairs)
        self.replies[batch.split].add(batch.reply_hashes)
        self.posts[batch.split].add(batch.prompt_hashes)
        self.near.add(batch)

    def merge(self, other: DuplicateTally) -> None:
        """Add the counts of another tally."""
        for split in range(len(self._splits)):
            self._examples[split] += other._examples[split]
            self._pairs[split] += other._pairs[split]
            self.replies[split].merge(other.replies[split])
            self.posts[split].merge(other.posts[split])
        self.near.merge(other.near)

    @property
    def pairs(self) -> int:
        """Return the pairs of all splits."""
        return sum(self._pairs)

    @property
    def distinct_posts(self) -> int:
        """Return the distinct posts of all splits, by text."""
        return HashCounts.across(self.posts)[0]

    def splits(self) -> tuple[SplitFigures, ...]:
        """Return the size of each split."""
        return tuple(
            SplitFigures(
                name=name,
                examples=self._examples[split],
                pairs=self._pairs[split],
                posts=self.posts[split].distinct,
            )
            for split, name in enumerate(self._splits)
        )

    def result(self, build: Build) -> DuplicateFigures:
        """Return the figures. The build is read again for the texts of the shown near-duplicates."""
        replies = self.near.result()
        found = find_near(replies)
        return DuplicateFigures(
            replies=2 * self.pairs,
            exact_within=sum(counts.repeats for counts in self.replies),
            exact_across=HashCounts.across(self.replies)[1],
            near_sampled=len(replies.keys),
            near_threshold=THRESHOLD,
            near_within=int((found.within >= 0).sum()),
            near_across=int((found.across >= 0).sum()),
            posts_across=HashCounts.across(self.posts)[1],
            examples=_examples(build, replies, found),
        )


def _examples(build: Build, replies: Replies, found: NearPairs) -> tuple[tuple[str, str], ...]:
    """Return the near-duplicates with the lowest keys, those across splits first."""
    pairs: dict[tuple[int, int], None] = {}
    for others in (found.across, found.within):
        rows = np.flatnonzero(others >= 0)
        for row in rows[np.argsort(replies.keys[rows], kind="stable")][: 2 * _EXAMPLES].tolist():
            # A pair across splits is found from both sides.
            other = int(others[row])
            pairs[min(row, other), max(row, other)] = None
    return tuple(
        (_text(build, int(replies.places[one])), _text(build, int(replies.places[other])))
        for one, other in [*pairs][:_EXAMPLES]
    )


def _text(build: Build, place: int) -> str:
    """Return the reply at a place in the build."""
    table = read_groups(build.path(shard_of(place >> 1)), np.array([row_of(place >> 1)]))
    text: str = table["rejected" if place & 1 else "chosen"][0].as_py()
    return text if len(text) <= _SHORTENED else text[:_SHORTENED] + "\u2026"
