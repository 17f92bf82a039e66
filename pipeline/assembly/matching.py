"""Histories of mined pairs: the paper's similarity of replies with this project's consistency, as matrix products.

The product of two replies' one-hot levels is their number of matches; divided by D it is the paper's cosine. Histories
are chosen for a batch of targets against the whole block.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.assembly.history import History, Pool, Taken, Views, cover
from preference_space.levels import majority, one_hot
from schemas.config import HistoryConfig

_TARGETS = 64
"""Targets at a time: the arrays of a step stay small."""
_SHORTLIST = 64
"""Most similar candidates that are looked at first; all of them only where these do not suffice."""

Numbers = npt.NDArray[np.float32]
Scores = npt.NDArray[np.int64]


class _Candidates(NamedTuple):
    """Candidates of one target and one kind of item: views by similarity, and the dimensions that each supports."""

    views: Views
    supports: npt.NDArray[np.bool_]


def choose_mined_histories(
    pool: Pool,
    targets: int,
    config: HistoryConfig,
    sides: tuple[int, ...],
    order: npt.NDArray[np.float64],
    shift: npt.NDArray[np.float64],
) -> Iterator[tuple[History, ...] | str]:
    """Yield for each of the first `targets` rows a history for each side, or the reason why there is none.

    An item of P_PAIR is a pair whose two replies are both similar to the target's (cosine above `min_similarity`). An
    item of P_UGC is a reply similar to the one that the person prefers. No post and no reply occurs twice.

    With `strict` consistency no item contradicts the target in an active dimension. Of the 64 most similar candidates,
    those for uncovered dimensions come first, then more support, then more similarity; the smaller similarity of a
    pair's replies counts. If these cannot fill the history, all candidates are considered. With `paper` the most
    similar items are taken, and one dimension of the target must have its sign in the majority vote of each part.

    Args:
        pool: The candidates; its first rows are the targets.
        targets: Number of targets.
        config: Items of each part, consistency and thresholds.
        sides: 1 for the pair as stored, -1 for its mirror image.
        order: Random numbers in (0, 1), shape (N,), that decide ties.
        shift: A random number in (0, 1) for each target, which rotates `order`.
    """
    matcher = _Matcher(pool, config, order)
    for start in range(0, targets, _TARGETS):
        rows = np.arange(start, min(targets, start + _TARGETS))
        scores = matcher.scores(rows, shift[rows])
        for k, row in enumerate(rows.tolist()):
            yield _choose(matcher, {kind: found[k] for kind, found in scores.items()}, row, sides)


def shares_a_sign(parts: list[npt.NDArray[np.int8]]) -> bool:
    """Return whether some dimension has the same pole in all directions: the paper's criterion."""
    stacked = np.stack(parts)
    return bool(((stacked > 0).all(axis=0) | (stacked < 0).all(axis=0)).any())


def ranked(matches: Numbers, ties: Views, out: npt.NDArray[np.bool_]) -> Scores:
    """Return scores that order by matches, then by ties, shape (targets, V); 0 marks an excluded view.

    Scores need 64 bits: 2,000 dimensions and a million views exceed 32.
    """
    return np.where(out, 0, matches.astype(np.int64) * matches.shape[1] + ties)


class _Matcher:
    """The levels of a block, prepared for matrix products."""

    def __init__(self, pool: Pool, config: HistoryConfig, order: npt.NDArray[np.float64]) -> None:
        self.pool = pool
        self.config = config
        self._hot = one_hot(pool.levels)
        self._levels = pool.levels.astype(np.float32)
        self._directions = pool.directions.astype(np.float32)
        # Ranks of all views in a random order; the two views of a pair have unrelated ranks.
        self._place = np.argsort(np.argsort(np.concatenate([order, order[::-1]]), kind="stable"), kind="stable")
        # More matches than this many make the cosine larger than the threshold, as in the paper.
        self._least = int(np.floor(config.min_similarity * pool.levels.shape[1] + 1e-9))

    def scores(self, rows: Views, shift: npt.NDArray[np.float64]) -> dict[str, Scores]:
        """Return scores for P_UGC of both sides and for P_PAIR, each (targets, 2N); 0 for excluded views."""
        size = len(self.pool)
        to_chosen = self._hot[rows] @ self._hot.T
        to_rejected = self._hot[rows + size] @ self._hot.T
        # For a pair as stored, chosen is compared with chosen; for its mirror image, with rejected.
        to_pair = np.concatenate(
            [
                np.minimum(to_chosen[:, :size], to_rejected[:, size:]),
                np.minimum(to_chosen[:, size:], to_rejected[:, :size]),
            ],
            axis=1,
        )
        found = {"ugc": to_chosen, "mirrored ugc": to_rejected, "pair": to_pair}
        out = {kind: matches <= self._least for kind, matches in found.items()}
        if self.config.consistency == "strict":
            z = self._directions[rows]
            opposing, agreeing = _opposing(z, self._levels)
            out["ugc"] |= opposing
            out["mirrored ugc"] |= agreeing
            out["pair"] |= np.concatenate(_opposing(z, self._directions), axis=1)
        ties = (self._place[None, :] + (shift * 2 * size).astype(np.int64)[:, None]) % (2 * size)
        return {kind: ranked(matches, ties, out[kind]) for kind, matches in found.items()}

    def candidates(self, scores: Scores, row: int, kind: str, most: int) -> _Candidates:
        """Return the `most` best candidates, best first."""
        best = np.flatnonzero(scores > 0)
        if most < len(best):
            best = best[np.argpartition(scores[best], -most)[-most:]]
        views = best[np.argsort(-scores[best], kind="stable")]
        z = self.pool.directions[row] * (-1 if kind == "mirrored ugc" else 1)
        active = np.flatnonzero(z)
        if kind == "pair":
            size = len(self.pool)
            signs = np.where(views < size, 1, -1).astype(np.int8)
            shown = self.pool.directions[views % size][:, active] * signs[:, None]
        else:
            shown = self.pool.levels[views][:, active]
        return _Candidates(views, (shown == z[active]).T)


def _opposing(z: Numbers, others: Numbers) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Return where two directions oppose in some dimension, and where they agree in some, both (targets, N)."""
    overlap = np.abs(z) @ np.abs(others).T
    balance = z @ others.T
    return overlap > balance, overlap > -balance


def _choose(
    matcher: _Matcher, scores: dict[str, Scores], row: int, sides: tuple[int, ...]
) -> tuple[History, ...] | str:
    config, pool = matcher.config, matcher.pool
    active = int(np.count_nonzero(pool.directions[row]))
    taken, covered = Taken(pool, row, config), np.zeros(active, dtype=bool)
    pair = _pick(matcher, scores, row, "pair", config.pair, taken, covered)
    if len(pair) < config.pair:
        return "history_too_short"
    histories = []
    for side in sides:
        by_now = covered.copy()
        kind = "ugc" if side > 0 else "mirrored ugc"
        ugc = _pick(matcher, scores, row, kind, config.ugc, taken.copy(), by_now)
        if len(ugc) < config.ugc:
            return "history_too_short"
        history = History(ugc, pair if side > 0 else pool.mirrored(pair), float(by_now.mean()))
        if config.consistency == "paper":
            if not shares_a_sign([side * pool.directions[row], *parts_of(history, pool)]):
                return "history_inconsistent"
        elif config.ugc + config.pair and history.support < config.min_support:
            return "history_without_support"
        histories.append(history)
    return tuple(histories)


def parts_of(history: History, pool: Pool) -> list[npt.NDArray[np.int8]]:
    """Return the majority directions of P_UGC and of P_PAIR; a part without items is left out."""
    mirrored = np.concatenate([pool.directions, -pool.directions])
    return [majority(found) for found in (pool.levels[history.ugc], mirrored[history.pair]) if len(found)]


def _pick(
    matcher: _Matcher,
    scores: dict[str, Scores],
    row: int,
    kind: str,
    size: int,
    taken: Taken,
    covered: npt.NDArray[np.bool_],
) -> Views:
    """Return up to `size` views for one part of the history. Updates `taken` and `covered`."""
    every = len(scores[kind])
    picked = np.empty(0, dtype=np.int64)
    for most in (_SHORTLIST, every):
        if len(picked) == size:
            break
        found = matcher.candidates(scores[kind], row, kind, min(most, every))
        rows = found.views % len(matcher.pool)
        if matcher.config.consistency == "strict":
            places = np.arange(1, len(rows) + 1) / (len(rows) + 1)
            best = cover(taken, rows, found.supports, places, size - len(picked), covered)
        else:
            best = _first(taken, rows, size - len(picked))
            covered |= found.supports[:, best].any(axis=1)
        picked = np.concatenate([picked, found.views[best]])
    return picked


def _first(taken: Taken, rows: Views, size: int) -> list[int]:
    """Return positions of the first `size` rows that repeat nothing."""
    picked: list[int] = []
    for position, row in enumerate(rows.tolist()):
        if len(picked) == size:
            break
        if taken.add(row):
            picked.append(position)
    return picked
