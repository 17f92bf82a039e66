"""Replies that occur in more than one split: found between the two phases, and left out of every split.

The file that names them also says what the pool's shards hold, so that phase two knows what it was made of.
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

_FILE = "pool/shared_replies.json"


class PoolState(NamedTuple):
    """The pool as phase two finds it: hashes of shared replies, and `contents`, a hash of each shard and of these."""

    shared: npt.NDArray[np.uint64]
    contents: Mapping[str, str]


def find_shared_replies(plan: BuildPlan) -> int:
    """Store the hashes of replies that two splits share, and what each shard of the pool holds.

    Returns how many replies are shared. Takes 16 bytes a pair in memory.
    """
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
    return len(shared)


def read_pool_state(plan: BuildPlan) -> PoolState:
    """What `find_shared_replies` has stored.

    Raises:
        FileNotFoundError: Phase one is not over.
        UserError: The file is damaged.
    """
    document = read_sealed(plan.output / _FILE)
    if document is None:
        raise FileNotFoundError(str(plan.output / _FILE))
    shared = np.array([int(entry, 16) for entry in document["replies"]], dtype=np.uint64)
    digest = hashlib.blake2b(shared.tobytes(), digest_size=16).hexdigest()
    return PoolState(shared, {**document["contents"], _FILE: digest})


def made_of(state: PoolState, files: Sequence[str]) -> dict[str, str]:
    """What a shard of examples is made of: these files of the pool, and the replies that must not be in it."""
    return {name: state.contents[name] for name in (*files, _FILE)}


def has_shared_reply(table: pa.Table, shared: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    """Whether a pair's chosen or rejected reply is shared, shape (rows,)."""
    if len(shared) == 0:
        return np.zeros(table.num_rows, dtype=bool)
    in_chosen, in_rejected = np.isin(_hashes(table), shared).reshape(2, -1)
    return np.logical_or(in_chosen, in_rejected)


def _hashes(table: pa.Table) -> npt.NDArray[np.uint64]:
    """Hashes of all chosen replies, then of all rejected ones, shape (2 * rows,)."""
    texts = [*table["chosen"].to_pylist(), *table["rejected"].to_pylist()]
    digests = b"".join(hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts)
    return np.frombuffer(digests, dtype=np.uint64)
