"""Joins posts with their responses, in bounded memory: a shuffle through files, then a join for each part.

Every slice of the input is read once and its events are written in the order of the *part* that their post belongs to.
A part then reads its own piece of each slice, joins, cleans and stores its threads. Parts are ranges of a hash of the
post's id, so that threads come out in an order that depends on the seed and the ids alone, and splits can be cut from
it. The same files serve one process and many; Beam's own grouping would keep all of it in memory on the local runner.
"""

from __future__ import annotations

import hashlib
import io
import os
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa

from pipeline.io import storage
from pipeline.io.sealed import read_sealed, write_sealed
from pipeline.io.shards import open_shard, read_groups, read_metas, write_shard
from pipeline.io.storage import AnyPath, atomic
from pipeline.plan import SPLITS, BuildPlan, apportion
from pipeline.reading.formats import too_many_unreadable
from pipeline.reading.text import normalised
from pipeline.runtime.progress import counters_for
from pipeline.runtime.resources import resources
from pipeline.threads.batch import ROWS_PER_GROUP, THREAD_SCHEMA, ThreadBatch
from pipeline.threads.cleaning import Cleaned, clean_thread
from pipeline.threads.events import PostEvent, ResponseEvent
from pipeline.threads.scrub import scrub
from pipeline.threads.sources import Slice, cut_slices, input_bytes, read_events
from schemas.base import UsageError, UserError
from schemas.records import SeedPost

_PART_BYTES = 32 << 20
_PARTS = 64
"""Parts of an input of unknown size."""
_MOST_PARTS = 4096
_PLACE_BYTES = 24
"""Of each part at the end of a file of events: begin, end and checksum, eight bytes each."""
_FLUSHED_AT = 64 << 20
"""Bytes of events that a worker holds before it writes them out."""


@dataclass(frozen=True)
class Index:
    """What was gathered: threads of each part, those of each split, and the funnel.

    `first` is the first row that could not be read, with its place; '' where all could.
    """

    parts: tuple[int, ...]
    splits: Mapping[str, int]
    counts: Mapping[str, int]
    first: str


def slices_to_do(plan: BuildPlan) -> list[Slice]:
    """The slices that no earlier run has partitioned."""
    return [piece for piece in cut_slices(plan.mining) if _read_ours(plan, _done_path(plan, piece.number)) is None]


def is_partly_read(plan: BuildPlan) -> bool:
    """Return whether some slices are partitioned and others are not."""
    return 0 < len(slices_to_do(plan)) < len(cut_slices(plan.mining))


def parts_to_do(plan: BuildPlan) -> list[int]:
    """The parts that no earlier run has joined."""
    names = [_part_path(plan, part).name for part in range(count_parts(plan))]
    metas = read_metas(plan.output / "threads", names)
    return [part for part, meta in enumerate(metas) if (meta or {}).get("fingerprint") != plan.fingerprint]


def count_parts(plan: BuildPlan) -> int:
    """How many parts the input is joined in: the same for the same input, so that a later run can go on."""
    size = input_bytes(plan.mining)
    return _PARTS if size is None else min(_MOST_PARTS, max(1, -(-size // _PART_BYTES)))


def partition(piece: Slice, plan: BuildPlan) -> None:
    """Read a slice and write its events part by part; a small file beside them says that it is done."""
    counts: Counter[str] = Counter()
    first: list[str] = []
    parts = count_parts(plan)
    pending: list[tuple[int, bytes]] = []
    held = runs = 0
    progress = counters_for(plan.output)
    for event in read_events(piece, plan.mining, resources(plan).space, counts, first):
        post = event.id if isinstance(event, PostEvent) else event.post
        line = orjson.dumps(("p" if isinstance(event, PostEvent) else "r", *event)) + b"\n"
        pending.append((_order(plan, post) * parts >> 64, line))
        held += len(line)
        if held >= _FLUSHED_AT:
            _write_run(plan, piece, runs, parts, pending)
            progress.add("threads/events", len(pending))
            pending, held, runs = [], 0, runs + 1
    _write_run(plan, piece, runs, parts, pending)
    progress.add("threads/events", len(pending))
    progress.add("threads/slices", 1)
    progress.flush()
    done = {"fingerprint": plan.fingerprint, "runs": runs + 1, "parts": parts, "counts": counts, "first": first}
    write_sealed(_done_path(plan, piece.number), done)


def join(part: int, plan: BuildPlan) -> None:
    """Join a part's posts with their responses, clean them, and store the threads."""
    mining, counts = plan.mining, Counter[str]()
    posts: dict[_Key, PostEvent] = {}
    responses: dict[_Key, list[ResponseEvent]] = {}
    for event in _events_of(plan, part):
        if isinstance(event, ResponseEvent):
            responses.setdefault((event.post, event.mark), []).append(event)
        elif (event.id, event.mark) in posts:
            counts["posts/merged"] += 1
        else:
            posts[event.id, event.mark] = event
    counts["responses/without_post"] += sum(len(found) for post, found in responses.items() if post not in posts)
    shared = Counter(identity for identity, _ in posts)
    kept = []
    for post in sorted(posts, key=lambda key: (_order(plan, key[0]), *key)):
        identity, mark = post
        # Different posts under one id: each takes its content into its name.
        named = posts[post]._replace(id=f"{identity}~{mark}") if shared[identity] > 1 else posts[post]
        cleaned = clean_thread(named, responses.get(post, []), plan, counts)
        if len(cleaned[1]) < mining.min_responses:
            counts["posts/too_few_responses"] += 1
            counts["responses/of_small_threads"] += len(cleaned[1])
        else:
            kept.append(cleaned)
    counts["threads"] += len(kept)
    counts["responses"] += sum(len(found) for _, found in kept)
    table = _block(kept, len(resources(plan).space)).to_table()
    meta = {"fingerprint": plan.fingerprint, "counts": {name: number for name, number in counts.items() if number}}
    groups = [table.slice(start, ROWS_PER_GROUP) for start in range(0, max(1, table.num_rows), ROWS_PER_GROUP)]
    write_shard(_part_path(plan, part), THREAD_SCHEMA, groups, meta)
    progress = counters_for(plan.output)
    progress.add("threads/parts", 1)
    progress.flush()


def index(plan: BuildPlan) -> Index:
    """After the last part: drop repeated posts, and fix which threads are used."""
    counts, first = _read_counts(plan)
    paths = [_part_path(plan, part) for part in range(count_parts(plan))]
    for meta in read_metas(plan.output / "threads", [path.name for path in paths]):
        counts.update((meta or {})["counts"])
    digests = [_seed_digests(plan), *storage.map_files(plan.output, _digests, paths)]
    sizes = [len(found) for found in digests[1:]]
    everything = np.concatenate(digests)
    first_seen = np.zeros(len(everything), dtype=bool)
    first_seen[np.unique(everything, return_index=True)[1]] = True
    kept = np.flatnonzero(first_seen[len(digests[0]) :])
    counts["posts/duplicate"] += sum(sizes) - len(kept)
    if plan.mining.limit is not None:
        counts["posts/over_limit"] += max(0, len(kept) - (plan.mining.limit or 0))
        kept = kept[: plan.mining.limit]
    if not len(kept):
        unread = f"; the first that cannot be read: {first}" if first else ""
        raise UsageError(
            f"mining.source: no thread is left of {counts['posts/read']} posts ({_funnel(counts)}){unread}"
        )
    content = io.BytesIO()
    np.save(content, kept)
    storage.write_bytes(_kept_path(plan), content.getvalue())
    splits = _splits(plan, len(kept))
    counts["threads/used"] += sum(splits.values())
    found = Index(tuple(sizes), splits, dict(sorted((+counts).items())), first)
    write_sealed(
        _index_path(plan),
        {
            "fingerprint": plan.fingerprint,
            "parts": sizes,
            "splits": splits,
            "counts": found.counts,
            "first": first,
            # What the threads are from here on; checked when a later run begins.
            "files": {path.name: storage.content_id(path) for path in (*paths, _kept_path(plan))},
        },
    )
    return found


def _read_counts(plan: BuildPlan) -> tuple[Counter[str], str]:
    """What was read and dropped, and the first row that could not be read, '' if all could.

    Raises `UserError` for a file of which too many rows could not: what was gathered is kept. Where there is nothing to
    keep, that is a `UsageError`.
    """
    by_file: dict[str, Counter[str]] = {}
    first: dict[str, str] = {}
    for piece in cut_slices(plan.mining):
        done = _read_ours(plan, _done_path(plan, piece.number)) or {}
        by_file.setdefault(piece.path, Counter()).update(done["counts"])
        for told in done["first"]:
            first.setdefault(piece.path, told)
    counts = sum(by_file.values(), Counter[str]())
    wrong_input = UserError if counts["posts/read"] > counts["posts/unreadable"] else UsageError
    for path, told in first.items():
        for kind in ("posts", "responses"):
            unreadable, read = (by_file[path][f"{kind}/{name}"] for name in ("unreadable", "read"))
            if wrong := too_many_unreadable(unreadable, read, plan.config.limits.max_unreadable_share, told):
                raise wrong_input(f"{path}: of its {kind}, {wrong}")
    return counts, next(iter(first.values()), "")


def forget_events(plan: BuildPlan) -> None:
    """Delete what was read but not cleaned: personal data are in it."""
    storage.remove_tree(_shuffle(plan))


def check_files(plan: BuildPlan) -> None:
    """Raise `UserError` where the threads that were gathered are not those that are there now."""
    document = _read_ours(plan, _index_path(plan))
    if document is None:
        raise UserError(f"{_index_path(plan)} is missing; run the same build command again, which gathers the threads")
    folder = plan.output / "threads"
    there = set(storage.list_names(folder))

    def check(entry: tuple[str, str]) -> None:
        name, identity = entry
        if name not in there or not storage.is_same(identity, storage.content_id(folder / name)):
            state = "was changed" if name in there else "is missing"
            raise UserError(f"{folder / name} {state} since it was gathered; delete {folder} and run again")

    storage.map_files(folder, check, document["files"].items())


def read_index(plan: BuildPlan) -> Index | None:
    """What `index` has stored; None where nothing was gathered yet."""
    document = _read_ours(plan, _index_path(plan))
    if document is None:
        return None
    return Index(tuple(document["parts"]), *(document[name] for name in ("splits", "counts", "first")))


def read_threads(plan: BuildPlan, start: int, count: int) -> ThreadBatch:
    """Threads `start` to `start + count` of those used, in their order over all splits."""
    found = read_index(plan)
    if found is None:
        raise UserError(f"{_index_path(plan)} is missing; choose another --output")
    wanted = _read_kept(plan)[start : start + count]
    ends = np.cumsum(found.parts)
    part_of = np.searchsorted(ends, wanted, side="right")
    tables = [
        read_groups(_part_path(plan, part), wanted[part_of == part] - (ends[part] - found.parts[part]))
        for part in np.unique(part_of).tolist()
    ]
    return ThreadBatch.from_table(pa.concat_tables(tables).combine_chunks(), len(resources(plan).space))


@lru_cache(maxsize=2)
def _read_kept(plan: BuildPlan) -> npt.NDArray[np.int64]:
    """Which threads are used; on this machine not read before it is needed."""
    path = _kept_path(plan)
    if storage.is_local(path):
        mapped: npt.NDArray[np.int64] = np.load(path, mmap_mode="r")
        return mapped
    kept: npt.NDArray[np.int64] = np.load(io.BytesIO(storage.read_bytes(path)))
    return kept


def _order(plan: BuildPlan, post: str) -> int:
    """Where a post stands among all: 64 bits."""
    text = f"{plan.config.seed}\x1f{post}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _write_run(plan: BuildPlan, piece: Slice, number: int, parts: int, pending: list[tuple[int, bytes]]) -> None:
    """Write events by part, and at the end of the file where each part begins and ends, and its checksum."""
    pending.sort(key=lambda entry: entry[0])
    sizes, checksums = np.zeros(parts, dtype="<i8"), np.zeros(parts, dtype="<i8")
    # Personal data are in it: nobody else's to read.
    folder = _shuffle(plan)
    if storage.is_local(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with atomic(_run_path(plan, piece.number, number)) as temporary, temporary.open("wb") as file:
        for part, line in pending:
            sizes[part] += len(line)
            checksums[part] = zlib.crc32(line, int(checksums[part]))
            file.write(line)
        ends = np.cumsum(sizes)
        file.write(np.stack([ends - sizes, ends, checksums], axis=1).astype("<i8").tobytes())


def _events_of(plan: BuildPlan, part: int) -> Iterator[PostEvent | ResponseEvent]:
    parts = count_parts(plan)
    for piece in cut_slices(plan.mining):
        done = _read_ours(plan, _done_path(plan, piece.number)) or {}
        if done.get("parts") != parts:
            raise UserError(f"{piece.path} has changed while it was read; choose another --output")
        for number in range(done["runs"]):
            path = _run_path(plan, piece.number, number)
            with storage.open_binary(path) as file:
                file.seek(_PLACE_BYTES * (part - parts), os.SEEK_END)
                start, stop, checksum = np.frombuffer(file.read(_PLACE_BYTES), dtype="<i8").tolist()
                file.seek(start)
                content = file.read(stop - start)
            if zlib.crc32(content) != checksum:
                raise UserError(f"{path} is damaged; delete {_shuffle(plan)} and run again")
            for line in content.splitlines():
                kind, *fields = orjson.loads(line)
                yield PostEvent(*fields) if kind == "p" else ResponseEvent(*fields)


_Key = tuple[str, str]
"""A post's id and mark."""


def _block(kept: Sequence[Cleaned], dimensions: int) -> ThreadBatch:
    responses = [response for _, found in kept for response in found]
    known = np.array([response.levels is not None for response in responses], dtype=bool)
    levels = np.zeros((len(responses), dimensions), dtype=np.int8)
    for row, response in enumerate(responses):
        if response.levels is not None:
            levels[row] = response.levels
    shares = np.stack([levels > 0, levels < 0], axis=-1).astype(np.float32)
    for row, response in enumerate(responses):
        if response.positive is not None:
            shares[row, :, 0], shares[row, :, 1] = response.positive, response.negative
    return ThreadBatch(
        [post for post, _ in kept],
        np.cumsum([0, *(len(found) for _, found in kept)]),
        [response.id for response in responses],
        [response.text for response in responses],
        levels,
        shares,
        known,
    )


def _digests(path: AnyPath, clean: Callable[[str], str] = str) -> npt.NDArray[np.uint64]:
    with open_shard(path) as file:
        found: list[npt.NDArray[np.uint64]] = [np.empty(0, dtype=np.uint64)]
        for batch in file.iter_batches(batch_size=4096, columns=["title", "text"]):
            titles, texts = batch["title"].to_pylist(), batch["text"].to_pylist()
            posts = zip(*(map(clean, column) for column in (titles, texts)), strict=True)
            found.append(_hashed(SeedPost(id="-", title=a, text=b).prompt for a, b in posts))
    return np.concatenate(found)


def _seed_digests(plan: BuildPlan) -> npt.NDArray[np.uint64]:
    """Those of the posts that pairs are sampled for: a thread on such a post could stand in another split."""
    if not plan.config.sampled_pairs:
        return np.empty(0, dtype=np.uint64)
    # Threads are stored scrubbed.
    clean: Callable[[str], str] = scrub if plan.mining.scrub else str
    seeds = [_digests(plan.output / "seeds" / f"{split}.parquet", clean) for split in SPLITS]
    return np.unique(np.concatenate(seeds))


def _hashed(texts: Iterable[str]) -> npt.NDArray[np.uint64]:
    digests = b"".join(hashlib.blake2b(normalised(text).encode(), digest_size=8).digest() for text in texts)
    return np.frombuffer(digests, dtype=np.uint64)


def _splits(plan: BuildPlan, threads: int) -> dict[str, int]:
    """How many threads each split uses: as many as the pairs need, from the beginning of the order."""
    config, each = plan.config, plan.mining.pairs_per_post
    needed = threads if config.pairs is None else -(-config.mined_pairs // each)
    if needed > threads:
        raise UsageError(
            f"mining: {threads} threads give {threads * each} pairs at most, but {config.mined_pairs} are asked for; "
            "lower pairs or mining.share, raise mining.pairs_per_post, or name more threads"
        )
    return apportion(needed, config.splits.model_dump())


def _read_ours(plan: BuildPlan, path: AnyPath) -> dict[str, Any] | None:
    """A file of facts, if it is there and of this very build."""
    document = read_sealed(path)
    return document if document is not None and document["fingerprint"] == plan.fingerprint else None


def _funnel(counts: Mapping[str, int]) -> str:
    kept = ("posts/read", "responses/read", "threads", "responses")
    dropped = {name: number for name, number in counts.items() if number and name not in kept}
    largest = sorted(dropped.items(), key=lambda entry: -entry[1])[:4]
    return ", ".join(f"{name} {number}" for name, number in largest) or "nothing was read"


def _shuffle(plan: BuildPlan) -> AnyPath:
    return plan.output / "threads" / "shuffle"


def _done_path(plan: BuildPlan, piece: int) -> AnyPath:
    return _shuffle(plan) / f"{piece:05d}.json"


def _run_path(plan: BuildPlan, piece: int, run: int) -> AnyPath:
    return _shuffle(plan) / f"{piece:05d}-{run:05d}.jsonl"


def _part_path(plan: BuildPlan, part: int) -> AnyPath:
    return plan.output / "threads" / f"part-{part:05d}.parquet"


def _kept_path(plan: BuildPlan) -> AnyPath:
    return plan.output / "threads" / "kept.npy"


def _index_path(plan: BuildPlan) -> AnyPath:
    return plan.output / "threads" / "index.json"
