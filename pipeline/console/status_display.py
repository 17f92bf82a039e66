"""The state of a build in a terminal."""

from __future__ import annotations

from rich.console import Console

from pipeline.console.phases import duration
from pipeline.console.times import time_lines
from pipeline.driver.status import Status
from schemas.terminal import say

_STATES = {
    "running": "running",
    "detached": "running, detached: workers count, and no driver waits for them",
    "killed": "killed; the same build command resumes it",
    "interrupted": "stopped by Ctrl-C; the same build command resumes it",
    "budget": "stopped by its budget; the same build command with a higher limit resumes it",
    "failed": "failed; the same build command resumes it",
    "begun": "begun, and no run is at work; the same build command resumes it",
    "complete": "finished",
    "missed_gate": "finished, but misses a gate of its limits",
}
_MOST_REASONS = 8


def show_status(status: Status, console: Console) -> None:
    """Print a line for each fact that is known."""
    counts = status.counts
    say(console, f"{status.name}: {_STATES[status.state]}")
    facts: dict[str, list[str]] = {
        "in": [status.folder],
        "held": [f"by {status.holder}" if status.holder else ""],
        "phase": [status.phase or ""],
        "shards": [
            f"{status.pair_shards.done} of {status.pair_shards.of} of pairs, "
            f"{status.example_shards.done} of {status.example_shards.of} of examples"
        ],
        "pairs": [
            f"{status.pairs.done} of {status.pairs.of} done",
            f"stored: {counts.pairs_accepted} accepted, {counts.pairs_lost} lost, {counts.examples} examples",
        ],
        "pace": [
            "" if status.pairs_per_minute is None else f"{status.pairs_per_minute:.4g} pairs a minute",
            "" if status.tokens_per_second is None else f"{status.tokens_per_second:.4g} tokens/s",
            f"{status.in_flight} of {status.window} in flight" if status.in_flight else "",
            "" if status.seconds_left is None else f"about {duration(status.seconds_left)} left in this phase",
        ],
        "used": [f"{status.tokens} tokens", "" if status.cost is None else f"{status.cost:.4g} by engine.price"],
        "rejected": [f"{reason} {number}" for reason, number in [*status.rejected.items()][:_MOST_REASONS]],
        "runs": [f"{run.status} after {duration(run.seconds)}" for run in status.runs],
    }
    for name, parts in facts.items():
        if line := ", ".join(filter(None, parts)):
            say(console, f"  {name:<9} {line}")
    for line in time_lines(status.time):
        say(console, f"  {line}")
