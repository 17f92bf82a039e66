"""Rows that a report shows whole: samples that represent every pole, split and reason."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, TypeVar

import numpy as np
import pyarrow.compute as pc

from pipeline.io.shards import open_shard
from pipeline.reading.text import hash_texts
from pipeline.report.settings import ReportSettings
from pipeline.report.source import Batch, Build, place_of, read_columns, shard_of
from pipeline.report.tallies import RowSample
from pipeline.report.texts import Hashes, Integers, rehash
from preference_space.direction import Direction, from_released, verbalise
from preference_space.space import PreferenceSpace
from schemas.base import Record
from schemas.report import ExampleItem, ShownExample, ShownRejection

Row = dict[str, Any]
R = TypeVar("R", bound=Record)
T = TypeVar("T")


class ShownExamples:
    """Sample of examples, drawn by a hash of their persons: first to cover every pole, then evenly from the splits.

    All rows of a user have one hash, so that users are drawn whole. Without users each row is a person.
    """

    def __init__(self, space: PreferenceSpace, splits: Sequence[str], settings: ReportSettings) -> None:
        self._settings = settings
        self._splits = [RowSample(settings.examples) for _ in splits]
        # For each pole the example with the lowest key.
        size = len(space)
        self._keys: Hashes = np.full((2, size), _NO_KEY, dtype=np.uint64)
        self._places: Integers = np.zeros((2, size), dtype=np.int64)
        self._levels: Direction = np.zeros((2, size, size), dtype=np.int8)

    def add(self, batch: Batch) -> None:
        """Add a batch's rows."""
        keys = rehash(batch.persons, self._settings.seed)
        self._splits[batch.split].add(keys, batch.places)
        active = np.stack([batch.directions > 0, batch.directions < 0])
        lowest = np.where(active, keys[:, None], _NO_KEY).argmin(axis=1)
        found = np.where(active.any(axis=1), keys[lowest], _NO_KEY)
        self._keep_lowest(found, batch.places[lowest], batch.directions[lowest])

    def merge(self, other: ShownExamples) -> None:
        """Add the rows of another sample."""
        for split, drawn in zip(self._splits, other._splits, strict=True):
            split.merge(drawn)
        self._keep_lowest(other._keys, other._places, other._levels)

    def _keep_lowest(self, keys: Hashes, places: Integers, levels: Direction) -> None:
        better = keys < self._keys
        self._keys[better], self._places[better], self._levels[better] = keys[better], places[better], levels[better]

    def result(self, build: Build) -> tuple[ShownExample, ...]:
        """Return the examples that fit, in the order of the build."""
        places = [*self._cover_all_poles(), *_round_robin([split.result() for split in self._splits])]
        wanted = [("data", place) for place in dict.fromkeys(places)][: self._settings.examples]
        return tuple(_within_budget(build, wanted, _example, self._settings.example_bytes))

    def _cover_all_poles(self) -> Iterator[int]:
        """Yield the places of a few examples that together have every pole that occurs."""
        is_seen = self._keys == _NO_KEY
        for pole in np.argsort(self._keys, axis=None, kind="stable").tolist():
            if not is_seen.flat[pole]:
                levels = self._levels.reshape(-1, self._levels.shape[2])[pole]
                is_seen |= np.stack([levels > 0, levels < 0])
                yield int(self._places.flat[pole])


class ShownRejections:
    """Sample of rejected rows, drawn by a hash of their identity, evenly from the reasons."""

    def __init__(self, settings: ReportSettings) -> None:
        self._settings = settings
        self._reasons: dict[tuple[str, str], RowSample] = {}
        self.is_complete = True
        """Whether the rejections of every shard exist."""

    def add(self, build: Build, shard: int) -> None:
        """Add the rejected rows of a shard."""
        for folder in ("rejected/pairs", "rejected/examples"):
            table = read_columns(build.path(shard, folder), ["record_id", "stage", "reason", "attempt"])
            if table is None:
                self.is_complete = False
                continue
            reasons = pc.binary_join_element_wise(table["stage"], table["reason"], "/")
            names = pc.binary_join_element_wise(table["record_id"], reasons, table["attempt"].cast("string"), " ")
            keys, held = rehash(hash_texts(names.to_pylist()), self._settings.seed), np.array(reasons.to_pylist())
            for reason in np.unique(held).tolist():
                rows = np.flatnonzero(held == reason)
                drawn = self._reasons.setdefault((folder, reason), RowSample(self._settings.rejections))
                drawn.add(keys[rows], place_of(shard, rows))

    def merge(self, other: ShownRejections) -> None:
        """Add the rows of another sample."""
        self.is_complete &= other.is_complete
        for reason, drawn in other._reasons.items():
            self._reasons.setdefault(reason, RowSample(self._settings.rejections)).merge(drawn)

    def result(self, build: Build) -> tuple[ShownRejection, ...]:
        """Return the rejections that fit, by folder and in the order of the build."""
        places = [[(folder, place) for place in drawn.result()] for (folder, _), drawn in sorted(self._reasons.items())]
        wanted = [*_round_robin(places)][: self._settings.rejections]
        return tuple(_within_budget(build, wanted, _rejection, self._settings.rejection_bytes))


_NO_KEY = np.uint64((1 << 64) - 1)
"""Key of no row, higher than that of any row."""


def _round_robin(several: Sequence[Sequence[T]]) -> Iterator[T]:
    """Yield the first of each, then the second of each, and so on."""
    for k in range(max(map(len, several), default=0)):
        yield from (entries[k] for entries in several if k < len(entries))


def _within_budget(
    build: Build, wanted: Sequence[tuple[str, int]], record: Callable[[Build, int, Row], R], budget: int
) -> list[R]:
    """Return the records of the rows that fit the budget of bytes, filled in the order of `wanted`."""
    found: dict[tuple[str, int], tuple[R, int]] = {}
    for folder, place, row in _rows(build, wanted):
        shown = record(build, place, row)
        size = len(shown.model_dump_json().encode())
        if size <= budget // 10:
            found[folder, place] = (shown, size)
    kept = []
    for entry in wanted:
        size = found[entry][1] if entry in found else budget + 1
        if size <= budget:
            budget -= size
            kept.append(entry)
    return [found[entry][0] for entry in sorted(kept)]


def _rows(build: Build, wanted: Iterable[tuple[str, int]]) -> Iterator[tuple[str, int, Row]]:
    """Yield rows with folder and place. Each row group is read once, and alone in memory."""
    for (folder, shard), entries in itertools.groupby(sorted(wanted), lambda entry: (entry[0], shard_of(entry[1]))):
        places = [place for _, place in entries]
        path = build.path(shard, folder)
        with open_shard(path) as file:
            start = place_of(shard, 0)
            for group in range(file.metadata.num_row_groups):
                end = start + file.metadata.row_group(group).num_rows
                here = [place for place in places if start <= place < end]
                if here:
                    table = file.read_row_group(group, use_threads=False)
                    for place, row in zip(here, table.take([place - start for place in here]).to_pylist(), strict=True):
                        yield folder, place, row
                start = end


def _example(build: Build, place: int, row: Row) -> ShownExample:
    def profile(released: Sequence[float]) -> str:
        return verbalise(build.space, from_released(released))

    comments = [
        ExampleItem(
            prompt=item["prompt"],
            chosen=item["comment"],
            rejected="",
            profile=profile(item["Preference Direction"]),
        )
        for item in row["User-Generated Content"]
    ]
    feedback = [
        ExampleItem(
            prompt=item["prompt"],
            chosen=item["chosen"],
            rejected=item["rejected"],
            profile=profile(item["Preference Direction"]),
        )
        for item in row["Pair-wise Comparative Feedback"]
    ]
    return ShownExample(
        id=row["id"],
        split=build.split(shard_of(place)),
        mirrored=row["mirrored"],
        source=row["source"],
        prompt=row["prompt"],
        chosen=row["chosen"],
        rejected=row["rejected"],
        portrait=row["Demographic Information"],
        profile=row["profile"],
        direction=_active(build.space, from_released(row["Preference Direction"])),
        history=(*comments, *feedback),
        history_support=row["history_support"],
        kind=row["kind"],
        user_id=row["user_id"],
        user_direction=_active(build.space, from_released(row["user_direction"])),
        user_pairs=row["user_pairs"],
    )


def _rejection(build: Build, place: int, row: Row) -> ShownRejection:
    return ShownRejection(
        id=row["record_id"],
        split=build.split(shard_of(place)),
        reason=f"{row['stage']}/{row['reason']}",
        detail=row["detail"],
        attempt=row["attempt"],
        final=row["final"],
        prompt=row["prompt"],
        texts=tuple(row["texts"]),
        cleaned=tuple(row["cleaned"]),
        direction=_active(build.space, np.array(row["direction"], dtype=np.int8)),
    )


def _active(space: PreferenceSpace, direction: Direction) -> dict[str, Literal[1, -1]]:
    # A response that could not be annotated has no direction.
    return {space.dimensions[d].slug: 1 if direction[d] > 0 else -1 for d in np.flatnonzero(direction)}
