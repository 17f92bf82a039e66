"""Histories of sampled pairs: consistent with the target, supporting its dimensions, and free of repetition."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from preference_space.direction import Direction
from schemas.config import HistoryConfig

Views = npt.NDArray[np.int64]
"""Row numbers of a pool (below N) and of its mirror image (from N on)."""


@dataclass(frozen=True)
class Pool:
    """Candidate pairs of one split, as columns. Every pair has two views.

    View r is pair r as stored. View r + N is its mirror image: the replies swapped, the direction negated, as a person
    of the opposite direction would have chosen. The mirror image of a whole history is the history of the opposite
    person.

    directions: (N, D), int8. levels: (2N, D), of the chosen reply of each view. posts, chosen, rejected: (N,), equal
    numbers for equal texts.
    """

    directions: Direction
    levels: Direction
    posts: npt.NDArray[np.int64]
    chosen: npt.NDArray[np.int64]
    rejected: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.directions)

    def mirrored(self, views: Views) -> Views:
        """Return the mirror image of each view."""
        return (views + len(self)) % (2 * len(self))


@dataclass(frozen=True)
class History:
    """Views of the pool for P_UGC and P_PAIR, in the order in which they were chosen.

    `support` is the share of the target's active dimensions that some item shows.
    """

    ugc: Views
    pair: Views
    support: float

    def mirrored(self, pool: Pool) -> History:
        """Return the history of the opposite person. Holds where a reply's levels are the direction of its pair."""
        return History(pool.mirrored(self.ugc), pool.mirrored(self.pair), self.support)


def choose_histories(
    pool: Pool, targets: int, config: HistoryConfig, order: npt.NDArray[np.float64], shift: npt.NDArray[np.float64]
) -> Iterator[History | str]:
    """Yield for each of the first `targets` rows its history, or the reason why there is none.

    No item contradicts the target in an active dimension. No post and no reply occurs twice, or is the target's.
    Greedily, items that support uncovered dimensions come first, then items that support more dimensions.

    Args:
        pool: The candidates; its first rows are the targets.
        targets: Number of targets.
        config: Items of each part, and `min_support`, the least share of dimensions that the items must support.
        order: Random numbers in (0, 1), shape (N,), that decide ties.
        shift: A random number in (0, 1) for each target, which rotates `order` so that ties fall differently.
    """
    columns = np.ascontiguousarray(pool.directions.T)
    for row in range(targets):
        yield _choose(pool, columns, row, order, float(shift[row]), config)


def _choose(
    pool: Pool,
    columns: npt.NDArray[np.int8],
    target: int,
    order: npt.NDArray[np.float64],
    shift: float,
    config: HistoryConfig,
) -> History | str:
    size = config.ugc + config.pair
    if size == 0:
        return History(_NONE, _NONE, 0.0)

    def tie(rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        return (order[rows] + shift) % 1.0

    # Only the target's few active dimensions count: 1 where a pair agrees, -1 where it opposes. Shape (active, N).
    active = np.flatnonzero(pool.directions[target])
    agreement = columns[active] * pool.directions[target, active, None]
    balance = agreement.sum(axis=0, dtype=np.int32)
    overlap = np.abs(agreement).sum(axis=0, dtype=np.int32)
    # A pair that agrees in some dimensions and opposes in others contradicts the target from either side.
    consistent = np.abs(balance) == overlap

    supporting = np.flatnonzero(consistent & (overlap > 0))
    taken = Taken(pool, target)
    covered = np.zeros(len(active), dtype=bool)
    best = cover(taken, supporting, agreement[:, supporting] != 0, tie(supporting), size, covered)
    picked = supporting[best].tolist()
    if len(picked) < size:
        idle = np.flatnonzero(overlap == 0)
        for row in idle[np.argsort(tie(idle), kind="stable")].tolist():
            if len(picked) == size:
                break
            if taken.add(row):
                picked.append(row)
    if len(picked) < size:
        return "history_too_short"
    support = float(covered.mean())
    if support < config.min_support:
        return "history_without_support"

    rows = np.array(picked, dtype=np.int64)
    rows = rows[np.lexsort((tie(rows), -overlap[rows]))]
    mirrored = np.where(overlap[rows] > 0, balance[rows] < 0, tie(rows) < 0.5)
    views = rows + len(pool) * mirrored
    # Items alternate between the parts, so that both parts of the persona carry support.
    to_ugc = np.diff(np.arange(size + 1) * config.ugc // size) > 0
    return History(views[to_ugc], views[~to_ugc], support)


_NONE = np.empty(0, dtype=np.int64)


def cover(
    taken: Taken,
    rows: npt.NDArray[np.int64],
    supports: npt.NDArray[np.bool_],
    tie: npt.NDArray[np.float64],
    size: int,
    covered: npt.NDArray[np.bool_],
) -> list[int]:
    """Return positions of up to `size` of `rows`, chosen greedily by uncovered dimensions, support and `tie`.

    Args:
        taken: Posts and replies in use; extended by the rows chosen.
        rows: Candidates, shape (R,).
        supports: Which active dimensions a candidate supports, shape (active, R).
        tie: Numbers in (0, 1), shape (R,); the smaller wins.
        size: Most rows to choose.
        covered: Which active dimensions are covered, shape (active,); updated in place.
    """
    breadth = len(supports) + 1.0
    gain = supports.sum(axis=0) + supports[~covered].sum(axis=0) * breadth - tie
    picked: list[int] = []
    while len(picked) < size and len(rows):
        k = int(gain.argmax())
        if gain[k] == -np.inf:
            break
        gain[k] = -np.inf
        if not taken.add(int(rows[k])):
            continue
        picked.append(k)
        newly = supports[:, k] & ~covered
        if newly.any():
            # Dimensions that are covered now no longer count.
            gain -= supports[newly].sum(axis=0) * breadth
            covered |= newly
    return picked


class Taken:
    """Posts and replies that a history already holds, with those of the target."""

    def __init__(self, pool: Pool, target: int) -> None:
        self._pool = pool
        self._posts = {int(pool.posts[target])}
        self._replies = {int(pool.chosen[target]), int(pool.rejected[target])}

    def copy(self) -> Taken:
        """Return an independent copy."""
        other = copy.copy(self)
        other._posts, other._replies = {*self._posts}, {*self._replies}
        return other

    def add(self, row: int) -> bool:
        """Take a row and return True, or return False if its post or a reply is already taken."""
        post = int(self._pool.posts[row])
        replies = {int(self._pool.chosen[row]), int(self._pool.rejected[row])}
        if post in self._posts or self._replies & replies:
            return False
        self._posts.add(post)
        self._replies |= replies
        return True
