"""Reads CSV as people have it: any usual delimiter, and rows that break the rules without loss of those around them."""

from __future__ import annotations

import csv
import re
from collections import deque
from itertools import zip_longest
from typing import Any, TextIO

from pipeline.reading.values import Row, Rows, UnreadableError, named

_DELIMITERS = (",", ";", "\t", "|")
_LONGEST_CELL = 1 << 24


def table_rows(file: TextIO, delimiter: str | None) -> Rows:
    """Yield the rows of a table with a header, each with the number of its first line.

    Without a `delimiter` the header's most frequent one is taken. After a row that breaks the rules the next line is
    tried as one. Raises `ValueError` for a header that breaks them.
    """
    csv.field_size_limit(_LONGEST_CELL)
    lines = _Lines(file)
    names: list[str] = []
    header: list[str] = []
    reader: Any = None
    while True:
        number = lines.begin()
        if reader is None:
            # Excel's own line about the delimiter.
            if number == 1 and (said := re.fullmatch(r"sep=(.)\s*", lines.peek(), re.IGNORECASE)):
                delimiter = said[1]
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
            # A quotation mark that nothing closes swallows what follows: give that back.
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
    """Names of columns; those of the same name are numbered, as nobody knows which of them is meant."""
    return [
        name if names.count(name) == 1 else f"{name} ({names[: place + 1].count(name)})"
        for place, name in enumerate(names)
    ]


def _cells(header: list[str], cells: list[str]) -> Row:
    """A row by its columns. Missing cells are missing values."""
    if any(cell.strip() for cell in cells[len(header) :]):
        return UnreadableError(f"has {len(cells)} cells for {len(header)} columns ({named(header)})")
    try:
        "".join(cells).encode()
    except UnicodeEncodeError:
        return UnreadableError("not UTF-8; save the file as UTF-8")
    return dict(zip_longest(header, cells[: len(header)]))


class _Lines:
    """The lines of a file for `csv.reader`, those of the present row kept so that they can be read again."""

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
        """Begin a row: return the number of its first line."""
        self._number += len(self._row)
        self._row = []
        return self._number

    def peek(self) -> str:
        """Return the next line without taking it; '' at the end."""
        if not self._again and (line := self._file.readline()):
            self._again.append(line)
        return self._again[0] if self._again else ""

    def step_back(self) -> None:
        """Give back all lines of the row but the first."""
        self._again.extendleft(reversed(self._row[1:]))
        del self._row[1:]


def _delimiter(header: str) -> str:
    """The delimiter that a header has most of, outside quotation marks."""
    plain = re.sub(r'"[^"]*"', "", header)
    return max(_DELIMITERS, key=plain.count)
