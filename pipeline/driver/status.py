"""State of a running or ended build, from its files alone: the command `everyuser status`."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pipeline.driver.check import plan_of
from pipeline.driver.estimates import expected_work, max_attempts
from pipeline.driver.finish import count_rows
from pipeline.driver.spent import cost_of, engine_times, spent_by
from pipeline.io import storage
from pipeline.io.locks import LockHolder, find_holder
from pipeline.io.manifests import load_manifest
from pipeline.io.storage import AnyPath
from pipeline.plan import BuildPlan
from pipeline.runtime import progress
from schemas.base import Record
from schemas.manifest import Counts, EngineTime, Manifest, Run

State = Literal["running", "detached", "killed", "interrupted", "failed", "budget", "begun", "complete", "missed_gate"]
"""`detached`: workers count, and no driver holds the folder. `begun`: no run has asked for anything yet."""

_RECENT_SECONDS = 120.0
_LOCAL_SECONDS, _REMOTE_SECONDS = 1.0, 12.0
"""Time within which workers at work write new counts."""


class Progress(Record):
    """Finished units of all."""

    done: int
    of: int


class Status(Record):
    """State of a build. Paces are of the last two minutes of the last run; figures that are unknown are null."""

    folder: str
    name: str
    state: State
    holder: str | None
    """Process and host that hold the folder."""
    phase: Literal["threads", "pairs", "examples"] | None
    """What is being built, or would be next."""
    pairs: Progress
    """Accepted or lost pairs."""
    pair_shards: Progress
    example_shards: Progress
    counts: Counts
    """Counts of the stored shards."""
    rejected: dict[str, int]
    """Rejections by reason: of the stored shards, or of the run where no earlier one has stored any."""
    tokens: int
    """Prompt and completion tokens of all runs, by their last counts."""
    cost: float | None
    """Money of all runs, by the prices of their engines."""
    in_flight: int | None
    window: int | None
    pairs_per_minute: float | None
    tokens_per_second: float | None
    seconds_left: float | None
    time: dict[str, EngineTime]
    """Where the time of the clients goes, of the run at work or of the last one, by role of the model."""
    runs: tuple[Run, ...]
    """Runs that have ended by themselves."""


def find_status(folder: AnyPath) -> Status:
    """Return the state of the build in `folder`. Nothing is changed there.

    Raises `UsageError` where the folder holds no build of this version, `UserError` for damaged shards.
    """
    # The holder first: a run that ends meanwhile is then seen with its last counts or with its manifest.
    holder = find_holder(folder)
    live = progress.total(folder, fresh=True)
    notes = [*progress.read_notes(folder)]
    manifest = load_manifest(folder)
    plan = plan_of(folder, manifest)
    state = _state(folder, manifest, holder, live)
    is_active = state in ("running", "detached")
    counts = manifest.counts if manifest.is_built else count_rows(plan)
    shards = {name: _shards(plan, name) for name in ("pool", "data")}
    asked = sum(spec.count for spec in plan.shards())
    settled = max(counts.pairs_accepted + counts.pairs_lost, live[progress.EARLIER_PAIRS] + live["settled"])
    phase = _phase(plan, manifest, shards)
    recent = _recent(notes)
    return Status(
        folder=str(folder),
        name=manifest.name,
        state=state,
        holder=holder.name if holder and state == "running" else None,
        phase=phase,
        pairs=Progress(done=min(settled, asked), of=asked),
        pair_shards=shards["pool"],
        example_shards=shards["data"],
        counts=counts,
        rejected=_rejected(counts, live),
        tokens=spent_by(manifest.runs).tokens + live["prompt_tokens"] + live["completion_tokens"],
        cost=_cost(plan, manifest, live, notes),
        in_flight=live["in_flight"] if is_active else None,
        window=live["window"] if is_active else None,
        pairs_per_minute=_rate(recent, "pairs", 60.0),
        tokens_per_second=_rate(recent, "completion_tokens"),
        seconds_left=_seconds_left(plan, phase, live, recent) if is_active else None,
        time=engine_times(live) or (manifest.runs[-1].time if manifest.runs else {}),
        runs=manifest.runs,
    )


def _state(folder: AnyPath, manifest: Manifest, holder: LockHolder | None, live: Mapping[str, int]) -> State:
    if holder is not None and holder.is_alive:
        return "running"
    if manifest.status != "incomplete":
        return manifest.status
    if holder is not None:
        return "killed"
    # A run that ends by itself deletes its counts. Those of a detached build have no driver.
    if live:
        return "detached" if _is_counting(folder, live) else "killed"
    last = manifest.runs[-1].status if manifest.runs else "begun"
    return "begun" if last == "complete" else last


def _cost(
    plan: BuildPlan, manifest: Manifest, live: Mapping[str, int], notes: Sequence[Mapping[str, Any]]
) -> float | None:
    costs = [run.cost for run in manifest.runs if run.cost is not None]
    if live:
        # The last run is not in the manifest yet.
        now = cost_of(plan.config, live, notes[-1]["seconds"] if notes else 0.0)
        costs += [] if now is None else [now]
    return sum(costs) if costs else None


def _is_counting(folder: AnyPath, before: Mapping[str, int]) -> bool:
    """Return whether some process goes on to count, though no driver waits for it."""
    time.sleep(_LOCAL_SECONDS if storage.is_local(folder) else _REMOTE_SECONDS)
    return progress.total(folder, fresh=True) != before


def _shards(plan: BuildPlan, folder: str) -> Progress:
    there = {*storage.list_names(plan.output / folder)}
    names = [plan.path(folder, spec).name for spec in plan.shards()]
    return Progress(done=sum(name in there for name in names), of=len(names))


def _phase(
    plan: BuildPlan, manifest: Manifest, shards: Mapping[str, Progress]
) -> Literal["threads", "pairs", "examples"] | None:
    if manifest.is_built:
        return None
    if plan.config.mining is not None and not plan.threads:
        return "threads"
    return "pairs" if shards["pool"].done < shards["pool"].of else "examples"


def _rejected(counts: Counts, live: Mapping[str, int]) -> dict[str, int]:
    """Return rejections by reason, the most frequent first."""
    found = counts.rejected
    if live and not live.get(progress.EARLIER_PAIRS):
        prefix = "rejected/"
        found = {name.removeprefix(prefix): n for name, n in live.items() if name.startswith(prefix)}
    return dict(sorted(found.items(), key=lambda entry: (-entry[1], entry[0])))


def _recent(notes: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """Return the records of the last run's last minutes."""
    if not notes:
        return []
    last = notes[-1]
    return [
        note for note in notes if note["run"] == last["run"] and note["seconds"] >= last["seconds"] - _RECENT_SECONDS
    ]


def _rate(recent: Sequence[Mapping[str, Any]], name: str, unit: float = 1.0) -> float | None:
    """Return the pace of a count, in so many seconds; None where too little was recorded."""
    if len(recent) < 2 or recent[-1]["seconds"] <= recent[0]["seconds"]:
        return None
    change = recent[-1].get(name, 0) - recent[0].get(name, 0)
    return float(unit * change / (recent[-1]["seconds"] - recent[0]["seconds"]))


def _seconds_left(
    plan: BuildPlan, phase: str | None, live: Mapping[str, int], recent: Sequence[Mapping[str, Any]]
) -> float | None:
    """Return the time that the phase needs at the recent pace."""
    total = sum(spec.count for spec in plan.shards())
    if phase == "examples":
        left, pace = float(total - live.get("examples/asked", 0)), _rate(recent, "examples")
    elif phase == "pairs":
        todo = total - live.get(progress.EARLIER_PAIRS, 0)
        work = expected_work(live, todo, live.get("settled", 0), max_attempts(plan))
        left, pace = work.left, _rate(recent, "answers" if live.get("questions") else "pairs")
    else:
        return None
    return left / pace if pace else None
