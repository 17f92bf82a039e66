"""Histories of users: a row's items are other pairs of its user, so no search is needed and nothing can contradict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.assembly.history import History, Pool, deal, lacks_support
from pipeline.plan import ShardSpec
from preference_space.philox import stream_key, uniforms
from schemas.config import BuildConfig, HistoryConfig, UsersConfig


class Items(NamedTuple):
    """Items of all rows of a shard.

    users: (N,), equal numbers for pairs of the same user. places: (N,), number of the pair among those of its user,
    lost ones included. order: (N, P), of each row a random number for each place.
    """

    users: npt.NDArray[np.int64]
    places: npt.NDArray[np.int64]
    order: npt.NDArray[np.float64]


def users_in(spec: ShardSpec, config: BuildConfig) -> UsersConfig | None:
    """Return the section `users` for a shard of their pairs; None for another one, such as of mined pairs."""
    return config.users if spec.source == "sampled" else None


def order_items(split: str, users: UsersConfig, seed: int, pairs: npt.NDArray[np.int64]) -> Items:
    """Return whose the pairs of these numbers are, and the order in which a row takes them."""
    each = users.pairs_per_user
    order = uniforms(seed, stream_key("user history", split), pairs, each)
    return Items(pairs // each, pairs % each, order)


def choose_user_histories(pool: Pool, items: Items, config: HistoryConfig, min_items: int) -> Iterator[History | str]:
    """Yield for each row the history of its user as the pair is stored, or the reason why there is none.

    It has up to `ugc + pair` of the user's other pairs, in the row's order. Pairs without a mirror image are left out,
    repeated posts and replies, and near pairs beyond P_PAIR. All pairs of a user are parts of one direction, so none
    contradicts another.

    Args:
        pool: The pairs of a shard, which holds whole users.
        items: Whose they are, and their order.
        config: Items of each part, and `min_support`.
        min_items: Fewest items of a history.
    """
    candidates = _candidates(pool, items)
    is_item = _take(pool, candidates, config)
    is_active, shown = pool.directions != 0, np.zeros(pool.directions.shape, dtype=bool)
    for place in range(candidates.shape[1]):
        mine = np.flatnonzero(is_item[:, place])
        shown[mine] |= is_active[candidates[mine, place]]
    support = (shown & is_active).sum(axis=1) / is_active.sum(axis=1)
    for row, views in enumerate(candidates):
        picked = views[is_item[row]]
        if len(picked) < min_items:
            yield "history_too_short"
        elif lacks_support(pool, row, support[row], config):
            yield "history_without_support"
        else:
            yield deal(pool, picked, float(support[row]), config)


def _candidates(pool: Pool, items: Items) -> npt.NDArray[np.int64]:
    """Return the rows of each row's user in the row's order, shape (N, P). A place without a pair has the row itself.

    No history holds its own row, nor a pair without a mirror image.
    """
    rows = np.flatnonzero(pool.has_mirror)
    users, user = np.unique(items.users, return_inverse=True)
    row_at = np.full((len(users), items.order.shape[1]), -1)
    row_at[user[rows], items.places[rows]] = rows
    in_order = np.take_along_axis(row_at[user], np.argsort(items.order, axis=1, kind="stable"), axis=1)
    return np.where(in_order < 0, np.arange(len(pool))[:, None], in_order)


def _take(pool: Pool, candidates: npt.NDArray[np.int64], config: HistoryConfig) -> npt.NDArray[np.bool_]:
    """Return which candidates become items, shape (N, P): place by place, in all rows at once, as `Taken` does in one.

    A row's own post is taken, so the row is none of its items.
    """
    posts, replies = pool.posts[candidates], np.stack([pool.chosen, pool.rejected], axis=1)[candidates]
    only_pair = ~pool.has_comments[candidates]
    is_item = np.zeros(candidates.shape, dtype=bool)
    for place in range(candidates.shape[1]):
        before = is_item[:, :place]
        is_free = (before.sum(axis=1) < config.ugc + config.pair) & (posts[:, place] != pool.posts)
        is_free &= ~(before & (posts[:, :place] == posts[:, place, None])).any(axis=1)
        is_free &= ~(only_pair[:, place] & ((before & only_pair[:, :place]).sum(axis=1) == config.pair))
        for reply in replies[:, place].T:
            is_free &= (reply != pool.chosen) & (reply != pool.rejected)
            is_free &= ~(before & (replies[:, :place] == reply[:, None, None]).any(axis=2)).any(axis=1)
        is_item[:, place] = is_free
    return is_item


def count_pairs(user_ids: Sequence[str], mirrored: Sequence[bool]) -> list[int]:
    """Return for each row the number of pairs that its user has in the rows; 0 without users.

    A user and the opposite one, whose rows are mirrored, have the same pairs. Their ids differ in the last two letters.
    """
    pairs = Counter(user_id[:-2] for user_id, is_mirrored in zip(user_ids, mirrored, strict=True) if not is_mirrored)
    return [pairs[user_id[:-2]] if user_id else 0 for user_id in user_ids]
