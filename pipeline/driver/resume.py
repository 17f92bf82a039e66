"""Choice of the shards that a run has to build: missing ones, those of a changed pool, and open ones.

A shard is open where failed requests (timeouts, a server's errors) cost it rows. An unfinished build sends these
requests again; a finished build does so only with `--retry-lost`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from pipeline.assembly.leaks import PoolState, read_pool_state
from pipeline.driver.finish import check_losses, count_rows, read_footers
from pipeline.io.shards import read_meta
from pipeline.plan import BuildPlan, ShardSpec
from pipeline.runtime import timing
from schemas.base import UserError


class Work(NamedTuple):
    """The finished shards of a phase and those to build. `open` counts rows whose requests are sent again."""

    done: list[ShardSpec]
    todo: list[ShardSpec]
    open: int


def find_work(plan: BuildPlan, folder: str) -> Work:
    """Return the work of a phase, whose shards are in `pool` or `data`."""
    work, shards = Work([], [], 0), plan.shards()
    state = _pool_state(plan, folder)
    for spec, meta in zip(shards, read_footers(plan, folder, shards), strict=True):
        is_done = _is_done(meta, plan, state)
        (work.done if is_done else work.todo).append(spec)
        if meta is not None and plan.reopens_shards:
            work = work._replace(open=work.open + meta["open"])
    return work


def needs_building(spec: ShardSpec, plan: BuildPlan, folder: str) -> bool:
    """Return whether a shard must be built, and start its timing. Called by the worker that gets the shard."""
    meta = read_meta(plan.path(folder, spec), plan.fingerprint)
    is_open = meta is None or not _is_done(meta, plan, _pool_state(plan, folder))
    if is_open:
        timing.begin(plan.path(folder, spec))
    return is_open


def count_open(plan: BuildPlan) -> int:
    """Return the rows of stored shards that failed requests cost: lost pairs, and responses without levels."""
    metas = [meta for folder in ("pool", "data") for meta in read_footers(plan, folder, plan.shards())]
    return sum(meta["open"] for meta in metas if meta is not None)


def can_finish(plan: BuildPlan) -> bool:
    """Return whether only the end is missing: all shards exist, belong together, and not too many pairs are lost."""
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
            # A kill between the two writes leaves new rejections beside an old shard.
            if _common_meta(meta) != _common_meta(other) or not _is_done(meta, plan, state):
                return False
    try:
        check_losses(plan, count_rows(plan))
    except UserError:
        return False
    return True


def _common_meta(meta: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the metadata that a shard's two files have in common."""
    return {key: value for key, value in (meta or {}).items() if key not in ("data", "file")}


def _pool_state(plan: BuildPlan, folder: str) -> PoolState | None:
    return read_pool_state(plan) if folder == "data" else None


def _is_done(meta: Mapping[str, Any] | None, plan: BuildPlan, state: PoolState | None) -> bool:
    if meta is None or (plan.reopens_shards and meta["open"]):
        return False
    return state is None or all(state.contents.get(name) == content for name, content in meta["made_of"].items())
