"""Promises about the rows of one shard, which hold all rows of their users in that split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from benchmarks.users.ledger import Ledger
from benchmarks.users.tables import Build, Items, Levels, Numbers, Pairs, Rows, Texts

_Flags = npt.NDArray[np.bool_]
_SHARED = ("pair_id", "post_id", "prompt", "kind")
_SIDES: tuple[Literal["left", "right"], ...] = ("left", "right")


class RowCheck:
    """The rows of a shard beside the accepted pairs that they were made of."""

    def __init__(self, build: Build, ledger: Ledger, shared_replies: set[int]) -> None:
        self._build, self._ledger, self._shared = build, ledger, shared_replies

    def add(self, split: str, rows: Rows, pairs: Pairs, rejected: Collection[str]) -> None:
        """Check the rows of one shard. `rejected` are its pairs that gave no rows."""
        self._check_pairs(rows, pairs, rejected)
        self._check_persons(split, rows)
        self._check_mirror(rows)
        self._check_histories(rows, pairs)
        self._check_places(split, rows)

    def _check_pairs(self, rows: Rows, pairs: Pairs, rejected: Collection[str]) -> None:
        ids = {pair_id: place for place, pair_id in enumerate(pairs.texts["pair_id"])}
        place = np.array([ids.get(pair_id, -1) for pair_id in rows.texts["pair_id"]], dtype=np.int64)
        same = place >= 0
        for column in _SHARED:
            same &= rows.texts[column] == pairs.texts[column][place]
        for column, opposite in (("chosen", "rejected"), ("rejected", "chosen")):
            same &= rows.texts[column] == _seen(rows, pairs.texts[column][place], pairs.texts[opposite][place])
        for column, levels in (("direction", rows.direction), ("user_direction", rows.user_direction)):
            same &= (levels == rows.sign * pairs.levels[column][place]).all(axis=1)
        for column, owner in (("user_id", pairs.texts["user_id"][place]), ("id", rows.texts["pair_id"])):
            same &= rows.texts[column] == owner + _seen(rows, "-a", "-b")
        self._ledger.check("rows", same, rows.texts["id"])
        done = {*rows.texts["pair_id"], *rejected}
        self._ledger.check("complete", (pair_id in done for pair_id in ids), ids)

    def _check_persons(self, split: str, rows: Rows) -> None:
        check, ids = self._ledger, rows.texts["id"]
        part = (rows.direction == rows.user_direction * (rows.direction != 0)).all(axis=1)
        check.check("part", part & rows.direction.any(axis=1), ids)
        users = [user[:-2] for user in rows.texts["user_id"]]
        directions = [direction.tobytes() for direction in rows.sign * rows.user_direction]
        check.check_constant("user", users, directions, ids)
        # Each split asks a model again, and no server promises the same text twice.
        where = split if self._build.config["portrait"] == "model" else ""
        portraits = map(hash, rows.texts["Demographic Information"])
        check.check_constant("portrait", ((where, user) for user in rows.texts["user_id"]), portraits, ids)
        number = Counter(user for user, _ in {*zip(users, rows.texts["pair_id"], strict=True)})
        check.check("user_pairs", rows.user_pairs == [number[user] for user in users], ids)
        check.check("profile", map(str.__eq__, rows.texts["profile"], self._profiles(rows.direction)), ids)

    def _profiles(self, directions: Levels) -> Iterator[str]:
        labels = [{1: d["positive"]["label"], -1: d["negative"]["label"]} for d in self._build.dimensions]
        for direction in directions:
            yield ", ".join(labels[d][int(direction[d])] for d in np.flatnonzero(direction))

    def _check_mirror(self, rows: Rows) -> None:
        first, second = (
            {pair_id: row for row, pair_id in enumerate(rows.texts["pair_id"]) if rows.mirrored[row] == side}
            for side in (False, True)
        )
        has_two = self._build.config["mirror"] & (rows.texts["kind"] != "restraint")
        wanted = zip(rows.texts["pair_id"], has_two, strict=True)
        kept = np.array([pair_id in first and (pair_id in second) == two for pair_id, two in wanted], dtype=bool)
        kept &= len(kept) == len(first) + len(second)
        both = [pair_id for pair_id in first if pair_id in second]
        images = np.array([second[pair_id] for pair_id in both], dtype=np.int64)
        kept[images] &= _are_mirrored(rows, np.array([first[pair_id] for pair_id in both], dtype=np.int64), images)
        self._ledger.check("mirror", kept, rows.texts["id"])

    def _check_histories(self, rows: Rows, pairs: Pairs) -> None:
        covered = np.zeros(rows.direction.shape, dtype=bool)
        near = np.zeros(len(rows.mirrored), dtype=np.int64)
        for items in (rows.ugc, rows.pair):
            near += self._check_items(rows, items, pairs)
            shown = items.direction == rows.direction[items.row]
            rank = np.arange(len(items.row)) - np.searchsorted(items.row, items.row)
            for place in range(int(rank.max(initial=-1)) + 1):
                covered[items.row[rank == place]] |= shown[rank == place]
        active = rows.direction != 0
        support = (covered & active).sum(axis=1) / active.sum(axis=1)
        enough = rows.support >= self._build.config["history"]["min_support"]
        enough |= rows.texts["kind"] == "restraint"
        self._ledger.check("support", (np.abs(support - rows.support) < 1e-9) & enough, rows.texts["id"])
        self._ledger.check("repeats", self._have_no_repeats(rows), rows.texts["id"])
        self._check_sizes(rows, near, pairs)

    def _check_items(self, rows: Rows, items: Items, pairs: Pairs) -> Numbers:
        """Check each item against the pair of the same user and post. Return how many near pairs each row has."""
        texts, ids = pairs.texts, rows.texts["id"][items.row]
        places = {key: place for place, key in enumerate(zip(texts["user_id"], texts["prompt"], strict=True))}
        users = (user[:-2] for user in rows.texts["user_id"][items.row])
        source = np.array([places.get(key, -1) for key in zip(users, items.prompt, strict=True)], dtype=np.int64)
        sign, mirrored = rows.sign[items.row], rows.mirrored[items.row]
        chosen, rejected = texts["chosen"][source], texts["rejected"][source]
        same = (source >= 0) & (texts["pair_id"][source] != rows.texts["pair_id"][items.row])
        same &= items.chosen == np.where(mirrored, rejected, chosen)
        if items.rejected is not None:
            same &= items.rejected == np.where(mirrored, chosen, rejected)
        same &= (items.direction == sign * pairs.levels["direction"][source]).all(axis=1)
        self._ledger.check("history", same, ids)
        kinds = texts["kind"][source]
        fits = (kinds == "opposite") | ((kinds == "near") & (items.rejected is not None))
        self._ledger.check("items", (source < 0) | fits, ids)
        opposed = (items.direction * rows.direction[items.row] < 0).sum(axis=1)
        self._ledger.check("contradiction", opposed == 0, ids)
        shared = (hash(a) in self._shared or hash(b) in self._shared for a, b in zip(chosen, rejected, strict=True))
        self._ledger.check("replies", (not flag for flag in shared), ids)
        return np.bincount(items.row[kinds == "near"], minlength=len(rows.mirrored))

    def _have_no_repeats(self, rows: Rows) -> Iterator[bool]:
        posts = [[prompt] for prompt in rows.texts["prompt"]]
        replies = [[chosen, other] for chosen, other in zip(rows.texts["chosen"], rows.texts["rejected"], strict=True)]
        for items in (rows.ugc, rows.pair):
            for place, row in enumerate(items.row):
                posts[row].append(items.prompt[place])
                replies[row].append(items.chosen[place])
                if items.rejected is not None:
                    replies[row].append(items.rejected[place])
        both = zip(posts, replies, strict=True)
        return (len({*post}) == len(post) and len({*reply}) == len(reply) for post, reply in both)

    def _check_sizes(self, rows: Rows, near: Numbers, pairs: Pairs) -> None:
        """Check how many items a row has of those that it could have, and how many are comments."""
        history, least = self._build.config["history"], self._build.config["users"]["min_items"]
        size = history["ugc"] + history["pair"]
        usable: Counter[tuple[str, str]] = Counter()
        replies: dict[str, list[int]] = {}
        columns = (pairs.texts[name] for name in ("user_id", "kind", "chosen", "rejected"))
        for user, kind, *two in zip(*columns, strict=True):
            hashes = [*map(hash, two)]
            replies.setdefault(user, []).extend(hashes)
            usable[user, kind] += self._shared.isdisjoint(hashes)
        comments, preferences = (np.bincount(items.row, minlength=len(near)) for items in (rows.ugc, rows.pair))
        number = comments + preferences
        kept = number >= least
        kept &= comments == np.minimum(number * history["ugc"] // max(size, 1), number - near)
        for row, (user, kind) in enumerate(zip(rows.texts["user_id"], rows.texts["kind"], strict=True)):
            opposite, nearby = (usable[user[:-2], one] - (kind == one) for one in ("opposite", "near"))
            # Near pairs are no comments.
            most = min(size, opposite + min(nearby, history["pair"]))
            # A user with equal replies may have to leave items out.
            has_repeats = len({*replies[user[:-2]]}) < len(replies[user[:-2]])
            kept[row] &= number[row] <= most if has_repeats else number[row] == most
        self._ledger.check("sizes", kept, rows.texts["id"])

    def _check_places(self, split: str, rows: Rows) -> None:
        """Check in which splits, and for whom, posts and replies are."""
        check, ids, prompts = self._ledger, rows.texts["id"], [*map(hash, rows.texts["prompt"])]
        check.check_constant("posts", prompts, [split] * len(prompts), ids)
        check.check_constant("posts", rows.texts["post_id"], [split] * len(prompts), ids)
        replies = zip(rows.texts["chosen"], rows.texts["rejected"], strict=True)
        check.check("replies", (self._shared.isdisjoint(map(hash, two)) for two in replies), ids)
        is_restraint = rows.texts["kind"] == "restraint"
        check.check_constant("impersonal", prompts, is_restraint.tolist(), ids)
        own = [hash((user[:-2], prompt)) for user, prompt in zip(rows.texts["user_id"], prompts, strict=True)]
        check.check_constant("own_posts", own, rows.texts["pair_id"], ids)


def _seen(rows: Rows, own: Any, opposite: Any) -> Texts:
    """Return what each row has: `own`, or `opposite` if it is mirrored."""
    seen: Texts = np.where(rows.mirrored, opposite, own).astype(object)
    return seen


def _are_mirrored(rows: Rows, first: Numbers, second: Numbers) -> _Flags:
    """Return which of the rows `second` are the exact mirror images of the rows `first`, by their places."""
    texts, same = rows.texts, np.ones(len(first), dtype=bool)
    for column, opposite in (("chosen", "rejected"), ("rejected", "chosen"), *((name, name) for name in _SHARED)):
        same &= texts[column][first] == texts[opposite][second]
    for signed in (rows.direction, rows.user_direction, rows.margin):
        same &= _are_equal(signed[first], -signed[second])
    for unsigned in (rows.user_pairs, rows.support, rows.verified):
        same &= _are_equal(unsigned[first, None], unsigned[second, None])
    same &= _are_equal(rows.quality[first], rows.quality[second, ::-1])
    for items in (rows.ugc, rows.pair):
        begin, end = (np.searchsorted(items.row, np.arange(len(rows.mirrored)), side) for side in _SIDES)
        spans = zip(begin[first], end[first], begin[second], end[second], strict=True)
        # There is no span in a shard without mirrored rows.
        same &= np.array([_items_mirrored(items, slice(a, b), slice(c, d)) for a, b, c, d in spans], dtype=bool)
    return same


def _items_mirrored(items: Items, first: slice, second: slice) -> bool:
    """Return whether two histories have the same items in the same order, seen from opposite sides."""
    posts = np.array_equal(items.prompt[first], items.prompt[second])
    signs = np.array_equal(items.direction[first], -items.direction[second])
    if items.rejected is None:
        return posts and signs
    return posts and signs and np.array_equal(items.chosen[first], items.rejected[second])


def _are_equal(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> _Flags:
    """Return which rows of two arrays, shape (N, M), are equal; null (NaN) equals null."""
    equal: _Flags = ((a == b) | ((a != a) & (b != b))).all(axis=1)
    return equal
