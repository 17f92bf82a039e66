"""Phase two begins and ends here: assemble personas from the pool, and store the finished shard.

Between the two, `portraits.py` portrays, `mirror.py` mirrors and `validate.py` validates.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.assembly.history import History, Pool, choose_histories
from pipeline.assembly.leaks import has_shared_reply, made_of, read_pool_state
from pipeline.assembly.matching import choose_mined_histories
from pipeline.generation.completions import Failure, Outcome, Request, count_tokens
from pipeline.io.shards import read_shard, staged_shard
from pipeline.plan import BuildPlan, ShardSpec
from pipeline.quality.rules import Violation
from pipeline.runtime import timing
from pipeline.runtime.resources import resources
from pipeline.runtime.results import better_stored, loss_meta, write_rejections
from preference_space.philox import stream_key, uniforms
from schemas.arrow import arrow_schema
from schemas.config import BuildConfig
from schemas.records import Example, Rejection

EXAMPLE_SCHEMA = arrow_schema(Example)


@dataclass(frozen=True)
class Block:
    """Pool rows of a shard, and of the other shards that its histories may use; the shard's own come first.

    `made_of` maps the files of these shards to their hashes: when one has changed, the examples are built again.
    """

    table: pa.Table
    own: int
    pool: Pool
    made_of: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Persona:
    """An accepted pair with the histories of its person or persons. All fields but `row` follow the plan's `sides`."""

    row: int
    histories: tuple[History, ...]
    requests: tuple[Request, ...] = ()
    portraits: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ExampleShard:
    """The element of phase two.

    `outcomes` are the model's answers, if the model writes the portraits; `cleaned` counts those that each step of
    cleaning changed. `examples` are the finished rows: those of
    each persona in turn, one for each of the plan's `sides`.
    """

    spec: ShardSpec
    block: Block
    personas: Sequence[Persona]
    rejections: Sequence[Rejection] = ()
    outcomes: Sequence[Outcome] = ()
    cleaned: Mapping[str, int] = field(default_factory=dict)
    examples: pa.Table = field(default_factory=EXAMPLE_SCHEMA.empty_table)

    @property
    def journal(self) -> str:
        """Name of the journal of this shard's portraits."""
        return f"examples-{self.spec.name}"

    def requests(self) -> list[Request]:
        """Return every request of every persona, in order."""
        return [request for persona in self.personas for request in persona.requests]

    def with_outcomes(self, outcomes: Sequence[Outcome]) -> ExampleShard:
        """Return the shard with the model's answers, in the order of `requests()`."""
        return replace(self, outcomes=tuple(outcomes))


def assemble(spec: ShardSpec, plan: BuildPlan) -> ExampleShard:
    """Choose a history for every pair of a shard. Reject the pairs for which there is none."""
    block, rejections = open_block(spec, plan)
    seed, numbers = plan.config.seed, np.array([spec.index])
    order = uniforms(seed, stream_key("order", spec.split), numbers, len(block.pool))[0]
    shift = uniforms(seed, stream_key("shift", spec.split), np.arange(spec.start, spec.start + spec.count), 1)[:, 0]
    personas = []
    for row, histories in enumerate(_choose(spec, plan, block, order, shift)):
        if isinstance(histories, str):
            rejections.append(reject(block.table, row, "assemble", Violation(histories, "")))
        else:
            personas.append(Persona(row, histories))
    return ExampleShard(spec, block, personas, rejections)


def _choose(
    spec: ShardSpec, plan: BuildPlan, block: Block, order: npt.NDArray[np.float64], shift: npt.NDArray[np.float64]
) -> Iterator[tuple[History, ...] | str]:
    """Yield the histories of each pair, or the reason why there are none."""
    config, pool = plan.config.history, block.pool
    if spec.source == "mined":
        yield from choose_mined_histories(pool, block.own, config, plan.sides, order, shift)
        return
    for history in choose_histories(pool, block.own, config, order, shift):
        yield history if isinstance(history, str) else (history, history.mirrored(pool))[: len(plan.sides)]


def block_of(spec: ShardSpec, shards: Sequence[ShardSpec], config: BuildConfig) -> list[ShardSpec]:
    """Return a shard, followed by the `history.blocks` other shards of its split and source that the seed chooses."""
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
    directions, *levels = (
        pc.list_flatten(table[name]).to_numpy().reshape(-1, len(resources(plan).space))
        for name in ("direction", "chosen_levels", "rejected_levels")
    )
    pool = Pool(
        directions=directions,
        # A sampled reply shows what its writer was asked to be.
        levels=np.concatenate(levels if spec.source == "mined" else [directions, -directions]),
        posts=_codes(table["prompt"]),
        chosen=replies[: table.num_rows],
        rejected=replies[table.num_rows :],
    )
    files = [plan.path("pool", shard).name for shard in shards]
    return Block(table, tables[0].num_rows, pool, made_of(state, files)), rejections


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
    size = _PAIRS_A_GROUP * len(plan.sides)
    groups = (shard.examples.slice(start, size) for start in range(0, shard.examples.num_rows, size))
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
    pair = {name: table[name][row].as_py() for name in ("pair_id", "post_id", "prompt", "direction", "attempt")}
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
        may_pass=cause.may_pass,
    )
