"""Validate: every finished row is read back from its table and checked by the `Example` record."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import ValidationError

from pipeline.assembly.examples import ExampleShard, reject
from pipeline.assembly.mirror import mirror
from pipeline.plan import BuildPlan
from pipeline.quality.rules import Violation, schema_violation
from schemas.records import Example

_BATCH_ROWS = 256
"""Rows that are Python objects at a time, which bounds memory."""


def validate_examples(shard: ExampleShard, plan: BuildPlan) -> ExampleShard:
    """Reject every pair with a row that breaks a rule. All of its rows are left out."""
    strict = shard.spec.source == "sampled" or plan.config.history.consistency == "strict"
    violations: dict[int, Violation] = {}
    for persona, row in zip(shard.personas, rows_of(shard.examples), strict=True):
        if violation := _violation_of(row, strict):
            violations.setdefault(persona.row, violation)
    if not violations:
        return shard
    rejections = [reject(shard.block.table, row, "assemble", violation) for row, violation in violations.items()]
    # Built again, as each row says how many pairs its user has.
    good = [persona for persona in shard.personas if persona.row not in violations]
    return mirror(replace(shard, personas=good, rejections=[*shard.rejections, *rejections]), plan)


def _violation_of(row: dict[str, Any], strict: bool) -> Violation | None:
    try:
        example = Example.model_validate(row)
    except ValidationError as error:
        return schema_violation(error)
    if strict and not example.is_consistent:
        return Violation("schema", "a history item contradicts the row's direction")
    return None


def rows_of(table: pa.Table) -> Iterator[dict[str, Any]]:
    """Yield the rows of a table as `Example` reads them."""
    for start in range(0, table.num_rows, _BATCH_ROWS):
        batch = table.slice(start, _BATCH_ROWS).combine_chunks()
        columns = [_values(batch[name].chunk(0)) for name in batch.column_names]
        for values in zip(*columns, strict=True):
            yield dict(zip(batch.column_names, values, strict=True))


def _values(array: pa.Array) -> list[Any]:
    """Return an array as Python values; equal directions share one tuple.

    A row holds nine directions of ninety numbers. Arrow's `to_pylist` would create every number.
    """
    if pa.types.is_list(array.type):
        items = pc.list_flatten(array)
        lengths = pc.list_value_length(array).to_numpy(zero_copy_only=False)
        spans = itertools.pairwise([0, *np.cumsum(lengths).tolist()])
        if pa.types.is_float64(items.type):
            numbers = items.to_numpy()
            return [_direction(numbers[start:end].tobytes()) for start, end in spans]
        values = _values(items)
        return [tuple(values[start:end]) for start, end in spans]
    if pa.types.is_struct(array.type):
        names = [field.name for field in array.type]
        return [dict(zip(names, values, strict=True)) for values in zip(*map(_values, array.flatten()), strict=True)]
    plain: list[Any] = array.to_pylist()
    return plain


@lru_cache(maxsize=4096)
def _direction(numbers: bytes) -> tuple[float, ...]:
    return tuple(np.frombuffer(numbers).tolist())
