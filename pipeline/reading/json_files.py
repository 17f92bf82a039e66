"""Reads JSON lines, JSON lists of rows, and JSON objects that hold rows under a key, by id or by column."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import chain
from typing import Any, TextIO

import orjson

from pipeline.reading.values import Row, Rows, UnreadableError, parse_list, short_repr

_DOCUMENT_KEYS = ("data", "rows", "threads", "posts", "items")
_MANY_BRACKETS = 500
_MANY_DIGITS = re.compile(rb"\d{20}")
"""An integer that orjson may read as a float."""
_BOM = b"\xef\xbb\xbf"
_READ = 1 << 20
"""Characters read at a time."""
_IN_LIST = " \t\r\n,"
_AFTER_LIST = " \t\r\n\ufeff"
"""A concatenated file may begin with a byte order mark."""


def read_json_lines(lines: Iterable[bytes]) -> Rows:
    """Yield the rows of JSON lines, numbered by line."""
    for number, line in enumerate(lines, 1):
        text = line.removeprefix(_BOM).strip()
        if text:
            yield number, _parse_line(text)


def read_json(file: Any) -> Rows:
    """Yield the rows of a JSON file: a list, an object that holds rows, or several documents after one another.

    Files of JSON lines with the suffix `.json` are common, so they are read too. Raises `ValueError` for a file that is
    none of these.
    """
    if file.peek(64).removeprefix(_BOM).lstrip().startswith(b"["):
        text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape")
        yield from enumerate(map(_checked, read_list(text)), 1)
        return
    first = file.readline()
    document = _parse_line(first.removeprefix(_BOM).strip())
    spans_lines = isinstance(document, UnreadableError)
    if spans_lines:
        document = json.loads((first + file.read()).decode("utf-8-sig", errors="surrogateescape"))
    if not isinstance(document, (dict, list)):
        raise ValueError(f"found {json.dumps(document)[:60]}, expected a list of rows or an object")
    rows = document if isinstance(document, list) else _rows_in(document)
    if rows is None and not spans_lines:
        yield from read_json_lines(chain((first,), file))
        return
    later = (json.loads(text) for line in file if (text := line.decode().removeprefix("\ufeff").strip()))
    found = chain([document] if rows is None else rows, chain.from_iterable(map(_rows_of, later)))
    yield from enumerate(map(_checked, found), 1)


def read_list(file: TextIO) -> Iterator[Any]:
    """Yield the elements of a JSON list and of lists after it, or one document that is no list.

    Elements are parsed one by one, as published files may not fit in memory as objects. Raises `ValueError` for a file
    that is not JSON to its end.
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
            raise ValueError(f"found {short_repr(text[at : at + 100])} after the end of the list")
        if not is_inside and is_over:
            return
        end = len(text)
        if is_inside:
            try:
                element, end = decoder.raw_decode(text, at)
            except json.JSONDecodeError:
                if is_over:
                    raise
        # An element that ends with the buffer, such as a number, may continue in the next one.
        if end < len(text) or is_over:
            yield element
            at = end
        else:
            more = file.read(max(_READ, len(text) - at))
            text, at, is_over = text[at:] + more, 0, not more


def _parse_line(text: bytes) -> Row:
    """Parse an object. Integers keep all digits; NaN, which Python writes, is accepted."""
    if not _MANY_DIGITS.search(text) and text.count(b"[") + text.count(b"{") < _MANY_BRACKETS:
        with suppress(orjson.JSONDecodeError):
            # No `_checked`: orjson accepts only valid Unicode, and the text is not deep.
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
    """Return a row, or an error where it cannot be written as UTF-8: JSON may hold half of a surrogate pair."""
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return UnreadableError("not Unicode: bytes that are not UTF-8, or half of a surrogate pair")
    except RecursionError:
        return UnreadableError("lists or objects are nested too deeply")
    return _row(row)


def _row(value: Any) -> Row:
    if isinstance(value, list):
        return UnreadableError("a JSON list, where a row is an object; name the file .json if it is one list of rows")
    return value if isinstance(value, dict) else UnreadableError("not a JSON object")


def _rows_of(document: Any) -> list[Any]:
    rows = _rows_in(document) if isinstance(document, dict) else None
    return [document] if rows is None else rows


def _rows_in(document: Any) -> list[Any] | None:
    """Return the rows that an object holds, in a list, by id or by column; None where the object is a row."""
    for key in _DOCUMENT_KEYS:
        if isinstance(document.get(key), list):
            return list(document[key])
    values = list(document.values())
    if values and all(isinstance(value, list) for value in values):
        return parse_list(document, "the document")
    if not values or not all(isinstance(value, dict) for value in values):
        return None
    numbers = list(values[0])
    if numbers and all(number.isdigit() for number in numbers):
        # Columns of row numbers, as pandas' `to_json` writes them by default.
        return [{name: column.get(number) for name, column in document.items()} for number in numbers]
    return [{"id": key} | row for key, row in document.items()]
