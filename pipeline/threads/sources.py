"""Reads threads: dumps of submissions and comments, joined threads, and published datasets of rated responses.

The input is cut into slices that workers read independently. Rows become items (`parsing.py`), which `gather.py` joins.
"""

from __future__ import annotations

import importlib.resources
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from pipeline.io import storage
from pipeline.io.storage import AnyPath
from pipeline.reading.formats import (
    SUPPORTED,
    detect_format,
    is_all_unreadable,
    is_compressed,
    is_splittable,
    read_rows,
    row_location,
)
from pipeline.reading.hub import dataset_commit, dataset_rows
from pipeline.reading.values import Rows
from pipeline.threads.filters import Filters
from pipeline.threads.parsing import Item, parse_comments, parse_rated, parse_submissions, parse_threads
from preference_space.space import PreferenceSpace
from schemas.base import UsageError
from schemas.config import PACKAGED, DumpSource, MiningConfig, ThreadsSource

SLICE_BYTES = 64 << 20
_COMPRESSION_RATIO = 8
"""Estimated bytes of text for a byte of a compressed dump."""


@dataclass(frozen=True)
class Slice:
    """A range of an input file: the lines that start in bytes `start` to `stop`, or all of them if `stop` is None."""

    number: int
    key: Literal["submissions", "comments", "path"]
    path: str
    start: int = 0
    stop: int | None = None


def identify_sources(config: MiningConfig) -> list[str]:
    """Return what identifies the content of a source: a Hub dataset's commit, or a hash of each file."""
    source = config.source
    if isinstance(source, ThreadsSource) and source.is_hub:
        return [dataset_commit(source.path[0], source.revision, "mining.source.path")]
    return [f"{key}:{storage.content_id(path)}" for key, path in _source_files(source)]


def list_slices(config: MiningConfig) -> list[Slice]:
    """Return the slices of the input, in order."""
    source = config.source
    if isinstance(source, ThreadsSource) and source.is_hub:
        return [Slice(0, "path", source.path[0])]
    slices: list[Slice] = []
    for key, path in _source_files(source):
        size = storage.size(path)
        if is_splittable(path):
            for start in range(0, max(size, 1), SLICE_BYTES):
                slices.append(Slice(len(slices), key, str(path), start, min(size, start + SLICE_BYTES)))
        else:
            slices.append(Slice(len(slices), key, str(path)))
    return slices


def input_bytes(config: MiningConfig) -> int | None:
    """Return the estimated size of the input as JSON, in bytes; None for a Hub dataset."""
    source = config.source
    if isinstance(source, ThreadsSource) and source.is_hub:
        return None
    return sum(
        storage.size(path) * (_COMPRESSION_RATIO if is_compressed(path) else 1) for _, path in _source_files(source)
    )


def read_items(
    input_slice: Slice, config: MiningConfig, space: PreferenceSpace, counts: Counter[str], unreadable: list[str]
) -> Iterator[Item]:
    """Yield the usable posts and responses of a slice.

    Args:
        input_slice: A slice of the configured source.
        config: Source and filters.
        space: Space whose dimensions given levels and ratings refer to.
        counts: Gets the number of items read and dropped, by reason.
        unreadable: Gets the place and reason of the slice's first unreadable row, if there is one.

    Raises:
        UsageError: The file cannot be read to its end, or none of its first rows is readable.
    """
    source, filters = config.source, Filters(config, counts)
    path: AnyPath | str
    rows: Rows
    if isinstance(source, ThreadsSource) and source.is_hub:
        path = input_slice.path
        rows = enumerate(dataset_rows(path, source.config, source.split, source.revision, "mining.source.path"), 1)
    else:
        path = storage.parse(input_slice.path)
        rows = read_rows(path, input_slice.start, input_slice.stop)

    def first_unreadable() -> str:
        number, reason = min(filters.first_unreadable.values())
        return f"{row_location(path, number, input_slice.start)}: {reason}"

    def checked_rows() -> Rows:
        for row in rows:
            yield row
            for kind in filters.first_unreadable:
                if is_all_unreadable(counts[f"{kind}/unreadable"], counts[f"{kind}/read"]):
                    problem = f"none of the first {counts[f'{kind}/read']} {kind} can be read"
                    raise UsageError(f"mining.source.{input_slice.key}: {problem}; the first: {first_unreadable()}")

    if input_slice.key == "submissions":
        yield from parse_submissions(checked_rows(), filters)
    elif isinstance(source, DumpSource):
        yield from parse_comments(checked_rows(), filters, source)
    elif source.kind == "threads":
        yield from parse_threads(checked_rows(), filters, space, source.columns)
    else:
        yield from parse_rated(checked_rows(), filters, space, source.kind)
    if filters.first_unreadable:
        unreadable.append(first_unreadable())


def _matching_files(pattern: str) -> list[AnyPath]:
    folder, _, name = pattern.rpartition("/")
    parent = storage.parse(folder or ".") if folder or not pattern.startswith("/") else Path("/")
    return [parent / found for found in storage.list_names(parent) if fnmatchcase(found, name)]


def _source_files(source: DumpSource | ThreadsSource) -> list[tuple[Any, AnyPath]]:
    """Return every file with the key that names it. Raise `UsageError` for one that is missing or of unknown format."""
    files: list[tuple[Any, AnyPath]] = []
    for key in source.paths:
        for pattern in getattr(source, key):
            if pattern == PACKAGED:
                files.append((key, Path(str(importlib.resources.files("pipeline.threads") / "sample_threads.jsonl"))))
                continue
            path = storage.parse(pattern)
            # A file name may contain these characters.
            found = _matching_files(pattern) if set(pattern) & set("*?[") and not storage.is_file(path) else [path]
            if not found:
                raise UsageError(f"mining.source.{key}: no file matches {pattern}")
            for path in found:
                if detect_format(path) is None:
                    raise UsageError(f"mining.source.{key}: {path} has none of the suffixes {SUPPORTED}")
                if not storage.is_file(path):
                    raise UsageError(f"mining.source.{key}: {path}: no such file")
                files.append((key, path))
    return files
