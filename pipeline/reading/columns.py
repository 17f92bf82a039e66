"""Finds the values of a row by column name, in any case, or by a map of names."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from pipeline.reading.values import missing_column


class Columns:
    """Columns of a source.

    A mapped column must be in every row, though its value may be missing: a misspelt name would go unnoticed otherwise.
    """

    def __init__(self, mapped: Mapping[Any, str], key: str) -> None:
        """Create the columns.

        Args:
            mapped: Column of each field whose name differs.
            key: Prefix of a field in the configuration, such as `seeds.columns.`, for messages.
        """
        self._mapped = mapped
        self._key = key

    def has(self, row: Mapping[str, Any], field: str) -> bool:
        """Return whether the row has the column of a field."""
        return self._column(row, field) is not None

    def value(self, row: Mapping[str, Any], field: str) -> Any:
        """Return the value of a field; None without such a column."""
        column = self._column(row, field)
        return None if column is None else row[column]

    def _column(self, row: Mapping[str, Any], field: str) -> str | None:
        wanted = self._mapped.get(field, field)
        if wanted in row:
            return wanted
        column = _find_column(tuple(row), wanted.casefold())
        if column is None and field in self._mapped:
            raise missing_column(f"column '{wanted}' ({self._key}{field})", row)
        return column


@lru_cache(maxsize=1024)
def _find_column(columns: tuple[str, ...], wanted: str) -> str | None:
    return next((column for column in columns if column.strip().casefold() == wanted), None)
