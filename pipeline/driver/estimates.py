"""Estimates of the work that is left, from the counts of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from pipeline.driver.diagnosis import latest_verdicts
from pipeline.plan import BuildPlan


class Work(NamedTuple):
    """Work done and expected to be left: in answers of the model, or in pairs where none is asked."""

    done: float
    left: float


def expected_work(counts: Mapping[str, int], total: int, settled: int, attempts: int) -> Work:
    """Return the work of a phase by its counts.

    Args:
        counts: Those of `runtime.progress` since the phase began.
        total: Pairs of the phase.
        settled: Pairs of these that are done.
        attempts: Most attempts at a pair.
    """
    questions, answers, begun = (counts.get(name, 0) for name in ("questions", "answers", "begun"))
    if not questions:
        return Work(settled, total - settled)
    verdicts = latest_verdicts(counts)
    # Attempts that an open pair is expected to need after its present one. At first, three in four are good.
    failing = (verdicts.rejected + 1) / (verdicts.tried + 4)
    retries = sum(failing**attempt for attempt in range(1, attempts))
    tried = begun - settled + counts.get("accepted", 0) + counts.get("rejected", 0) if attempts > 1 else begun
    to_come = max(0, begun - settled) * retries + (total - begun) * (1 + retries)
    to_come = min(to_come, total * attempts - tried)
    # What journals answered was asked for as well, by an earlier run.
    each = (questions + counts.get("answers_replayed", 0)) / max(tried, 1)
    return Work(answers, questions - answers + each * to_come)


def max_attempts(plan: BuildPlan) -> int:
    """Return the most attempts at a pair. Those of mined pairs are not drawn again."""
    return plan.config.attempts if {spec.source for spec in plan.shards()} == {"sampled"} else 1
