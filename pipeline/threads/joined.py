"""Threads as a shard holds them: texts in lists, levels and probabilities in arrays; and as Parquet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from preference_space.direction import Direction
from schemas.arrow import arrow_schema
from schemas.records import SeedPost, Thread

THREAD_SCHEMA = arrow_schema(Thread)
ROWS_PER_GROUP = 256
"""Threads in a row group: a shard reads only the groups that it needs."""


@dataclass(frozen=True)
class Threads:
    """Some threads. The responses of thread t are rows `first[t]` to `first[t + 1]` of all that follows `first`.

    levels: (R, D); shares: (R, D, 2), the probabilities of both poles; known: (R,), whether levels are there yet.
    """

    posts: Sequence[SeedPost]
    first: npt.NDArray[np.int64]
    ids: Sequence[str]
    texts: Sequence[str]
    levels: Direction
    shares: npt.NDArray[np.float32]
    known: npt.NDArray[np.bool_]

    def rows(self, thread: int) -> range:
        """The responses of a thread."""
        return range(int(self.first[thread]), int(self.first[thread + 1]))

    def thread_of(self, row: int) -> int:
        """The thread of a response."""
        return int(np.searchsorted(self.first, row, side="right")) - 1

    def table(self) -> pa.Table:
        """As a table of `THREAD_SCHEMA`; responses without levels have empty lists."""
        kind = THREAD_SCHEMA.field("responses").type
        # Arrow refuses what 32 bits cannot count, where numpy would begin at zero again.
        offsets = pa.array(np.concatenate([[0], np.cumsum(self.known * self.levels.shape[1])]), pa.int32())
        numbers: dict[str, npt.NDArray[Any]] = {
            "levels": self.levels,
            "positive": self.shares[..., 0],
            "negative": self.shares[..., 1],
        }
        columns = {"id": pa.array(self.ids, pa.string()), "text": pa.array(self.texts, pa.string())} | {
            name: pa.ListArray.from_arrays(
                offsets, values[self.known].reshape(-1), type=kind.value_type.field(name).type
            )
            for name, values in numbers.items()
        }
        fields = list(kind.value_type)
        responses = pa.StructArray.from_arrays([columns[field.name] for field in fields], fields=fields)
        by_name = {
            **{name: [getattr(post, name) for post in self.posts] for name in ("id", "title", "text", "topics")},
            "responses": pa.ListArray.from_arrays(pa.array(self.first, pa.int32()), responses, type=kind),
        }
        arrays = [
            values if isinstance(values, pa.Array) else pa.array(values, field.type)
            for field, values in ((field, by_name[field.name]) for field in THREAD_SCHEMA)
        ]
        return pa.Table.from_arrays(arrays, schema=THREAD_SCHEMA)


def from_table(table: pa.Table, dimensions: int) -> Threads:
    """The opposite of `Threads.table`. Given levels without probabilities count as certain."""
    posts = [
        SeedPost(id=identity, title=title, text=text, topics=tuple(topics))
        for identity, title, text, topics in zip(
            *(table[name].to_pylist() for name in ("id", "title", "text", "topics")), strict=True
        )
    ]
    lists = table["responses"].combine_chunks()
    responses = lists.flatten()
    first = np.concatenate([[0], np.cumsum(lists.value_lengths().to_numpy(zero_copy_only=False))]).astype(np.int64)
    known = _lengths(responses.field("levels")) > 0
    has_shares = _lengths(responses.field("positive")) > 0
    levels = np.zeros((len(responses), dimensions), dtype=np.int8)
    levels[known] = _values(responses.field("levels"), np.int8).reshape(-1, dimensions)
    shares = np.stack([levels > 0, levels < 0], axis=-1).astype(np.float32)
    for pole, name in enumerate(("positive", "negative")):
        shares[has_shares, :, pole] = _values(responses.field(name), np.float32).reshape(-1, dimensions)
    return Threads(
        posts, first, responses.field("id").to_pylist(), responses.field("text").to_pylist(), levels, shares, known
    )


def _lengths(lists: pa.ListArray) -> npt.NDArray[np.int64]:
    return np.asarray(lists.value_lengths().to_numpy(zero_copy_only=False), dtype=np.int64)


def _values(lists: pa.ListArray, kind: type[np.generic]) -> npt.NDArray[np.generic]:
    return np.asarray(lists.flatten().to_numpy(zero_copy_only=False), dtype=kind)
