"""Mirror: a pair becomes the row of one person and, with replies swapped, the row of the opposite person.

The rows of a shard are one Arrow table, made by taking views from the columns of the pool, as converting nested
records to Arrow is far slower.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.assembly.examples import EXAMPLE_SCHEMA, ExampleShard, Persona
from pipeline.assembly.history import Views
from pipeline.assembly.user_histories import count_pairs, users_in
from pipeline.plan import BuildPlan
from pipeline.runtime.resources import resources
from preference_space.direction import Direction, to_released, verbalise
from preference_space.levels import claimed, is_shown

_CARRIED = ("pair_id", "post_id", "source", "topics", "model", "judge", "kind")
"""Columns that an example takes over from its pair."""


def mirror(shard: ExampleShard, plan: BuildPlan) -> ExampleShard:
    """Build the example of every persona."""
    return replace(shard, examples=_Views(shard, plan).examples(shard.personas))


class _Views:
    """Columns of a shard's pool by view: the pairs as stored, then their mirror images."""

    def __init__(self, shard: ExampleShard, plan: BuildPlan) -> None:
        table, pool = shard.block.table, shard.block.pool
        min_margin = plan.config.verification.min_margin
        self._space = resources(plan).space
        self._size = len(pool)
        self._pairs = {
            name: table[name].combine_chunks() for name in (*_CARRIED, "user_id", "prompt", "chosen", "rejected")
        }
        prompt, chosen, rejected = (self._pairs[name] for name in ("prompt", "chosen", "rejected"))
        self._texts = {
            "prompt": pa.concat_arrays([prompt, prompt]),
            "chosen": pa.concat_arrays([chosen, rejected]),
            "rejected": pa.concat_arrays([rejected, chosen]),
        }
        self._texts["comment"] = self._texts["chosen"]
        qualities = [table[name].combine_chunks() for name in ("quality_chosen", "quality_rejected")]
        margins = table["direction_margin"].combine_chunks()
        self._verified = {
            "direction_margin": pa.concat_arrays([margins, _negated(margins)]),
            "quality_chosen": pa.concat_arrays(qualities),
            "quality_rejected": pa.concat_arrays(qualities[::-1]),
            "verified": pa.concat_arrays([_verified_shares(table, min_margin)] * 2),
        }
        self._directions = np.concatenate([pool.directions, -pool.directions])
        self._levels = pool.levels
        users = shard.block.people if users_in(shard.spec, plan.config) else pool.directions[:, :0]
        self._users = np.concatenate([users, -users])

    def examples(self, personas: Sequence[Persona]) -> pa.Table:
        """Return the examples of `personas` as a table of `EXAMPLE_SCHEMA`."""
        histories = [persona.history for persona in personas]
        rows = np.array([persona.row for persona in personas], dtype=np.int64)
        mirrored = np.array([persona.side < 0 for persona in personas], dtype=bool)
        views = rows + self._size * mirrored
        letters = ["b" if is_b else "a" for is_b in mirrored]
        columns: dict[str, Any] = {
            **{name: self._pairs[name].take(rows) for name in _CARRIED},
            **{name: self._texts[name].take(views) for name in ("prompt", "chosen", "rejected")},
            **{name: values.take(views) for name, values in self._verified.items()},
            "Preference Direction": _lists(self._directions[views]),
            "Demographic Information": [persona.portrait for persona in personas],
            "User-Generated Content": self._items("User-Generated Content", [h.ugc for h in histories], self._levels),
            "Pair-wise Comparative Feedback": self._items(
                "Pair-wise Comparative Feedback", [h.pair for h in histories], self._directions
            ),
            "profile": [verbalise(self._space, direction) for direction in self._directions[views]],
            "mirrored": mirrored,
            "history_support": [history.support for history in histories],
            "id": _with_letters(self._pairs["pair_id"].take(rows), letters),
            "user_id": _with_letters(self._pairs["user_id"].take(rows), letters),
            "user_direction": _lists(self._users[views]),
        }
        columns["user_pairs"] = count_pairs(columns["user_id"], mirrored.tolist())
        arrays = [
            values if isinstance(values, pa.Array) else pa.array(values, field.type)
            for field, values in ((field, columns[field.name]) for field in EXAMPLE_SCHEMA)
        ]
        return pa.Table.from_arrays(arrays, schema=EXAMPLE_SCHEMA)

    def _items(self, column: str, views: Sequence[Views], levels: Direction) -> pa.Array:
        """Return a list of history items for each row; `levels` (2N, D) are the items' directions by view."""
        kind = EXAMPLE_SCHEMA.field(column).type
        taken = np.concatenate([*views, np.empty(0, dtype=np.int64)])
        fields = list(kind.value_type)
        texts = self._texts
        arrays = [texts[f.name].take(taken) if f.name in texts else _lists(levels[taken]) for f in fields]
        offsets = np.cumsum([0, *map(len, views)], dtype=np.int32)
        return pa.ListArray.from_arrays(offsets, pa.StructArray.from_arrays(arrays, fields=fields), type=kind)


def _with_letters(ids: pa.Array, letters: Sequence[str]) -> list[str]:
    """Return the ids of persons, who share that of their pair or user; an empty id stays empty."""
    return [f"{name}-{letter}" if name else "" for name, letter in zip(ids.to_pylist(), letters, strict=True)]


def _lists(levels: Direction) -> pa.Array:
    """Return levels of shape (N, D), or (N, 0), as N lists of the released numbers."""
    offsets = np.arange(len(levels) + 1, dtype=np.int32) * levels.shape[1]
    kind = EXAMPLE_SCHEMA.field("Preference Direction").type
    return pa.ListArray.from_arrays(offsets, to_released(levels).reshape(-1), type=kind)


def _negated(margins: pa.ListArray) -> pa.ListArray:
    offsets = np.cumsum([0, *pc.list_value_length(margins).to_numpy()], dtype=np.int32)
    return pa.ListArray.from_arrays(offsets, pc.subtract(np.float32(0), pc.list_flatten(margins)), type=margins.type)


def _verified_shares(table: pa.Table, min_margin: float) -> pa.Array:
    """Return for each pair the share of its asked dimensions that the judge recovered; null where it was not asked."""
    asked, margins = (pc.list_flatten(table[name]).to_numpy() for name in ("asked_direction", "direction_margin"))
    if not len(margins):
        return pa.nulls(table.num_rows, pa.float64())
    levels = asked.reshape(table.num_rows, -1)
    differences = claimed(levels, table["kind"].to_pylist())
    shown = is_shown(margins.reshape(levels.shape), differences, min_margin)
    return pa.array(shown.sum(axis=1) / np.count_nonzero(levels, axis=1))
