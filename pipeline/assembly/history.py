"""Histories of sampled pairs: consistent with the target, supporting its dimensions, and free of repetition."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

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
    numbers for equal texts. has_mirror: (N,), False for restraint pairs: plain answers suit the opposite person too. No
    history holds these, since it has a mirror image. has_comments: (N,), False for near pairs: both of their replies
    show traits that the direction does not have, so neither is a comment (P_UGC) of whoever has the direction.
    """

    directions: Direction
    levels: Direction
    posts: npt.NDArray[np.int64]
    chosen: npt.NDArray[np.int64]
    rejected: npt.NDArray[np.int64]
    has_mirror: npt.NDArray[np.bool_]
    has_comments: npt.NDArray[np.bool_]

    @classmethod
    def of_kinds(
        cls,
        kinds: npt.NDArray[Any],
        directions: Direction,
        posts: npt.NDArray[np.int64],
        replies: npt.NDArray[np.int64],
        levels: Sequence[Direction] = (),
    ) -> Pool:
        """Return the pool of N pairs.

        Args:
            kinds: The kind of each pair, shape (N,).
            directions: Shape (N, D).
            posts: Equal numbers for equal posts, shape (N,).
            replies: The same for the chosen replies, then the rejected ones, shape (2N,).
            levels: Of chosen and rejected replies, if known. A sampled reply shows what its writer was asked to be.
        """
        return cls(
            directions=directions,
            levels=np.concatenate(levels or [directions, -directions]),
            posts=posts,
            chosen=replies[: len(kinds)],
            rejected=replies[len(kinds) :],
            has_mirror=kinds != "restraint",
            has_comments=kinds != "near",
        )

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
        return NO_HISTORY

    def tie(rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        return (order[rows] + shift) % 1.0

    # Only the target's few active dimensions count: 1 where a pair agrees, -1 where it opposes. Shape (active, N).
    active = np.flatnonzero(pool.directions[target])
    agreement = columns[active] * pool.directions[target, active, None]
    balance = agreement.sum(axis=0, dtype=np.int32)
    overlap = np.abs(agreement).sum(axis=0, dtype=np.int32)
    # A pair that agrees in some dimensions and opposes in others contradicts the target from either side.
    consistent = pool.has_mirror & (np.abs(balance) == overlap)

    supporting = np.flatnonzero(consistent & (overlap > 0))
    taken = Taken(pool, target, config)
    covered = np.zeros(len(active), dtype=bool)
    best = cover(taken, supporting, agreement[:, supporting] != 0, tie(supporting), size, covered)
    picked = supporting[best].tolist()
    if len(picked) < size:
        idle = np.flatnonzero(consistent & (overlap == 0))
        for row in idle[np.argsort(tie(idle), kind="stable")].tolist():
            if len(picked) == size:
                break
            if taken.add(row):
                picked.append(row)
    if len(picked) < size:
        return "history_too_short"
    support = float(covered.mean())
    if lacks_support(pool, target, support, config):
        return "history_without_support"

    rows = np.array(picked, dtype=np.int64)
    rows = rows[np.lexsort((tie(rows), -overlap[rows]))]
    mirrored = np.where(overlap[rows] > 0, balance[rows] < 0, tie(rows) < 0.5)
    return deal(pool, rows + len(pool) * mirrored, support, config)


_NONE = np.empty(0, dtype=np.int64)
NO_HISTORY = History(_NONE, _NONE, 0.0)


def deal(pool: Pool, views: Views, support: float, config: HistoryConfig) -> History:
    """Return a history of `views` in their order, at most `ugc + pair` of them.

    Items alternate between the parts, so that both parts of the persona carry support. Where an item without comments
    has its turn in P_UGC, a later one takes its place there.
    """
    can_be = pool.has_comments[views % len(pool)]
    turns = _turns(config.ugc, config.pair)[: len(views)]
    number = min(int(turns.sum()), int(can_be.sum()))
    to_ugc = dealt_to_ugc(config.ugc, config.pair, number, can_be)
    return History(views[to_ugc], views[~to_ugc], support)


def dealt_to_ugc(ugc: int, pair: int, number: int, can_be: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return which of N items are in P_UGC.

    Args:
        ugc: Most items of P_UGC.
        pair: Most items of P_PAIR.
        number: How many are in P_UGC.
        can_be: Which of the items may be, shape (N,).
    """
    order = np.argsort(np.where(can_be, ~_turns(ugc, pair)[: len(can_be)], 2), kind="stable")
    to_ugc = np.zeros(len(can_be), dtype=bool)
    to_ugc[order[:number]] = True
    return to_ugc


@lru_cache
def _turns(ugc: int, pair: int) -> npt.NDArray[np.bool_]:
    """Return which of `ugc + pair` items are dealt to P_UGC."""
    places = np.arange(ugc + pair + 1)
    turns: npt.NDArray[np.bool_] = np.diff(places * ugc // max(1, ugc + pair)) > 0
    return turns


def lacks_support(pool: Pool, target: int, support: float, config: HistoryConfig) -> bool:
    """Return whether a history shows too little of its row's direction.

    A restraint row needs no support: the better reply ignores the person. It may show interests that none of the
    user's posts is about.
    """
    return bool(pool.has_mirror[target]) and support < config.min_support


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
    """Posts and replies that a history already holds, with those of the target, and its room for near pairs."""

    def __init__(self, pool: Pool, target: int, config: HistoryConfig) -> None:
        self._pool = pool
        self._room = config.pair
        self._posts = {int(pool.posts[target])}
        self._replies = {int(pool.chosen[target]), int(pool.rejected[target])}

    def copy(self) -> Taken:
        """Return an independent copy."""
        other = copy.copy(self)
        other._posts, other._replies = {*self._posts}, {*self._replies}
        return other

    def add(self, row: int) -> bool:
        """Take a row and return True, or return False if its post or a reply is taken, or P_PAIR has no room for it."""
        post = int(self._pool.posts[row])
        replies = {int(self._pool.chosen[row]), int(self._pool.rejected[row])}
        only_pair = not self._pool.has_comments[row]
        if post in self._posts or self._replies & replies or (only_pair and not self._room):
            return False
        self._room -= only_pair
        self._posts.add(post)
        self._replies |= replies
        return True
