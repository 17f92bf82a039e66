"""Phase two begins and ends here: assemble personas from the pool, and store the finished shard.

Between the two, `portraits.py` portrays, `mirror.py` mirrors and `validate.py` validates.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.assembly.history import History, Pool, choose_histories
from pipeline.assembly.leaks import has_shared_reply, made_of, read_pool_state
from pipeline.assembly.matching import choose_mined_histories
from pipeline.assembly.user_histories import choose_user_histories, order_items, users_in
from pipeline.generation.completions import Failure, Outcome, Request, count_tokens
from pipeline.io.shards import read_shard, staged_shard
from pipeline.plan import BuildPlan, ShardSpec
from pipeline.quality.rules import Violation
from pipeline.runtime import timing
from pipeline.runtime.resources import resources
from pipeline.runtime.results import better_stored, loss_meta, write_rejections
from preference_space.direction import Direction
from preference_space.philox import stream_key, uniforms
from schemas.arrow import arrow_schema
from schemas.config import BuildConfig
from schemas.records import Example, Rejection

EXAMPLE_SCHEMA = arrow_schema(Example)


@dataclass(frozen=True)
class Block:
    """Pool rows of a shard, and of the other shards that its histories may use; the `own` ones come first.

    `people` are the directions that portraits are of, shape (N, D), and `owners` their ids: users', or else pairs'.
    `made_of` maps the files of these shards to their hashes: when one has changed, the examples are built again.
    """

    table: pa.Table
    own: int
    pool: Pool
    people: Direction
    owners: Sequence[str]
    made_of: Mapping[str, str]


Subject = tuple[str, int]
"""Whom a portrait is of: an owner of the block, and a side."""


@dataclass(frozen=True, slots=True)
class Persona:
    """The person of one example: pool row `row` as stored (`side` 1) or mirrored (-1), with a history."""

    row: int
    side: int
    history: History
    portrait: str = ""


@dataclass(frozen=True, slots=True)
class ExampleShard:
    """The element of phase two.

    The personas of a pair follow each other. If the model writes the portraits, `asked` are the requests, `outcomes`
    its answers, and `cleaned` counts those that each step of cleaning changed. `examples` has a row for each persona.
    """

    spec: ShardSpec
    block: Block
    personas: Sequence[Persona]
    rejections: Sequence[Rejection] = ()
    asked: Mapping[Subject, Request] = field(default_factory=dict)
    outcomes: Sequence[Outcome] = ()
    cleaned: Mapping[str, int] = field(default_factory=dict)
    examples: pa.Table = field(default_factory=EXAMPLE_SCHEMA.empty_table)

    @property
    def journal(self) -> str:
        """Name of the journal of this shard's portraits."""
        return f"examples-{self.spec.name}"

    def requests(self) -> list[Request]:
        """Return every request, in order."""
        return [*self.asked.values()]

    def subject_of(self, persona: Persona) -> Subject:
        """Return whom the persona's portrait is of."""
        return self.block.owners[persona.row], persona.side

    def subjects(self) -> dict[Subject, Persona]:
        """Return the subjects of all portraits, in order, each with one of its personas."""
        subjects: dict[Subject, Persona] = {}
        for persona in self.personas:
            subjects.setdefault(self.subject_of(persona), persona)
        return subjects

    def with_outcomes(self, outcomes: Sequence[Outcome]) -> ExampleShard:
        """Return the shard with the model's answers, in the order of `requests()`."""
        return replace(self, outcomes=tuple(outcomes))


def assemble(spec: ShardSpec, plan: BuildPlan) -> ExampleShard:
    """Choose a history for every pair of a shard. Reject the pairs for which there is none."""
    block, rejections = open_block(spec, plan)
    personas: list[Persona] = []
    for row, histories in enumerate(_choose(spec, plan, block)):
        if isinstance(histories, str):
            rejections.append(reject(block.table, row, "assemble", Violation(histories, "")))
        else:
            personas += [Persona(row, side, history) for side, history in histories.items()]
    return ExampleShard(spec, block, personas, rejections)


def _choose(spec: ShardSpec, plan: BuildPlan, block: Block) -> Iterator[dict[int, History] | str]:
    """Yield the histories of each pair by side, or the reason why there are none."""
    config, pool, own = plan.config, block.pool, block.own
    if users := users_in(spec, config):
        ids = block.table["pair_id"].to_pylist()
        numbers = np.array([int(pair_id.rpartition("-")[2]) for pair_id in ids], dtype=np.int64)
        items = order_items(spec.split, users, config.seed, numbers)
        found = choose_user_histories(pool, items, config.history, users.min_items)
        yield from _both_sides(found, pool, plan)
        return
    order = uniforms(config.seed, stream_key("order", spec.split), np.array([spec.index]), len(pool))[0]
    numbers = np.arange(spec.start, spec.start + spec.count)
    shift = uniforms(config.seed, stream_key("shift", spec.split), numbers, 1)[:, 0]
    if spec.source == "sampled":
        yield from _both_sides(choose_histories(pool, own, config.history, order, shift), pool, plan)
        return
    for histories in choose_mined_histories(pool, own, config.history, plan.sides, order, shift):
        yield histories if isinstance(histories, str) else dict(zip(plan.sides, histories, strict=True))


def _both_sides(found: Iterable[History | str], pool: Pool, plan: BuildPlan) -> Iterator[dict[int, History] | str]:
    """Yield the histories of the first rows by side, given those of the pairs as stored."""
    for row, history in enumerate(found):
        if isinstance(history, str):
            yield history
        else:
            sides = plan.sides if pool.has_mirror[row] else (1,)
            yield {side: history if side > 0 else history.mirrored(pool) for side in sides}


def block_of(spec: ShardSpec, shards: Sequence[ShardSpec], config: BuildConfig) -> list[ShardSpec]:
    """Return a shard, followed by the `history.blocks` other shards of its split and source that the seed chooses.

    A shard of users needs no other.
    """
    if users_in(spec, config):
        return [spec]
    others = [other for other in shards if other != spec and (other.split, other.source) == (spec.split, spec.source)]
    draws = uniforms(config.seed, stream_key("blocks", spec.split), np.array([spec.index]), len(others) + 1)
    chosen = np.argsort(draws[0, : len(others)], kind="stable")[: config.history.blocks]
    return [spec, *(others[k] for k in sorted(chosen.tolist()))]


def open_block(spec: ShardSpec, plan: BuildPlan) -> tuple[Block, list[Rejection]]:
    """Read the pool rows of a shard and of the other shards of its block.

    Leaves out rows with a reply that another split holds too. Returns the block, and the rejections of the shard's own
    rows among them.
    """
    state = read_pool_state(plan)
    tables, rejections = [], []
    shards = block_of(spec, plan.shards(), plan.config)
    for shard in shards:
        table = read_shard(plan.path("pool", shard), fingerprint=plan.fingerprint)
        leaked = has_shared_reply(table, state.shared)
        if shard is spec:
            violation = Violation("reply_in_another_split", "")
            rejections = [reject(table, int(row), "assemble", violation) for row in np.flatnonzero(leaked)]
        tables.append(table.filter(pa.array(~leaked)))
    table = pa.concat_tables(tables).combine_chunks()
    replies = _codes(pa.chunked_array([*table["chosen"].chunks, *table["rejected"].chunks], pa.string()))
    size, of_users = len(resources(plan).space), users_in(spec, plan.config) is not None
    directions, people, *levels = (
        pc.list_flatten(table[name]).to_numpy().reshape(-1, size)
        for name in ("direction", "user_direction", "chosen_levels", "rejected_levels")
    )
    kinds = table["kind"].to_numpy()
    levels = levels if spec.source == "mined" else []
    pool = Pool.of_kinds(kinds, directions, _codes(table["prompt"]), replies, levels)
    files = [plan.path("pool", shard).name for shard in shards]
    return Block(
        table,
        own=tables[0].num_rows,
        pool=pool,
        people=people if of_users else directions,
        owners=table["user_id" if of_users else "pair_id"].to_pylist(),
        made_of=made_of(state, files),
    ), rejections


def store_examples(shard: ExampleShard, plan: BuildPlan) -> dict[str, Any]:
    """Write the rejections, then the examples, whose file marks the shard as done. Return the footer's `meta`."""
    meta = {
        "asked": shard.spec.count,
        "accepted": 0,
        "examples": shard.examples.num_rows,
        **loss_meta(plan, shard.rejections),
        **count_tokens(shard.outcomes).meta,
        "cleaned": dict(shard.cleaned),
        "made_of": dict(shard.block.made_of),
    }
    stored = better_stored(plan, "data", shard.spec, meta)
    if stored is not None:
        return stored
    # A group holds whole pairs, whose own rows come first.
    own = np.flatnonzero(~shard.examples["mirrored"].to_numpy())
    edges = itertools.pairwise([*own[::_PAIRS_A_GROUP].tolist(), shard.examples.num_rows])
    groups = (shard.examples.slice(start, end - start) for start, end in edges)
    with staged_shard(plan.path("data", shard.spec), EXAMPLE_SCHEMA, groups, meta) as facts:
        # The hash of the rows is stored with the rejections, so that the manifest needs no second reading of the rows.
        write_rejections(plan.path("rejected/examples", shard.spec), shard.rejections, meta | {"data": facts})
    timing.stored(plan.path("data", shard.spec), f"{meta['examples']} examples of {shard.spec.count} pairs")
    return meta


_PAIRS_A_GROUP = 256
"""Pairs in a row group, which bounds the memory that writing takes."""


def _codes(texts: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """Return equal numbers for equal texts."""
    encoded = texts.combine_chunks().dictionary_encode()
    return np.asarray(encoded.indices.to_numpy(zero_copy_only=False), dtype=np.int64)


def reject(
    table: pa.Table,
    row: int,
    stage: Any,
    cause: Violation | Failure,
    texts: tuple[str, ...] = (),
    cleaned: tuple[str, ...] = (),
) -> Rejection:
    """Return the rejection of pool row `row`. `texts` are by default its two replies."""
    names = ("pair_id", "post_id", "prompt", "direction", "attempt", "kind")
    pair = {name: table[name][row].as_py() for name in names}
    return Rejection(
        record_id=pair["pair_id"],
        stage=stage,
        reason=cause.reason,
        detail=cause.detail,
        attempt=pair["attempt"],
        final=True,
        post_id=pair["post_id"],
        prompt=pair["prompt"],
        direction=tuple(pair["direction"]),
        texts=texts or (table["chosen"][row].as_py(), table["rejected"][row].as_py()),
        cleaned=cleaned,
        kind=pair["kind"],
        may_pass=cause.may_pass,
    )
