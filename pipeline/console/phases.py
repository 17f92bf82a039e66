"""Phases that the display follows: threads gathered, pairs built, shards uploaded, a report measured."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence

from pipeline.io.storage import AnyPath
from pipeline.plan import BuildPlan, ShardSpec
from pipeline.runtime import progress
from schemas.manifest import FileEntry

_UNSETTLED = 0.95
"""The most that answers alone move the bar: rows that fail a rule are asked about again."""


class Phase(ABC):
    """Work of `total` steps."""

    def __init__(self, name: str, total: int) -> None:
        self.name = name
        self.total = total

    @abstractmethod
    def counts(self) -> dict[str, int]:
        """Return what was counted since the phase began."""

    @abstractmethod
    def completed(self) -> int:
        """Return how many steps are done."""

    @abstractmethod
    def facts(self) -> str:
        """Return what a person wants to know besides, as one line."""


class Measuring(Phase):
    """A stage of a report, whose steps are reported by the code that does them."""

    done = 0

    def counts(self) -> dict[str, int]:
        """Return the steps that are done."""
        return {"done": self.done}

    def completed(self) -> int:
        """Return the steps that are done."""
        return self.done

    def facts(self) -> str:
        """Return steps done and steps in all."""
        return f"{self.done} of {self.total}"


class _Counted(Phase):
    """A phase whose steps all processes count in the folder of the build."""

    def __init__(self, name: str, total: int, output: AnyPath) -> None:
        super().__init__(name, total)
        self._output = output
        self._before = progress.total(output)
        self._started = time.monotonic()

    def counts(self) -> dict[str, int]:
        """Return what was counted since the phase began."""
        now = progress.total(self._output)
        return {name: now[name] - self._before[name] for name in now}


class Gathering(_Counted):
    """Threads being read or joined: slices of the input, or parts of its posts."""

    def __init__(self, name: str, plan: BuildPlan, steps: int) -> None:
        super().__init__(name, steps, plan.output)

    def completed(self) -> int:
        """Return how many slices or parts are done."""
        return self.counts().get("threads/slices" if self.name == "read" else "threads/parts", 0)

    def facts(self) -> str:
        """Return slices or parts, posts and responses."""
        if self.name == "join":
            return f"{self.completed()}/{self.total} parts"
        items = self.counts().get("threads/items", 0)
        return f"{self.completed()}/{self.total} slices, {items} posts and responses"


class Building(_Counted):
    """Pairs of one of the two phases being built."""

    def __init__(self, name: str, plan: BuildPlan, todo: Sequence[ShardSpec]) -> None:
        super().__init__(name, sum(spec.count for spec in todo), plan.output)
        annotator = plan.config.mining.annotator if plan.config.mining else None
        sampled = any(spec.source == "sampled" for spec in todo)
        self._shards = len(todo)
        # The answer to a choice is one token, so their number says nothing new.
        self._writes = plan.config.portrait != "template" if name == "examples" else sampled or annotator == "json"
        self._starts_a_server = plan.config.engine.kind == "vllm" and (
            self._writes or (name == "pairs" and annotator == "choice")
        )
        self._left = TimeLeft()
        self._reached = 0

    def completed(self) -> int:
        """Return the pairs that are settled; or, of those begun, the share whose requests were answered."""
        counts = self.counts()
        settled = counts.get("settled" if self.name == "pairs" else "examples/asked", 0)
        questions = counts.get("questions", 0)
        answered = counts.get("begun", 0) * counts.get("answers", 0) // questions if questions else 0
        self._reached = max(self._reached, settled, min(answered, int(_UNSETTLED * self.total)))
        return self._reached

    def facts(self) -> str:
        """Return shards, pairs or examples, acceptance, answers, tokens, time left."""
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


class Uploading(_Counted):
    """Shards on their way to the Hub. A step is a byte."""

    def __init__(self, folder: AnyPath, todo: Sequence[Sequence[FileEntry]]) -> None:
        super().__init__("upload", sum(entry.bytes for batch in todo for entry in batch), folder)
        self._files = sum(len(batch) for batch in todo)

    def completed(self) -> int:
        """Return the bytes that were sent."""
        return self.counts().get("publish/bytes", 0)

    def facts(self) -> str:
        """Return shards, megabytes, retries."""
        counts = self.counts()
        retries = counts.get("publish/retries", 0)
        waits = f", tried again: {retries}" if retries else ""
        sent, size = counts.get("publish/bytes", 0) / 1e6, self.total / 1e6
        return f"{counts.get('publish/files', 0)}/{self._files} shards, {sent:.1f} of {size:.1f} MB{waits}"


class TimeLeft:
    """An estimate of the seconds that are left, by the pace so far. Between two steps it falls and never rises."""

    def __init__(self) -> None:
        self._began: tuple[float, int] | None = None
        self._done = 0
        self._end: float | None = None

    def update(self, done: int, total: int, now: float) -> float | None:
        """Return the estimate at `now`, a monotonic time; None without a pace to judge by, and at the end."""
        if done == 0 or self._began is None:
            # What comes before the first step, such as the start of a model, says nothing about the pace.
            self._began = (now, done)
        began, before = self._began
        if done > self._done and done > before:
            self._end = now + (now - began) / (done - before) * (total - done)
        self._done = max(self._done, done)
        left = 0.0 if self._end is None else self._end - now
        return left if left > 0 and done < total else None


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
