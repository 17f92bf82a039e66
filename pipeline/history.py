"""Which pool pairs make a persona's history: consistent with the target, supportive, and free of repetition."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from preference_space.direction import Direction
from schemas.config import HistoryConfig


@dataclass(frozen=True)
class Pool:
    """Candidate pairs of one split. Row r can be seen from two sides, called views.

    View r is the pair as it stands: chosen, rejected, direction. View r + N is the same pair turned round: rejected as
    chosen, the direction negated, which is what a person of the opposite kind left behind. Turning a whole history
    round therefore gives the history of the opposite person.

    directions: (N, D), int8. posts, chosen, rejected: (N,), equal numbers for equal texts.
    """

    directions: Direction
    posts: npt.NDArray[np.int64]
    chosen: npt.NDArray[np.int64]
    rejected: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.directions)

    def turned(self, views: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The other side of each view."""
        return (views + len(self)) % (2 * len(self))


@dataclass(frozen=True)
class History:
    """Views of the pool for P_UGC and P_PAIR, most supportive first; `support` is the share of target dimensions."""

    ugc: npt.NDArray[np.int64]
    pair: npt.NDArray[np.int64]
    support: float


def choose_history(pool: Pool, target: int, config: HistoryConfig, order: npt.NDArray[np.float64]) -> History | str:
    """The history of the pair in row `target`, or the reason why there is none.

    No item contradicts the target in any of its dimensions, no post and no reply occurs twice or equals the target's,
    and at least `min_support` of the target's dimensions are supported by an item. Dimensions that are not yet
    supported are served first, then support in number; `order` (N,) breaks ties.
    """
    size = config.ugc + config.pair
    if size == 0:
        return History(np.empty(0, np.int64), np.empty(0, np.int64), 0.0)
    direction = pool.directions[target]
    active = np.flatnonzero(direction)
    agreement = pool.directions[:, active] * direction[active]
    agrees, opposes = (agreement > 0).sum(axis=1), (agreement < 0).sum(axis=1)

    # A pair that agrees in some dimensions and opposes in others contradicts the target from either side.
    candidate = (agrees == 0) | (opposes == 0)
    candidate &= pool.posts != pool.posts[target]
    rows = np.flatnonzero(candidate)
    turn = np.where(agrees[rows] == opposes[rows], order[rows] < 0.5, opposes[rows] > 0)
    supports = agreement[rows] != 0

    picked = _pick(pool, target, rows, supports, order[rows], size)
    if len(picked) < size:
        return "history_too_short"
    support = float(supports[picked].any(axis=0).mean())
    if support < config.min_support:
        return "history_without_support"
    strongest_first = sorted(picked, key=lambda k: (-int(supports[k].sum()), float(order[rows[k]])))
    views = np.array([rows[k] + (len(pool) if turn[k] else 0) for k in strongest_first], dtype=np.int64)
    # Dealt out in turn, so that both parts of the persona carry support.
    to_ugc = np.diff(np.arange(size + 1) * config.ugc // size) > 0
    return History(views[to_ugc], views[~to_ugc], support)


def _pick(
    pool: Pool,
    target: int,
    rows: npt.NDArray[np.int64],
    supports: npt.NDArray[np.bool_],
    order: npt.NDArray[np.float64],
    size: int,
) -> list[int]:
    """Positions in `rows`, greedily: uncovered dimensions first, then support, then `order`."""
    posts = {int(pool.posts[target])}
    replies = {int(pool.chosen[target]), int(pool.rejected[target])}
    breadth = supports.shape[1] + 1.0
    gain = supports.sum(axis=1) * (1 + breadth) - order
    uncovered = np.ones(supports.shape[1], dtype=bool)
    picked: list[int] = []
    while len(picked) < size and len(gain):
        k = int(gain.argmax())
        if gain[k] == -np.inf:
            break
        gain[k] = -np.inf
        row = rows[k]
        texts = {int(pool.chosen[row]), int(pool.rejected[row])}
        if int(pool.posts[row]) in posts or replies & texts:
            continue
        posts.add(int(pool.posts[row]))
        replies |= texts
        picked.append(k)
        newly = uncovered & supports[k]
        if newly.any():
            # What is covered now is no longer a gain.
            gain -= supports[:, newly].sum(axis=1) * breadth
            uncovered &= ~newly
    return picked
