"""The client: a sliding window of requests over one or more endpoints, fed by shards, on a thread of its own.

What one answer means for its request is said by `classify`. What it means for the run needs others: a request fails for
its own sake only where the same endpoint answers something else. Where nothing else tells, trial questions are asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.generation.classify import Busy, Transient
from pipeline.generation.completions import AnyRequest, Completion, Failure, Outcome
from pipeline.generation.endpoints import Endpoint, Endpoints
from pipeline.generation.journal import JournalWriter
from pipeline.generation.sender import Sender
from pipeline.generation.verdicts import Verdicts
from pipeline.generation.window import Window, back_off
from pipeline.runtime.progress import Counters
from schemas.base import UserError
from schemas.config import RequestsConfig

try:
    import uvloop

    _new_event_loop = uvloop.new_event_loop
except ImportError:  # Windows
    _new_event_loop = asyncio.new_event_loop

logger = logging.getLogger(__name__)

_BETWEEN_CHECKS = 1.0
"""Seconds between the trial questions to a server that is out of order."""
_ALONE_AFTER = 2
"""Servers that may die under a request before it is sent alone."""


@dataclass(eq=False, slots=True)
class RequestBatch:
    """The requests of a shard, and their outcomes as they arrive."""

    outcomes: list[Outcome | None]
    missing: int

    @property
    def done(self) -> bool:
        """Whether every request has its outcome."""
        return self.missing == 0

    def result(self) -> list[Outcome]:
        """The outcomes, in the order of the requests."""
        return [outcome for outcome in self.outcomes if outcome is not None]


@dataclass(eq=False, slots=True)
class _Item:
    batch: RequestBatch
    position: int
    request: AnyRequest
    journal: JournalWriter
    queued: float
    retries: int = 0
    deaths: int = 0
    failed: float = math.inf
    waits: int = 0
    waited: float = 0.0


class Client:
    """Sends requests and journals their outcomes. `submit` and `wait` are called by other threads.

    `trials` are asked before the first request. `backlog` counts the requests that have no outcome yet; at `watermark`
    it is time for more. A fault that concerns the whole run is raised by the next call of `submit` or `wait`; requests
    without an outcome are then not in the journal, so that the next run asks them again.
    """

    def __init__(
        self,
        endpoints: Endpoints,
        headers: dict[str, str],
        trials: Sequence[AnyRequest],
        in_flight: int,
        config: RequestsConfig,
        counters: Counters,
    ) -> None:
        self.backlog = 0
        self.watermark = 4 * in_flight
        self._endpoints = endpoints
        self._sender = Sender(endpoints, headers, trials, config)
        self._window = Window(in_flight)
        self._config = config
        self._counters = counters
        self._queue: deque[_Item] = deque()
        self._active: set[asyncio.Task[None]] = set()
        self._sequences = 0
        self._verdicts: Verdicts[_Item] = Verdicts()
        self._checks: dict[str, asyncio.Task[None]] = {}
        self._wake: asyncio.TimerHandle | None = None
        self._alone = asyncio.Lock()
        self._fault: Exception | None = None
        self._changed = threading.Condition()
        self._loop = _new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="everyuser-client", daemon=True)
        self._thread.start()
        self._open = asyncio.run_coroutine_threadsafe(self._sender.open(), self._loop)

    def submit(self, requests: Sequence[tuple[int, AnyRequest]], batch: RequestBatch, journal: JournalWriter) -> None:
        """Queue requests; `requests` pairs each with its position in the batch."""
        self._raise_fault()
        with self._changed:
            self.backlog += len(requests)
        now = time.monotonic()
        items = [_Item(batch, position, request, journal, now) for position, request in requests]
        self._loop.call_soon_threadsafe(self._enqueue, items)

    def wait(self) -> None:
        """Return when a batch is done or the backlog short, or after a moment."""
        with self._changed:
            self._changed.wait(timeout=0.5)
        self._raise_fault()

    def close(self) -> None:
        """Drop what is queued, end what is in flight, and stop the thread."""
        self._fail(UserError("the build was stopped"))
        if self._loop.is_running():
            self._wait_for(self._stop())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def _wait_for(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def _raise_fault(self) -> None:
        if self._fault is not None:
            raise self._fault

    async def _stop(self) -> None:
        self._queue.clear()
        self._open.cancel()
        for task in self._active:
            task.cancel()
        await asyncio.gather(*self._active, return_exceptions=True)
        await self._sender.close()

    def _enqueue(self, items: list[_Item]) -> None:
        self._queue.extend(items)
        self._pump()

    def _pump(self) -> None:
        pause = self._endpoints.rests_until() - time.monotonic()
        self._counters.gauge("paused", int(pause > 0))
        self._counters.gauge("in_flight", self._sequences)
        if pause > 0:
            if self._wake:
                self._wake.cancel()
            self._wake = self._loop.call_later(pause, self._pump)
            return
        while self._queue and self._fault is None:
            # One that is larger than the window goes alone.
            size = self._queue[0].request.sequences
            if self._sequences and self._sequences + size > int(self._window.limit):
                break
            self._spawn(self._run(self._queue.popleft()), size)
        self._counters.gauge("in_flight", self._sequences)

    def _spawn(self, coroutine: Coroutine[Any, Any, None], size: int = 0) -> asyncio.Task[None]:
        task: asyncio.Task[None] = self._loop.create_task(coroutine)
        self._active.add(task)
        self._sequences += size
        task.add_done_callback(functools.partial(self._ended, size))
        return task

    def _ended(self, size: int, task: asyncio.Task[None]) -> None:
        self._active.discard(task)
        self._sequences -= size
        if not task.cancelled() and task.exception() is not None:
            self._fail(task.exception())
        self._pump()
        # When nothing else is under way, no other answer will tell whose fault the last failures were.
        if self._fault is None:
            for name in self._verdicts.due(is_last=self.backlog == self._verdicts.pending):
                self._check(name)

    def _fail(self, error: BaseException | None) -> None:
        if self._fault is None:
            self._fault = error if isinstance(error, Exception) else RuntimeError(str(error))
        with self._changed:
            self._changed.notify_all()

    async def _run(self, item: _Item) -> None:
        await asyncio.wrap_future(self._open)
        begun = time.monotonic()
        self._counters.observe("queue_milliseconds", round(1000 * (begun - item.queued)))
        self._counters.observe("in_flight", self._sequences)
        endpoint, answer = await self._ask(item)
        self._counters.observe("request_milliseconds", round(1000 * (time.monotonic() - begun)))
        if isinstance(answer, Busy):
            self._postpone(item, endpoint, answer)
        elif isinstance(answer, Transient):
            self._settle(item, Failure(answer.reason, answer.detail, may_pass=True))
        elif isinstance(answer, Failure) and answer.reason.startswith("http_"):
            self._verdicts.hold(endpoint.name, item, answer)
        else:
            self._settle(item, answer)

    def _settle(self, item: _Item, outcome: Outcome) -> None:
        item.journal.append(item.request.key, outcome)
        if isinstance(outcome, Completion):
            self._counters.add("prompt_tokens", outcome.prompt_tokens)
            self._counters.add("completion_tokens", outcome.completion_tokens)
        self._counters.add("answers", item.request.sequences)
        item.batch.outcomes[item.position] = outcome
        with self._changed:
            item.batch.missing -= 1
            self.backlog -= 1
            if item.batch.done or self.backlog == self.watermark:
                self._changed.notify_all()

    async def _ask(self, item: _Item) -> tuple[Endpoint, Outcome | Busy | Transient]:
        """Send a request until there is an answer: bounded in retries, and in servers that die under it."""
        tries = 0
        while True:
            if (pause := self._endpoints.rests_until() - time.monotonic()) > 0:
                await asyncio.sleep(pause)
            # A request under which servers have died twice is sent alone: if it is to blame, its neighbours are not.
            async with self._alone if item.deaths >= _ALONE_AFTER else contextlib.nullcontext():
                endpoint = await self._endpoints.acquire()
                sent = time.monotonic()
                try:
                    answer = await self._sender.post(endpoint, item.request)
                finally:
                    self._endpoints.release(endpoint)
            failed = time.monotonic()
            self._counters.gauge("outage", int(self._sender.clocks.is_outage))
            is_unreachable = isinstance(answer, Transient) and answer.reason == "unreachable"
            self._counters.add("requests_sent", int(not is_unreachable))
            if isinstance(answer, Completion):
                self._window.grow(item.request.sequences)
                self._succeeded(endpoint, sent)
            if not isinstance(answer, Transient):
                return endpoint, answer
            # Only the kind of failure is logged: its detail may quote the prompt.
            logger.debug("%s: %s; retry %d of a request", endpoint.place(), answer.reason, tries + 1)
            # Also long enough to learn that the server has died.
            await asyncio.sleep(back_off(tries))
            tries += 1
            if self._endpoints.life() != endpoint.life:
                self._sender.clocks.works()
                item.deaths += 1
                if item.deaths > _ALONE_AFTER:
                    detail = f"the server died {item.deaths} times under this request"
                    return endpoint, Failure("server_died", detail, may_pass=False)
            elif is_unreachable:
                self._sender.clocks.bound_outage(time.monotonic(), answer.detail)
            else:
                # A request is to blame when it fails before and after the same endpoint has done what another asked.
                if not self._sender.clocks.has_answered(endpoint.name, sent):
                    await asyncio.shield(self._check(endpoint.name))
                since = item.failed if self._config.max_retries else sent
                item.retries += self._sender.clocks.has_answered(endpoint.name, since)
                if item.retries and item.retries >= self._config.max_retries:
                    return endpoint, answer
                item.failed = failed

    def _postpone(self, item: _Item, endpoint: Endpoint, busy: Busy) -> None:
        """Ask again later, when others have had their turn."""
        self._window.shrink(time.monotonic())
        pause = self._sender.pause(busy, item.waits)
        if item.waits and (item.waited + pause > self._config.max_wait_seconds or self._sender.clocks.is_over(pause)):
            detail = f"{busy.detail}; waited {item.waited:.0f} s"
            self._verdicts.hold(endpoint.name, item, Failure("busy", detail, may_pass=True))
            return
        now = time.monotonic()
        logger.debug("%s is busy: the next request in %.1f s", endpoint.place(), pause)
        self._sender.rest(endpoint, busy, pause)
        # Another endpoint may be free earlier.
        pause = min(pause, max(back_off(item.waits), self._endpoints.rests_until() - now))
        item.waits += 1
        item.waited += pause
        item.queued = now + pause
        self._loop.call_later(pause, self._enqueue, [item])

    def _succeeded(self, endpoint: Endpoint, sent: float) -> None:
        self._sender.clocks.succeeded(endpoint.name, time.monotonic())
        for item, failure in self._verdicts.take(endpoint.name, sent):
            self._settle(item, failure)

    def _check(self, name: str) -> asyncio.Task[None]:
        """Ask an endpoint the trial questions: once at a time, for all who want to know."""
        task = self._checks.get(name)
        if task is None or task.done():
            task = self._checks[name] = self._spawn(self._try(name))
        return task

    async def _try(self, name: str) -> None:
        for endpoint in await self._endpoints.current():
            if endpoint.name == name:
                begun = time.monotonic()
                if await self._sender.answers_trials(endpoint):
                    self._succeeded(endpoint, begun)
                else:
                    await asyncio.sleep(_BETWEEN_CHECKS)
