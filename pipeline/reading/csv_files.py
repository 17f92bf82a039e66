"""Reads CSV with any common delimiter. A malformed row does not cost the rows around it."""

from __future__ import annotations

import csv
import re
from collections import deque
from itertools import zip_longest
from typing import Any, TextIO

from pipeline.reading.values import Row, Rows, UnreadableError

_DELIMITERS = (",", ";", "\t", "|")
_LONGEST_CELL = 1 << 24


def read_csv(file: TextIO, delimiter: str | None) -> Rows:
    """Yield the rows below the header, each with the number of its first line.

    Without a `delimiter`, the most frequent one in the header is used. After a malformed row, reading resumes at the
    next line. Raises `ValueError` for a malformed header.
    """
    csv.field_size_limit(_LONGEST_CELL)
    lines = _Lines(file)
    names: list[str] = []
    header: list[str] = []
    reader: Any = None
    while True:
        number = lines.begin()
        if reader is None:
            # Excel writes the delimiter into a first line.
            if number == 1 and (declared := re.fullmatch(r"sep=(.)\s*", lines.peek(), re.IGNORECASE)):
                delimiter = declared[1]
                next(lines)
                continue
            delimiter = delimiter or _delimiter(lines.peek())
            reader = csv.reader(lines, delimiter=delimiter, strict=True, skipinitialspace=True)
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if not header:
                raise ValueError(f"its header is not CSV: {error}") from None
            # An unclosed quotation mark has consumed the following lines.
            lines.step_back()
            reader = None
            yield number, UnreadableError(f"not CSV: {error}; is a quotation mark not closed?")
            continue
        if not header:
            names = [name.strip() for name in cells]
            header = _distinct(names)
        elif [cell.strip("\ufeff \t") for cell in cells] == names:
            yield number, UnreadableError("repeats the header; was another file added here?")
        elif cells:
            yield number, _cells(header, cells)


def _distinct(names: list[str]) -> list[str]:
    """Number repeated column names, so that a look-up does not silently use one of the columns."""
    return [
        name if names.count(name) == 1 else f"{name} ({names[: position + 1].count(name)})"
        for position, name in enumerate(names)
    ]


def _cells(header: list[str], cells: list[str]) -> Row:
    """Return a row by column. Missing cells are None."""
    if any(cell.strip() for cell in cells[len(header) :]):
        found = f"has {len(cells)} cells for {len(header)} columns ({', '.join(header)[:200]})"
        return UnreadableError(f"{found}; quote cells that contain the delimiter")
    try:
        "".join(cells).encode()
    except UnicodeEncodeError:
        return UnreadableError("not UTF-8; save the file as UTF-8")
    return dict(zip_longest(header, cells[: len(header)]))


class _Lines:
    """Lines of a file for `csv.reader`. Keeps those of the current row, so that they can be read again."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._again: deque[str] = deque()
        self._row: list[str] = []
        self._number = 1

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else next(self._file)
        self._row.append(line)
        return line

    def begin(self) -> int:
        """Start a row, and return the number of its first line."""
        self._number += len(self._row)
        self._row = []
        return self._number

    def peek(self) -> str:
        """Return the next line without consuming it; '' at the end."""
        if not self._again and (line := self._file.readline()):
            self._again.append(line)
        return self._again[0] if self._again else ""

    def step_back(self) -> None:
        """Unread all lines of the row except the first."""
        self._again.extendleft(reversed(self._row[1:]))
        del self._row[1:]


def _delimiter(header: str) -> str:
    """Return the most frequent delimiter of a header, outside quotation marks."""
    plain = re.sub(r'"[^"]*"', "", header)
    return max(_DELIMITERS, key=plain.count)
