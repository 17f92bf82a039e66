"""Reads rows of files as people have them: JSON lines, JSON, CSV and Parquet, plain or compressed.

A row that cannot be parsed comes as an `UnreadableError` in its place, and the next one follows. A file that cannot be
read to its end is refused: how much of it is missing, nobody knows.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import PurePath
from typing import Any, BinaryIO, TextIO

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from pipeline.io import storage
from pipeline.io.storage import AnyPath
from pipeline.reading.tables import table_rows
from pipeline.reading.values import Row, Rows, UnreadableError, as_list, shown
from schemas.base import UsageError, UserError

_LINES = (".jsonl", ".ndjson")
_TABLES = (".csv", ".tsv")
_TEXTS = (*_LINES, *_TABLES, ".json")
_COMPRESSED = (".gz", ".zst")
KNOWN = f"{', '.join(_TEXTS)} (each also as .gz or .zst), .parquet"
"""The suffixes that can be read, for errors."""
_DOCUMENT_KEYS = ("data", "rows", "threads", "posts", "items")
_HOPELESS = 1000
_MANY_BRACKETS = 500
_MANY_DIGITS = re.compile(rb"\d{20}")
"""An integer that orjson may take for a float."""
_LONGEST_WINDOW = 1 << 31
"""Reddit's dumps are compressed with zstd's `--long=31`."""
_BOM = b"\xef\xbb\xbf"
_ROWS = 256
_READ = 1 << 20
"""Characters that are read at once, about."""
_IN_LIST = " \t\r\n,"
_AFTER_LIST = " \t\r\n\ufeff"
"""Files that were joined keep their marks."""


def format_of(path: AnyPath) -> str | None:
    """Return what a file's name says that it holds, such as `.csv`; None for what cannot be read.

    A compressed file without a second suffix holds JSON lines, as Reddit's dumps do.
    """
    name = PurePath(path.name.lower())
    if name.suffix in _COMPRESSED:
        inner = PurePath(name.stem).suffix
        return inner if inner in _TEXTS else None if inner == ".parquet" else ".jsonl"
    return name.suffix if name.suffix in (*_TEXTS, ".parquet") else None


def is_compressed(path: AnyPath) -> bool:
    """Return whether a byte of the file stands for several of its text, as in Parquet too."""
    return path.suffix.lower() in (*_COMPRESSED, ".parquet")


def is_splittable(path: AnyPath) -> bool:
    """Return whether the file can be read in slices that begin at any byte."""
    return path.suffix.lower() in _LINES


def read_rows(path: AnyPath, start: int = 0, stop: int | None = None) -> Rows:
    """Yield the rows of a file: of a splittable one, those that begin in bytes `start` to `stop`.

    Rows of a slice are numbered from its own first line; `place` knows their lines. Raises `UsageError` that names the
    file for one that is not what its name says, or ends early.
    """
    kind, number = format_of(path), 0
    try:
        if kind == ".parquet":
            with storage.open_parquet(path) as opened, pq.ParquetFile(opened) as parquet:
                for number, row in enumerate(_parquet(parquet), 1):
                    yield number, row
            return
        with storage.open_binary(path, from_start_to_end=True) as raw, _decompressed(path, raw) as file:
            if kind in _LINES:
                rows = _json_lines(_lines_from(file, start, stop))
            elif kind == ".json":
                rows = _json(file)
            else:
                # Excel's "Unicode text" is UTF-16.
                encoding = "utf-16" if file.peek(2)[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
                text = io.TextIOWrapper(file, encoding=encoding, errors="surrogateescape", newline="")
                rows = table_rows(text, "\t" if kind == ".tsv" else None)
            for number, row in rows:
                yield number, row
    except (pa.ArrowException, zstandard.ZstdError, zlib.error, EOFError, OSError, ValueError, RecursionError) as error:
        told = " ".join(str(error).split())[:200]
        if isinstance(error, OSError) and error.errno is not None:
            raise UserError(f"cannot read {path}: {told}; run the same command again, finished work is kept") from None
        after = f", after {place(path, number, start)[len(str(path)) + 2 :]}" if number else ""
        raise UsageError(f"{path}: not readable as {path.suffix}{after}: {told}") from None


def place(path: AnyPath | str, number: int, start: int = 0) -> str:
    """Return where row `number` of a slice is, as an error says it. The lines before the slice are counted for that."""
    if isinstance(path, str):
        return f"{path}: row {number}"
    if format_of(path) in (".parquet", ".json"):
        return f"{path}: row {number}"
    return f"{path}: line {number + _lines_before(path, start)}"


def is_hopeless(unreadable: int, read: int) -> bool:
    """Return whether, just now, none of many rows could be read: the rest, which may be large, is no better."""
    return unreadable == read == _HOPELESS


def too_many_unreadable(unreadable: int, read: int, share: float, first: str) -> str | None:
    """Return what is wrong where more than a share of rows cannot be read; None elsewhere. One is never too many."""
    if unreadable <= max(1, share * read):
        return None
    told = f"{unreadable} of {read} cannot be read; raise limits.max_unreadable_share = {share:g} to go on without them"
    return f"{told if unreadable < read else f'none of {read} can be read'}; the first: {first}"


def elements(file: TextIO) -> Iterator[Any]:
    """Yield the elements of a JSON list one by one, and those of lists after it; any other document as it is.

    Published files are larger than what fits in memory as objects. Raises `ValueError` for what is no such file to its
    end.
    """
    decoder = json.JSONDecoder()
    text, at, is_over, is_inside = file.read(_READ).lstrip(), 1, False, True
    if not text.startswith("["):
        yield decoder.decode(text + file.read())
        return
    while True:
        while at < len(text) and text[at] in (_IN_LIST if is_inside else _AFTER_LIST):
            at += 1
        if text.startswith("]" if is_inside else "[", at):
            is_inside, at = not is_inside, at + 1
            continue
        if not is_inside and at < len(text):
            raise ValueError(f"its list has ended, and {shown(text[at : at + 100])} comes after it")
        if not is_inside and is_over:
            return
        end = len(text)
        if is_inside:
            try:
                element, end = decoder.raw_decode(text, at)
            except json.JSONDecodeError:
                if is_over:
                    raise
        # What ends where the text does may go on in what follows.
        if end < len(text) or is_over:
            yield element
            at = end
        else:
            more = file.read(max(_READ, len(text) - at))
            text, at, is_over = text[at:] + more, 0, not more


def _lines_before(path: AnyPath, start: int) -> int:
    """Lines that end before the first one of a slice: its first byte may be in the middle of one."""
    if not start:
        return 0
    lines, left = 1, start - 1
    with storage.open_binary(path, from_start_to_end=True) as file:
        while left and (block := file.read(min(_READ, left))):
            lines += block.count(b"\n")
            left -= len(block)
    return lines


def _lines_from(file: BinaryIO, start: int, stop: int | None) -> Iterator[bytes]:
    """The lines that begin in [start, stop)."""
    if start:
        file.seek(start - 1)
        file.readline()
    while stop is None or file.tell() < stop:
        line = file.readline()
        if not line:
            return
        yield line


def _json_lines(lines: Iterable[bytes]) -> Rows:
    for number, line in enumerate(lines, 1):
        text = line.removeprefix(_BOM).strip()
        if text:
            yield number, _object(text)


def _object(text: bytes) -> Row:
    """The object that a line holds. Integers keep all digits, and NaN, which Python writes, is admitted."""
    if not _MANY_DIGITS.search(text) and text.count(b"[") + text.count(b"{") < _MANY_BRACKETS:
        with suppress(orjson.JSONDecodeError):
            # What it reads is Unicode, and not deep here.
            return _row(orjson.loads(text))
    try:
        return _checked(json.loads(text.decode()))
    except UnicodeDecodeError as error:
        return UnreadableError(f"not UTF-8 ({error.reason}); save the file as UTF-8")
    except json.JSONDecodeError as error:
        hint = "; name the file .json if it is one list of rows" if text.startswith(b"[") else ""
        return UnreadableError(f"not JSON: {error.msg.removesuffix(' at')} at column {error.colno}{hint}")
    except (ValueError, RecursionError) as error:
        return UnreadableError(f"not JSON: {error}")


def _checked(row: Any) -> Row:
    """A row of JSON, if it is an object that can be written again."""
    try:
        # Halves of surrogate pairs, which JSON may hold and no text can.
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return UnreadableError("not Unicode: bytes that are not UTF-8, or half of a surrogate pair")
    except RecursionError:
        return UnreadableError("lists or objects too deep within one another")
    return _row(row)


def _row(value: Any) -> Row:
    if isinstance(value, list):
        return UnreadableError("a JSON list, where a row is an object; name the file .json if it is one list of rows")
    return value if isinstance(value, dict) else UnreadableError("not a JSON object")


def _json(file: Any) -> Rows:
    """The rows of a list, or of an object that holds them; or JSON lines, for which people use the suffix too."""
    if file.peek(64).removeprefix(_BOM).lstrip().startswith(b"["):
        text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape")
        yield from enumerate(map(_checked, elements(text)), 1)
        return
    first = file.readline()
    document = _object(first.removeprefix(_BOM).strip())
    is_one = isinstance(document, UnreadableError)
    if is_one:
        document = json.loads((first + file.read()).decode("utf-8-sig", errors="surrogateescape"))
    if not isinstance(document, (dict, list)):
        raise ValueError(f"it holds {json.dumps(document)[:60]}, where a list of rows or an object is expected")
    rows = document if isinstance(document, list) else _rows_in(document)
    if rows is None and not is_one:
        yield from _json_lines(chain((first,), file))
        return
    more = (json.loads(text) for line in file if (text := line.decode().removeprefix("\ufeff").strip()))
    found = chain([document] if rows is None else rows, chain.from_iterable(map(_rows_of, more)))
    yield from enumerate(map(_checked, found), 1)


def _rows_of(document: Any) -> list[Any]:
    """The rows of a document after another."""
    rows = _rows_in(document) if isinstance(document, dict) else None
    return [document] if rows is None else rows


def _rows_in(document: Any) -> list[Any] | None:
    """The rows that an object holds, in a list, by their ids or by columns; None where it is a row itself."""
    for key in _DOCUMENT_KEYS:
        if isinstance(document.get(key), list):
            return list(document[key])
    values = list(document.values())
    if values and all(isinstance(value, list) for value in values):
        return as_list(document, "the document")
    if not values or not all(isinstance(value, dict) for value in values):
        return None
    numbers = list(values[0])
    if numbers and all(number.isdigit() for number in numbers):
        # Columns by the numbers of their rows, as pandas writes them.
        return [{name: column.get(number) for name, column in document.items()} for number in numbers]
    return [{"id": key} | row for key, row in document.items()]


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
        yield io.BufferedReader(_Frames(raw), _READ)
    else:
        yield raw


class _Frames(io.RawIOBase):
    """The content of all frames. zstandard's own reader takes a file that is cut off for one that ends there."""

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
                self._frame = zstandard.ZstdDecompressor(max_window_size=_LONGEST_WINDOW).decompressobj()
            self._plain = memoryview(self._frame.decompress(self._compressed))
            self._compressed = self._frame.unused_data if self._frame.eof else b""
            self._frame = None if self._frame.eof else self._frame
        count = min(len(buffer), len(self._plain))
        buffer[:count], self._plain = self._plain[:count], self._plain[count:]
        return count
