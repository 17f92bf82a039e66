"""Finds the values of a row by the names of its columns, whichever case they are in, or by a map of names."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from pipeline.reading.values import UnreadableError, named


class Columns:
    """The columns of a source; `given` maps fields to columns where the names differ.

    `key` is what the configuration puts before the name of a field, such as `seeds.columns.`, for errors.
    A mapped column must be in every row, though its value may be missing: a wrong name would go unseen otherwise.
    """

    def __init__(self, given: Mapping[Any, str], key: str) -> None:
        self._given = given
        self._key = key

    def has(self, row: Mapping[str, Any], field: str) -> bool:
        """Return whether the row has the column of a field."""
        return self._column(row, field) is not None

    def value(self, row: Mapping[str, Any], field: str) -> Any:
        """Return the value of a field; None where there is no such column."""
        column = self._column(row, field)
        return None if column is None else row[column]

    def _column(self, row: Mapping[str, Any], field: str) -> str | None:
        wanted = self._given.get(field, field)
        if wanted in row:
            return wanted
        column = _spelt(tuple(row), wanted.casefold())
        if column is None and field in self._given:
            raise UnreadableError(f"no column '{wanted}' ({self._key}{field}); it has {named(row)}")
        return column


@lru_cache(maxsize=1024)
def _spelt(columns: tuple[str, ...], wanted: str) -> str | None:
    return next((column for column in columns if column.strip().casefold() == wanted), None)
