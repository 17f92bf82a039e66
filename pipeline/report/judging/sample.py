"""Sample of a build's pairs, as a judge is shown them: pairs of the pool that became examples, and their portraits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.reading.text import hash_texts
from pipeline.report.source import Build, place_of, read_columns, row_of, shard_of
from pipeline.report.tallies import RowSample
from pipeline.report.texts import rehash
from schemas.base import UsageError
from schemas.records import Pair

_PORTRAIT = "Demographic Information"


@dataclass(frozen=True)
class SampledPair:
    """A pair of a split, and the portrait of its person, then that of the opposite person where it is mirrored."""

    split: str
    pair: Pair
    portraits: tuple[str, ...]


def draw_pairs(build: Build, number: int, seed: int) -> list[SampledPair]:
    """Return `number` pairs, or all if there are fewer, drawn by a hash of their ids; in the order of the build.

    Raises `UsageError` where the pool of a drawn pair is missing.
    """
    sample = RowSample(number)
    for shard in range(len(build.manifest.files)):
        table = _columns(build, shard, "data", ["id", "mirrored"])
        rows = np.flatnonzero(~table["mirrored"].to_numpy())
        ids = table["id"].take(pa.array(rows)).to_pylist()
        sample.add(rehash(hash_texts(ids), seed), place_of(shard, rows))
    places = sorted(sample.result())
    return [
        pair
        for shard in sorted({shard_of(place) for place in places})
        for pair in _read_pairs(build, shard, [row_of(place) for place in places if shard_of(place) == shard])
    ]


def _read_pairs(build: Build, shard: int, rows: list[int]) -> Iterator[SampledPair]:
    table = _columns(build, shard, "data", ["pair_id", "mirrored", _PORTRAIT])
    wanted = table["pair_id"].take(pa.array(rows)).combine_chunks()
    portraits: dict[str, list[str]] = {}
    # A pair's own row comes before its mirror image.
    for row in table.filter(pc.is_in(table["pair_id"], wanted)).to_pylist():
        portraits.setdefault(row["pair_id"], []).append(row[_PORTRAIT])
    pool = _columns(build, shard, "pool", [*Pair.model_fields])
    for row in pool.filter(pc.is_in(pool["pair_id"], wanted)).to_pylist():
        # By JSON's rules, in which a list is a tuple.
        pair = Pair.model_validate_json(orjson.dumps(row))
        yield SampledPair(build.split(shard), pair, tuple(portraits[pair.pair_id]))


def _columns(build: Build, shard: int, folder: str, columns: list[str]) -> pa.Table:
    table = read_columns(build.path(shard, folder), columns)
    if table is None:
        raise UsageError(
            f"{build.path(shard, folder)} is missing, and a judge is shown the pairs of {folder}/; judge the folder in "
            "which the dataset was built"
        )
    return table
