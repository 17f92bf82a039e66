"""Tables of a build with users as arrays, read without the code that wrote them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

Levels = npt.NDArray[np.int8]
"""Levels 1, 0 and -1, shape (N, D)."""
Texts = npt.NDArray[np.object_]
Reals = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]

_PAIR_TEXTS = ("pair_id", "post_id", "prompt", "chosen", "rejected", "kind", "user_id")
_ROW_TEXTS = (*_PAIR_TEXTS, "id", "profile", "Demographic Information")
_LEVELS = ("direction", "asked_direction", "traits", "user_direction")
_UGC, _PAIR = "User-Generated Content", "Pair-wise Comparative Feedback"


class Build(NamedTuple):
    """What the manifest and the space of a finished build say."""

    folder: Path
    config: dict[str, Any]
    counts: dict[str, Any]
    dimensions: list[dict[str, Any]]

    @property
    def topical(self) -> npt.NDArray[np.bool_]:
        """Return which dimensions are interest tags, shape (D,)."""
        return np.array([bool(dimension.get("topical")) for dimension in self.dimensions])

    @property
    def positions(self) -> dict[str, int]:
        """Return the position of each slug."""
        return {dimension["slug"]: d for d, dimension in enumerate(self.dimensions)}


class Pairs(NamedTuple):
    """Accepted pairs of one shard. Arrays of texts have shape (N,), levels (N, D)."""

    texts: dict[str, Texts]
    levels: dict[str, Levels]
    topics: list[list[str]]

    @property
    def target(self) -> Levels:
        """Return what the chosen reply was written for, of a restraint pair the rejected one."""
        traits, asked, kept = (self.levels[name] for name in ("traits", "asked_direction", "direction"))
        asked = np.where(asked.any(axis=1, keepdims=True), asked, kept)
        return np.where(traits.any(axis=1, keepdims=True), traits, asked)


class Items(NamedTuple):
    """History items of one kind. `row` is the place of each item's row; `rejected` is None of a comment."""

    row: Numbers
    prompt: Texts
    chosen: Texts
    rejected: Texts | None
    direction: Levels


class Rows(NamedTuple):
    """Examples of one shard."""

    texts: dict[str, Texts]
    mirrored: npt.NDArray[np.bool_]
    direction: Levels
    user_direction: Levels
    user_pairs: Numbers
    support: Reals
    verified: Reals
    quality: Reals
    """Of `chosen` and `rejected`, shape (N, 2)."""
    margin: Reals
    """Shape (N, D); NaN where the judge was not asked."""
    ugc: Items
    pair: Items

    @property
    def sign(self) -> Levels:
        """Return 1 for each row and -1 for each mirrored one, shape (N, 1)."""
        return np.where(self.mirrored, -1, 1).astype(np.int8)[:, None]


def read_build(folder: Path) -> Build:
    """Read the manifest and the space."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    space = yaml.safe_load((folder / "preference_space.yaml").read_text(encoding="utf-8"))
    return Build(folder, manifest["config"], manifest["counts"], space["dimensions"])


def read_pairs(path: Path, size: int) -> Pairs:
    """Read a shard of `pool/`; `size` is D. Mined pairs are left out: they have no users."""
    table = pq.read_table(path, columns=[*_PAIR_TEXTS, *_LEVELS, "topics", "source"])
    table = table.filter(pc.equal(table["source"], "sampled"))
    levels = {name: _levels(table[name], size) for name in _LEVELS}
    return Pairs({name: _texts(table[name]) for name in _PAIR_TEXTS}, levels, table["topics"].to_pylist())


def read_rows(path: Path, size: int) -> Rows:
    """Read a shard of `data/`, without the rows of mined pairs."""
    table = pq.read_table(path)
    table = table.filter(pc.equal(table["source"], "sampled"))
    return Rows(
        {name: _texts(table[name]) for name in _ROW_TEXTS},
        table["mirrored"].to_numpy(),
        _released(table["Preference Direction"], size),
        _released(table["user_direction"], size),
        table["user_pairs"].to_numpy(),
        table["history_support"].to_numpy(),
        table["verified"].to_numpy(),
        np.stack([table["quality_chosen"].to_numpy(), table["quality_rejected"].to_numpy()], axis=1),
        _levels(table["direction_margin"], size),
        _items(table[_UGC], size, "comment", None),
        _items(table[_PAIR], size, "chosen", "rejected"),
    )


def read_rejected(folder: Path, name: str) -> set[str]:
    """Return the pairs of a shard that gave no rows."""
    path = folder / "rejected" / "examples" / name
    return set(pq.read_table(path, columns=["record_id"])["record_id"].to_pylist()) if path.exists() else set()


def _texts(column: pa.ChunkedArray) -> Texts:
    texts: Texts = column.to_numpy(zero_copy_only=False)
    return texts


def _levels(column: pa.ChunkedArray | pa.Array, size: int) -> npt.NDArray[Any]:
    """Return lists of `size` numbers as an array; an empty list as zeros."""
    values = pc.list_flatten(column).to_numpy(zero_copy_only=False)
    filled = pc.list_value_length(column).to_numpy(zero_copy_only=False) > 0
    levels = np.zeros((len(column), size), dtype=values.dtype)
    levels[filled] = values.reshape(-1, size)
    return levels


def _released(column: pa.ChunkedArray | pa.Array, size: int) -> Levels:
    """Return numbers 1, 0.5 and 0 as levels."""
    return (2 * _levels(column, size) - 1).astype(np.int8)


def _items(column: pa.ChunkedArray, size: int, chosen: str, rejected: str | None) -> Items:
    lists = column.combine_chunks()
    items = lists.flatten()
    return Items(
        np.repeat(np.arange(len(lists)), lists.value_lengths().to_numpy(zero_copy_only=False)),
        items.field("prompt").to_numpy(zero_copy_only=False),
        items.field(chosen).to_numpy(zero_copy_only=False),
        items.field(rejected).to_numpy(zero_copy_only=False) if rejected else None,
        _released(items.field("Preference Direction"), size),
    )
