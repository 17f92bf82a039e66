"""The account of the engine's time in a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pipeline.console.phases import duration
from schemas.manifest import EngineTime

_STATES = {
    "busy": "busy: the window was full",
    "few": "too few requests: too few shards or pairs to fill the window",
    "stragglers": "stragglers: the last replies of shards",
    "pipeline": "the pipeline: no more requests were ready",
    "limited": "rate limits: the endpoint, or the budget, asked to wait",
    "engine": "the engine: it started, or did not answer",
}
_LEAST = 0.005
"""Shares below this one are not shown."""


def time_lines(time: Mapping[str, EngineTime]) -> Iterator[str]:
    """Yield where the time of the clients went: a head for each role of a model, then a line for each state."""
    for role, found in time.items():
        whole = sum(found.seconds.values())
        if not whole:
            continue
        clients = f"{found.clients} client{'s' * (found.clients != 1)}"
        yield f"time of the engine ({role}): {duration(whole)}, {clients}, {found.in_flight:.3g} in flight on average"
        for state, words in _STATES.items():
            seconds = found.seconds.get(state, 0.0)
            if seconds >= _LEAST * whole:
                yield f"  {seconds / whole:>4.0%} {duration(seconds):>8}  {words}"
