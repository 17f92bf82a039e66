"""Replies that occur in more than one split. They are found between the phases and left out of every split.

The file that lists them also records the content of the pool's shards, by which phase two knows its input.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.io import storage
from pipeline.io.sealed import read_sealed, write_sealed
from pipeline.io.shards import read_metas, read_shard
from pipeline.plan import SPLITS, BuildPlan
from pipeline.reading.text import hash_texts

_FILE = "pool/shared_replies.json"


class PoolState(NamedTuple):
    """The pool after phase one: hashes of shared replies, and `contents`, a hash of each shard and of these replies."""

    shared: npt.NDArray[np.uint64]
    contents: Mapping[str, str]


def find_shared_replies(plan: BuildPlan) -> None:
    """Store the hashes of replies that two splits share, and the content hash of each pool shard."""
    seen: dict[str, npt.NDArray[np.uint64]] = {}
    for split in SPLITS:
        paths = [plan.path("pool", spec) for spec in plan.shards() if spec.split == split]
        hashes = storage.map_files(plan.output, lambda path: _hashes(read_shard(path, ["chosen", "rejected"])), paths)
        seen[split] = np.unique(np.concatenate([np.empty(0, dtype=np.uint64), *hashes]))
    everywhere, counts = np.unique(np.concatenate([*seen.values()]), return_counts=True)
    shared = everywhere[counts > 1]
    files = [plan.path("pool", spec).name for spec in plan.shards()]
    metas = zip(files, read_metas(plan.output / "pool", files), strict=True)
    contents = {name: meta["content"] for name, meta in metas if meta is not None}
    replies = [f"{value:016x}" for value in shared.tolist()]
    write_sealed(plan.output / _FILE, {"replies": replies, "contents": contents})


def read_pool_state(plan: BuildPlan) -> PoolState:
    """Read what `find_shared_replies` stored.

    Raises:
        FileNotFoundError: Phase one has not ended.
        UserError: The file is damaged.
    """
    document = read_sealed(plan.output / _FILE)
    if document is None:
        raise FileNotFoundError(str(plan.output / _FILE))
    shared = np.array([int(entry, 16) for entry in document["replies"]], dtype=np.uint64)
    digest = hashlib.blake2b(shared.tobytes(), digest_size=16).hexdigest()
    return PoolState(shared, {**document["contents"], _FILE: digest})


def made_of(state: PoolState, files: Sequence[str]) -> dict[str, str]:
    """Return the hashes of the pool `files` that a shard of examples is made of, and of the shared replies."""
    return {name: state.contents[name] for name in (*files, _FILE)}


def has_shared_reply(table: pa.Table, shared: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    """Return for each row whether its chosen or rejected reply is shared, shape (rows,)."""
    if len(shared) == 0:
        return np.zeros(table.num_rows, dtype=bool)
    in_chosen, in_rejected = np.isin(_hashes(table), shared).reshape(2, -1)
    return np.logical_or(in_chosen, in_rejected)


def _hashes(table: pa.Table) -> npt.NDArray[np.uint64]:
    """Return hashes of all chosen replies, then of all rejected ones, shape (2 * rows,)."""
    return hash_texts([*table["chosen"].to_pylist(), *table["rejected"].to_pylist()])
