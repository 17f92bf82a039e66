"""The budget of a build (`limits.max_tokens` and the like), which the clients of all its processes share.

A request is sent if the most that it can use fits into what is left: the limit, less what all runs have used, less what
requests in flight may use. Processes learn of each other by their counts (`runtime.progress`), which are up to a *look*
old. Between two looks, each of N processes takes at most 1/(4 N) of the rest: the largest part with which the rest
never becomes negative although counts are one look old.

When nothing more fits and nothing is in flight anywhere, every process ends its run by `BudgetError`. By then every
reply is in a journal.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pipeline.generation.completions import AnyRequest, ChoiceRequest, Completion, Request
from pipeline.generation.votes import Vote
from pipeline.io import storage
from pipeline.io.outages import without_retries
from pipeline.plan import BuildPlan
from pipeline.runtime import progress
from pipeline.runtime.progress import Counters
from schemas.base import BudgetError, UserError
from schemas.config.engines import PriceConfig

_LOCAL_SECONDS, _REMOTE_SECONDS = 0.5, 12.0
"""Seconds between two looks: a little more than between two writes of counts."""
_CAUTION = 4
_LATEST_SECONDS = 60.0
"""Time without any change after which a process no longer waits for requests in flight of others: they are gone."""
_TOKENS_A_CHARACTER = 1.0
"""Tokens for a character of a prompt before the first one was counted. English has 0.25."""
_MOST_TOKENS = 8192
"""Tokens of a reply without a limit, before the first one was counted."""
_LIMIT = re.compile(rb'"max_(?:completion_)?tokens":(\d+)')

RESOURCES = ("tokens", "requests", "cost")


@dataclass(frozen=True, slots=True)
class Use:
    """Amounts of what a budget limits. Cost is in billionths of the currency, as counters are whole numbers."""

    tokens: float = 0.0
    requests: float = 0.0
    cost: float = 0.0

    def __add__(self, other: Use) -> Use:
        return Use(self.tokens + other.tokens, self.requests + other.requests, self.cost + other.cost)

    def __sub__(self, other: Use) -> Use:
        return self + other.times(-1)

    def times(self, factor: float) -> Use:
        """Return a multiple."""
        return Use(self.tokens * factor, self.requests * factor, self.cost * factor)

    def exceeding(self, rest: Use) -> str | None:
        """Return the first resource of which `rest` has less."""
        return next((name for name in RESOURCES if getattr(self, name) > getattr(rest, name)), None)


NOTHING = Use()


def used(counts: Mapping[str, int]) -> Use:
    """Return what counts of `runtime.progress` say was used."""
    tokens = counts.get("prompt_tokens", 0) + counts.get("completion_tokens", 0)
    return Use(tokens, counts.get("requests_sent", 0), counts.get("cost_nanos", 0))


class Budget:
    """The budget of a build in one process. Its clients `reserve` before they send, and `release` when replies land.

    Args:
        plan: The build. Its limits are those of all runs; `plan.spent` is what earlier runs have used.
    """

    def __init__(self, plan: BuildPlan) -> None:
        self._plan = plan
        limits = plan.config.limits
        most = (limits.max_tokens, limits.max_requests, limits.max_cost and 1e9 * limits.max_cost)
        self._limit = Use(*(float("inf") if amount is None else amount for amount in most))
        self._hours = limits.max_hours
        self._lock = threading.Lock()
        self._reserved = NOTHING
        self._rest = self._allowance = NOTHING
        self._ratios: dict[type, float] = {}
        self._longest_reply = 0
        self._duration = 0.0
        self._lacking: str | None = None
        self._waits_for = NOTHING
        self._waiting = NOTHING
        self._looks = 0
        self._still = 0
        self._seen: object = None
        self._seen_at = 0.0
        self._listeners: list[tuple[Callable[[], None], Callable[[BaseException], None]]] = []
        self.error: BudgetError | None = None
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        """Begin to look at the counts. Raise `BudgetError` where nothing is left from the start."""
        if self._thread is None:
            self._look()
            self._thread = threading.Thread(target=self._watch, name="everyuser-budget", daemon=True)
            self._thread.start()
            is_idle = not self._reserved.requests and not self._waiting.requests
            # Of the whole rest: this process's part of a few requests is less than one.
            if is_idle and (lacking := self._lacks(Use(1, 1), self._rest)):
                self.error = BudgetError(f"limits.max_{lacking}")
        if self.error is not None:
            raise self.error

    def listen(self, wake: Callable[[], None], fail: Callable[[BaseException], None]) -> None:
        """Have `wake` called when there is more to reserve, and `fail` when there will be none. Any thread calls."""
        self._listeners.append((wake, fail))

    def most(self, request: AnyRequest, price: PriceConfig | None) -> Use:
        """Return the most that a request is expected to use: its prompt, and its longest reply."""
        characters, completion = _size(request, self._longest_reply or _MOST_TOKENS)
        prompt = characters * self._ratios.get(type(request), _TOKENS_A_CHARACTER)
        return Use(prompt + completion, 1, price.nanos(prompt, completion) if price else 0)

    def reserve(self, use: Use, must: bool = False) -> bool:
        """Reserve what a request may use. Return False where it must wait; with `must` it need not."""
        with self._lock:
            lacking = None if must else self._lacks(use, self._allowance)
            if lacking is not None:
                self._lacking, self._waits_for = lacking, use
                return False
            self._allowance -= use
            self._reserved += use
            return True

    def release(self, use: Use, seconds: float) -> None:
        """Release what was reserved for a request that took so long."""
        with self._lock:
            self._reserved -= use
            # The longest of late, so that the clock is not passed by replies in flight.
            self._duration = max(seconds, 0.9 * self._duration)

    def learn(self, request: AnyRequest, completion: Completion) -> None:
        """Learn from a reply how many tokens a character of a prompt takes, and how long replies are."""
        characters, _ = _size(request, 0)
        ratio = completion.prompt_tokens / max(characters, 1)
        if ratio > self._ratios.get(type(request), 0.0):
            self._ratios[type(request)] = ratio
        self._longest_reply = max(self._longest_reply, completion.completion_tokens)

    def close(self) -> None:
        """Stop looking."""
        self._stopped.set()

    def _lacks(self, use: Use, rest: Use) -> str | None:
        spent = self._plan.spent
        if self._hours is not None and spent.hours(time.time()) + self._duration / 3600 >= self._hours:
            return "hours"
        return use.exceeding(rest)

    def _watch(self) -> None:
        seconds = _LOCAL_SECONDS if storage.is_local(self._plan.output) else _REMOTE_SECONDS
        while not self._stopped.wait(seconds) and self.error is None:
            with contextlib.suppress(UserError), without_retries():
                self._look()
            for wake, fail in self._listeners:
                if self.error is None:
                    wake()
                else:
                    fail(self.error)

    def _look(self) -> None:
        """Find what is left, from the counts of all processes."""
        own = progress.own_counters(self._plan.output)
        # Read without the lock: a bucket takes its time.
        others = progress.counts_by_file(self._plan.output, without=own)
        with self._lock:
            self._reckon(own, others)

    def _reckon(self, own: Sequence[Counters], others: Sequence[Mapping[str, int]]) -> None:
        plan = self._plan
        for counters in own[:1]:
            for name in RESOURCES:
                counters.set_gauge(f"reserved/{name}", round(getattr(self._reserved, name)))
        busy = [counts for counts in others if counts.get("questions")]
        run_hours = plan.spent.hours(time.time()) - plan.spent.seconds / 3600
        money = plan.spent.cost + run_hours * sum(price.hour for price in plan.config.prices)
        spent = Use(plan.spent.tokens, plan.spent.requests, 1e9 * money)
        spent = sum((used(counters.counts()) for counters in own), spent)
        waiting = NOTHING
        for counts in others:
            spent += used(counts)
            waiting += Use(*(counts.get(f"reserved/{name}", 0) for name in RESOURCES))
        self._waiting = waiting
        rest = self._rest = self._limit - spent - waiting - self._reserved
        self._looks += 1
        # Another process may begin at the same moment, and is seen at the second look.
        is_alone = not busy and self._looks > 2
        self._allowance = rest if is_alone else rest.times(1 / (_CAUTION * (1 + len(busy))))
        if self._lacking is None:
            return
        lacking = self._lacks(self._waits_for, self._allowance)
        # Few requests are left where the parts of the rest are smaller than one: one process after another takes it.
        share = rest.times(1 / (1 + len(busy)))
        if lacking and lacking != "hours" and not self._waits_for.exceeding(share):
            self._allowance, lacking = self._waits_for, None
        seen = (spent.tokens, spent.requests, waiting)
        if seen != self._seen:
            self._seen, self._seen_at = seen, time.monotonic()
        is_over = not self._reserved.requests and (
            not waiting.requests or time.monotonic() - self._seen_at > _LATEST_SECONDS
        )
        self._still = self._still + 1 if lacking and is_over else 0
        # Twice, as counts of others may be a look old.
        if self._still >= (1 if is_alone else 3):
            self.error = BudgetError(f"limits.max_{lacking}")
        self._lacking = lacking


def _size(request: AnyRequest, longest: int) -> tuple[int, int]:
    """Return characters of a request's prompts, and the most tokens of its replies; `longest` where it has no limit."""
    if isinstance(request, ChoiceRequest):
        texts = len(request.prefix) * len(request.questions) + sum(map(len, request.questions))
        return texts, len(request.questions)
    if isinstance(request, Vote):
        return len(request.system) + len(request.prefix) + len(request.question), max(longest, 16)
    assert isinstance(request, Request)  # noqa: S101 - the kinds of requests are these
    found = _LIMIT.search(request.body)
    return sum(map(len, request.texts)), int(found[1]) if found else longest
