"""Hashes of the words of many texts as arrays, so that n-grams are sums of numbers."""

from __future__ import annotations

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
"""Characters processed together: their numbers fit a core's cache."""


class Grams(NamedTuple):
    """Runs of words: the hash and the first word of each, both of shape (G,)."""

    hashes: Hashes
    first: Integers


class Words(NamedTuple):
    """The W words of T texts, as `pipeline.reading.text.count_words` counts them, without case.

    `starts` and `ends` are positions in the text whose number is in `texts`.
    """

    hashes: Hashes
    texts: Integers
    starts: Integers
    ends: Integers
    counts: Integers
    """Number of words of each text, shape (T,)."""

    def grams(self, size: int) -> Grams:
        """Return all runs of `size` words within a text."""
        number = max(0, len(self.hashes) - size + 1)
        total = np.zeros(number, dtype=np.uint64)
        for k, factor in enumerate(_factors(size)):
            total += self.hashes[k : number + k] * factor
        first = np.flatnonzero(self.texts[:number] == self.texts[size - 1 :][:number])
        return Grams(mix(total[first]), first)


def mix(numbers: Hashes) -> Hashes:
    """Return scrambled numbers: a bijection, the finaliser of SplitMix64."""
    mixed = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    result: Hashes = mixed ^ (mixed >> np.uint64(31))
    return result


def rehash(hashes: Hashes, salt: int) -> Hashes:
    """Return other hashes of the same things, for another purpose or seed."""
    return mix(hashes + mix(np.array([salt % (1 << 64)], dtype=np.uint64)))


def characters_of(texts: pa.Array | pa.ChunkedArray) -> Integers:
    """Return the number of characters of each text, shape (T,)."""
    return _numbers(pc.utf8_length(texts))


def words_of(texts: pa.Array | pa.ChunkedArray) -> Words:
    """Return the words of each text as hashes, without case."""
    empty = np.empty(0, dtype=np.int64)
    blocks = [(empty.astype(np.uint64), empty, empty, empty), *(_words(*block) for block in _blocks(texts))]
    hashes, owners, starts, ends = (np.concatenate(column) for column in zip(*blocks, strict=True))
    return Words(hashes, owners, starts, ends, np.bincount(owners, minlength=len(texts)))


def word_counts(texts: pa.Array | pa.ChunkedArray) -> Integers:
    """Return the number of words of each text, shape (T,)."""
    counts = np.zeros(len(texts), dtype=np.int64)
    for block, first, borders in _blocks(texts):
        starts, _ = _edges(_alphabet().kinds[block])
        number = np.bincount(np.searchsorted(borders, starts, side="right") - 1, minlength=len(borders) - 1)
        counts[first : first + len(number)] = number
    return counts


class _Alphabet(NamedTuple):
    """The role of every code point in words, and its number without case."""

    kinds: npt.NDArray[np.uint8]
    numbers: Hashes


_LETTER, _WORD, _MARK, _REST = 1, 2, 3, 4
"""Roles: part of a word; a word by itself (in languages without spaces); a mark; a mark after a word by itself."""


@lru_cache(maxsize=1)
def _alphabet() -> _Alphabet:
    kinds = np.zeros(0x110000, dtype=np.uint8)
    folded = np.arange(0x110000, dtype=np.uint64)
    for point in range(0x110000):
        character = chr(point)
        if character.isalnum() or character == "_":
            # `count_words` alone defines words: two of the character are one word or two.
            kinds[point] = count_words(character * 2)
            lower = character.casefold()
            folded[point] = ord(lower if len(lower) == 1 else character)
        elif category(character).startswith("M") or character in "\u200c\u200d":
            kinds[point] = _MARK
    return _Alphabet(kinds, mix(folded + np.uint64(1)))


@lru_cache(maxsize=64)
def _factors(size: int) -> Hashes:
    """Return odd factors for the members of a sequence, so that their sum depends on the order."""
    return mix(np.arange(1, size + 1, dtype=np.uint64)) | np.uint64(1)


def _blocks(texts: pa.Array | pa.ChunkedArray) -> Iterator[tuple[npt.NDArray[np.uint32], int, Integers]]:
    """Yield code points of consecutive texts with a line break after each, the first text's number, and the borders.

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
    """Return where words begin and end. A block ends with a line break."""
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
    """Return kinds in which each mark has the role that the character before it implies."""
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
