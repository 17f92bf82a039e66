"""Phase two, as pure functions of a shard: open the pool, assemble personas, portray, validate, store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import ValidationError

from pipeline.generation.requests import Completion, Failure, Outcome, Request, make_request
from pipeline.history import History, Pool, choose_histories
from pipeline.leaks import has_shared_reply, read_shared_replies
from pipeline.pairs import traits, write_rejections
from pipeline.plan import BuildPlan, ShardSpec
from pipeline.resources import resources
from pipeline.shards import read_shard, write_shard
from pipeline.validate import Fault, clean_reply, judge_text
from preference_space.direction import Direction, to_released, verbalise
from preference_space.philox import stream_key, uniforms
from schemas.arrow import arrow_schema
from schemas.records import Example, PairItem, Rejection, UgcItem

Views = npt.NDArray[np.int64]

EXAMPLE_SCHEMA = arrow_schema(Example)
SIDES = (1, -1)
"""A pair is emitted twice: as it stands, and mirrored."""


@dataclass(frozen=True)
class Block:
    """A shard's own pool rows, which come first, and those of the shards that its histories may come from."""

    table: pa.Table
    own: int
    pool: Pool


@dataclass(frozen=True, slots=True)
class Persona:
    """An accepted pair with the history of the person who prefers `chosen`. `portraits` follow `SIDES`."""

    row: int
    history: History
    requests: tuple[Request, ...] = ()
    portraits: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ExampleShard:
    """The element of phase two. `outcomes` are the model's answers, where it writes the portraits."""

    spec: ShardSpec
    block: Block
    personas: Sequence[Persona]
    rejections: Sequence[Rejection] = field(default_factory=tuple)
    outcomes: Sequence[Outcome] = ()

    @property
    def journal(self) -> str:
        """Name of the journal that holds this shard's portraits."""
        return f"examples-{self.spec.name}"

    def requests(self) -> list[Request]:
        """Every request of every persona, in order."""
        return [request for persona in self.personas for request in persona.requests]

    def with_outcomes(self, outcomes: Sequence[Outcome]) -> ExampleShard:
        """The same shard with the model's answers, in the order of `requests()`."""
        return replace(self, outcomes=tuple(outcomes))


def assemble(spec: ShardSpec, plan: BuildPlan) -> ExampleShard:
    """Choose a consistent history for every pair of a shard; reject those that can have none."""
    block, rejections = open_block(spec, plan)
    seed, numbers = plan.config.seed, np.array([spec.index])
    order = uniforms(seed, stream_key("order", spec.split), numbers, len(block.pool))[0]
    shift = uniforms(seed, stream_key("shift", spec.split), np.arange(spec.start, spec.start + spec.count), 1)[:, 0]
    personas = []
    chosen = choose_histories(block.pool, block.own, plan.config.history, order, shift)
    for row, history in enumerate(chosen):
        if isinstance(history, str):
            rejections.append(_rejection(block.table, row, "assemble", Fault(history, "")))
        else:
            personas.append(Persona(row, history))
    return ExampleShard(spec, block, personas, rejections)


def open_block(spec: ShardSpec, plan: BuildPlan) -> tuple[Block, list[Rejection]]:
    """Read a shard's pool rows, and `history.blocks` other shards of its split that the seed chooses.

    Rows with a reply that also occurs in another split are left out, and the shard's own ones rejected.
    """
    others = [other for other in plan.shards() if other.split == spec.split and other.index != spec.index]
    draws = uniforms(plan.config.seed, stream_key("blocks", spec.split), np.array([spec.index]), len(others) + 1)
    chosen = np.argsort(draws[0, : len(others)], kind="stable")[: plan.config.history.blocks]
    shared = read_shared_replies(plan)
    tables, rejections = [], []
    for shard in (spec, *(others[k] for k in sorted(chosen.tolist()))):
        table = read_shard(plan.path("pool", shard))
        leaked = has_shared_reply(table, shared)
        if shard is spec:
            fault = Fault("reply_in_another_split", "")
            rejections = [_rejection(table, int(row), "assemble", fault) for row in np.flatnonzero(leaked)]
        tables.append(table.filter(pa.array(~leaked)))
    table = pa.concat_tables(tables).combine_chunks()
    replies = _codes(pa.chunked_array([*table["chosen"].chunks, *table["rejected"].chunks], pa.string()))
    pool = Pool(
        directions=pc.list_flatten(table["direction"]).to_numpy().reshape(table.num_rows, len(resources(plan).space)),
        posts=_codes(table["prompt"]),
        chosen=replies[: table.num_rows],
        rejected=replies[table.num_rows :],
    )
    return Block(table, tables[0].num_rows, pool), rejections


def portray(shard: ExampleShard, plan: BuildPlan) -> ExampleShard:
    """Write every persona's portraits by template, from the direction alone."""
    parts = resources(plan)
    render = parts.templates["portrait_text"].render
    return replace(
        shard,
        personas=[
            replace(
                persona,
                portraits=tuple(
                    render(traits=traits(parts.space, side * shard.block.pool.directions[persona.row]))["text"]
                    for side in SIDES
                ),
            )
            for persona in shard.personas
        ],
    )


def render_portraits(shard: ExampleShard, plan: BuildPlan) -> ExampleShard:
    """Render the requests by which the model writes the portraits, from the direction alone."""
    parts = resources(plan)
    pair_ids = shard.block.table["pair_id"].to_pylist()

    def request(row: int, side: int) -> Request:
        direction = side * shard.block.pool.directions[row]
        messages = parts.templates["portrait_model"].render(traits=traits(parts.space, direction))
        return make_request(plan.config.generation, messages, (plan.config.seed, "portrait", pair_ids[row], side))

    return replace(
        shard,
        personas=[
            replace(persona, requests=tuple(request(persona.row, side) for side in SIDES)) for persona in shard.personas
        ],
    )


def take_portraits(shard: ExampleShard, plan: BuildPlan) -> ExampleShard:
    """Sort the model's portraits: a pair of which one portrait is bad is rejected with both its examples."""
    personas, rejections = [], [*shard.rejections]
    for number, persona in enumerate(shard.personas):
        outcomes = shard.outcomes[number * len(SIDES) : (number + 1) * len(SIDES)]
        texts = tuple("" if isinstance(outcome, Failure) else clean_reply(outcome.text) for outcome in outcomes)
        faults = [
            Fault(outcome.reason, outcome.detail)
            if isinstance(outcome, Failure)
            else judge_text(text, outcome.finish_reason, plan.config.validation)
            for text, outcome in zip(texts, outcomes, strict=True)
        ]
        fault = next((fault for fault in faults if fault), None)
        if fault:
            rejections.append(_rejection(shard.block.table, persona.row, "portrait", fault, texts))
        else:
            personas.append(replace(persona, requests=(), portraits=texts))
    return replace(shard, personas=personas, rejections=rejections)


def store_examples(shard: ExampleShard, plan: BuildPlan) -> dict[str, Any]:
    """Validate every example, then write the rejections and the shard: the latter's presence says that it is done."""
    rows = _Rows(shard.block, plan)
    personas, rejections = [], [*shard.rejections]
    for persona in shard.personas:
        try:
            for side in SIDES:
                rows.record(persona, side)
        except ValidationError as error:
            fault = Fault("schema", "; ".join(problem["msg"] for problem in error.errors()))
            rejections.append(_rejection(shard.block.table, persona.row, "assemble", fault))
        else:
            personas.append(persona)
    spent = [outcome for outcome in shard.outcomes if isinstance(outcome, Completion)]
    meta = {
        "fingerprint": plan.fingerprint,
        "asked": shard.spec.count,
        "accepted": 0,
        "examples": len(SIDES) * len(personas),
        "lost": len(rejections),
        "rejected": dict(Counter(f"{r.stage}/{r.reason}" for r in rejections)),
        "prompt_tokens": sum(completion.prompt_tokens for completion in spent),
        "completion_tokens": sum(completion.completion_tokens for completion in spent),
    }
    groups = (rows.table(personas[start : start + _PAIRS_A_GROUP]) for start in range(0, len(personas), _PAIRS_A_GROUP))
    write_rejections(plan.path("rejected/examples", shard.spec), rejections, meta)
    write_shard(plan.path("data", shard.spec), EXAMPLE_SCHEMA, groups, meta)
    return meta


_PAIRS_A_GROUP = 256
"""Pairs in a row group: some 7 MB of examples, built and written one after another."""


class _Rows:
    """A shard's examples twice: as records for validation, and as one table, built by taking views from columns.

    A list of nested records costs a millisecond a row to turn into Arrow; taking views costs a few microseconds.
    """

    def __init__(self, block: Block, plan: BuildPlan) -> None:
        self._space = resources(plan).space
        self._pool = block.pool
        column = {name: block.table[name].combine_chunks() for name in block.table.column_names}
        self._column = column
        self._prompt = pa.concat_arrays([column["prompt"], column["prompt"]])
        self._chosen = pa.concat_arrays([column["chosen"], column["rejected"]])
        self._rejected = pa.concat_arrays([column["rejected"], column["chosen"]])
        sides = {"prompt": self._prompt, "chosen": self._chosen, "rejected": self._rejected}
        self._texts = {name: texts.to_pylist() for name, texts in sides.items()}
        self._facts = {name: column[name].slice(0, block.own).to_pylist() for name in _CARRIED}
        self._released = to_released(np.concatenate([self._pool.directions, -self._pool.directions]))
        self._profiles: dict[int, str] = {}
        self._tuples: dict[int, tuple[float, ...]] = {}
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
            preference_direction=self._direction(view),
            demographic_information=persona.portraits[SIDES.index(side)],
            user_generated_content=tuple(self._ugc_item(int(v)) for v in ugc),
            pairwise_feedback=tuple(self._pair_item(int(v)) for v in pair),
            profile=self._profile(view),
            id=self._id(persona.row, side),
            mirrored=side < 0,
            history_support=persona.history.support,
        )

    def table(self, personas: Sequence[Persona]) -> pa.Table:
        """All examples of `personas`, each pair's two in the order of `SIDES`."""
        sides = [(persona, side) for persona in personas for side in SIDES]
        all_views = [self._views(persona, side) for persona, side in sides]
        views = np.array([view for view, _, _ in all_views], dtype=np.int64)
        rows = views % len(self._pool)
        columns: dict[str, Any] = {name: self._column[name].take(rows) for name in _CARRIED} | {
            "prompt": self._prompt.take(views),
            "chosen": self._chosen.take(views),
            "rejected": self._rejected.take(views),
            "Preference Direction": self._directions(views, "Preference Direction"),
            "Demographic Information": [persona.portraits[SIDES.index(side)] for persona, side in sides],
            "User-Generated Content": self._items([ugc for _, ugc, _ in all_views], "User-Generated Content"),
            "Pair-wise Comparative Feedback": self._items(
                [pair for _, _, pair in all_views], "Pair-wise Comparative Feedback"
            ),
            "profile": [self._profile(view) for view in views.tolist()],
            "id": [self._id(persona.row, side) for persona, side in sides],
            "mirrored": [side < 0 for _, side in sides],
            "history_support": [persona.history.support for persona, _ in sides],
        }
        arrays = [
            values if isinstance(values, pa.Array) else pa.array(values, field.type)
            for field, values in ((field, columns[field.name]) for field in EXAMPLE_SCHEMA)
        ]
        return pa.Table.from_arrays(arrays, schema=EXAMPLE_SCHEMA)

    def _views(self, persona: Persona, side: int) -> tuple[int, Views, Views]:
        history = persona.history
        if side > 0:
            return persona.row, history.ugc, history.pair
        return persona.row + len(self._pool), self._pool.turned(history.ugc), self._pool.turned(history.pair)

    def _id(self, row: int, side: int) -> str:
        return f"{self._facts['pair_id'][row]}-{'a' if side > 0 else 'b'}"

    def _profile(self, view: int) -> str:
        if view not in self._profiles:
            self._profiles[view] = verbalise(self._space, self._levels(view))
        return self._profiles[view]

    def _levels(self, view: int) -> Direction:
        levels: Direction = self._pool.directions[view % len(self._pool)]
        return levels if view < len(self._pool) else np.negative(levels)

    def _direction(self, view: int) -> tuple[float, ...]:
        if view not in self._tuples:
            # Three shared floats, not ninety new ones: the difference is half of a shard's memory.
            self._tuples[view] = tuple(map(_RELEASED.__getitem__, self._levels(view).tolist()))
        return self._tuples[view]

    def _ugc_item(self, view: int) -> UgcItem:
        if view not in self._ugc:
            self._ugc[view] = UgcItem(
                prompt=self._texts["prompt"][view],
                comment=self._texts["chosen"][view],
                preference_direction=self._direction(view),
            )
        return self._ugc[view]

    def _pair_item(self, view: int) -> PairItem:
        if view not in self._pair:
            self._pair[view] = PairItem(
                prompt=self._texts["prompt"][view],
                chosen=self._texts["chosen"][view],
                rejected=self._texts["rejected"][view],
                preference_direction=self._direction(view),
            )
        return self._pair[view]

    def _directions(self, views: Views, column: str) -> pa.Array:
        values = self._released[views]
        offsets = np.arange(len(views) + 1, dtype=np.int32) * values.shape[1]
        return pa.ListArray.from_arrays(offsets, values.reshape(-1), type=EXAMPLE_SCHEMA.field(column).type)

    def _items(self, views: Sequence[Views], column: str) -> pa.Array:
        kind = EXAMPLE_SCHEMA.field(column).type
        taken = np.concatenate([*views, np.empty(0, dtype=np.int64)])
        source = {"prompt": self._prompt, "chosen": self._chosen, "comment": self._chosen, "rejected": self._rejected}
        fields = list(kind.value_type)
        arrays = [
            source[field.name].take(taken)
            if field.name in source
            else self._directions(taken, "Preference Direction").cast(field.type)
            for field in fields
        ]
        offsets = np.cumsum([0, *[len(v) for v in views]], dtype=np.int32)
        return pa.ListArray.from_arrays(offsets, pa.StructArray.from_arrays(arrays, fields=fields), type=kind)


_RELEASED = {-1: 0.0, 0: 0.5, 1: 1.0}
_CARRIED = ("pair_id", "post_id", "source", "topics", "model")
"""Columns that an example takes over from its pair."""


def _codes(texts: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """Equal numbers for equal texts."""
    encoded = texts.combine_chunks().dictionary_encode()
    return np.asarray(encoded.indices.to_numpy(zero_copy_only=False), dtype=np.int64)


def _rejection(table: pa.Table, row: int, stage: Any, fault: Fault, texts: tuple[str, ...] = ()) -> Rejection:
    pair = {name: table[name][row].as_py() for name in ("pair_id", "post_id", "prompt", "direction", "attempt")}
    return Rejection(
        record_id=pair["pair_id"],
        stage=stage,
        reason=fault.reason,
        detail=fault.detail,
        attempt=pair["attempt"],
        final=True,
        post_id=pair["post_id"],
        prompt=pair["prompt"],
        direction=tuple(pair["direction"]),
        texts=texts or (table["chosen"][row].as_py(), table["rejected"][row].as_py()),
    )
