"""The rows of the finished dataset, built from views of the pool."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.assembly.history import History, Pool
from pipeline.generation.completions import Request
from pipeline.plan import BuildPlan
from pipeline.runtime.resources import resources
from preference_space.direction import Direction, to_released, verbalise
from schemas.arrow import arrow_schema
from schemas.records import Example, PairItem, UgcItem

Views = npt.NDArray[np.int64]

EXAMPLE_SCHEMA = arrow_schema(Example)


@dataclass(frozen=True, slots=True)
class Persona:
    """An accepted pair, for one person or for two opposite ones: all but `row` follow the plan's `sides`."""

    row: int
    histories: tuple[History, ...]
    requests: tuple[Request, ...] = ()
    portraits: tuple[str, ...] = ()


class Rows:
    """A shard's examples twice: as records for validation, and as one table, built by taking views from columns.

    A list of nested records costs a millisecond a row to turn into Arrow; taking views costs a few microseconds.
    """

    def __init__(self, table: pa.Table, own: int, pool: Pool, plan: BuildPlan) -> None:
        self._space = resources(plan).space
        self._pool = pool
        column = {name: table[name].combine_chunks() for name in _TAKEN}
        self._column = column
        self._prompt = pa.concat_arrays([column["prompt"], column["prompt"]])
        self._chosen = pa.concat_arrays([column["chosen"], column["rejected"]])
        self._rejected = pa.concat_arrays([column["rejected"], column["chosen"]])
        sides = {"prompt": self._prompt, "chosen": self._chosen, "rejected": self._rejected}
        self._texts = {name: texts.to_pylist() for name, texts in sides.items()}
        self._facts = {name: column[name].slice(0, own).to_pylist() for name in _CARRIED}
        # By view: a pair's direction, and the levels of the reply that is its chosen one.
        self._directions = np.concatenate([pool.directions, -pool.directions])
        self._levels = pool.levels
        self._sides = plan.sides
        self._profiles: dict[int, str] = {}
        self._tuples: dict[bytes, tuple[float, ...]] = {}
        self._ugc: dict[int, UgcItem] = {}
        self._pair: dict[int, PairItem] = {}

    def record(self, persona: Persona, side: int) -> Example:
        """One example, validated; raises `ValidationError`."""
        view, ugc, pair = self._views(persona, side)
        facts = {name: self._facts[name][persona.row] for name in _CARRIED}
        return Example(
            **facts | {"topics": tuple(facts["topics"])},
            prompt=self._texts["prompt"][view],
            chosen=self._texts["chosen"][view],
            rejected=self._texts["rejected"][view],
            preference_direction=self._numbers(self._directions[view]),
            demographic_information=persona.portraits[_at(side)],
            user_generated_content=tuple(self._ugc_item(int(v)) for v in ugc),
            pairwise_feedback=tuple(self._pair_item(int(v)) for v in pair),
            profile=self._profile(view),
            id=self._id(persona.row, side),
            mirrored=side < 0,
            history_support=persona.histories[_at(side)].support,
        )

    def table(self, personas: Sequence[Persona]) -> pa.Table:
        """All examples of `personas`, each pair's in the order of the plan's `sides`."""
        sides = [(persona, side) for persona in personas for side in self._sides]
        all_views = [self._views(persona, side) for persona, side in sides]
        views = np.array([view for view, _, _ in all_views], dtype=np.int64)
        rows = views % len(self._pool)
        columns: dict[str, Any] = {name: self._column[name].take(rows) for name in _CARRIED} | {
            "prompt": self._prompt.take(views),
            "chosen": self._chosen.take(views),
            "rejected": self._rejected.take(views),
            "Preference Direction": _lists(self._directions[views]),
            "Demographic Information": [persona.portraits[_at(side)] for persona, side in sides],
            "User-Generated Content": self._items(
                [ugc for _, ugc, _ in all_views], "User-Generated Content", self._levels
            ),
            "Pair-wise Comparative Feedback": self._items(
                [pair for _, _, pair in all_views], "Pair-wise Comparative Feedback", self._directions
            ),
            "profile": [self._profile(view) for view in views.tolist()],
            "id": [self._id(persona.row, side) for persona, side in sides],
            "mirrored": [side < 0 for _, side in sides],
            "history_support": [persona.histories[_at(side)].support for persona, side in sides],
        }
        arrays = [
            values if isinstance(values, pa.Array) else pa.array(values, field.type)
            for field, values in ((field, columns[field.name]) for field in EXAMPLE_SCHEMA)
        ]
        return pa.Table.from_arrays(arrays, schema=EXAMPLE_SCHEMA)

    def _views(self, persona: Persona, side: int) -> tuple[int, Views, Views]:
        history = persona.histories[_at(side)]
        return persona.row + len(self._pool) * _at(side), history.ugc, history.pair

    def _id(self, row: int, side: int) -> str:
        return f"{self._facts['pair_id'][row]}-{'a' if side > 0 else 'b'}"

    def _profile(self, view: int) -> str:
        if view not in self._profiles:
            self._profiles[view] = verbalise(self._space, self._directions[view])
        return self._profiles[view]

    def _numbers(self, levels: Direction) -> tuple[float, ...]:
        key = levels.tobytes()
        if key not in self._tuples:
            # Three shared floats, not ninety new ones: the difference is half of a shard's memory.
            self._tuples[key] = tuple(map(_RELEASED.__getitem__, levels.tolist()))
        return self._tuples[key]

    def _ugc_item(self, view: int) -> UgcItem:
        if view not in self._ugc:
            self._ugc[view] = UgcItem(
                prompt=self._texts["prompt"][view],
                comment=self._texts["chosen"][view],
                preference_direction=self._numbers(self._levels[view]),
            )
        return self._ugc[view]

    def _pair_item(self, view: int) -> PairItem:
        if view not in self._pair:
            self._pair[view] = PairItem(
                prompt=self._texts["prompt"][view],
                chosen=self._texts["chosen"][view],
                rejected=self._texts["rejected"][view],
                preference_direction=self._numbers(self._directions[view]),
            )
        return self._pair[view]

    def _items(self, views: Sequence[Views], column: str, levels: Direction) -> pa.Array:
        kind = EXAMPLE_SCHEMA.field(column).type
        taken = np.concatenate([*views, np.empty(0, dtype=np.int64)])
        source = {"prompt": self._prompt, "chosen": self._chosen, "comment": self._chosen, "rejected": self._rejected}
        fields = list(kind.value_type)
        arrays = [source[field.name].take(taken) if field.name in source else _lists(levels[taken]) for field in fields]
        offsets = np.cumsum([0, *[len(v) for v in views]], dtype=np.int32)
        return pa.ListArray.from_arrays(offsets, pa.StructArray.from_arrays(arrays, fields=fields), type=kind)


def _at(side: int) -> int:
    """Where a side stands in what follows the plan's `sides`."""
    return int(side < 0)


def _lists(levels: Direction) -> pa.Array:
    """Levels of shape (N, D) as N lists of the released numbers."""
    offsets = np.arange(len(levels) + 1, dtype=np.int32) * levels.shape[1]
    kind = EXAMPLE_SCHEMA.field("Preference Direction").type
    return pa.ListArray.from_arrays(offsets, to_released(levels).reshape(-1), type=kind)


_RELEASED = {-1: 0.0, 0: 0.5, 1: 1.0}
_CARRIED = ("pair_id", "post_id", "source", "topics", "model")
"""Columns that an example takes over from its pair."""
_TAKEN = (*_CARRIED, "prompt", "chosen", "rejected")
