"""Threads in memory: texts in lists, levels and probabilities in arrays. Converted to and from Arrow tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from preference_space.direction import Direction
from preference_space.levels import pole_probabilities
from schemas.arrow import arrow_schema
from schemas.records import SeedPost, Thread

THREAD_SCHEMA = arrow_schema(Thread)
ROWS_PER_GROUP = 256
"""Threads in a row group. Small, as a shard reads whole groups."""


@dataclass(frozen=True)
class ThreadBatch:
    """Threads with R responses in all. Those of thread t are rows `offsets[t]` to `offsets[t + 1]`.

    Attributes:
        posts: The post of each thread, T of them.
        offsets: Shape (T + 1,).
        ids: Of the responses, as are all that follow.
        levels: Shape (R, D); 0 where there are none yet.
        probabilities: Of the positive and the negative pole, shape (R, D, 2).
        annotated: Whether a response has levels, shape (R,).
    """

    posts: Sequence[SeedPost]
    offsets: npt.NDArray[np.int64]
    ids: Sequence[str]
    texts: Sequence[str]
    levels: Direction
    probabilities: npt.NDArray[np.float32]
    annotated: npt.NDArray[np.bool_]

    def rows(self, thread: int) -> range:
        """Return the rows of a thread's responses."""
        return range(int(self.offsets[thread]), int(self.offsets[thread + 1]))

    def thread_of(self, row: int) -> int:
        """Return the thread of a response."""
        return int(np.searchsorted(self.offsets, row, side="right")) - 1

    def to_table(self) -> pa.Table:
        """Return a table of `THREAD_SCHEMA`; responses without levels have empty lists."""
        kind = THREAD_SCHEMA.field("responses").type
        # Arrow raises where 32 bits overflow; numpy would wrap around.
        offsets = pa.array(np.concatenate([[0], np.cumsum(self.annotated * self.levels.shape[1])]), pa.int32())
        numbers: dict[str, npt.NDArray[Any]] = {
            "levels": self.levels,
            "positive": self.probabilities[..., 0],
            "negative": self.probabilities[..., 1],
        }
        columns = {"id": pa.array(self.ids, pa.string()), "text": pa.array(self.texts, pa.string())}
        for name, values in numbers.items():
            flat = values[self.annotated].reshape(-1)
            columns[name] = pa.ListArray.from_arrays(offsets, flat, type=kind.value_type.field(name).type)
        fields = list(kind.value_type)
        responses = pa.StructArray.from_arrays([columns[field.name] for field in fields], fields=fields)
        arrays = {
            name: pa.array([getattr(post, name) for post in self.posts], THREAD_SCHEMA.field(name).type)
            for name in ("id", "title", "text", "topics")
        }
        arrays["responses"] = pa.ListArray.from_arrays(pa.array(self.offsets, pa.int32()), responses, type=kind)
        return pa.table(arrays, schema=THREAD_SCHEMA)

    @classmethod
    def from_table(cls, table: pa.Table, dimensions: int) -> ThreadBatch:
        """Return the threads of a table. Levels without probabilities count as certain."""
        posts = [
            SeedPost(id=identity, title=title, text=text, topics=tuple(topics))
            for identity, title, text, topics in zip(
                *(table[name].to_pylist() for name in ("id", "title", "text", "topics")), strict=True
            )
        ]
        lists = table["responses"].combine_chunks()
        responses = lists.flatten()
        offsets = np.concatenate([[0], np.cumsum(lists.value_lengths().to_numpy(zero_copy_only=False))]).astype(
            np.int64
        )
        annotated = _lengths(responses.field("levels")) > 0
        given = _lengths(responses.field("positive")) > 0
        levels = np.zeros((len(responses), dimensions), dtype=np.int8)
        levels[annotated] = _values(responses.field("levels"), np.int8).reshape(-1, dimensions)
        probabilities = pole_probabilities(levels)
        for pole, name in enumerate(("positive", "negative")):
            probabilities[given, :, pole] = _values(responses.field(name), np.float32).reshape(-1, dimensions)
        return cls(
            posts,
            offsets,
            responses.field("id").to_pylist(),
            responses.field("text").to_pylist(),
            levels,
            probabilities,
            annotated,
        )


def _lengths(lists: pa.ListArray) -> npt.NDArray[np.int64]:
    return np.asarray(lists.value_lengths().to_numpy(zero_copy_only=False), dtype=np.int64)


def _values(lists: pa.ListArray, kind: type[np.generic]) -> npt.NDArray[np.generic]:
    return np.asarray(lists.flatten().to_numpy(zero_copy_only=False), dtype=kind)
