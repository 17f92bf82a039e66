"""Seed posts: read from files or the Hub, cleaned, split, and stored in the order in which shards use them."""

from __future__ import annotations

import hashlib
import importlib.resources
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from pipeline.io import storage
from pipeline.io.shards import open_shard, take_rows, write_shard
from pipeline.io.storage import AnyPath
from pipeline.reading.columns import Columns
from pipeline.reading.formats import (
    SUPPORTED,
    detect_format,
    is_all_unreadable,
    read_rows,
    row_location,
    unreadable_error,
)
from pipeline.reading.hub import dataset_commit, dataset_rows
from pipeline.reading.text import clean_text, is_blank, is_placeholder, normalise
from pipeline.reading.values import (
    Row,
    Rows,
    UnreadableError,
    missing_column,
    parse_flag,
    parse_id,
    parse_post,
    parse_text,
    parse_topics,
)
from pipeline.runtime.inputs import missing_input
from schemas.arrow import arrow_schema, to_table
from schemas.base import UsageError
from schemas.config import PACKAGED, SeedsConfig, apportion
from schemas.records import SeedPost

_ROWS_PER_GROUP = 1024
_FACTS = "impersonal_posts.jsonl"
"""File of the packaged questions of fact."""


def identify_source(config: SeedsConfig) -> str:
    """Return what identifies the content of a source: a Hub dataset's commit, or a hash of the file."""
    if config.is_hub:
        return dataset_commit(config.path, config.revision, "seeds.path")
    return storage.content_id(_source_path(config))


def read_posts(
    config: SeedsConfig, dropped: Counter[str], max_unreadable_share: float, reads_marks: bool = False
) -> Iterator[SeedPost]:
    """Yield the posts of a source, in its order.

    Posts with the same text are duplicates. Posts with the same id and different texts are all kept, under new ids.

    Args:
        config: Source, columns and limit.
        dropped: Gets the number of dropped rows: `unreadable` (with the first one), `empty`, `deleted`, `duplicate`.
        max_unreadable_share: `limits.max_unreadable_share`.
        reads_marks: Whether the column `impersonal` is read.

    Raises:
        UsageError: No post is left, or too many rows are unreadable.
    """
    columns = Columns(config.columns, "seeds.columns.")
    path = config.path if config.is_hub else _source_path(config)
    seen: set[bytes] = set()
    ids: set[str] = set()
    read = unreadable = 0
    first = ""
    for number, row in _rows(config, path):
        read += 1
        try:
            post = _post(columns, read - 1, row, reads_marks)
        except UnreadableError as error:
            unreadable += 1
            first = first or f"{row_location(path, number)}: {error}"
            if is_all_unreadable(unreadable, read):
                raise UsageError(f"seeds.path: none of the first {read} rows can be read; the first: {first}") from None
            continue
        if post is None:
            dropped["empty"] += 1
            continue
        if is_placeholder(post.title) or is_placeholder(post.text):
            dropped["deleted"] += 1
            continue
        digest = _digest(post)
        if digest in seen:
            dropped["duplicate"] += 1
            continue
        if post.id in ids:
            post = _renamed(post, digest)
        seen.add(digest)
        ids.add(post.id)
        yield post
        if len(ids) == config.limit:
            break
    if problem := unreadable_error(unreadable, read, max_unreadable_share, first):
        raise UsageError(f"seeds.path: {path}: {problem}")
    if unreadable:
        dropped[f"unreadable; the first: {first}"] = unreadable
    if not ids:
        why = ", ".join(f"{count} {reason}" for reason, count in sorted(dropped.items())) or "it has no rows"
        raise UsageError(f"seeds.path: {path} holds no post: {why}; a post needs a 'title' or a 'text' (seeds.columns)")


def with_packaged_facts(posts: Sequence[SeedPost]) -> list[SeedPost]:
    """Return the posts, followed by those packaged questions of fact that they do not hold, which are impersonal."""
    ids, seen = {post.id for post in posts}, {_digest(post) for post in posts}
    result = [*posts]
    for line in _packaged(_FACTS).read_text("utf-8").splitlines():
        post = SeedPost.model_validate_json(line).model_copy(update={"impersonal": True})
        digest = _digest(post)
        if digest not in seen:
            result.append(_renamed(post, digest) if post.id in ids else post)
    return result


def identify_facts() -> str:
    """Return a hash of the packaged questions of fact."""
    return storage.content_id(_packaged(_FACTS))


def split_posts(
    posts: Iterable[SeedPost], shares: Mapping[str, float], seed: int, least: Mapping[str, int] = MappingProxyType({})
) -> dict[str, list[SeedPost]]:
    """Shuffle posts by their ids, and cut them into splits.

    Args:
        posts: Posts in any order, with distinct ids.
        shares: Share of each split; they sum to 1.
        seed: Seed of the order.
        least: Fewest posts of a split, as far as others can spare them.

    Returns:
        The posts of each split, in an order that depends on the seed and the ids alone.
    """

    def order(post: SeedPost) -> bytes:
        return hashlib.blake2b(f"{seed}\x1f{post.id}".encode(), digest_size=16).digest()

    ordered = sorted(posts, key=order)
    result, start = {}, 0
    for split, count in _with_least(apportion(len(ordered), shares), least).items():
        result[split] = ordered[start : start + count]
        start += count
    return result


def _with_least(counts: dict[str, int], least: Mapping[str, int]) -> dict[str, int]:
    """Return the counts with as many moved from the splits that have most to spare as others lack."""
    spare = {split: count - least.get(split, 0) for split, count in counts.items()}
    while min(spare.values()) < 0 < (most := max(spare.values())):
        spare[min(spare, key=lambda split: spare[split])] += 1
        spare[next(split for split in spare if spare[split] == most)] -= 1
    return {split: spare[split] + least.get(split, 0) for split in counts}


def store_posts(path: AnyPath, posts: Sequence[SeedPost], fingerprint: str) -> None:
    """Write the posts of a split in small row groups, so that a shard reads only the posts that it uses."""
    schema = arrow_schema(SeedPost)
    starts = range(0, len(posts), _ROWS_PER_GROUP)
    groups = (to_table(posts[start : start + _ROWS_PER_GROUP], schema) for start in starts)
    write_shard(path, schema, groups, {"fingerprint": fingerprint})


def take_posts(path: AnyPath, numbers: npt.NDArray[np.int64]) -> list[SeedPost]:
    """Return posts by number: number i is post i mod n of the n posts at `path`.

    Raises `UsageError` where the file is missing.
    """
    if not len(numbers):
        return []
    try:
        with open_shard(path) as file:
            rows = take_rows(file, numbers % file.metadata.num_rows)
    except FileNotFoundError:
        raise missing_input(path) from None
    return [SeedPost(**row | {"topics": tuple(row["topics"])}) for row in rows.to_pylist()]


def _digest(post: SeedPost) -> bytes:
    return hashlib.blake2b(normalise(post.prompt).encode(), digest_size=16).digest()


def _renamed(post: SeedPost, digest: bytes) -> SeedPost:
    """Return a post whose id another one has, with a hash of its content in the id."""
    return post.model_copy(update={"id": f"{post.id}~{digest[:8].hex()}"})


def _post(columns: Columns, index: int, row: Row, reads_marks: bool) -> SeedPost | None:
    """Return the post of a row; None if its texts are empty. Raise `UnreadableError` if it cannot be parsed."""
    if isinstance(row, UnreadableError):
        raise row
    if not columns.has(row, "title") and not columns.has(row, "text"):
        raise missing_column("'title' or 'text'", row, "seeds.columns")
    title = clean_text(parse_text(columns.value(row, "title"), "title"))
    text = clean_text(parse_post(columns.value(row, "text"), "text"))
    topics, identity = parse_topics(columns.value(row, "topics"), "topics"), parse_id(columns.value(row, "id"), "id")
    is_marked = reads_marks and parse_flag(columns.value(row, "impersonal"), "impersonal")
    if is_blank(title) and is_blank(text):
        return None
    return SeedPost(id=identity or str(index), title=title, text=text, topics=tuple(topics), impersonal=is_marked)


def _rows(config: SeedsConfig, path: AnyPath | str) -> Rows:
    if isinstance(path, str):
        return enumerate(dataset_rows(path, config.config, config.split, config.revision, "seeds.path"), 1)
    return read_rows(path)


def _packaged(name: str) -> Path:
    return Path(str(importlib.resources.files("pipeline.sampling") / name))


def _source_path(config: SeedsConfig) -> AnyPath:
    if config.path == PACKAGED:
        return _packaged("seed_posts.jsonl")
    path = storage.parse(config.path)
    if detect_format(path) is None:
        suffixes = f"none of the suffixes {SUPPORTED}"
        raise UsageError(f"seeds.path: {path} has {suffixes}, and is neither hf://owner/name nor 'packaged'")
    if not storage.is_file(path):
        raise UsageError(f"seeds.path: {path}: no such file")
    return path
