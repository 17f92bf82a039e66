"""Which shards a run has to build: those without a file, those of a pool that has changed, and those to ask again.

A shard is open where circumstances cost it rows (timeouts, a server's errors). A run that must not be finished yet asks
again for the rows of open shards; a finished build does so only when it is told to (`--retry-lost`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from pipeline.assembly.leaks import PoolState, read_pool_state
from pipeline.driver.finish import check_losses, read_footers
from pipeline.io.shards import read_meta
from pipeline.plan import BuildPlan, ShardSpec
from pipeline.runtime import timing
from schemas.base import UserError


class Work(NamedTuple):
    """The shards of a phase that are done, and those to do; `open` rows of stored shards are asked again."""

    done: list[ShardSpec]
    todo: list[ShardSpec]
    open: int


def find_work(plan: BuildPlan, folder: str) -> Work:
    """What is left of a phase, whose shards are in `pool` or `data`."""
    work, shards = Work([], [], 0), plan.shards()
    state = _pool_state(plan, folder)
    for spec, meta in zip(shards, read_footers(plan, folder, shards), strict=True):
        if meta is not None and meta["fingerprint"] != plan.fingerprint:
            raise UserError(f"{plan.path(folder, spec)} belongs to another build; delete it and run again")
        is_done = _is_done(meta, plan, state)
        (work.done if is_done else work.todo).append(spec)
        if meta is not None and plan.reopens_shards:
            work = work._replace(open=work.open + meta["open"])
    return work


def needs_building(spec: ShardSpec, plan: BuildPlan, folder: str) -> bool:
    """Whether a shard is still to do, asked by the worker that has it."""
    meta = read_meta(plan.path(folder, spec))
    is_open = meta is None or not _is_done(meta, plan, _pool_state(plan, folder))
    if is_open:
        timing.begin(plan.path(folder, spec))
    return is_open


def count_open(plan: BuildPlan) -> int:
    """Rows of stored shards that circumstances have cost: lost pairs, and responses without levels."""
    metas = [meta for folder in ("pool", "data") for meta in read_footers(plan, folder, plan.shards())]
    return sum(meta["open"] for meta in metas if meta is not None)


def can_finish(plan: BuildPlan) -> bool:
    """Whether nothing is missing but the end: all shards are there, belong together, and lost no more than they may."""
    plan, shards = dataclasses.replace(plan, reopens_shards=False), plan.shards()
    for folder, beside in (("pool", "rejected/pairs"), ("data", "rejected/examples")):
        metas = read_footers(plan, folder, shards)
        if not all(metas):
            return False
        try:
            state = _pool_state(plan, folder)
        except FileNotFoundError:
            return False
        for meta, other in zip(metas, read_footers(plan, beside, shards), strict=True):
            # A kill between the two leaves rejections of a shard that is still the old one.
            if _common_meta(meta) != _common_meta(other) or not _is_done(meta, plan, state):
                return False
    try:
        check_losses(plan)
    except UserError:
        return False
    return True


def _common_meta(meta: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a shard's two files say alike."""
    return {key: value for key, value in (meta or {}).items() if key not in ("data", "file")}


def _pool_state(plan: BuildPlan, folder: str) -> PoolState | None:
    return read_pool_state(plan) if folder == "data" else None


def _is_done(meta: Mapping[str, Any] | None, plan: BuildPlan, state: PoolState | None) -> bool:
    if meta is None or meta["fingerprint"] != plan.fingerprint or (plan.reopens_shards and meta["open"]):
        return False
    return state is None or all(state.contents.get(name) == content for name, content in meta["made_of"].items())
