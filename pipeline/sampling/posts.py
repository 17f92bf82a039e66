"""Seed posts: read from files or the Hub, cleaned, split, and stored in the order in which shards use them."""

from __future__ import annotations

import hashlib
import importlib.resources
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from pipeline.io import storage
from pipeline.io.shards import read_groups, read_meta, write_shard
from pipeline.io.storage import AnyPath
from pipeline.plan import SPLITS, ShardSpec, apportion
from pipeline.reading.columns import Columns
from pipeline.reading.formats import KNOWN, format_of, is_hopeless, place, read_rows, too_many_unreadable
from pipeline.reading.hub import dataset_commit, dataset_rows
from pipeline.reading.text import as_written, is_blank, is_placeholder, normalised
from pipeline.reading.values import Row, Rows, UnreadableError, as_id, as_post, as_text, as_topics, named
from schemas.arrow import arrow_schema, to_table
from schemas.base import UsageError
from schemas.config import SeedsConfig
from schemas.records import SeedPost

_ROWS_PER_GROUP = 1024


def source_content(config: SeedsConfig) -> str:
    """Identifies the posts that `config` names: a Hub dataset's commit, or a hash of a file's content."""
    if config.is_hub:
        return dataset_commit(config.path, config.revision, "seeds.path")
    return storage.content_id(_file(config))


def read_posts(config: SeedsConfig, dropped: Counter[str], max_unreadable_share: float) -> Iterator[SeedPost]:
    """Yield the posts of a source, in its order.

    Counts what it drops: `unreadable` (with the first such row), `empty`, `deleted` (`[removed]` and its kin),
    `duplicate` (text). Posts of one id and different texts are all kept. Raises `UsageError` where no post is left, or
    more than the share `max_unreadable_share` of the rows cannot be read.
    """
    columns = Columns(config.columns, "seeds.columns.")
    path = config.path if config.is_hub else _file(config)
    seen: set[bytes] = set()
    ids: set[str] = set()
    read = unreadable = 0
    first = ""
    for number, row in _rows(config, path):
        read += 1
        try:
            post = _post(columns, read - 1, row)
        except UnreadableError as error:
            unreadable += 1
            first = first or f"{place(path, number)}: {error}"
            if is_hopeless(unreadable, read):
                raise UsageError(f"none of the first {read} rows can be read; the first: {first}") from None
            continue
        if post is None:
            dropped["empty"] += 1
            continue
        if is_placeholder(post.title) or is_placeholder(post.text):
            dropped["deleted"] += 1
            continue
        digest = hashlib.blake2b(normalised(post.prompt).encode(), digest_size=16).digest()
        if digest in seen:
            dropped["duplicate"] += 1
            continue
        if post.id in ids:
            # Different posts under one id: the later one takes its content into its name.
            post = post.model_copy(update={"id": f"{post.id}~{digest[:8].hex()}"})
        seen.add(digest)
        ids.add(post.id)
        yield post
        if len(ids) == config.limit:
            break
    if wrong := too_many_unreadable(unreadable, read, max_unreadable_share, first):
        raise UsageError(f"seeds.path: {path}: of its rows, {wrong}")
    if unreadable:
        dropped[f"unreadable; the first: {first}"] = unreadable
    if not ids:
        why = ", ".join(f"{count} {reason}" for reason, count in sorted(dropped.items())) or "it has no rows"
        raise UsageError(f"seeds.path: {path} holds no post: {why}; a post needs a 'title' or a 'text' (seeds.columns)")


def split_posts(posts: Iterable[SeedPost], shares: Mapping[str, float], seed: int) -> dict[str, list[SeedPost]]:
    """Posts by split, in an order that depends on the seed and the posts' ids alone."""

    def order(post: SeedPost) -> bytes:
        return hashlib.blake2b(f"{seed}\x1f{post.id}".encode(), digest_size=16).digest()

    ordered = sorted(posts, key=order)
    counts = apportion(len(ordered), shares)
    result, start = {}, 0
    for split in SPLITS:
        result[split] = ordered[start : start + counts[split]]
        start += counts[split]
    return result


def store_posts(folder: AnyPath, by_split: Mapping[str, list[SeedPost]], fingerprint: str) -> None:
    """Write `{split}.parquet`, in small row groups, so that a shard reads only the posts it uses."""
    schema = arrow_schema(SeedPost)
    for split, posts in by_split.items():
        starts = range(0, len(posts), _ROWS_PER_GROUP)
        groups = (to_table(posts[start : start + _ROWS_PER_GROUP], schema) for start in starts)
        write_shard(folder / f"{split}.parquet", schema, groups, {"fingerprint": fingerprint, "posts": len(posts)})


def posts_of(folder: AnyPath, spec: ShardSpec) -> list[SeedPost]:
    """The post of each pair of a shard: pair i of a split uses post i mod n, of the split's n posts."""
    path = folder / f"{spec.split}.parquet"
    posts = (read_meta(path) or {})["posts"]
    wanted = np.arange(spec.start, spec.start + spec.count) % posts
    return [SeedPost(**row | {"topics": tuple(row["topics"])}) for row in read_groups(path, wanted).to_pylist()]


def _post(columns: Columns, index: int, row: Row) -> SeedPost | None:
    """The post of a row; None where its texts are empty. Raises `UnreadableError`."""
    if isinstance(row, UnreadableError):
        raise row
    if not columns.has(row, "title") and not columns.has(row, "text"):
        raise UnreadableError(f"no 'title' and no 'text'; it has {named(row)}; seeds.columns maps them")
    title = as_written(as_text(columns.value(row, "title"), "title"))
    text = as_written(as_post(columns.value(row, "text"), "text"))
    topics, identity = as_topics(columns.value(row, "topics"), "topics"), as_id(columns.value(row, "id"), "id")
    if is_blank(title) and is_blank(text):
        return None
    return SeedPost(id=identity or str(index), title=title, text=text, topics=tuple(topics))


def _rows(config: SeedsConfig, path: AnyPath | str) -> Rows:
    if isinstance(path, str):
        return enumerate(dataset_rows(path, config.config, config.split, config.revision, "seeds.path"), 1)
    return read_rows(path)


def _file(config: SeedsConfig) -> AnyPath:
    if config.path == "packaged":
        return Path(str(importlib.resources.files("pipeline.sampling") / "seed_posts.jsonl"))
    path = storage.parse(config.path)
    if format_of(path) is None:
        raise UsageError(f"seeds.path: {path} is not one of {KNOWN}, hf://owner/name or 'packaged'")
    if not storage.is_file(path):
        raise UsageError(f"seeds.path: {path}: no such file")
    return path
