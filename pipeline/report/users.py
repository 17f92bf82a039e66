"""Users: their number, their directions, how alike they are, and how much of them a history shows as it grows."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.assembly.history import dealt_to_ugc
from pipeline.reading.text import hash_texts
from pipeline.report.coverage import hash_directions
from pipeline.report.source import Batch, Build
from pipeline.report.support import add_padded
from pipeline.report.tallies import Distribution, HashCounts
from pipeline.report.texts import Hashes, Integers, rehash
from preference_space.coverage import Coverage
from preference_space.direction import Direction, from_released
from schemas.report import Histogram, SplitUsers, UserFigures

SEEN = "test_seen_users"
"""The split whose users are in train too."""

_SAMPLED = 2000
"""Users that are compared with each other."""
_UNIT = 10**6
"""Units of a share of 1. Shares are counted in whole units, so that sums do not depend on their order."""
_NEVER = 1 << 32
"""Place of no item."""


class UserTally:
    """Counts of users by split, of their directions, and of what their histories show.

    A user is counted at the first row: the rows of a user in a split are in one shard and follow each other.
    """

    def __init__(self, build: Build, limit: int, seed: int) -> None:
        expected = (build.manifest.config["users"] or {"count": 0})["count"]
        self._splits = build.splits
        history = build.manifest.config["history"]
        self._turns: tuple[int, int] = history["ugc"], history["pair"]
        self._users = [HashCounts(expected, limit) for _ in build.splits]
        # Users with 0, 1, 2 ... pairs, by split.
        self._pairs: list[Integers] = [np.zeros(1, dtype=np.int64) for _ in build.splits]
        self._coverage = Coverage(build.space)
        self._directions = HashCounts(expected, limit)
        self._sample = UserSample(_SAMPLED, len(build.space), seed)
        # Units of the users' dimensions that item k shows first, at k + 1.
        self._gained: Integers = np.zeros(1, dtype=np.int64)
        self._rows = 0
        self._last: Hashes = np.zeros(1, dtype=np.uint64)

    def add(self, batch: Batch) -> None:
        """Count a batch's users. Mined pairs have none."""
        rows = np.flatnonzero(pc.not_equal(batch.table["user_id"], "").to_numpy())
        if not len(rows):
            return
        lists = batch.table["user_direction"].combine_chunks()
        levels = from_released(lists.flatten().to_numpy()).reshape(len(rows), -1)
        mirrored = batch.table["mirrored"].to_numpy()[rows]
        self._add_users(batch, rows, np.where(mirrored[:, None], -levels, levels))
        self._add_items(batch, rows[~mirrored], levels[~mirrored])

    def _add_users(self, batch: Batch, rows: Integers, levels: Direction) -> None:
        # Without the side: the opposite person of the mirrored rows is no other user.
        ids = pc.utf8_slice_codeunits(batch.table["user_id"].take(pa.array(rows)), 0, stop=-len("-a"))
        users = hash_texts(ids.to_pylist())
        before = self._last if batch.start else np.zeros(1, dtype=np.uint64)
        first = np.flatnonzero(users != np.concatenate([before, users[:-1]]))
        self._last = users[-1:]
        self._users[batch.split].add(users[first])
        pairs = batch.table["user_pairs"].to_numpy()[rows[first]]
        self._pairs[batch.split] = add_padded(self._pairs[batch.split], np.bincount(pairs))
        if self._splits[batch.split] != SEEN:
            self._coverage.add(levels[first])
            self._directions.add(hash_directions(levels[first]))
            self._sample.add(users[first], levels[first])

    def _add_items(self, batch: Batch, rows: Integers, levels: Direction) -> None:
        position = np.full(len(batch.table), -1)
        position[rows] = np.arange(len(rows))
        shown_by: Integers = np.full(levels.shape, _NEVER)
        for items, place in zip((batch.comments, batch.feedback), self._places(batch), strict=True):
            owner = position[items.rows]
            agrees = (owner >= 0)[:, None] & (items.directions * levels[owner] > 0)
            item, dimension = np.nonzero(agrees)
            np.minimum.at(shown_by, (owner[item], dimension), place[item])
        row, dimension = np.nonzero(shown_by < _NEVER)
        units = np.rint(_UNIT / np.count_nonzero(levels, axis=1)).astype(np.int64)
        gained = np.zeros(1 + int((batch.comments.counts + batch.feedback.counts)[rows].max(initial=0)), dtype=np.int64)
        np.add.at(gained, 1 + shown_by[row, dimension], units[row])
        self._gained = add_padded(self._gained, gained)
        self._rows += len(rows)

    def _places(self, batch: Batch) -> tuple[Integers, Integers]:
        """Return the places of all comments, and of all compared pairs, in the order in which their rows got them.

        A near pair that had its turn to be a comment let another item pass, which a row does not tell.
        """
        ugc, pair = self._turns
        comments: list[Integers] = [np.empty(0, dtype=np.int64)]
        pairs: list[Integers] = [np.empty(0, dtype=np.int64)]
        for number, others in zip(batch.comments.counts.tolist(), batch.feedback.counts.tolist(), strict=True):
            to_ugc = dealt_to_ugc(ugc, pair, number, np.ones(number + others, dtype=bool))
            comments.append(np.flatnonzero(to_ugc))
            pairs.append(np.flatnonzero(~to_ugc))
        return np.concatenate(comments), np.concatenate(pairs)

    def merge(self, other: UserTally) -> None:
        """Add the counts of another tally."""
        for split in range(len(self._splits)):
            self._users[split].merge(other._users[split])
            self._pairs[split] = add_padded(self._pairs[split], other._pairs[split])
        self._coverage.pairs += other._coverage.pairs
        self._coverage.active += other._coverage.active
        self._coverage.points += other._coverage.points
        self._directions.merge(other._directions)
        self._sample.merge(other._sample)
        self._gained = add_padded(self._gained, other._gained)
        self._rows += other._rows

    def result(self) -> UserFigures | None:
        """Return the figures; None without users."""
        if not self._rows:
            return None
        users = dict(zip(self._splits, self._users, strict=True))
        return UserFigures(
            users=HashCounts.across(self._users)[0],
            shared=_shared([users[split] for split in ("train", SEEN) if split in users]),
            leaked=_shared([counts for split, counts in users.items() if split != SEEN]),
            splits=tuple(map(_split_users, self._splits, self._users, self._pairs)),
            positive=tuple(self._coverage.positive.tolist()),
            negative=tuple(self._coverage.negative.tolist()),
            active=tuple(np.trim_zeros(self._coverage.active, "b").tolist()),
            distinct_directions=self._directions.distinct,
            similarity=self._sample.similarity(),
            similarity_sampled=len(self._sample),
            shown=tuple(np.minimum(np.cumsum(self._gained) / (self._rows * _UNIT), 1.0).tolist()),
        )


class UserSample:
    """Directions of the `count` users with the lowest keys."""

    def __init__(self, count: int, dimensions: int, seed: int) -> None:
        self._count = count
        self._seed = seed
        self._keys: Hashes = np.empty(0, dtype=np.uint64)
        self._levels: Direction = np.empty((0, dimensions), dtype=np.int8)

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, users: Hashes, levels: Direction) -> None:
        """Add users by the hashes of their ids, with directions of shape (N, D)."""
        self._keep(rehash(users, self._seed), levels)

    def merge(self, other: UserSample) -> None:
        """Add the users of another sample."""
        self._keep(other._keys, other._levels)

    def _keep(self, keys: Hashes, levels: Direction) -> None:
        keys, levels = np.concatenate([self._keys, keys]), np.concatenate([self._levels, levels])
        lowest = np.argsort(keys, kind="stable")[: self._count]
        self._keys, self._levels = keys[lowest], levels[lowest]

    def similarity(self) -> Histogram | None:
        """Return the cosines of the directions with their nearest ones; None with fewer than two users."""
        if len(self) < 2:
            return None
        levels = self._levels.astype(np.float32)
        norms = np.sqrt(np.count_nonzero(levels, axis=1))
        # The products are whole numbers, which a matrix product gives exactly in any order.
        cosines = levels @ levels.T / np.outer(norms, norms)
        np.fill_diagonal(cosines, -1)
        nearest = Distribution(steps=100, limit=1)
        nearest.add(np.clip(cosines.max(axis=1), 0, 1))
        return nearest.result(highest=1.0)


def _shared(several: list[HashCounts]) -> int:
    """Return the users of two or more splits."""
    return HashCounts.across(several)[1] if several else 0


def _split_users(name: str, users: HashCounts, pairs: Integers) -> SplitUsers:
    present = np.flatnonzero(pairs)
    return SplitUsers(
        name=name,
        users=users.distinct,
        fewest=int(present[0]) if len(present) else 0,
        mean=float(pairs @ np.arange(len(pairs)) / max(1, pairs.sum())),
        most=int(present[-1]) if len(present) else 0,
    )
