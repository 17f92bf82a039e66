"""Accumulators: counts in bounded memory whose sums do not depend on the order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.report.texts import Hashes, Integers
from schemas.report import Histogram

_BINS = 30
"""Most bins of a histogram."""
_SHOWN = 0.995
"""Smallest share of the values within the edges of a histogram."""


class Distribution:
    """Numbers from 0, rounded to 1 / `steps`. Those above `limit` count there, except in mean and largest."""

    def __init__(self, steps: int = 1, limit: int = 1 << 14) -> None:
        self._steps = steps
        self._counts: Integers = np.zeros(limit * steps + 1, dtype=np.int64)
        self._sum = 0
        self._largest = 0

    def add(self, values: npt.NDArray[np.int64] | npt.NDArray[np.float64]) -> None:
        """Count values of any shape."""
        steps = np.rint(np.asarray(values) * self._steps).astype(np.int64).ravel()
        if not len(steps):
            return
        counts = np.bincount(np.minimum(steps, len(self._counts) - 1))
        self._counts[: len(counts)] += counts
        self._sum += int(steps.sum())
        self._largest = max(self._largest, int(steps.max()))

    def merge(self, other: Distribution) -> None:
        """Add the counts of another."""
        self._counts += other._counts
        self._sum += other._sum
        self._largest = max(self._largest, other._largest)

    def result(self, lowest: float = 0.0, highest: float | None = None) -> Histogram | None:
        """Return the histogram from `lowest` to `highest` or the data's end; None where nothing was counted."""
        number = int(self._counts.sum())
        if not number:
            return None
        below = np.cumsum(self._counts)

        def quantile(share: float) -> float:
            return float(np.searchsorted(below, share * number - 1e-9) / self._steps)

        top = highest or max(quantile(_SHOWN), lowest) + 1 / self._steps
        width = _bin_width(top - lowest, 1 / self._steps)
        bins = max(1, int(np.ceil((top - lowest) / width - 1e-9)))
        edges = [round(lowest + k * width, 9) for k in range(bins + 1)]
        borders = np.rint(np.array(edges[:-1]) * self._steps).astype(np.int64)
        borders[0] = 0
        return Histogram(
            edges=tuple(edges),
            counts=tuple(np.add.reduceat(self._counts, borders).tolist()),
            mean=self._sum / number / self._steps,
            median=quantile(0.5),
            p95=quantile(0.95),
            largest=self._largest / self._steps,
        )


def _bin_width(span: float, smallest: float) -> float:
    """Return the smallest of 1, 2, 5, 10, 20 ... times `smallest` that covers `span` with few bins."""
    width = smallest
    while True:
        for factor in (1, 2, 5):
            if width * factor * _BINS >= span - 1e-9:
                return width * factor
        width *= 10


class HashCounts:
    """Counts of many things by hash: eight bytes for a thing and eight for its count.

    Of more than `limit` things among `expected` occurrences only those with small hashes are kept, the same in every
    process, and figures are scaled up.
    """

    def __init__(self, expected: int, limit: int) -> None:
        self.share = min(1.0, limit / max(1, expected))
        self._below = np.uint64(min(int(self.share * 2.0**64), 2**64 - 1))
        self._hashes: Hashes = np.empty(0, dtype=np.uint64)
        self._counts: Integers = np.empty(0, dtype=np.int64)
        self._new: list[tuple[Hashes, Integers]] = []

    def add(self, hashes: Hashes) -> None:
        """Count one occurrence of each hash."""
        kept = hashes if self.share == 1 else hashes[hashes < self._below]
        self._append(kept, np.ones(len(kept), dtype=np.int64))

    def merge(self, other: HashCounts) -> None:
        """Add the counts of another."""
        other.settle()
        self._append(other._hashes, other._counts)

    def _append(self, hashes: Hashes, counts: Integers) -> None:
        self._new.append((hashes, counts))
        # Sort once as many are new as known: the cost stays proportional to the number of hashes.
        if sum(len(new) for new, _ in self._new) > max(_PENDING, len(self._hashes)):
            self.settle()

    def __getstate__(self) -> dict[str, Any]:
        """Reduce the state before it is sent to another process."""
        self.settle()
        return self.__dict__

    def settle(self) -> None:
        """Merge the hashes that were added last."""
        if not self._new:
            return
        hashes = np.concatenate([self._hashes, *(new for new, _ in self._new)])
        counts = np.concatenate([self._counts, *(new for _, new in self._new)])
        self._new = []
        order = np.argsort(hashes)
        hashes, counts = hashes[order], counts[order]
        first = np.flatnonzero(np.diff(hashes, prepend=~hashes[:1]))
        self._hashes = hashes[first]
        self._counts = np.add.reduceat(counts, first) if len(first) else counts

    @property
    def distinct(self) -> int:
        """Return the number of distinct things."""
        self.settle()
        return self._scaled(len(self._hashes))

    @property
    def repeats(self) -> int:
        """Return the occurrences without the first of each thing."""
        self.settle()
        return self._scaled(int(self._counts.sum()) - len(self._hashes))

    def _scaled(self, kept: int) -> int:
        return round(kept / self.share)

    @staticmethod
    def across(several: Sequence[HashCounts]) -> tuple[int, int]:
        """Return the distinct things of all, and how many occur in two or more; all must keep the same share."""
        for one in several:
            one.settle()
        _, counts = np.unique(np.concatenate([one._hashes for one in several]), return_counts=True)
        return several[0]._scaled(len(counts)), several[0]._scaled(int((counts > 1).sum()))


_PENDING = 1 << 20
"""Most hashes that wait for a merge."""


class RowSample:
    """Sample of rows: the places of the `count` lowest keys."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._keys: Hashes = np.empty(0, dtype=np.uint64)
        self._places: Integers = np.empty(0, dtype=np.int64)

    def add(self, keys: Hashes, places: Integers) -> None:
        """Add rows."""
        self._keys = np.concatenate([self._keys, keys])
        self._places = np.concatenate([self._places, places])
        if len(self._keys) > self._count:
            lowest = np.lexsort((self._places, self._keys))[: self._count]
            self._keys, self._places = self._keys[lowest], self._places[lowest]

    def merge(self, other: RowSample) -> None:
        """Add the rows of another sample."""
        self.add(other._keys, other._places)

    def result(self) -> list[int]:
        """Return the places, ordered by key."""
        places: list[int] = self._places[np.lexsort((self._places, self._keys))].tolist()
        return places


class TextSample:
    """Sample of texts: the `count` lowest keys among `expected`, within `budget` bytes.

    A text that is cut off in a part would be cut off in the whole, so parts may be merged in any order. Texts above a
    twentieth of the budget are left out, so that no single text dominates.
    """

    def __init__(self, count: int, budget: int, expected: int) -> None:
        self._count = count
        self._budget = budget
        self._texts: dict[int, str] = {}
        self._bytes = 0
        # A bound that admits about twice the wanted number, so that few texts are ever held.
        self._bound = min(1 << 64, ((2 * count + 64) << 64) // max(1, expected)) if count else 0

    def admits(self, keys: Hashes) -> npt.NDArray[np.bool_]:
        """Return whether a text of each key would be kept, shape of `keys`."""
        return keys <= np.uint64(self._bound - 1) if self._bound else np.zeros(len(keys), dtype=bool)

    def add(self, key: int, text: str) -> None:
        """Add a text."""
        size = len(text.encode())
        if key < self._bound and size <= self._budget // 20:
            self._texts[key] = text
            self._bytes += size
            if len(self._texts) > 2 * self._count or self._bytes > 2 * self._budget:
                self._cut()

    def merge(self, other: TextSample) -> None:
        """Add the texts of another sample."""
        self._texts.update(other._texts)
        self._bound = min(self._bound, other._bound)
        self._cut()

    def result(self) -> list[str]:
        """Return the texts, ordered by key."""
        self._cut()
        return [*self._texts.values()]

    def __getstate__(self) -> dict[str, Any]:
        """Reduce the state before it is sent to another process."""
        self._cut()
        return self.__dict__

    def _cut(self) -> None:
        kept, self._bytes = sorted(self._texts)[: self._count], 0
        for position, key in enumerate(kept):
            size = len(self._texts[key].encode())
            if self._bytes + size > self._budget:
                kept, self._bound = kept[:position], key
                break
            self._bytes += size
        if kept and len(kept) == self._count:
            self._bound = min(self._bound, kept[-1] + 1)
        self._texts = {key: self._texts[key] for key in kept}


class Excerpts:
    """Texts of the `count` lowest keys; of equal keys the text that sorts first."""

    def __init__(self, count: int = 10) -> None:
        self._count = count
        self._texts: dict[int, str] = {}

    def admits(self, keys: Hashes) -> npt.NDArray[np.bool_]:
        """Return whether a text of each key would be kept, shape of `keys`."""
        if len(self._texts) < self._count:
            return np.ones(len(keys), dtype=bool)
        return keys <= np.uint64(max(self._texts))

    def add(self, key: int, text: str) -> None:
        """Add a text."""
        self._texts[key] = min(text, self._texts.get(key, text))
        if len(self._texts) > self._count:
            del self._texts[max(self._texts)]

    def merge(self, other: Excerpts) -> None:
        """Add the texts of another."""
        for key, text in other._texts.items():
            self.add(key, text)

    def result(self) -> tuple[str, ...]:
        """Return the texts, ordered by key."""
        return tuple(self._texts[key] for key in sorted(self._texts))
