"""Near-duplicates: replies with a high Jaccard similarity of word trigrams, estimated by MinHash (Broder 1997)."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.report.source import Batch
from pipeline.report.texts import Hashes, Integers, mix, rehash

Signatures = npt.NDArray[np.uint16]
"""Sixteen bits of the smallest hash under each permutation, shape (N, _PERMUTATIONS)."""

THRESHOLD = 0.8

_PERMUTATIONS = 128
_GRAM = 3
_CANDIDATES = 8
"""Most replies of a split with which a reply is compared for a band: the first that share it."""
_AT_ONCE = 1 << 15


class Replies(NamedTuple):
    """N replies with signatures. A place is twice the row's place, plus one for a rejected reply."""

    keys: Hashes
    hashes: Hashes
    splits: npt.NDArray[np.uint8]
    places: Integers
    signatures: Signatures

    def take(self, which: Integers) -> Replies:
        """Return some of the replies."""
        return Replies(
            self.keys[which], self.hashes[which], self.splits[which], self.places[which], self.signatures[which]
        )


class NearPairs(NamedTuple):
    """For each of N replies the index of a similar one, or -1. Shape (N,)."""

    within: Integers
    """An earlier reply of the same split."""
    across: Integers
    """A reply of another split."""


class NearSample:
    """A sample of signatures: about `limit` of the `expected` replies.

    Replies are drawn by the smallest hash of their trigrams. Two near-duplicates share it with a probability equal to
    their similarity, and then both or neither are drawn. Independent draws would hardly ever give both.
    """

    def __init__(self, expected: int, limit: int, seed: int) -> None:
        self._limit = limit
        self._seed = seed
        self._below = min(int(limit / max(1, expected) * 2.0**64), 2**64 - 1)
        self._parts: list[Replies] = []

    def add(self, batch: Batch) -> None:
        """Add the signatures of a batch's drawn replies. Replies of less than three words have no trigram."""
        if not self._limit:
            return
        grams = batch.reply_words.grams(_GRAM)
        owners = batch.reply_words.texts[grams.first]
        first = np.flatnonzero(np.diff(owners, prepend=-1))
        if not len(first):
            return
        keys = rehash(np.minimum.reduceat(grams.hashes, first), self._seed)
        drawn = np.flatnonzero(keys <= np.uint64(self._below))
        if not len(drawn):
            return
        texts = owners[first][drawn]
        lengths = np.diff(first, append=len(owners))[drawn]
        wanted = np.repeat(np.isin(np.arange(len(first)), drawn), np.diff(first, append=len(owners)))
        pairs = len(batch.pairs)
        self._parts.append(
            Replies(
                keys=keys[drawn],
                hashes=batch.reply_hashes[texts],
                splits=np.full(len(drawn), batch.split, dtype=np.uint8),
                places=(batch.places[batch.pairs[texts % pairs]] << 1) | (texts >= pairs),
                signatures=_sign(grams.hashes[wanted], np.cumsum(lengths) - lengths),
            )
        )
        self._shrink()

    def merge(self, other: NearSample) -> None:
        """Add the signatures of another sample."""
        self._below = min(self._below, other._below)
        self._parts += other._parts
        self._shrink()

    def __getstate__(self) -> dict[str, Any]:
        """Reduce the state before it is sent to another process."""
        self._parts = [self._merged()]
        return self.__dict__

    def result(self) -> Replies:
        """Return the distinct replies of each split at their first places, ordered by split and place."""
        return self._merged()

    def _merged(self) -> Replies:
        keys = np.concatenate([np.empty(0, dtype=np.uint64), *(part.keys for part in self._parts)])
        hashes = np.concatenate([np.empty(0, dtype=np.uint64), *(part.hashes for part in self._parts)])
        splits = np.concatenate([np.empty(0, dtype=np.uint8), *(part.splits for part in self._parts)])
        places = np.concatenate([np.empty(0, dtype=np.int64), *(part.places for part in self._parts)])
        order = np.lexsort((places, hashes, splits))
        order = order[keys[order] <= np.uint64(self._below)]
        is_first = np.ones(len(order), dtype=bool)
        is_first[1:] = (np.diff(hashes[order]) != 0) | (np.diff(splits[order]) != 0)
        kept = order[is_first]
        kept = kept[np.lexsort((places[kept], splits[kept]))]
        # The signatures are the only large column, so they are copied once, after the selection.
        empty = np.empty((0, _PERMUTATIONS), dtype=np.uint16)
        signatures = np.concatenate([empty, *(part.signatures for part in self._parts)])[kept]
        return Replies(keys[kept], hashes[kept], splits[kept], places[kept], signatures)

    def _shrink(self) -> None:
        """Draw a smaller sample where many replies share the same smallest trigram."""
        if sum(len(part.keys) for part in self._parts) <= 2 * self._limit:
            return
        joined = self._merged()
        while len(joined.keys) > 2 * self._limit and self._below:
            self._below //= 2
            joined = joined.take(np.flatnonzero(joined.keys <= np.uint64(self._below)))
        self._parts = [joined]


def find_near(replies: Replies) -> NearPairs:
    """Return pairs of unequal replies with an estimated Jaccard similarity of `THRESHOLD` or more."""
    number = len(replies.keys)
    found = NearPairs(np.full(number, -1), np.full(number, -1))
    # 32 bands of four numbers. Similar replies differ in at most 25 of the 128, so they share a band and are compared.
    # Only groups of more than `_CANDIDATES` in a split lose some pairs.
    bands = np.ascontiguousarray(replies.signatures).view(np.uint64)
    splits = np.unique(replies.splits)
    for band in bands.T:
        members, groups = _group_members(band)
        # The members of a group are ordered by split.
        ranks = groups * (len(splits) + 1) + np.searchsorted(splits, replies.splits[members])
        for rank, split in enumerate(splits):
            wanted = groups * (len(splits) + 1) + rank
            first = np.searchsorted(ranks, wanted)
            size = np.searchsorted(ranks, wanted, side="right") - first
            is_own = replies.splits[members] == split
            for k in range(_CANDIDATES):
                other = members[np.minimum(first + k, len(members) - 1)]
                is_open = np.where(is_own, found.within[members], found.across[members]) < 0
                is_pair = np.where(is_own, other < members, replies.hashes[other] != replies.hashes[members])
                tried = np.flatnonzero((k < size) & is_open & is_pair)
                tried = tried[_are_similar(replies.signatures, members[tried], other[tried])]
                own = is_own[tried]
                found.within[members[tried[own]]] = other[tried[own]]
                found.across[members[tried[~own]]] = other[tried[~own]]
    return found


def _group_members(band: Hashes) -> tuple[Integers, Integers]:
    """Return the rows that share their number with another row, ordered by group, and their groups."""
    order = np.argsort(band, kind="stable")
    new = np.diff(band[order], prepend=~band[order[:1]]) != 0
    groups = np.cumsum(new) - 1
    large = np.bincount(groups)[groups] > 1 if len(groups) else new
    return order[large], groups[large]


def _are_similar(signatures: Signatures, one: Integers, other: Integers) -> npt.NDArray[np.bool_]:
    """Return whether the replies of each pair are similar, shape of `one`."""
    equal = [
        (signatures[one[at : at + _AT_ONCE]] == signatures[other[at : at + _AT_ONCE]]).sum(axis=1)
        for at in range(0, len(one), _AT_ONCE)
    ]
    similar: npt.NDArray[np.bool_] = np.concatenate([np.empty(0), *equal]) >= THRESHOLD * _PERMUTATIONS - 1e-9
    return similar


def _sign(hashes: Hashes, first: Integers) -> Signatures:
    """Return the signatures of N sets of hashes; set k begins at `first[k]`."""
    signatures = np.empty((len(first), _PERMUTATIONS), dtype=np.uint16)
    for k, (mask, factor) in enumerate(_permutations()):
        smallest = np.minimum.reduceat((hashes ^ mask) * factor, first)
        signatures[:, k] = smallest & np.uint64(0xFFFF)
    return signatures


@lru_cache(maxsize=1)
def _permutations() -> list[tuple[np.uint64, np.uint64]]:
    numbers = mix(np.arange(1000, 1000 + 2 * _PERMUTATIONS, dtype=np.uint64))
    return [*zip(numbers[0::2], numbers[1::2] | np.uint64(1), strict=True)]
