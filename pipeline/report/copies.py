"""Replies that repeat the description of the person: labels of the direction, or parts of the portrait."""

from __future__ import annotations

import re
from collections import defaultdict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.report.source import Batch
from pipeline.report.tallies import Excerpts
from pipeline.report.texts import Grams, Hashes, Integers, Words, mix, words_of
from preference_space.space import PreferenceSpace
from schemas.report import CopyFigures

_RUN = 6
_EXAMPLES = 5
_CONTEXT = 60
"""Characters shown on either side of a label."""
_LONGEST = 300
"""Most characters shown of a run."""


class CopyTally:
    """Pairs with a reply that holds a label of its person, or a run of six words of a portrait."""

    def __init__(self, space: PreferenceSpace) -> None:
        self._labels = LabelFinder(space)
        self._pairs = 0
        self._with_label = 0
        self._with_portrait = 0
        self._label_texts = Excerpts(_EXAMPLES)
        self._portrait_texts = Excerpts(_EXAMPLES)

    def add(self, batch: Batch) -> None:
        """Count a batch's pairs."""
        number = len(batch.pairs)
        self._pairs += number
        words = batch.reply_words
        # The rejected reply was written for the opposite person; in restraint pairs for the same one.
        own = batch.directions[batch.pairs]
        is_restraint = pc.equal(batch.table["kind"], "restraint").to_numpy()[batch.pairs, None]
        first, last, dimensions, levels = self._labels.find(words)
        replies = words.texts[first]
        held = np.concatenate([own, np.where(is_restraint, own, -own)])[replies, dimensions] == levels
        first, last, replies = first[held], last[held], replies[held]
        self._with_label += len(np.unique(replies % max(1, number)))
        excerpts = (words.starts[first] - _CONTEXT, words.ends[last] + _CONTEXT)
        add_excerpts(self._label_texts, batch.reply_hashes[replies], batch.replies, replies, *excerpts)

        grams = words.grams(_RUN)
        pairs = words.texts[grams.first] % max(1, number)
        copied = np.flatnonzero(np.isin(grams.hashes ^ mix(pairs.astype(np.uint64)), self._portrait_runs(batch)))
        self._with_portrait += len(np.unique(pairs[copied]))
        add_runs(self._portrait_texts, batch.replies, words, grams, copied, _RUN)

    def _portrait_runs(self, batch: Batch) -> Hashes:
        """Return the runs of both portraits of each pair, hashed together with the pair."""
        grams = batch.portrait_words.grams(_RUN)
        pairs = batch.pair_of[batch.portrait_words.texts[grams.first]]
        known = pairs >= 0
        return grams.hashes[known] ^ mix(pairs[known].astype(np.uint64))

    def merge(self, other: CopyTally) -> None:
        """Add the counts of another tally."""
        self._pairs += other._pairs
        self._with_label += other._with_label
        self._with_portrait += other._with_portrait
        self._label_texts.merge(other._label_texts)
        self._portrait_texts.merge(other._portrait_texts)

    def result(self) -> CopyFigures:
        """Return the figures."""
        return CopyFigures(
            label=self._with_label / max(1, self._pairs),
            portrait=self._with_portrait / max(1, self._pairs),
            examples=(*self._label_texts.result(), *self._portrait_texts.result()),
        )


class LabelFinder:
    """Finder of a space's labels in texts, without the explanations in brackets.

    Labels of one word ("Older") are left out, since they occur in replies that copy nothing.
    """

    def __init__(self, space: PreferenceSpace) -> None:
        poles = [(d, level) for d in range(len(space)) for level in (1, -1)]
        labels = [re.sub(r"\(.*", "", space.dimensions[d].pole(level).label) for d, level in poles]
        words = words_of(pa.array(labels, pa.string()))
        self._by_first: defaultdict[int, list[tuple[Hashes, int, int]]] = defaultdict(list)
        for number, (d, level) in enumerate(poles):
            label = words.hashes[words.texts == number]
            if len(label) > 1:
                self._by_first[int(label[0])].append((label, d, level))
        self._first = np.array(sorted(self._by_first), dtype=np.uint64)

    def find(self, words: Words) -> tuple[Integers, Integers, Integers, Integers]:
        """Return the first and last word, the dimension and the level of each label found, four arrays of one shape."""
        found = [np.zeros((4, 0), dtype=np.int64)]
        # Few words begin a label, so few places are compared in full.
        begins = np.flatnonzero(np.isin(words.hashes, self._first))
        heads = words.hashes[begins]
        for head in np.unique(heads):
            places = begins[heads == head]
            for label, d, level in self._by_first[int(head)]:
                last = places + len(label) - 1
                fits = last < len(words.hashes)
                fits[fits] = words.texts[last[fits]] == words.texts[places[fits]]
                for k in range(1, len(label)):
                    fits[fits] = words.hashes[places[fits] + k] == label[k]
                hits = int(fits.sum())
                found.append(np.stack([places[fits], last[fits], np.full(hits, d), np.full(hits, level)]))
        first, last, dimensions, levels = np.concatenate(found, axis=1)
        return first, last, dimensions, levels


def add_excerpts(
    excerpts: Excerpts, keys: Hashes, texts: pa.Array, which: Integers, starts: Integers, ends: Integers
) -> None:
    """Add pieces of texts to a sample.

    Args:
        excerpts: The sample.
        keys: Key of each of the K pieces, shape (K,).
        texts: The texts.
        which: Number of the text of each piece, shape (K,).
        starts: First character of each piece, shape (K,).
        ends: End of each piece, shape (K,).
    """
    for k in np.flatnonzero(excerpts.admits(keys)):
        piece = texts[int(which[k])].as_py()[max(0, int(starts[k])) : int(ends[k])]
        excerpts.add(int(keys[k]), " ".join(piece.split()))


def add_runs(excerpts: Excerpts, texts: pa.Array, words: Words, grams: Grams, found: Integers, size: int) -> None:
    """Add the texts of runs of words to a sample. Adjacent runs become one.

    Args:
        excerpts: The sample.
        texts: The texts.
        words: The words of the texts.
        grams: All runs of `size` words.
        found: Places of the wanted runs among `grams`, in increasing order.
        size: Words in a run.
    """
    first = grams.first[found]
    owners = words.texts[first]
    begins = np.flatnonzero(np.diff(first + owners, prepend=-1) != 1)
    tails = np.append(begins[1:], len(first))[: len(begins)] - 1
    starts, ends = words.starts[first[begins]], words.ends[first[tails] + size - 1]
    ends = np.minimum(ends, starts + _LONGEST)
    add_excerpts(excerpts, grams.hashes[found[begins]], texts, owners[begins], starts, ends)
