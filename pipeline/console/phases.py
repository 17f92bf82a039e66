"""Phases that the display follows: threads gathered, pairs built, shards uploaded, a report measured."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from pipeline.driver.diagnosis import latest_verdicts
from pipeline.driver.estimates import Work, expected_work
from pipeline.generation.roles import managed_servers
from pipeline.io.storage import AnyPath
from pipeline.plan import BuildPlan, ShardSpec
from pipeline.runtime import progress
from pipeline.runtime.recent import Recent
from schemas.manifest import FileEntry

_UNSETTLED = 0.95
"""The most that answers alone move the bar: rows that fail a rule are asked about again."""
_TOKEN_SECONDS = 30.0
_STEP_SECONDS = 120.0
"""Seconds whose pace the time left is judged by: longer, as answers come in bursts."""


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
        # Time passes also where nothing new is counted.
        return {name: now[name] - self._before[name] for name in now if not name.startswith("time/")}


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
        sources = {spec.source for spec in todo}
        self._shards = len(todo)
        # The answer to a choice is one token, so their number says nothing new.
        self._writes = (
            plan.config.portrait != "template" if name == "examples" else "sampled" in sources or annotator == "json"
        )
        self._starts_a_server = bool(managed_servers(plan.config))
        self._attempts = plan.config.attempts if name == "pairs" and sources == {"sampled"} else 1
        self._tokens = Recent(_TOKEN_SECONDS)
        self._answers_left, self._pairs_left = TimeLeft(), TimeLeft()
        self._reached = 0
        self._prices = plan.config.prices
        self._earlier_cost = plan.spent.cost
        self._began = plan.spent.began or time.time()

    def completed(self) -> int:
        """Return the pairs that are settled; or the share of the answers that are expected in all."""
        counts = self.counts()
        done, left = self._work(counts)
        answered = int(self.total * done / (done + left)) if done else 0
        self._reached = max(self._reached, self._settled(counts), min(answered, int(_UNSETTLED * self.total)))
        return self._reached

    def facts(self) -> str:
        """Return shards, pairs or examples, acceptance, answers, tokens, time left."""
        counts, now = self.counts(), time.monotonic()
        parts = [f"{counts.get('shards', 0)}/{self._shards} shards"]
        if self.name == "pairs":
            verdicts = latest_verdicts(counts)
            parts.append(f"{counts.get('accepted', 0)}/{self.total} pairs")
            if verdicts.tried:
                parts.append(f"{verdicts.accepted / verdicts.tried:.0%} of {verdicts.tried} accepted")
        else:
            parts.append(f"{counts.get('examples/examples', 0)} examples")
        questions, answers = counts.get("questions", 0), counts.get("answers", 0)
        if questions:
            parts.append(f"{answers}/{questions} answers")
        gauges = progress.total(self._output)
        parts += self._engine(gauges, questions > answers, now)
        if self._prices:
            parts.append(self._money(gauges["cost_nanos"], counts))
        if counts.get("server_restarts"):
            parts.append(f"{counts['server_restarts']} server restarts")
        # What comes before the first step, such as the start of a model, says nothing about the pace.
        if gauges["in_flight"] or (self._settled(counts) and not questions):
            estimate = self._answers_left if questions else self._pairs_left
            left = estimate.update(*self._work(counts), now)
            if left is not None:
                parts.append(f"about {duration(left)} left")
        return ", ".join(parts)

    def _engine(self, gauges: Mapping[str, int], is_asked: bool, now: float) -> list[str]:
        """Return what the engine does now: requests in flight and tokens, or why it does nothing."""
        if gauges["paused"]:
            return ["paused: the endpoint asks to wait"]
        if gauges["outage"]:
            return ["no request succeeds"]
        if not gauges["in_flight"]:
            return ["starting the model"] if self._starts_a_server and is_asked else []
        parts = [f"{gauges['in_flight']} of {gauges['window']} in flight"]
        self._tokens.add(now, gauges["tokens_heard"])
        if self._tokens.quiet_seconds > _TOKEN_SECONDS:
            parts.append(f"nothing received for {self._tokens.quiet_seconds:.0f} s")
        elif self._writes:
            parts.append(f"{self._tokens.rate:.0f} tokens/s")
        return parts

    def _money(self, nanos: int, counts: Mapping[str, int]) -> str:
        """Return the money of all runs so far, and what the phase is expected to take in all."""
        hourly = sum(price.hour for price in self._prices)
        in_phase = counts.get("cost_nanos", 0) / 1e9 + hourly * (time.monotonic() - self._started) / 3600
        so_far = self._earlier_cost + nanos / 1e9 + hourly * (time.time() - self._began) / 3600
        done, left = self._work(counts)
        expected = f", about {so_far + in_phase * left / done:.3g} in all" if done and left > 0 and in_phase else ""
        return f"{self._prices[0].currency} {so_far:.3g} spent{expected}"

    def _settled(self, counts: Mapping[str, int]) -> int:
        return counts.get("settled" if self.name == "pairs" else "examples/asked", 0)

    def _work(self, counts: Mapping[str, int]) -> Work:
        return expected_work(counts, self.total, self._settled(counts), self._attempts)


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
    """An estimate of the seconds that are left, by the recent pace. Between two steps it falls and never rises."""

    def __init__(self) -> None:
        self._pace = Recent(_STEP_SECONDS)
        self._end: float | None = None

    def update(self, done: float, left: float, now: float) -> float | None:
        """Return the estimate at `now`, a monotonic time; None without a pace to judge by, and at the end."""
        if self._pace.add(now, done) and self._pace.rate:
            self._end = now + left / self._pace.rate
        seconds = 0.0 if self._end is None else self._end - now
        return seconds if seconds > 0 and left > 0 else None


def duration(seconds: float) -> str:
    """Return a duration in the unit that fits it."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
