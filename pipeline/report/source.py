"""A build as a source of rows, which are all there: checked first, then read one row group at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.io import storage
from pipeline.io.manifests import MANIFEST, load_manifest
from pipeline.io.shards import DamagedShardError, read_shard
from pipeline.io.storage import AnyPath
from pipeline.plan import SPLITS
from pipeline.reading.text import hash_texts
from pipeline.report.texts import Hashes, Integers, Words, characters_of, words_of
from pipeline.runtime.inputs import read_space
from preference_space.direction import Direction, from_released
from preference_space.space import PreferenceSpace
from schemas.base import UsageError
from schemas.config import VerificationConfig
from schemas.loader import validate
from schemas.manifest import Manifest


@dataclass(frozen=True)
class Build:
    """A build with all its rows, which may miss a gate. Its shards are in the manifest's order, which is by split."""

    folder: AnyPath
    manifest: Manifest
    space: PreferenceSpace

    def path(self, shard: int, folder: str = "data") -> AnyPath:
        """Return a shard's file in `data`, `pool`, `rejected/pairs` or `rejected/examples`."""
        return self.folder / folder / Path(self.manifest.files[shard].path).name

    def split(self, shard: int) -> str:
        """Return the split of a shard."""
        return Path(self.manifest.files[shard].path).name.split("-")[0]

    @property
    def splits(self) -> tuple[str, ...]:
        """Return the splits that have shards, in order."""
        present = {self.split(shard) for shard in range(len(self.manifest.files))}
        return tuple(split for split in SPLITS if split in present)

    @property
    def verification(self) -> VerificationConfig:
        """Return the settings by which the build was verified."""
        return validate(VerificationConfig, self.manifest.config["verification"], MANIFEST)

    @property
    def examples(self) -> int:
        """Return the number of examples."""
        return sum(entry.rows for entry in self.manifest.files)

    @property
    def pairs(self) -> int:
        """Return the number of pairs, or a little more where restraint pairs, which have no mirror image, were lost."""
        if not self.manifest.config["mirror"]:
            return self.examples
        return (self.examples + self.manifest.counts.kinds.get("restraint", 0) + 1) // 2


def open_build(folder: AnyPath) -> Build:
    """Open the build in `folder`. Raise `UsageError` where it is missing, unfinished, empty or lacks a shard."""
    manifest = load_manifest(folder)
    if not manifest.is_built:
        raise UsageError(f"{folder} holds an unfinished build; run `everyuser build` again first")
    if not any(entry.rows for entry in manifest.files):
        raise UsageError(f"{folder} holds a build without examples; rejected/ has the reasons")
    existing = {f"data/{name}" for name in storage.list_names(folder / "data", files_only=True)}
    for entry in manifest.files:
        if entry.path not in existing:
            raise UsageError(f"{folder / entry.path} is missing; run `everyuser build` again, which builds it again")
    return Build(folder, manifest, read_space(folder, manifest.parts["space"]))


@dataclass(frozen=True)
class Batch:
    """A row group of N examples with P pairs, most of them mirrored, and arrays derived from them.

    Figures of texts are taken over `pairs`, the rows that are not mirrored, since a mirrored pair has its texts in two
    rows.
    """

    split: int
    """Position among the build's splits."""
    shard: int
    start: int
    """Position of the first row in the shard."""
    table: pa.Table

    @cached_property
    def directions(self) -> Direction:
        """Return the rows' directions, shape (N, D)."""
        lists = self.table["Preference Direction"].combine_chunks()
        return from_released(lists.flatten().to_numpy()).reshape(len(self.table), -1)

    @cached_property
    def pairs(self) -> Integers:
        """Return the rows that are not mirrored, shape (P,)."""
        return np.flatnonzero(~self.table["mirrored"].to_numpy())

    @cached_property
    def pair_of(self) -> Integers:
        """Return the position of each row's pair in `pairs`, shape (N,); -1 where another row group holds it."""
        codes = self.table["pair_id"].combine_chunks().dictionary_encode().indices.to_numpy()
        position = np.full(len(self.table), -1)
        position[codes[self.pairs]] = np.arange(len(self.pairs))
        found: Integers = position[codes]
        return found

    @cached_property
    def keys(self) -> Hashes:
        """Return hashes of the rows' ids, shape (N,), by which samples are drawn."""
        return hash_texts(self.table["id"].to_pylist())

    @cached_property
    def persons(self) -> Hashes:
        """Return hashes of the rows' user ids, or of the rows' own ids without users; shape (N,)."""
        users = self.table["user_id"].to_pylist()
        return hash_texts([user or row for user, row in zip(users, self.table["id"].to_pylist(), strict=True)])

    @cached_property
    def places(self) -> Integers:
        """Return the rows' places in the build, shape (N,): numbers that grow with shard and row."""
        places: Integers = place_of(self.shard, self.start + np.arange(len(self.table)))
        return places

    @cached_property
    def prompts(self) -> pa.Array:
        """Return the pairs' posts, shape (P,)."""
        return self.table["prompt"].combine_chunks().take(pa.array(self.pairs))

    @cached_property
    def replies(self) -> pa.Array:
        """Return the pairs' chosen replies, then their rejected ones, shape (2P,)."""
        columns = [self.table[name].combine_chunks() for name in ("chosen", "rejected")]
        return pa.concat_arrays([column.take(pa.array(self.pairs)) for column in columns])

    @cached_property
    def prompt_hashes(self) -> Hashes:
        """Return the hashes of `prompts`, shape (P,)."""
        return hash_texts(self.prompts.to_pylist())

    @cached_property
    def reply_hashes(self) -> Hashes:
        """Return the hashes of `replies`, shape (2P,)."""
        return hash_texts(self.replies.to_pylist())

    @cached_property
    def reply_words(self) -> Words:
        """Return the words of `replies`."""
        return words_of(self.replies)

    @cached_property
    def prompt_words(self) -> Words:
        """Return the words of `prompts`."""
        return words_of(self.prompts)

    @cached_property
    def portrait_words(self) -> Words:
        """Return the words of all rows' portraits."""
        return words_of(self.table["Demographic Information"])

    @cached_property
    def longer(self) -> Integers:
        """Return 2 where the chosen reply has more characters, 0 where it has fewer, 1 for a tie; shape (N,).

        These are twice the shares of an AUC: whole numbers, so that sums do not depend on their order.
        """
        difference = characters_of(self.table["chosen"]) - characters_of(self.table["rejected"])
        twice: Integers = 1 + np.sign(difference)
        return twice

    @cached_property
    def comments(self) -> Items:
        """Return the history's comments."""
        return Items(self.table["User-Generated Content"].combine_chunks(), self.directions.shape[1])

    @cached_property
    def feedback(self) -> Items:
        """Return the history's pairs."""
        return Items(self.table["Pair-wise Comparative Feedback"].combine_chunks(), self.directions.shape[1])


class Items:
    """The I history items of all rows of a batch, one after another."""

    def __init__(self, lists: pa.ListArray, dimensions: int) -> None:
        self._items = lists.flatten()
        self._dimensions = dimensions
        self.counts: Integers = lists.value_lengths().to_numpy().astype(np.int64)
        """Items of each row, shape (N,)."""

    def column(self, name: str) -> pa.Array:
        """Return a text column of the items, shape (I,)."""
        return self._items.field(name)

    @cached_property
    def rows(self) -> Integers:
        """Return the row of each item, shape (I,)."""
        return np.repeat(np.arange(len(self.counts)), self.counts)

    @cached_property
    def directions(self) -> Direction:
        """Return the items' directions, shape (I, D)."""
        lists = self._items.field("Preference Direction")
        return from_released(lists.flatten().to_numpy()).reshape(-1, self._dimensions)


_ROW_BITS = 32


def place_of(shard: int, rows: Any) -> Any:
    """Return numbers that grow with shard and row; `rows` is a number or an array."""
    return (shard << _ROW_BITS) + rows


def shard_of(place: int) -> int:
    """Return the shard of a place."""
    return place >> _ROW_BITS


def row_of(place: int) -> int:
    """Return the row of a place in its shard."""
    return place & ((1 << _ROW_BITS) - 1)


def read_batches(build: Build, shard: int) -> Iterator[Batch]:
    """Yield the row groups of a shard. Raise `UsageError` for a shard that was changed."""
    entry, path = build.manifest.files[shard], build.path(shard)
    with storage.local_copy(path) as copy:
        if storage.content_id(copy) != entry.sha256:
            raise UsageError(f"{path} was changed after it was built; delete it and run `everyuser build` again")
        yield from _read_groups(build, shard, copy)


def _read_groups(build: Build, shard: int, path: Path) -> Iterator[Batch]:
    start, split = 0, build.splits.index(build.split(shard))
    # One thread and no read-ahead: the processes share the cores, and memory is scarce.
    with pq.ParquetFile(path, pre_buffer=False) as file:
        for group in range(file.metadata.num_row_groups):
            table = file.read_row_group(group, use_threads=False).replace_schema_metadata(None)
            if len(table):
                yield Batch(split, shard, start, table)
            start += len(table)


def read_columns(path: AnyPath, columns: list[str]) -> pa.Table | None:
    """Return columns of a file of the pool or the rejections, which may be missing; then None."""
    with reading_stored():
        try:
            return read_shard(path, columns)
        except FileNotFoundError:
            return None


@contextmanager
def reading_stored() -> Iterator[None]:
    """Replace the advice of an error about a damaged file: no command writes the files of a finished build again."""
    try:
        yield
    except DamagedShardError as error:
        raise UsageError(f"{error.fact}; restore it from a copy; `everyuser check` names all such files") from None
