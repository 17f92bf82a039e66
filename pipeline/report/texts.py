"""Many texts at once, as arrays: their hashes, and their words as hashes, so that n-grams are sums of numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple
from unicodedata import category

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.reading.text import count_words

Hashes = npt.NDArray[np.uint64]
Integers = npt.NDArray[np.int64]

_BLOCK = 1 << 17
"""Characters that are looked at together: their numbers fit a processor's cache."""


class Grams(NamedTuple):
    """Runs of words: the hash of each, and where it begins among the words; both of shape (G,)."""

    hashes: Hashes
    first: Integers


class Words(NamedTuple):
    """The words of T texts, W of them in all, as `pipeline.reading.text.count_words` counts them, upper or lower case.

    `starts` and `ends` are positions in the text that `texts` names.
    """

    hashes: Hashes
    texts: Integers
    starts: Integers
    ends: Integers
    counts: Integers
    """Words of each text, shape (T,)."""

    def grams(self, size: int) -> Grams:
        """All runs of `size` words within a text."""
        number = max(0, len(self.hashes) - size + 1)
        total = np.zeros(number, dtype=np.uint64)
        for k, factor in enumerate(_factors(size)):
            total += self.hashes[k : number + k] * factor
        first = np.flatnonzero(self.texts[:number] == self.texts[size - 1 :][:number])
        return Grams(mix(total[first]), first)


def hash_texts(texts: pa.Array | pa.ChunkedArray) -> Hashes:
    """A 64-bit hash of each text, shape (T,)."""
    digests = b"".join(hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts.to_pylist())
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64, copy=False)


def mix(numbers: Hashes) -> Hashes:
    """A bijection that leaves no trace of its input's order (the finaliser of SplitMix64)."""
    mixed = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    result: Hashes = mixed ^ (mixed >> np.uint64(31))
    return result


def salted(hashes: Hashes, salt: int) -> Hashes:
    """Other hashes of the same things: for another purpose, or another seed."""
    return mix(hashes + mix(np.array([salt % (1 << 64)], dtype=np.uint64)))


def characters_of(texts: pa.Array | pa.ChunkedArray) -> Integers:
    """Characters of each text, shape (T,)."""
    return _numbers(pc.utf8_length(texts))


def words_of(texts: pa.Array | pa.ChunkedArray) -> Words:
    """The words of each text, hashed. Upper and lower case are the same."""
    empty = np.empty(0, dtype=np.int64)
    blocks = [(empty.astype(np.uint64), empty, empty, empty), *(_words(*block) for block in _blocks(texts))]
    hashes, owners, starts, ends = (np.concatenate(column) for column in zip(*blocks, strict=True))
    return Words(hashes, owners, starts, ends, np.bincount(owners, minlength=len(texts)))


def word_counts(texts: pa.Array | pa.ChunkedArray) -> Integers:
    """Words of each text, shape (T,): `words_of` without the hashes."""
    counts = np.zeros(len(texts), dtype=np.int64)
    for block, first, borders in _blocks(texts):
        starts, _ = _edges(_alphabet().kinds[block])
        number = np.bincount(np.searchsorted(borders, starts, side="right") - 1, minlength=len(borders) - 1)
        counts[first : first + len(number)] = number
    return counts


class _Alphabet(NamedTuple):
    """Of every code point: what it is to a word, and the number that stands for it, whatever its case."""

    kinds: npt.NDArray[np.uint8]
    numbers: Hashes


_LETTER, _WORD, _MARK, _REST = 1, 2, 3, 4
"""A part of words; a word by itself (of languages without spaces); what belongs to either before it; to the latter."""


@lru_cache(maxsize=1)
def _alphabet() -> _Alphabet:
    kinds = np.zeros(0x110000, dtype=np.uint8)
    folded = np.arange(0x110000, dtype=np.uint64)
    for point in range(0x110000):
        character = chr(point)
        if character.isalnum() or character == "_":
            # What a word is, is said in one place: twice such a character is one word, or two.
            kinds[point] = count_words(character * 2)
            lower = character.casefold()
            folded[point] = ord(lower if len(lower) == 1 else character)
        elif category(character).startswith("M") or character in "\u200c\u200d":
            kinds[point] = _MARK
    return _Alphabet(kinds, mix(folded + np.uint64(1)))


@lru_cache(maxsize=64)
def _factors(size: int) -> Hashes:
    """Odd numbers by which the members of a sequence are multiplied, so that their sum depends on their order."""
    return mix(np.arange(1, size + 1, dtype=np.uint64)) | np.uint64(1)


def _blocks(texts: pa.Array | pa.ChunkedArray) -> Iterator[tuple[npt.NDArray[np.uint32], int, Integers]]:
    """Code points of texts that stand side by side, a line break after each; the first text's number; their borders.

    A text that begins at `borders[k]` ends before the line break at `borders[k + 1] - 1`.
    """
    ends = np.cumsum(characters_of(texts) + 1)
    listed = texts.to_pylist()
    first = 0
    while first < len(listed):
        before = int(ends[first - 1]) if first else 0
        last = max(first + 1, int(np.searchsorted(ends, before + _BLOCK)))
        joined = "\n".join([*listed[first:last], ""])
        points = np.frombuffer(joined.encode("utf-32-le"), dtype=np.uint32)
        yield points, first, np.concatenate([[0], ends[first:last] - before])
        first = last


def _edges(kinds: npt.NDArray[np.uint8]) -> tuple[Integers, Integers]:
    """Where words begin, and where they end. A block ends with a line break."""
    kinds = _with_marks(kinds)
    letters = kinds == _LETTER
    starts, ends = letters.copy(), letters.copy()
    starts[1:] &= ~letters[:-1]
    ends[:-1] &= ~letters[1:]
    alone, rest = kinds == _WORD, kinds == _REST
    ends |= alone | rest
    ends[:-1] &= ~rest[1:]
    return np.flatnonzero(starts | alone), np.flatnonzero(ends) + 1


def _with_marks(kinds: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Kinds in which each mark is what stands before it: a part of that word, or nothing."""
    marks = kinds == _MARK
    if not marks.any():
        return kinds
    before = kinds[np.maximum.accumulate(np.where(marks, 0, np.arange(len(kinds))))]
    of_mark = np.zeros(5, dtype=np.uint8)
    of_mark[_LETTER], of_mark[_WORD] = _LETTER, _REST
    return np.where(marks, of_mark[before], kinds)


def _words(block: npt.NDArray[np.uint32], first: int, borders: Integers) -> tuple[Any, ...]:
    alphabet = _alphabet()
    starts, ends = _edges(alphabet.kinds[block])
    lengths = ends - starts
    offsets = np.cumsum(lengths) - lengths
    place = np.arange(lengths.sum()) - np.repeat(offsets, lengths)
    numbers = alphabet.numbers[block[place + np.repeat(starts, lengths)]]
    numbers *= _factors(64)[place & 63]
    hashes = mix(np.add.reduceat(numbers, offsets)) if len(offsets) else np.empty(0, dtype=np.uint64)
    owners = np.searchsorted(borders, starts, side="right") - 1
    return hashes, owners + first, starts - borders[owners], ends - borders[owners]


def _numbers(array: Any) -> Integers:
    numbers: Integers = array.to_numpy().astype(np.int64)
    return numbers
