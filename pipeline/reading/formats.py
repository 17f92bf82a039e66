"""Reads the rows of a file by its suffix: JSON lines, JSON, CSV and Parquet, plain or compressed.

An unreadable row is an `UnreadableError` in its place, and reading continues. A file that is damaged or cut off is an
error, as the number of missing rows is unknown.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePath
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from pipeline.io import storage
from pipeline.io.storage import AnyPath
from pipeline.reading.csv_files import read_csv
from pipeline.reading.json_files import read_json, read_json_lines
from pipeline.reading.values import Row, Rows, UnreadableError
from schemas.base import UsageError, UserError

_LINES = (".jsonl", ".ndjson")
_TABLES = (".csv", ".tsv")
_TEXTS = (*_LINES, *_TABLES, ".json")
_COMPRESSED = (".gz", ".zst")
SUPPORTED = f"{', '.join(_TEXTS)} (each also as .gz or .zst), .parquet"
"""The readable suffixes, for messages."""
_SAMPLE_ROWS = 1000
"""Rows after which a file without a readable one is given up."""
_MAX_WINDOW = 1 << 31
"""Reddit's dumps are compressed with zstd's `--long=31`."""
_ROWS = 256
_READ = 1 << 20


def detect_format(path: AnyPath) -> str | None:
    """Return the format of a file by its name, such as `.csv`; None if it is not supported.

    A compressed file without a second suffix holds JSON lines, as Reddit's dumps do.
    """
    name = PurePath(path.name.lower())
    if name.suffix in _COMPRESSED:
        inner = PurePath(name.stem).suffix
        return inner if inner in _TEXTS else None if inner == ".parquet" else ".jsonl"
    return name.suffix if name.suffix in (*_TEXTS, ".parquet") else None


def is_compressed(path: AnyPath) -> bool:
    """Return whether the file is compressed, as Parquet is too."""
    return path.suffix.lower() in (*_COMPRESSED, ".parquet")


def is_splittable(path: AnyPath) -> bool:
    """Return whether slices of the file may start at any byte."""
    return path.suffix.lower() in _LINES


def read_rows(path: AnyPath, start: int = 0, stop: int | None = None) -> Rows:
    """Yield the rows of a file with their numbers.

    Args:
        path: The file.
        start: First byte of a slice, for a splittable file; a row belongs to the slice in which it begins.
        stop: First byte after the slice; None for the end of the file.

    Yields:
        Rows, numbered from the first line of the slice; `row_location` says which line of the file that is.

    Raises:
        UsageError: The file is not in the format of its name, is damaged, or is cut off.
        UserError: The system cannot read it.
    """
    kind, number = detect_format(path), 0
    try:
        if kind == ".parquet":
            with storage.open_parquet(path) as opened, pq.ParquetFile(opened) as parquet:
                for number, row in enumerate(_parquet(parquet), 1):
                    yield number, row
            return
        with storage.open_binary(path, from_start_to_end=True) as raw, _decompressed(path, raw) as file:
            if kind in _LINES:
                rows = read_json_lines(_lines_from(file, start, stop))
            elif kind == ".json":
                rows = read_json(file)
            else:
                # Excel's "Unicode text" is UTF-16.
                encoding = "utf-16" if file.peek(2)[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
                text = io.TextIOWrapper(file, encoding=encoding, errors="surrogateescape", newline="")
                rows = read_csv(text, "\t" if kind == ".tsv" else None)
            for number, row in rows:
                yield number, row
    except (pa.ArrowException, zstandard.ZstdError, zlib.error, EOFError, OSError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        if isinstance(error, OSError) and error.errno is not None:
            raise UserError(
                f"cannot read {path}: {reason}; run the same command again, finished work is kept"
            ) from None
        after = f", after {row_location(path, number, start)[len(str(path)) + 2 :]}" if number else ""
        raise UsageError(f"{path}: not readable as {path.suffix}{after}: {reason}") from None


def row_location(path: AnyPath | str, number: int, start: int = 0) -> str:
    """Return the file and line (or row) of a row, for messages. Reads the file before `start` to count its lines.

    Args:
        path: The file, or the name of a Hub dataset.
        number: Number of the row, as `read_rows` gave it.
        start: First byte of the slice.
    """
    if isinstance(path, str) or detect_format(path) in (".parquet", ".json"):
        return f"{path}: row {number}"
    return f"{path}: line {number + _lines_before(path, start)}"


def is_all_unreadable(unreadable: int, read: int) -> bool:
    """Return whether the first 1,000 rows have just been read, and none was readable."""
    return unreadable == read == _SAMPLE_ROWS


def unreadable_error(unreadable: int, read: int, max_share: float, first: str) -> str | None:
    """Return a message if more than a share of rows is unreadable, else None. One unreadable row is always allowed.

    Args:
        unreadable: Number of unreadable rows.
        read: Number of all rows.
        max_share: `limits.max_unreadable_share`.
        first: Place and reason of the first unreadable row.
    """
    if unreadable <= max(1, max_share * read):
        return None
    some = f"{unreadable} of {read} cannot be read; raise limits.max_unreadable_share = {max_share:g} to skip them"
    return f"{some if unreadable < read else f'none of {read} can be read'}; the first: {first}"


def _lines_before(path: AnyPath, start: int) -> int:
    """Return the number of lines before the first line that begins at `start` or later."""
    if not start:
        return 0
    lines, left = 1, start - 1
    with storage.open_binary(path, from_start_to_end=True) as file:
        while left and (block := file.read(min(_READ, left))):
            lines += block.count(b"\n")
            left -= len(block)
    return lines


def _lines_from(file: BinaryIO, start: int, stop: int | None) -> Iterator[bytes]:
    """Yield the lines that begin in [start, stop)."""
    if start:
        file.seek(start - 1)
        file.readline()
    while stop is None or file.tell() < stop:
        line = file.readline()
        if not line:
            return
        yield line


def _parquet(file: pq.ParquetFile) -> Iterator[Row]:
    for batch in file.iter_batches(batch_size=_ROWS):
        try:
            yield from batch.to_pylist()
        except UnicodeDecodeError:
            yield from map(_decoded, (batch.slice(row, 1) for row in range(batch.num_rows)))


def _decoded(row: pa.RecordBatch) -> Row:
    try:
        found: Row = row.to_pylist()[0]
    except UnicodeDecodeError as error:
        return UnreadableError(f"not UTF-8 ({error.reason})")
    return found


@contextmanager
def _decompressed(path: AnyPath, raw: BinaryIO) -> Iterator[Any]:
    if path.suffix.lower() == ".gz":
        with gzip.GzipFile(fileobj=raw) as file:
            yield file
    elif path.suffix.lower() == ".zst":
        yield io.BufferedReader(_ZstdFrames(raw), _READ)
    else:
        yield raw


class _ZstdFrames(io.RawIOBase):
    """The content of all zstd frames. Unlike zstandard's own reader, it raises an error for a file that is cut off."""

    def __init__(self, raw: BinaryIO) -> None:
        self._raw, self._compressed, self._plain = raw, b"", memoryview(b"")
        self._frame: zstandard.ZstdDecompressionObj | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._plain:
            if not self._compressed:
                self._compressed = self._raw.read(1 << 17)
            if not self._compressed:
                if self._frame is not None:
                    raise zstandard.ZstdError("the file is cut off")
                return 0
            if self._frame is None:
                self._frame = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW).decompressobj()
            self._plain = memoryview(self._frame.decompress(self._compressed))
            self._compressed = self._frame.unused_data if self._frame.eof else b""
            self._frame = None if self._frame.eof else self._frame
        count = min(len(buffer), len(self._plain))
        buffer[:count], self._plain = self._plain[:count], self._plain[count:]
        return count
