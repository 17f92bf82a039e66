"""Reads threads: dumps of submissions and comments, joined threads, and published datasets of rated responses.

Rows become *events*, posts and responses in any order (`pipeline.mining.events`), which `pipeline.mining.gather` joins.
Input is cut into slices that workers read independently.
"""

from __future__ import annotations

import importlib.resources
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, BinaryIO, Literal

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from pipeline import storage
from pipeline.hub import dataset_commit, dataset_rows
from pipeline.mining.events import Event, Filters, comments, rated, submissions, threads
from pipeline.storage import AnyPath
from preference_space.space import PreferenceSpace
from schemas.base import UsageError
from schemas.config import DumpSource, MiningConfig, ThreadsSource

PACKAGED = "packaged"
"""Forty short threads of this project, to try things on."""
SLICE_BYTES = 64 << 20
_ZSTD_RATIO = 8
"""Bytes that a compressed byte of a dump stands for, about."""
_LONGEST_WINDOW = 1 << 31
"""Reddit's dumps are compressed with zstd's `--long=31`."""


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
    # Parquet and zstd cannot be cut at a byte.
    for key, path in _files(source):
        size = storage.size(path)
        if path.suffix == ".jsonl":
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
    return sum(storage.size(path) * (1 if path.suffix == ".jsonl" else _ZSTD_RATIO) for _, path in _files(source))


def read_events(piece: Slice, config: MiningConfig, space: PreferenceSpace, counts: Counter[str]) -> Iterator[Event]:
    """The usable posts and responses of a slice. Raises `UsageError` that names file and row for one it cannot read."""
    filters = Filters(config, counts)
    source = config.source
    if isinstance(source, DumpSource):
        rows = _rows(piece)
        yield from submissions(rows, filters) if piece.key == "submissions" else comments(rows, filters, source)
        return
    if source.is_hub:
        rows = enumerate(dataset_rows(piece.path, source.config, source.split, source.revision, "mining.source.path"))
    else:
        rows = _rows(piece)
    if source.kind == "threads":
        yield from threads(rows, filters, space)
    else:
        yield from rated(rows, filters, space, source.kind)


def _rows(piece: Slice) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The rows of a file's slice, each with its place: bytes of JSON lines, or a number."""
    path = storage.parse(piece.path)
    try:
        if path.suffix == ".parquet":
            with storage.open_parquet(path) as opened, pq.ParquetFile(opened) as file:
                batches = file.iter_batches(batch_size=256)
                yield from enumerate(row for batch in batches for row in batch.to_pylist())
        elif path.suffix == ".zst":
            with storage.open_binary(path, from_start_to_end=True) as raw:
                yield from _json_lines(_buffered_lines(_decompressed(raw)), piece.path, 0)
        else:
            with storage.open_binary(path, from_start_to_end=True) as file:
                yield from _json_lines(_lines_from(file, piece.start, piece.stop), piece.path, piece.start)
    except (pa.ArrowInvalid, zstandard.ZstdError, OSError) as error:
        raise UsageError(f"{path}: not readable as {path.suffix}: {' '.join(str(error).split())}") from None


def _lines_from(file: BinaryIO, start: int, stop: int | None) -> Iterator[bytes]:
    """The lines that begin in [start, stop); an empty one stands for what belongs to the slice before."""
    if start:
        file.seek(start - 1)
        skipped = file.readline()
        yield b" " * (len(skipped) - 1)
    while stop is None or file.tell() < stop:
        line = file.readline()
        if not line:
            return
        yield line


def _decompressed(raw: BinaryIO) -> Iterator[bytes]:
    """The content of all frames. zstandard's own reader takes a file that is cut off for one that ends there."""
    decompressor = zstandard.ZstdDecompressor(max_window_size=_LONGEST_WINDOW)
    frame = None
    while block := raw.read(1 << 17):
        while block:
            frame = frame or decompressor.decompressobj()
            yield frame.decompress(block)
            block = frame.unused_data if frame.eof else b""
            frame = None if frame.eof else frame
    if frame is not None:
        raise zstandard.ZstdError("the file is cut off")


def _buffered_lines(blocks: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for block in blocks:
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            yield line + b"\n"
    if rest:
        yield rest


def _json_lines(lines: Iterable[bytes], path: str, position: int) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for line in lines:
        text = line.removeprefix(b"\xef\xbb\xbf").strip()
        if text:
            try:
                row = orjson.loads(text)
            except orjson.JSONDecodeError as error:
                raise UsageError(f"{path}: the line at byte {position} is not JSON: {error}") from None
            if not isinstance(row, dict):
                raise UsageError(f"{path}: the line at byte {position} is not a JSON object")
            yield position, row
        position += len(line)


def _matches(pattern: str) -> list[AnyPath]:
    folder, _, name = pattern.rpartition("/")
    parent = storage.parse(folder or ".") if folder or not pattern.startswith("/") else Path("/")
    return [parent / found for found in storage.names(parent) if fnmatchcase(found, name)]


_SUFFIXES = (".jsonl", ".zst", ".parquet")


def _files(source: DumpSource | ThreadsSource) -> list[tuple[Any, AnyPath]]:
    """Every file with the key that names it. Raises `UsageError` for one that is missing or of another kind."""
    files: list[tuple[Any, AnyPath]] = []
    for key in source.paths:
        for pattern in getattr(source, key):
            if pattern == PACKAGED:
                files.append((key, Path(str(importlib.resources.files("pipeline") / "sample_threads.jsonl"))))
                continue
            found = _matches(pattern) if set(pattern) & set("*?[") else [storage.parse(pattern)]
            if not found:
                raise UsageError(f"mining.source.{key}: no file fits {pattern}")
            for path in found:
                if path.suffix not in _SUFFIXES:
                    raise UsageError(f"mining.source.{key}: {path} is not one of {', '.join(_SUFFIXES)}")
                if not storage.is_file(path):
                    raise UsageError(f"mining.source.{key}: {path}: no such file")
                files.append((key, path))
    return files
