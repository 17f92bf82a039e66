"""Seed posts: read from files or the Hub, cleaned, split, and stored in the order in which shards use them."""

from __future__ import annotations

import codecs
import csv
import hashlib
import importlib.resources
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from pipeline import storage
from pipeline.hub import dataset_commit, dataset_rows
from pipeline.plan import SPLITS, ShardSpec, apportion
from pipeline.shards import read_groups
from pipeline.storage import AnyPath, atomic
from pipeline.text import normalised, slug
from schemas.arrow import arrow_schema, to_table
from schemas.base import UsageError
from schemas.config import SeedsConfig
from schemas.records import SeedPost

_ROWS_PER_GROUP = 1024
_FIELDS = ("id", "title", "text", "topics")


def source_content(config: SeedsConfig) -> str:
    """Identifies the posts that `config` names: a Hub dataset's commit, or a hash of a file's content."""
    if config.is_hub:
        return dataset_commit(config.path, config.revision, "seeds.path")
    return storage.content_id(_file(config))


def read_posts(config: SeedsConfig, dropped: Counter[str]) -> Iterator[SeedPost]:
    """The posts of a source, in its order; counts what it drops: `empty`, `duplicate` (text), `duplicate_id`.

    Raises `UsageError` that names the file and row for a row that cannot be read.
    """
    seen: set[bytes] = set()
    ids: set[str] = set()
    kept = 0
    for number, row in enumerate(_rows(config)):
        post = _post(config, number, row)
        if post is None:
            dropped["empty"] += 1
            continue
        digest = hashlib.blake2b(normalised(post.prompt).encode(), digest_size=16).digest()
        if digest in seen:
            dropped["duplicate"] += 1
            continue
        if post.id in ids:
            dropped["duplicate_id"] += 1
            continue
        seen.add(digest)
        ids.add(post.id)
        yield post
        kept += 1
        if kept == config.limit:
            return


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


def store_posts(folder: AnyPath, by_split: Mapping[str, list[SeedPost]]) -> None:
    """Write `{split}.parquet`, in small row groups, so that a shard reads only the posts it uses."""
    schema = arrow_schema(SeedPost)
    for split, posts in by_split.items():
        with atomic(folder / f"{split}.parquet") as temporary:
            pq.write_table(to_table(posts, schema), temporary, row_group_size=_ROWS_PER_GROUP, compression="zstd")


def posts_of(folder: AnyPath, spec: ShardSpec) -> list[SeedPost]:
    """The post of each pair of a shard: pair i of a split uses post i mod n, of the split's n posts."""
    path = folder / f"{spec.split}.parquet"
    with storage.open_parquet(path) as opened:
        wanted = np.arange(spec.start, spec.start + spec.count) % pq.read_metadata(opened).num_rows
    return [SeedPost(**row | {"topics": tuple(row["topics"])}) for row in read_groups(path, wanted).to_pylist()]


def _post(config: SeedsConfig, number: int, row: Mapping[str, Any]) -> SeedPost | None:
    def value(field: str) -> Any:
        column = config.columns.get(field)  # type: ignore[call-overload]
        if column is not None and column not in row:
            raise UsageError(
                f"{config.path}: row {number + 1} has no column '{column}' (columns.{field}); "
                f"it has {', '.join(map(str, row))}"
            )
        return row.get(column or field)

    title, text, topics = value("title") or "", value("text") or "", value("topics") or ()
    if not str(title).strip() and not str(text).strip():
        return None
    if isinstance(topics, str):
        topics = topics.split(",")
    if not isinstance(topics, (list, tuple)):
        raise UsageError(f"{config.path}: row {number + 1}, 'topics': expected a list or text, found {topics!r}")
    identity = value("id")
    try:
        return SeedPost(
            id=str(number) if identity in (None, "") else str(identity),
            title=title,
            text=text,
            topics=tuple(slug(str(topic)) for topic in topics if str(topic).strip()),
        )
    except ValidationError as error:
        problem = error.errors()[0]
        raise UsageError(f"{config.path}: row {number + 1}, '{problem['loc'][0]}': {problem['msg']}") from None


def _rows(config: SeedsConfig) -> Iterator[Mapping[str, Any]]:
    if config.is_hub:
        yield from dataset_rows(config.path, config.config, config.split, config.revision, "seeds.path")
        return
    path = _file(config)
    try:
        with storage.local_copy(path) as copy:
            yield from _READERS[path.suffix](copy)
    except (pa.ArrowInvalid, UnicodeDecodeError, csv.Error, OSError) as error:
        raise UsageError(f"{path}: not readable as {path.suffix}: {' '.join(str(error).split())}") from None


def _jsonl(path: Path) -> Iterator[Mapping[str, Any]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            line = line.removeprefix(codecs.BOM_UTF8).strip()
            if not line:
                continue
            try:
                row = orjson.loads(line)
            except orjson.JSONDecodeError as error:
                raise UsageError(f"{path}: line {number} is not JSON: {error}") from None
            if not isinstance(row, dict):
                raise UsageError(f"{path}: line {number} is not a JSON object")
            yield row


def _parquet(path: Path) -> Iterator[Mapping[str, Any]]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=1024):
            yield from batch.to_pylist()


def _csv(path: Path) -> Iterator[Mapping[str, Any]]:
    csv.field_size_limit(1 << 30)
    with path.open(encoding="utf-8-sig", newline="") as file:
        yield from csv.DictReader(file)


_READERS = {".jsonl": _jsonl, ".parquet": _parquet, ".csv": _csv}


def _file(config: SeedsConfig) -> AnyPath:
    if config.path == "packaged":
        return Path(str(importlib.resources.files("pipeline") / "seed_posts.jsonl"))
    path = storage.parse(config.path)
    if path.suffix not in _READERS:
        raise UsageError(f"seeds.path: {path} is not one of {', '.join(_READERS)}, hf://owner/name or 'packaged'")
    if not storage.is_file(path):
        raise UsageError(f"seeds.path: {path}: no such file")
    return path
