"""Reads threads: dumps of submissions and comments, joined threads, and published datasets of rated responses.

Rows become *events*, posts and responses in any order (`events.py`), which `gather.py` joins.
Input is cut into slices that workers read independently.
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
from pipeline.reading.formats import KNOWN, format_of, is_compressed, is_hopeless, is_splittable, place, read_rows
from pipeline.reading.hub import dataset_commit, dataset_rows
from pipeline.reading.values import Rows
from pipeline.threads.events import Event, Filters, comments, rated, submissions, threads
from preference_space.space import PreferenceSpace
from schemas.base import UsageError
from schemas.config import DumpSource, MiningConfig, ThreadsSource

PACKAGED = "packaged"
"""Forty short threads of this project, to try things on."""
SLICE_BYTES = 64 << 20
_RATIO = 8
"""Bytes that a compressed byte of a dump stands for, about."""


@dataclass(frozen=True)
class Slice:
    """A part of the input: the lines that begin in bytes `start` to `stop` of a file, or all of it (`stop` None)."""

    number: int
    key: Literal["submissions", "comments", "path"]
    path: str
    start: int = 0
    stop: int | None = None


def source_contents(config: MiningConfig) -> list[str]:
    """Identifies the threads that `config` names: a Hub dataset's commit, or a hash of each file's content."""
    source = config.source
    if isinstance(source, ThreadsSource) and source.is_hub:
        return [dataset_commit(source.path[0], source.revision, "mining.source.path")]
    return [f"{key}:{storage.content_id(path)}" for key, path in _files(source)]


def cut_slices(config: MiningConfig) -> list[Slice]:
    """The slices of the input, in order."""
    source = config.source
    if isinstance(source, ThreadsSource) and source.is_hub:
        return [Slice(0, "path", source.path[0])]
    slices: list[Slice] = []
    for key, path in _files(source):
        size = storage.size(path)
        if is_splittable(path):
            for start in range(0, max(size, 1), SLICE_BYTES):
                slices.append(Slice(len(slices), key, str(path), start, min(size, start + SLICE_BYTES)))
        else:
            slices.append(Slice(len(slices), key, str(path)))
    return slices


def input_bytes(config: MiningConfig) -> int | None:
    """About how many bytes of JSON the input is; None where that is not known."""
    source = config.source
    if isinstance(source, ThreadsSource) and source.is_hub:
        return None
    return sum(storage.size(path) * (_RATIO if is_compressed(path) else 1) for _, path in _files(source))


def read_events(
    piece: Slice, config: MiningConfig, space: PreferenceSpace, counts: Counter[str], first: list[str]
) -> Iterator[Event]:
    """Yield the usable posts and responses of a slice.

    What is dropped is counted; `first` gets the place of the first row that cannot be read, and why. Raises
    `UsageError` for a file that cannot be read to its end, or in which no row can be.
    """
    source, filters = config.source, Filters(config, counts)
    path: AnyPath | str
    rows: Rows
    if isinstance(source, ThreadsSource) and source.is_hub:
        path = piece.path
        rows = enumerate(dataset_rows(path, source.config, source.split, source.revision, "mining.source.path"), 1)
    else:
        path = storage.parse(piece.path)
        rows = read_rows(path, piece.start, piece.stop)

    def told() -> str:
        number, why = min(filters.first.values())
        return f"{place(path, number, piece.start)}: {why}"

    def watched() -> Rows:
        for row in rows:
            yield row
            for kind in filters.first:
                if is_hopeless(counts[f"{kind}/unreadable"], counts[f"{kind}/read"]):
                    raise UsageError(
                        f"none of the first {counts[f'{kind}/read']} {kind} can be read; the first: {told()}"
                    )

    if piece.key == "submissions":
        yield from submissions(watched(), filters)
    elif isinstance(source, DumpSource):
        yield from comments(watched(), filters, source)
    elif source.kind == "threads":
        yield from threads(watched(), filters, space, source.columns)
    else:
        yield from rated(watched(), filters, space, source.kind)
    if filters.first:
        first.append(told())


def _matches(pattern: str) -> list[AnyPath]:
    folder, _, name = pattern.rpartition("/")
    parent = storage.parse(folder or ".") if folder or not pattern.startswith("/") else Path("/")
    return [parent / found for found in storage.list_names(parent) if fnmatchcase(found, name)]


def _files(source: DumpSource | ThreadsSource) -> list[tuple[Any, AnyPath]]:
    """Every file with the key that names it. Raises `UsageError` for one that is missing or of another kind."""
    files: list[tuple[Any, AnyPath]] = []
    for key in source.paths:
        for pattern in getattr(source, key):
            if pattern == PACKAGED:
                files.append((key, Path(str(importlib.resources.files("pipeline.threads") / "sample_threads.jsonl"))))
                continue
            path = storage.parse(pattern)
            # Brackets may be part of a name.
            found = _matches(pattern) if set(pattern) & set("*?[") and not storage.is_file(path) else [path]
            if not found:
                raise UsageError(f"mining.source.{key}: no file fits {pattern}")
            for path in found:
                if format_of(path) is None:
                    raise UsageError(f"mining.source.{key}: {path} is not one of {KNOWN}")
                if not storage.is_file(path):
                    raise UsageError(f"mining.source.{key}: {path}: no such file")
                files.append((key, path))
    return files
