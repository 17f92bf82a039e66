"""Replies that occur in more than one split: found between the two phases, and left out of every split."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline import storage
from pipeline.plan import SPLITS, BuildPlan
from pipeline.shards import read_shard
from pipeline.storage import write_text

_FILE = "pool/shared_replies.json"


def find_shared_replies(plan: BuildPlan) -> int:
    """Store the hashes of replies that two splits share, and return how many there are. 16 bytes a pair in memory."""
    seen: dict[str, npt.NDArray[np.uint64]] = {}
    for split in SPLITS:
        paths = [plan.path("pool", spec) for spec in plan.shards() if spec.split == split]
        hashes = storage.each(plan.output, lambda path: _hashes(read_shard(path, ["chosen", "rejected"])), paths)
        seen[split] = np.unique(np.concatenate([np.empty(0, dtype=np.uint64), *hashes]))
    everywhere, counts = np.unique(np.concatenate([*seen.values()]), return_counts=True)
    shared = everywhere[counts > 1]
    write_text(plan.output / _FILE, json.dumps([f"{value:016x}" for value in shared.tolist()]))
    return len(shared)


def read_shared_replies(plan: BuildPlan) -> npt.NDArray[np.uint64]:
    """The hashes that `find_shared_replies` has stored."""
    entries = json.loads(storage.read_bytes(plan.output / _FILE))
    return np.array([int(entry, 16) for entry in entries], dtype=np.uint64)


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
