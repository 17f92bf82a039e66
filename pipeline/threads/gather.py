"""Joins posts with their responses in bounded memory: a shuffle through files, then a join of each part.

`partition` reads a slice of the input once, and writes its items in the order of the *part* that their post belongs to.
`join` reads a part's items from all slices, and joins, cleans and stores its threads. Parts are ranges of a hash of the
post's id: the order of threads depends on the seed and the ids alone, and splits can be cut from it. The same files
serve one process and many. A GroupByKey would keep everything in memory on Beam's local runner.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import orjson

from pipeline.io import storage
from pipeline.io.sealed import read_sealed, write_sealed
from pipeline.io.shards import read_metas, write_shard
from pipeline.io.storage import AnyPath, atomic
from pipeline.plan import BuildPlan
from pipeline.runtime.progress import counters_for
from pipeline.runtime.resources import resources
from pipeline.threads.batch import ROWS_PER_GROUP, THREAD_SCHEMA, ThreadBatch
from pipeline.threads.curation import CleanThread, clean_thread
from pipeline.threads.parsing import Item, Post, Response
from pipeline.threads.sources import Slice, input_bytes, list_slices, read_items
from preference_space.levels import pole_probabilities
from schemas.base import UserError

_PART_BYTES = 32 << 20
_DEFAULT_PARTS = 64
"""Parts of an input of unknown size."""
_MAX_PARTS = 4096
_TRAILER_BYTES = 24
"""Bytes of a part's entry at the end of a spill: start, stop and checksum, eight bytes each."""
_SPILL_BYTES = 64 << 20
"""Bytes of items that a worker holds before it writes a spill."""

_Key = tuple[str, str]
"""A post's id and content hash."""


def pending_slices(plan: BuildPlan) -> list[Slice]:
    """Return the slices that no earlier run has partitioned."""
    return [found for found in list_slices(plan.mining) if read_slice_record(plan, found.number) is None]


def is_partly_partitioned(plan: BuildPlan) -> bool:
    """Return whether some slices are partitioned and others are not."""
    return len({read_slice_record(plan, found.number) is None for found in list_slices(plan.mining)}) == 2


def pending_parts(plan: BuildPlan) -> list[int]:
    """Return the parts that no earlier run has joined."""
    names = [part_path(plan, part).name for part in range(count_parts(plan))]
    metas = read_metas(plan.output / "threads", names)
    return [part for part, meta in enumerate(metas) if (meta or {}).get("fingerprint") != plan.fingerprint]


@lru_cache(maxsize=2)
def count_parts(plan: BuildPlan) -> int:
    """Return the number of parts. It depends on the input alone, so that a later run can resume."""
    size = input_bytes(plan.mining)
    return _DEFAULT_PARTS if size is None else min(_MAX_PARTS, max(1, -(-size // _PART_BYTES)))


def partition(input_slice: Slice, plan: BuildPlan) -> None:
    """Read a slice, write its items by part, then record that the slice is done."""
    counts: Counter[str] = Counter()
    unreadable: list[str] = []
    parts = count_parts(plan)
    pending: list[tuple[int, bytes]] = []
    held = spills = 0
    progress = counters_for(plan.output)
    for item in read_items(input_slice, plan.mining, resources(plan).space, counts, unreadable):
        post = item.id if isinstance(item, Post) else item.post
        line = orjson.dumps(("p" if isinstance(item, Post) else "r", *item)) + b"\n"
        pending.append((_rank(plan, post) * parts >> 64, line))
        held += len(line)
        if held >= _SPILL_BYTES:
            _write_spill(plan, input_slice, spills, parts, pending)
            progress.add("threads/items", len(pending))
            pending, held, spills = [], 0, spills + 1
    _write_spill(plan, input_slice, spills, parts, pending)
    progress.add("threads/items", len(pending))
    progress.add("threads/slices", 1)
    progress.flush()
    record = {
        "fingerprint": plan.fingerprint,
        "spills": spills + 1,
        "parts": parts,
        "counts": counts,
        "first": unreadable,
    }
    write_sealed(_record_path(plan, input_slice.number), record)


def join(part: int, plan: BuildPlan) -> None:
    """Join a part's posts with their responses, clean the threads, and store them."""
    mining, counts = plan.mining, Counter[str]()
    posts: dict[_Key, Post] = {}
    responses: dict[_Key, list[Response]] = {}
    for item in _read_part(plan, part):
        if isinstance(item, Response):
            responses.setdefault((item.post, item.content_hash), []).append(item)
        elif (item.id, item.content_hash) in posts:
            counts["posts/merged"] += 1
        else:
            posts[item.id, item.content_hash] = item
    counts["responses/without_post"] += sum(len(found) for key, found in responses.items() if key not in posts)
    posts_with_id = Counter(identity for identity, _ in posts)
    kept = []
    for key in sorted(posts, key=lambda key: (_rank(plan, key[0]), *key)):
        identity, content_hash = key
        post = posts[key]
        if posts_with_id[identity] > 1:
            post = post._replace(id=f"{identity}~{content_hash}")
        cleaned = clean_thread(post, responses.get(key, []), plan, counts)
        if len(cleaned[1]) < mining.min_responses:
            counts["posts/too_few_responses"] += 1
            counts["responses/of_small_threads"] += len(cleaned[1])
        else:
            kept.append(cleaned)
    counts["threads"] += len(kept)
    counts["responses"] += sum(len(found) for _, found in kept)
    table = _batch(kept, len(resources(plan).space)).to_table()
    meta = {"fingerprint": plan.fingerprint, "counts": {name: number for name, number in counts.items() if number}}
    groups = [table.slice(start, ROWS_PER_GROUP) for start in range(0, max(1, table.num_rows), ROWS_PER_GROUP)]
    write_shard(part_path(plan, part), THREAD_SCHEMA, groups, meta)
    progress = counters_for(plan.output)
    progress.add("threads/parts", 1)
    progress.flush()


def delete_spills(plan: BuildPlan) -> None:
    """Delete the partitioned input. It is not scrubbed, so personal data are in it."""
    storage.remove_tree(_shuffle(plan))


def read_slice_record(plan: BuildPlan, number: int) -> dict[str, Any] | None:
    """Return what `partition` recorded of a slice; None before it has."""
    return read_own(plan, _record_path(plan, number))


def read_own(plan: BuildPlan, path: AnyPath) -> dict[str, Any] | None:
    """Return a sealed document; None if it is missing or belongs to another build."""
    document = read_sealed(path)
    return document if document is not None and document["fingerprint"] == plan.fingerprint else None


def part_path(plan: BuildPlan, part: int) -> AnyPath:
    """Return the path of a part's threads."""
    return plan.output / "threads" / f"part-{part:05d}.parquet"


def _rank(plan: BuildPlan, post: str) -> int:
    """Return a post's position in the order of all posts, as a hash of 64 bits."""
    text = f"{plan.config.seed}\x1f{post}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _write_spill(
    plan: BuildPlan, input_slice: Slice, number: int, parts: int, pending: list[tuple[int, bytes]]
) -> None:
    """Write items sorted by part, then a trailer with the start, stop and checksum of each part."""
    pending.sort(key=lambda entry: entry[0])
    sizes, checksums = np.zeros(parts, dtype="<i8"), np.zeros(parts, dtype="<i8")
    folder = _shuffle(plan)
    if storage.is_local(folder):
        # Only the owner may read it: personal data are in it.
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with atomic(_spill_path(plan, input_slice.number, number)) as temporary, temporary.open("wb") as file:
        for part, line in pending:
            sizes[part] += len(line)
            checksums[part] = zlib.crc32(line, int(checksums[part]))
            file.write(line)
        ends = np.cumsum(sizes)
        file.write(np.stack([ends - sizes, ends, checksums], axis=1).astype("<i8").tobytes())


def _read_part(plan: BuildPlan, part: int) -> Iterator[Item]:
    for path in _spills(plan):
        with storage.open_binary(path) as file:
            file.seek(_TRAILER_BYTES * (part - count_parts(plan)), os.SEEK_END)
            start, stop, checksum = np.frombuffer(file.read(_TRAILER_BYTES), dtype="<i8").tolist()
            file.seek(start)
            content = file.read(stop - start)
        if zlib.crc32(content) != checksum:
            raise UserError(f"{path} is damaged; delete {_shuffle(plan)} and run again")
        for line in content.splitlines():
            kind, *fields = orjson.loads(line)
            yield Post(*fields) if kind == "p" else Response(*fields)


@lru_cache(maxsize=2)
def _spills(plan: BuildPlan) -> list[AnyPath]:
    """Return the paths of all spills. They are listed once in a process, not once for each part."""
    paths: list[AnyPath] = []
    for input_slice in list_slices(plan.mining):
        record = read_slice_record(plan, input_slice.number) or {}
        if record.get("parts") != count_parts(plan):
            raise UserError(f"{input_slice.path} has changed while it was read; choose another --output")
        paths += [_spill_path(plan, input_slice.number, number) for number in range(record["spills"])]
    return paths


def _batch(threads: Sequence[CleanThread], dimensions: int) -> ThreadBatch:
    responses = [response for _, found in threads for response in found]
    annotated = np.array([response.levels is not None for response in responses], dtype=bool)
    levels = np.zeros((len(responses), dimensions), dtype=np.int8)
    for row, response in enumerate(responses):
        if response.levels is not None:
            levels[row] = response.levels
    probabilities = pole_probabilities(levels)
    for row, response in enumerate(responses):
        if response.positive is not None:
            probabilities[row, :, 0], probabilities[row, :, 1] = response.positive, response.negative
    return ThreadBatch(
        [post for post, _ in threads],
        np.cumsum([0, *(len(found) for _, found in threads)]),
        [response.id for response in responses],
        [response.text for response in responses],
        levels,
        probabilities,
        annotated,
    )


def _shuffle(plan: BuildPlan) -> AnyPath:
    return plan.output / "threads" / "shuffle"


def _record_path(plan: BuildPlan, number: int) -> AnyPath:
    return _shuffle(plan) / f"{number:05d}.json"


def _spill_path(plan: BuildPlan, input_slice: int, number: int) -> AnyPath:
    return _shuffle(plan) / f"{input_slice:05d}-{number:05d}.jsonl"
