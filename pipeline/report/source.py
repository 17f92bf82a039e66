"""A finished build as the report reads it: checked before the first row, then one row group at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.io import storage
from pipeline.io.manifests import load_manifest
from pipeline.io.shards import read_shard
from pipeline.io.storage import AnyPath
from pipeline.plan import SPLITS
from pipeline.report.texts import Hashes, Integers, Words, characters_of, hash_texts, words_of
from pipeline.runtime.inputs import read_space
from preference_space.direction import Direction
from preference_space.space import PreferenceSpace
from schemas.base import UsageError
from schemas.manifest import FileEntry, Manifest


@dataclass(frozen=True)
class Build:
    """A finished build's folder. `shards` are its data files, in the manifest's order, which is that of the splits."""

    folder: AnyPath
    manifest: Manifest
    space: PreferenceSpace
    shards: tuple[FileEntry, ...]

    def path(self, shard: int, folder: str = "data") -> AnyPath:
        """A shard's file of `data`, `pool`, `rejected/pairs` or `rejected/examples`."""
        return self.folder / folder / Path(self.shards[shard].path).name

    def split(self, shard: int) -> str:
        """The split of a shard."""
        return Path(self.shards[shard].path).name.split("-")[0]

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that have shards, in order."""
        present = {self.split(shard) for shard in range(len(self.shards))}
        return tuple(split for split in SPLITS if split in present)

    @property
    def examples(self) -> int:
        """Examples of all shards."""
        return sum(entry.rows for entry in self.shards)

    @property
    def pairs(self) -> int:
        """Pairs of all shards, each of which is an example or two."""
        return self.examples // (2 if self.manifest.config["mirror"] else 1)


def open_build(folder: AnyPath) -> Build:
    """The build in `folder`; `UsageError` where there is none, or it is unfinished, or a shard is missing."""
    manifest = load_manifest(folder)
    if manifest.status != "complete":
        raise UsageError(f"{folder} holds an unfinished build; run its build command again, then report")
    if not any(entry.rows for entry in manifest.files):
        raise UsageError(f"{folder} holds a build without examples; its rejected/ says why")
    there = {f"data/{name}" for name in storage.list_names(folder / "data", files_only=True)}
    for entry in manifest.files:
        if entry.path not in there:
            raise UsageError(f"{folder / entry.path} is missing; run the build command again, which makes it anew")
    return Build(folder, manifest, read_space(folder, manifest.parts["space"]), manifest.files)


@dataclass(frozen=True)
class Batch:
    """A row group of N examples: P pairs, most of them with their mirror images, and all that is derived from them.

    Figures about texts are taken over `pairs`, the rows that are no mirror images, as each text of a mirrored pair
    stands in two rows.
    """

    split: int
    """Its position among the build's splits."""
    shard: int
    start: int
    """Position of its first row in the shard."""
    table: pa.Table

    @cached_property
    def directions(self) -> Direction:
        """The rows' directions, shape (N, D)."""
        return _levels(self.table["Preference Direction"].combine_chunks()).reshape(len(self.table), -1)

    @cached_property
    def pairs(self) -> Integers:
        """Rows that are no mirror images, shape (P,)."""
        return np.flatnonzero(~self.table["mirrored"].to_numpy())

    @cached_property
    def pair_of(self) -> Integers:
        """Of each row, the position in `pairs` of its pair; -1 where that is not in the row group. Shape (N,)."""
        codes = self.table["pair_id"].combine_chunks().dictionary_encode().indices.to_numpy()
        position = np.full(len(self.table), -1)
        position[codes[self.pairs]] = np.arange(len(self.pairs))
        found: Integers = position[codes]
        return found

    @cached_property
    def keys(self) -> Hashes:
        """Hashes of the rows' ids, shape (N,): what samples are drawn by."""
        return hash_texts(self.table["id"])

    @cached_property
    def places(self) -> Integers:
        """Where in the build each row stands, shape (N,): a number that grows with shard and row."""
        places: Integers = place_of(self.shard, self.start + np.arange(len(self.table)))
        return places

    @cached_property
    def prompts(self) -> pa.Array:
        """The pairs' posts, shape (P,)."""
        return self.table["prompt"].combine_chunks().take(pa.array(self.pairs))

    @cached_property
    def replies(self) -> pa.Array:
        """The pairs' chosen replies, then their rejected ones, shape (2P,)."""
        columns = [self.table[name].combine_chunks() for name in ("chosen", "rejected")]
        return pa.concat_arrays([column.take(pa.array(self.pairs)) for column in columns])

    @cached_property
    def prompt_hashes(self) -> Hashes:
        """Of `prompts`, shape (P,)."""
        return hash_texts(self.prompts)

    @cached_property
    def reply_hashes(self) -> Hashes:
        """Of `replies`, shape (2P,)."""
        return hash_texts(self.replies)

    @cached_property
    def reply_words(self) -> Words:
        """Of `replies`."""
        return words_of(self.replies)

    @cached_property
    def prompt_words(self) -> Words:
        """Of `prompts`."""
        return words_of(self.prompts)

    @cached_property
    def portrait_words(self) -> Words:
        """Of the portraits of all rows."""
        return words_of(self.table["Demographic Information"])

    @cached_property
    def longer(self) -> Integers:
        """Twice the chance that the longer reply is the chosen one, shape (N,): 2, 0, and 1 for a tie. In characters.

        Whole numbers, so that sums do not depend on their order.
        """
        difference = characters_of(self.table["chosen"]) - characters_of(self.table["rejected"])
        twice: Integers = 1 + np.sign(difference)
        return twice

    @cached_property
    def comments(self) -> Items:
        """The history's comments."""
        return Items(self.table["User-Generated Content"].combine_chunks(), self.directions.shape[1])

    @cached_property
    def feedback(self) -> Items:
        """The history's pairs."""
        return Items(self.table["Pair-wise Comparative Feedback"].combine_chunks(), self.directions.shape[1])


class Items:
    """History items of all rows of a batch, I of them, one after another."""

    def __init__(self, lists: pa.ListArray, dimensions: int) -> None:
        self._items = lists.flatten()
        self._dimensions = dimensions
        self.counts: Integers = lists.value_lengths().to_numpy().astype(np.int64)
        """Items of each row, shape (N,)."""

    def column(self, name: str) -> pa.Array:
        """A text of each item, shape (I,)."""
        return self._items.field(name)

    @cached_property
    def rows(self) -> Integers:
        """The row of each item, shape (I,)."""
        return np.repeat(np.arange(len(self.counts)), self.counts)

    @cached_property
    def directions(self) -> Direction:
        """The items' directions, shape (I, D)."""
        return _levels(self._items.field("Preference Direction")).reshape(-1, self._dimensions)


_ROW_BITS = 32


def place_of(shard: int, rows: Any) -> Any:
    """Numbers that grow with shard and row; `rows` is one or an array."""
    return (shard << _ROW_BITS) + rows


def shard_of(place: int) -> int:
    """The shard of a place."""
    return place >> _ROW_BITS


def row_of(place: int) -> int:
    """The row of a place in its shard."""
    return place & ((1 << _ROW_BITS) - 1)


def _levels(lists: pa.ListArray) -> Direction:
    """The released numbers (1, 0.5, 0) of all lists, one after another, as levels."""
    levels: Direction = (lists.flatten().to_numpy() * 2 - 1).astype(np.int8)
    return levels


def read_batches(build: Build, shard: int) -> Iterator[Batch]:
    """The row groups of a shard. Raises `UsageError` for one that is not as the build has left it."""
    entry, path = build.shards[shard], build.folder / build.shards[shard].path
    with storage.local_copy(path) as copy:
        if storage.content_id(copy) != entry.sha256:
            raise UsageError(f"{path} is not what the build wrote; delete it and run the build command again")
        yield from _read_groups(build, shard, copy)


def _read_groups(build: Build, shard: int, path: Path) -> Iterator[Batch]:
    start, split = 0, build.splits.index(build.split(shard))
    # Read by one thread and without read-ahead: the processes share the processors, and memory is what is scarce.
    with pq.ParquetFile(path, pre_buffer=False) as file:
        for group in range(file.metadata.num_row_groups):
            table = file.read_row_group(group, use_threads=False).replace_schema_metadata(None)
            if len(table):
                yield Batch(split, shard, start, table)
            start += len(table)


def read_columns(path: AnyPath, columns: list[str]) -> pa.Table | None:
    """Some columns of a file that the manifest does not list, of the pool or of what was rejected; None without it."""
    try:
        return read_shard(path, columns)
    except FileNotFoundError:
        return None
