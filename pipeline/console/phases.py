"""The figures of something under way, from the tallies of all processes since it began."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence

from pipeline.plan import BuildPlan, ShardSpec
from pipeline.runtime import progress

_UNSETTLED = 0.95
"""The bar comes no further by answers alone: rows that fail a rule are asked about again."""


class TimeLeft:
    """Seconds until the end, judged by the pace so far. Between two steps it counts down, and never up."""

    def __init__(self) -> None:
        self._began: tuple[float, int] | None = None
        self._done = 0
        self._end: float | None = None

    def update(self, done: int, total: int, now: float) -> float | None:
        """The estimate at `now`, a monotonic time; None where there is nothing to judge by, or nothing left."""
        if done == 0 or self._began is None:
            # What comes before the first step, such as the start of a model, says nothing about the pace.
            self._began = (now, done)
        began, before = self._began
        if done > self._done and done > before:
            self._end = now + (now - began) / (done - before) * (total - done)
        self._done = max(self._done, done)
        left = 0.0 if self._end is None else self._end - now
        return left if left > 0 and done < total else None


class Steps(ABC):
    """Something that is done step by step. `total` is the number of its steps."""

    def __init__(self, name: str, plan: BuildPlan, total: int) -> None:
        self.name = name
        self.total = total
        self._output = plan.output
        self._before = progress.total(plan.output)
        self._started = time.monotonic()

    def counts(self) -> dict[str, int]:
        """What was counted since it began."""
        now = progress.total(self._output)
        return {name: now[name] - self._before[name] for name in now}

    @abstractmethod
    def completed(self) -> int:
        """How many steps are done."""

    @abstractmethod
    def facts(self) -> str:
        """What else there is to say."""


class Gathering(Steps):
    """Threads being read or joined: slices of the input, or parts of its posts."""

    def completed(self) -> int:
        """Those that are done."""
        return self.counts().get("threads/slices" if self.name == "read" else "threads/parts", 0)

    def facts(self) -> str:
        """One line: slices or parts, posts and responses."""
        if self.name == "join":
            return f"{self.completed()}/{self.total} parts"
        items = self.counts().get("threads/items", 0)
        return f"{self.completed()}/{self.total} slices, {items} posts and responses"


class Phase(Steps):
    """The pairs of a phase."""

    def __init__(self, name: str, plan: BuildPlan, todo: Sequence[ShardSpec]) -> None:
        super().__init__(name, plan, sum(spec.count for spec in todo))
        mode = plan.config.mining.annotation.mode if plan.config.mining else "given"
        sampled = any(spec.source == "sampled" for spec in todo)
        self._shards = len(todo)
        # An answer to a choice is one token: its number is told already.
        self._writes = plan.config.portrait != "template" if name == "examples" else sampled or mode == "json"
        self._starts_a_server = plan.config.engine.kind == "vllm" and (
            self._writes or (name == "pairs" and mode == "choice")
        )
        self._left = TimeLeft()
        self._reached = 0

    def completed(self) -> int:
        """Pairs that are settled; or, of those begun, as many as the share of their requests that was answered."""
        counts = self.counts()
        settled = counts.get("settled" if self.name == "pairs" else "examples/asked", 0)
        questions = counts.get("questions", 0)
        answered = counts.get("begun", 0) * counts.get("answers", 0) // questions if questions else 0
        self._reached = max(self._reached, settled, min(answered, int(_UNSETTLED * self.total)))
        return self._reached

    def facts(self) -> str:
        """One line: shards, examples, acceptance, answers, tokens, time left."""
        counts, now = self.counts(), time.monotonic()
        parts = [f"{counts.get('shards', 0)}/{self._shards} shards"]
        if self.name == "pairs":
            tried = counts.get("accepted", 0) + counts.get("rejected", 0)
            parts.append(f"{counts.get('accepted', 0)}/{self.total} pairs")
            if tried:
                parts.append(f"{counts.get('accepted', 0) / tried:.0%} accepted")
        else:
            parts.append(f"{counts.get('examples/examples', 0)} examples")
        gauges = progress.total(self._output)
        if gauges["in_flight"]:
            parts.append(f"{gauges['in_flight']} in flight")
        if gauges["paused"]:
            parts.append("paused: the endpoint asks to wait")
        if gauges["outage"]:
            parts.append("no endpoint answers")
        questions = counts.get("questions", 0)
        if questions:
            parts.append(f"{counts.get('answers', 0)}/{questions} answers")
        tokens = counts.get("completion_tokens", 0)
        if tokens and self._writes:
            parts.append(f"{tokens / max(now - self._started, 1e-9):.0f} tokens/s")
        if counts.get("server_restarts"):
            parts.append(f"{counts['server_restarts']} server restarts")
        left = self._left.update(self.completed(), self.total, now)
        if left is not None:
            parts.append(f"about {_duration(left)} left")
        elif self._starts_a_server and not counts.get("requests_sent"):
            parts.append("starting the model")
        return ", ".join(parts)


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
