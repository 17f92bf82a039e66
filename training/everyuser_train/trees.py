"""Token sequences that begin alike, laid out as trees: a prefix that several share is computed once.

A tree is one row of a batch. Its attention mask lets each token see its ancestors only, so that every sequence has
the log-probabilities that it has alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from everyuser_train.score import Encoded, IntArray

BoolArray = npt.NDArray[np.bool_]


class Tree(NamedTuple):
    """The N distinct tokens of some sequences, without the last token of each, which predicts nothing.

    The tokens that predict a token of a reply are the last `kept`, so that a batch needs logits of its last columns
    only. M is the number of tokens of all replies.
    """

    members: IntArray
    """Numbers of the sequences."""
    ids: IntArray
    """Tokens, (N,)."""
    positions: IntArray
    """Positions of the tokens in their sequences, (N,)."""
    visible: BoolArray
    """Row k has the tokens that token k sees: its ancestors and itself, (N, N)."""
    kept: int
    predictors: IntArray
    """Place of the token that predicts each token of a reply, (M,)."""
    targets: IntArray
    """The tokens of the replies, (M,)."""
    owners: IntArray
    """Place in `members` of each token of a reply, (M,)."""


class Group(NamedTuple):
    """Numbers of sequences that share a tree, in lexicographic order of their tokens, and the tree's size in tokens."""

    members: list[int]
    size: int


def group(encoded: Sequence[Encoded], longest: int, worth: int) -> list[Group]:
    """Return groups of sequences, each to become a tree.

    Two sequences share a tree if this spares work. Sharing s tokens spares s passes through the weights. It costs
    attention between tokens that do not see each other, which is computed and masked.

    Args:
        encoded: Prompts and replies.
        longest: Most tokens of a tree of several sequences.
        worth: Number of pairs of tokens whose attention costs as much as one token's pass through the weights. With 0,
            each sequence is a tree.
    """
    # In this order, no earlier sequence has a longer prefix in common with a sequence than the one before it.
    order = sorted(range(len(encoded)), key=lambda number: encoded[number].ids.astype(">i4").tobytes())
    groups: list[Group] = []
    before = np.empty(0, np.int32)
    for number in order:
        inputs = encoded[number].ids[:-1]
        shared = _common(before, inputs)
        more = len(inputs) - shared
        members, size = groups[-1] if groups else ([], 0)
        if members and size + more <= longest and 2 * size * more < worth * shared:
            groups[-1] = Group([*members, number], size + more)
        else:
            groups.append(Group([number], len(inputs)))
        before = inputs
    return groups


def grow(encoded: Sequence[Encoded], members: Sequence[int]) -> Tree:
    """Return the tree of a group's sequences."""
    entries = [encoded[number] for number in members]
    ids: list[npt.NDArray[np.int32]] = []
    # Of each sequence: the number of its tokens that earlier ones have, and its path, the places of all its tokens.
    starts, paths = [], [np.empty(0, np.int64)]
    before, size = np.empty(0, np.int32), 0
    for entry in entries:
        inputs = entry.ids[:-1]
        starts.append(_common(before, inputs))
        ids.append(inputs[starts[-1] :])
        paths.append(np.concatenate([paths[-1][: starts[-1]], np.arange(size, size + len(ids[-1]))]))
        before, size = inputs, size + len(ids[-1])
    del paths[0]
    predictors = np.concatenate([path[entry.prompt - 1 :] for entry, path in zip(entries, paths, strict=True)])
    predicts = np.isin(np.arange(size), predictors)
    # Any order of the tokens will do, since positions and mask say what precedes what.
    place = np.empty(size, np.int64)
    place[np.argsort(predicts, kind="stable")] = np.arange(size)
    tokens, positions, visible = np.empty(size, np.int64), np.empty(size, np.int64), np.zeros((size, size), bool)
    tokens[place] = np.concatenate(ids)
    for start, path in zip(starts, (place[path] for path in paths), strict=True):
        positions[path] = np.arange(len(path))
        visible[np.ix_(path[start:], path)] = np.tri(len(path) - start, len(path), start, dtype=bool)
    return Tree(
        members=np.array(members, dtype=np.int64),
        ids=tokens,
        positions=positions,
        visible=visible,
        kept=int(predicts.sum()),
        predictors=place[predictors],
        targets=np.concatenate([entry.ids[entry.prompt :] for entry in entries]).astype(np.int64),
        owners=np.repeat(np.arange(len(entries)), [entry.reply for entry in entries]),
    )


def _common(first: npt.NDArray[np.int32], second: npt.NDArray[np.int32]) -> int:
    """Return the number of tokens with which both sequences begin."""
    shorter = min(len(first), len(second))
    different = np.flatnonzero(first[:shorter] != second[:shorter])
    return int(different[0]) if len(different) else shorter
