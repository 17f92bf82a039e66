"""The index of gathered threads: which of them a build uses, in which split, and what was dropped on the way.

Threads are numbered over all parts. The index leaves out posts that repeat another's text, and cuts the rest into
splits.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.io import storage
from pipeline.io.sealed import write_sealed
from pipeline.io.shards import open_shard, read_groups, read_metas
from pipeline.io.storage import AnyPath
from pipeline.plan import BuildPlan
from pipeline.reading.formats import unreadable_error
from pipeline.reading.text import hash_texts, normalise
from pipeline.runtime.inputs import seed_paths
from pipeline.runtime.resources import resources
from pipeline.threads.batch import ThreadBatch
from pipeline.threads.gather import count_parts, part_path, read_own, read_slice_record
from pipeline.threads.scrub import scrub
from pipeline.threads.sources import list_slices
from schemas.base import UsageError, UserError
from schemas.records import SeedPost


@dataclass(frozen=True)
class Index:
    """Gathered threads.

    Attributes:
        parts: Number of threads in each part.
        splits: Number of threads that each split uses.
        counts: What was read and dropped, by reason.
        first_unreadable: Place and reason of the first unreadable row; '' where there is none.
    """

    parts: tuple[int, ...]
    splits: Mapping[str, int]
    counts: Mapping[str, int]
    first_unreadable: str


def build_index(plan: BuildPlan) -> Index:
    """Index the joined parts: drop posts that repeat another's text, and fix which threads each split uses.

    Raises:
        UserError: Too many rows of a file are unreadable.
        UsageError: No thread is left, or too few for the pairs of the build.
    """
    counts, first_unreadable = _sum_counts(plan)
    paths = [part_path(plan, part) for part in range(count_parts(plan))]
    for meta in read_metas(plan.output / "threads", [path.name for path in paths]):
        counts.update((meta or {})["counts"])
    digests = [_seed_digests(plan), *storage.map_files(plan.output, _post_digests, paths)]
    sizes = [len(found) for found in digests[1:]]
    everything = np.concatenate(digests)
    is_first = np.zeros(len(everything), dtype=bool)
    is_first[np.unique(everything, return_index=True)[1]] = True
    kept = np.flatnonzero(is_first[len(digests[0]) :])
    counts["posts/duplicate"] += sum(sizes) - len(kept)
    if plan.mining.limit is not None:
        counts["posts/over_limit"] += max(0, len(kept) - plan.mining.limit)
        kept = kept[: plan.mining.limit]
    if not len(kept):
        unread = f"; the first that cannot be read: {first_unreadable}" if first_unreadable else ""
        raise UsageError(
            f"mining.source: no thread is left of {counts['posts/read']} posts ({_commonest_drops(counts)}){unread}"
        )
    content = io.BytesIO()
    np.save(content, kept)
    storage.write_bytes(_kept_path(plan), content.getvalue())
    splits = _splits(plan, len(kept))
    counts["threads/used"] += sum(splits.values())
    index = Index(tuple(sizes), splits, dict(sorted((+counts).items())), first_unreadable)
    write_sealed(
        _index_path(plan),
        {
            "fingerprint": plan.fingerprint,
            "parts": sizes,
            "splits": splits,
            "counts": index.counts,
            "first": first_unreadable,
            # Later runs refuse threads that have changed since.
            "files": {path.name: storage.content_id(path) for path in (*paths, _kept_path(plan))},
        },
    )
    return index


def read_index(plan: BuildPlan) -> Index | None:
    """Return the stored index of this build; None before the threads are gathered."""
    document = read_own(plan, _index_path(plan))
    if document is None:
        return None
    return Index(tuple(document["parts"]), *(document[name] for name in ("splits", "counts", "first")))


def check_threads(plan: BuildPlan) -> None:
    """Raise `UserError` if a file of gathered threads is missing or has changed since it was indexed."""
    document = read_own(plan, _index_path(plan))
    if document is None:
        raise _missing_index(plan)
    folder = plan.output / "threads"
    present = set(storage.list_names(folder))

    def check(entry: tuple[str, str]) -> None:
        name, identity = entry
        if name not in present or not storage.is_same(identity, storage.content_id(folder / name)):
            state = "was changed" if name in present else "is missing"
            raise UserError(f"{folder / name} {state} since it was gathered; delete {folder} and run again")

    storage.map_files(folder, check, document["files"].items())


def read_threads(plan: BuildPlan, start: int, count: int) -> ThreadBatch:
    """Return threads `start` to `start + count` of those that the build uses, counted over all splits."""
    kept, sizes = _read_kept(plan)
    wanted = kept[start : start + count]
    ends = np.cumsum(sizes)
    part_of = np.searchsorted(ends, wanted, side="right")
    tables = [
        read_groups(part_path(plan, part), wanted[part_of == part] - (ends[part] - sizes[part]))
        for part in np.unique(part_of).tolist()
    ]
    return ThreadBatch.from_table(pa.concat_tables(tables).combine_chunks(), len(resources(plan).space))


@lru_cache(maxsize=2)
def _read_kept(plan: BuildPlan) -> tuple[npt.NDArray[np.int64], tuple[int, ...]]:
    """Return the numbers of the threads that the build uses, and the number of threads in each part."""
    index, path = read_index(plan), _kept_path(plan)
    if index is None:
        raise _missing_index(plan)
    # A local file is mapped, not read.
    kept: npt.NDArray[np.int64] = (
        np.load(path, mmap_mode="r") if storage.is_local(path) else np.load(io.BytesIO(storage.read_bytes(path)))
    )
    return kept, index.parts


def _missing_index(plan: BuildPlan) -> UserError:
    return UserError(f"{_index_path(plan)} is missing; run the same build command again, which gathers the threads")


def _sum_counts(plan: BuildPlan) -> tuple[Counter[str], str]:
    """Return the counts of all slices, and the first unreadable row ('' for none).

    Raises `UserError` for a file with too many unreadable rows. It is a `UsageError` where no post was readable, as
    then no work is worth keeping.
    """
    by_file: dict[str, Counter[str]] = {}
    first: dict[str, str] = {}
    for input_slice in list_slices(plan.mining):
        record = read_slice_record(plan, input_slice.number) or {}
        by_file.setdefault(input_slice.path, Counter()).update(record["counts"])
        for unreadable in record["first"]:
            first.setdefault(input_slice.path, unreadable)
    counts = sum(by_file.values(), Counter[str]())
    error = UserError if counts["posts/read"] > counts["posts/unreadable"] else UsageError
    for path, unreadable in first.items():
        for kind in ("posts", "responses"):
            number, read = (by_file[path][f"{kind}/{name}"] for name in ("unreadable", "read"))
            if problem := unreadable_error(number, read, plan.config.limits.max_unreadable_share, unreadable):
                raise error(f"{path}: {kind}: {problem}")
    return counts, next(iter(first.values()), "")


def _post_digests(path: AnyPath, clean: Callable[[str], str] = str) -> npt.NDArray[np.uint64]:
    """Return a hash of the normalised text of each post in a shard."""
    with open_shard(path) as file:
        found: list[npt.NDArray[np.uint64]] = [np.empty(0, dtype=np.uint64)]
        for batch in file.iter_batches(batch_size=4096, columns=["title", "text"]):
            titles, texts = (map(clean, batch[name].to_pylist()) for name in ("title", "text"))
            posts = (SeedPost(id="-", title=title, text=text) for title, text in zip(titles, texts, strict=True))
            found.append(hash_texts(normalise(post.prompt) for post in posts))
    return np.concatenate(found)


def _seed_digests(plan: BuildPlan) -> npt.NDArray[np.uint64]:
    """Return the hashes of all seed posts: a thread on one of them could be in another split."""
    if not plan.config.sampled_pairs:
        return np.empty(0, dtype=np.uint64)
    # Stored threads are scrubbed, so that only scrubbed seeds compare equal.
    clean: Callable[[str], str] = scrub if plan.mining.scrub else str
    seeds = [_post_digests(path, clean) for path in seed_paths(plan).values()]
    return np.unique(np.concatenate(seeds))


def _splits(plan: BuildPlan, threads: int) -> dict[str, int]:
    """Return the number of threads that each split uses: all, or as many as the pairs of the build need."""
    config, per_thread = plan.config, plan.mining.pairs_per_post
    needed = threads if config.takes_all_threads else -(-config.mined_pairs // per_thread)
    if needed > threads:
        raise UsageError(
            f"mining: {threads} threads give {threads * per_thread} pairs at most, but {config.mined_pairs} are "
            "requested; lower pairs or mining.share, raise mining.pairs_per_post, or name more threads"
        )
    return config.splits.of_people(needed)


def _commonest_drops(counts: Mapping[str, int]) -> str:
    kept = ("posts/read", "responses/read", "threads", "responses")
    dropped = {name: number for name, number in counts.items() if number and name not in kept}
    largest = sorted(dropped.items(), key=lambda entry: -entry[1])[:4]
    return ", ".join(f"{name} {number}" for name, number in largest) or "nothing was read"


def _kept_path(plan: BuildPlan) -> AnyPath:
    return plan.output / "threads" / "kept.npy"


def _index_path(plan: BuildPlan) -> AnyPath:
    return plan.output / "threads" / "index.json"
