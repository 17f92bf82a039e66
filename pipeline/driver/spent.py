"""What the runs of a build have used, and the message of one that its budget stopped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from pipeline.driver.estimates import expected_work, max_attempts
from pipeline.generation.account import STATES
from pipeline.io.storage import AnyPath
from pipeline.plan import BuildPlan, Spent
from pipeline.runtime import progress
from pipeline.runtime.results import TOKEN_COUNTS
from schemas.config import BuildConfig
from schemas.manifest import EngineTime, Manifest, Run, RunStatus

_MARGIN = 1.1
"""A limit that is proposed exceeds what is expected by this factor."""


def spent_by(runs: Sequence[Run], began: float = 0.0) -> Spent:
    """Return what runs have used; `began` is when another one begins, in seconds since the epoch."""
    return Spent(
        tokens=sum(run.prompt_tokens + run.completion_tokens for run in runs),
        requests=sum(run.requests_sent for run in runs),
        cost=sum(run.cost or 0.0 for run in runs),
        seconds=sum(run.seconds for run in runs),
        began=began,
    )


def cost_of(config: BuildConfig, counts: Mapping[str, int], seconds: float) -> float | None:
    """Return the cost of a run by its counts and its time; None where no price is known."""
    if not config.prices:
        return None
    hourly = sum(price.hour for price in config.prices)
    return counts.get("cost_nanos", 0) / 1e9 + hourly * seconds / 3600


def engine_times(counts: Mapping[str, int]) -> dict[str, EngineTime]:
    """Return the time of the clients by role, from the counts of all processes."""
    found = {}
    for role in ("generation", "verification"):
        clients = counts.get(f"time/{role}/clients", 0)
        if not clients:
            continue
        seconds = {state: counts[f"time/{role}/{state}"] / 1000 / clients for state in STATES}
        whole = sum(seconds.values())
        in_flight = counts[f"time/{role}/sequences"] / 1000 / whole if whole else 0.0
        found[role] = EngineTime(
            clients=clients,
            seconds={state: round(number, 3) for state, number in seconds.items()},
            in_flight=round(in_flight, 2),
        )
    return found


def with_unrecorded_runs(
    output: AnyPath, config: BuildConfig, manifest: Manifest, status: RunStatus = "killed"
) -> Manifest:
    """Return the manifest with the runs that could not add themselves: killed ones, or a detached one at its end.

    The last one's counts are those that its processes have left, the others' those of the record of the pace.
    """
    known = {run.started for run in manifest.runs}
    last_notes = {note["run"]: note for note in progress.read_notes(output) if note["run"] not in known}
    left = progress.total(output, fresh=True)
    if not last_notes and left["requests_sent"]:
        # Killed before its pace was recorded. When it began is not known.
        last_notes[datetime.now(UTC).isoformat(timespec="seconds")] = {"seconds": 0.0}
    runs = []
    for started, note in last_notes.items():
        is_last = started == [*last_notes][-1]
        counts = left if is_last and left else note
        names = ("requests_sent", "requests_replayed", *TOKEN_COUNTS, "server_restarts")
        figures = {name: int(counts.get(name, 0)) for name in names}
        seconds = note["seconds"]
        if status == "complete":
            seconds = (datetime.now(UTC) - datetime.fromisoformat(started)).total_seconds()
        cost = cost_of(config, counts, seconds)
        runs.append(
            Run(started=started, seconds=seconds, status=status, cost=cost, time=engine_times(counts), **figures)
        )
    return manifest.model_copy(update={"runs": (*manifest.runs, *runs)}) if runs else manifest


def budget_message(plan: BuildPlan, key: str, runs: Sequence[Run], counts: Mapping[str, int]) -> str:
    """Return the line about a run that its budget stopped: what is done, and what the rest takes.

    Args:
        plan: The build.
        key: The limit, such as `limits.max_tokens`.
        runs: All runs; the last one was stopped.
        counts: Counts of the last run.
    """
    resource = key.removeprefix("limits.max_")
    limit = getattr(plan.config.limits, f"max_{resource}")
    total = sum(spec.count for spec in plan.shards())
    earlier = counts.get(progress.EARLIER_PAIRS, 0)
    settled = counts.get("settled", 0)
    spent, run = spent_by(runs), spent_by(runs[-1:])
    currency = plan.config.prices[0].currency if plan.config.prices else ""
    used = [f"{spent.tokens} tokens", f"{spent.requests} requests", f"{spent.hours(0):.3g} hours"]
    used += [f"{currency} {spent.cost:.4g}"] if currency else []
    done = f"{min(total, earlier + settled)} of {total} pairs are done, for {', '.join(used)}"
    work = expected_work(counts, total - earlier, settled, max_attempts(plan))
    amount, in_run = (one.hours(0) if resource == "hours" else getattr(one, resource) for one in (spent, run))
    way_out = f"the same command with a higher {key} continues"
    rest = ""
    if work.done and work.left > 0 and in_run:
        more = in_run * work.left / work.done
        higher = _rounded_up(_MARGIN * (amount + more), isinstance(limit, int))
        rest = f"; the rest takes about {_plain(more)} {currency if resource == 'cost' else resource} more"
        way_out = f"the same command with --set {key}={higher} continues"
    return f"stopped before {key} = {limit} would be passed: {done}{rest}; {way_out}"


def _plain(amount: float) -> str:
    return f"{amount:.0f}" if amount >= 100 else f"{amount:.3g}"


def _rounded_up(amount: float, is_whole: bool) -> str:
    """Return a number of two digits above an amount."""
    digits = f"{amount:.1e}"
    nearest = float(digits)
    if nearest < amount:
        nearest += 10 ** (int(digits.rpartition("e")[2]) - 1)
    return f"{max(1, round(nearest))}" if is_whole else f"{nearest:g}"
