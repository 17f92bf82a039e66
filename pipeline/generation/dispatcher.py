"""The dispatcher: sends queued requests within one window, again where that may help, until each has its outcome.

`classify` says what one response means for its request. What it means for the run depends on others: a request is at
fault only where the same endpoint completes another one. Where no other request is left to decide, trial requests are
sent. A request that the server had no time for is queued again, in the end to be sent alone. Votes on a choice that is
partly answered go before all other requests.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Coroutine
from typing import Any, Literal

from pipeline.generation.account import Account
from pipeline.generation.classify import Busy, Result, Transient
from pipeline.generation.completions import Completion, Failure, Outcome
from pipeline.generation.endpoints import Endpoint, Endpoints
from pipeline.generation.items import ALONE_AFTER, Item
from pipeline.generation.sender import Sender
from pipeline.generation.spending import Spending
from pipeline.generation.verdicts import Verdicts
from pipeline.generation.votes import Vote
from pipeline.generation.window import Window, backoff_seconds
from pipeline.runtime.progress import Counters
from schemas.config import RequestsConfig

logger = logging.getLogger(__name__)

_TRIAL_SECONDS = 1.0
"""Seconds between the trial requests to an endpoint that is down."""
_SLOW = frozenset({"timeout", "http_408", "http_504", "http_524"})
"""Reasons of a server, or of a gateway before it, that had too much to do."""


class Dispatcher:
    """Sends the items of a queue. All of its methods are called on the event loop.

    Args:
        endpoints: Where requests are sent.
        sender: Sends them.
        window: The number of sequences in flight.
        config: Limits of retries and waits.
        counters: Take the counts.
        settle: Takes each item with its outcome.
        fail: Takes an error of the whole run. Nothing is sent after the first one.
        account: Takes the state, for the time in each.
        spending: Reserves what requests may use; None: without a budget.
    """

    def __init__(
        self,
        endpoints: Endpoints,
        sender: Sender,
        window: Window,
        config: RequestsConfig,
        counters: Counters,
        settle: Callable[[Item, Outcome], None],
        fail: Callable[[BaseException | None], None],
        account: Account,
        spending: Spending | None = None,
    ) -> None:
        self._endpoints = endpoints
        self._sender = sender
        self._availability = sender.availability
        self._window = window
        self._config = config
        self._counters = counters
        self._on_outcome = settle
        self._on_error = fail
        self._spending = spending
        self._account = account
        self._queue: deque[Item] = deque()
        # Answers of a request that is asked in parts are lost in a kill until the last one is there.
        self._begun: deque[Item] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._in_flight = 0
        self._at_work = 0
        self._is_held = False
        self._unsettled = 0
        self._verdicts: Verdicts[Item] = Verdicts()
        self._trials: dict[str, asyncio.Task[None]] = {}
        self._timer: asyncio.TimerHandle | None = None
        # Requests in flight, by their `most_together`.
        self._together: Counter[float] = Counter()
        self._sends = False
        """True between the trial requests and the end, or the first error."""

    async def open(self) -> None:
        """Have the trial requests sent, then begin with the queue. Errors are passed on, and raised as well."""
        try:
            await self._sender.open()
        except Exception as error:
            self._on_error(error)
            raise
        self._sends = True
        self._fill_window()

    async def close(self) -> None:
        """Drop the queue, and cancel the requests in flight."""
        self._sends = False
        self._queue.clear()
        self._begun.clear()
        # All of this loop: requests, trial requests, and what watches them.
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._sender.close()

    def submit(self, items: list[Item], is_begun: bool) -> None:
        """Queue items; those of a request that is begun before all others."""
        self._unsettled += len(items)
        self._enqueue(items, is_begun)

    def _enqueue(self, items: list[Item], is_begun: bool) -> None:
        (self._begun if is_begun else self._queue).extend(items)
        self._fill_window()

    def wake(self) -> None:
        """Go on with the queue, where requests waited for the budget."""
        self._fill_window()

    def _enqueue_again(self, item: Item) -> None:
        self._enqueue([item], isinstance(item.request, Vote))

    def _fill_window(self) -> None:
        pause = self._endpoints.available_at() - time.monotonic()
        self._counters.set_gauge("paused", int(pause > 0))
        self._counters.set_gauge("window", self._window.limit)
        if pause > 0:
            self._window.void(time.monotonic())
            if self._timer:
                self._timer.cancel()
            self._timer = asyncio.get_running_loop().call_later(pause, self._fill_window)
            self._is_held = True
            self._note_state()
            return
        self._is_held = False
        while (queue := self._begun or self._queue) and self._sends:
            item = queue[0]
            size = item.request.sequences
            # A request that is larger than the window is sent alone, too.
            is_full = self._is_apart(item) or self._in_flight + size > self._window.limit
            if self._in_flight and is_full:
                break
            # Answers to a request that is begun would be lost without its last ones.
            if self._spending and not self._spending.reserve(item, must=queue is self._begun):
                self._is_held = True
                break
            self._together[item.most_together] += 1
            self._in_flight += size
            landed = functools.partial(self._land, queue.popleft(), size, item.most_together, time.monotonic())
            self._spawn(self._run(item), landed)
        if self._in_flight < self._window.limit and (not queue or self._is_apart(queue[0])):
            self._window.void(time.monotonic())
        self._note_state()

    def _note_state(self) -> None:
        # Requests in flight of which none is at an endpoint wait for a server, or for a retry.
        is_served = self._sends and (self._at_work > 0 or not self._in_flight) and not self._counters.get("outage")
        is_full = self._in_flight >= self._window.limit or bool(self._in_flight and (self._begun or self._queue))
        self._account.note(is_served, self._is_held, is_full, self._in_flight)

    def _is_apart(self, item: Item) -> bool:
        """Return whether a request must wait although the window has room for it."""
        return self._together.total() >= min([item.most_together, *self._together])

    def _land(self, item: Item, size: int, together: float, begun: float) -> None:
        if self._spending:
            self._spending.release(item, time.monotonic() - begun)
        self._in_flight -= size
        self._together[together] -= 1
        if not self._together[together]:
            del self._together[together]

    def _spawn(
        self, coroutine: Coroutine[Any, Any, None], landed: Callable[[], None] | None = None
    ) -> asyncio.Task[None]:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(functools.partial(self._end, landed))
        return task

    def _end(self, landed: Callable[[], None] | None, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if landed:
            landed()
        if not task.cancelled() and task.exception() is not None:
            self._sends = False
            self._on_error(task.exception())
        self._fill_window()
        # When nothing else is in flight, no other response can decide the last failures.
        if self._sends:
            for name in self._verdicts.due(is_idle=self._unsettled == self._verdicts.pending):
                self._start_trials(name)

    async def _run(self, item: Item) -> None:
        begun = time.monotonic()
        self._counters.observe("queue_milliseconds", round(1000 * (begun - item.queued_at)))
        self._counters.observe("in_flight", self._in_flight)
        endpoint, result = await self._send(item)
        self._counters.observe("request_milliseconds", round(1000 * (time.monotonic() - begun)))
        if result is None:
            item.queued_at = time.monotonic()
            self._enqueue_again(item)
        elif isinstance(result, Busy):
            self._postpone(item, endpoint, result)
        elif isinstance(result, Transient):
            self._settle(item, Failure(result.reason, result.detail, may_pass=True))
        elif isinstance(result, Failure) and result.reason.startswith("http_"):
            self._verdicts.hold(endpoint.name, item, result)
        else:
            self._settle(item, result)

    def _settle(self, item: Item, outcome: Outcome) -> None:
        self._unsettled -= 1
        self._on_outcome(item, outcome)

    async def _send(self, item: Item) -> tuple[Endpoint, Result | None]:
        """Send a request until it has a result. None: it is to be queued again."""
        while True:
            if (pause := self._endpoints.available_at() - time.monotonic()) > 0:
                await asyncio.sleep(pause)
            endpoint = await self._endpoints.acquire()
            sent = item.sent_at = time.monotonic()
            self._count_at_work(item.request.sequences)
            try:
                result = await self._sender.post(endpoint, item.request, item.partial)
            finally:
                self._count_at_work(-item.request.sequences)
                self._endpoints.release(endpoint)
            failed = time.monotonic()
            is_unreachable = isinstance(result, Transient) and result.reason == "unreachable"
            self._counters.add("requests_sent", int(not is_unreachable))
            if isinstance(result, Completion):
                # Where the server counts no tokens, characters stand for them: the window only compares rates. Those of
                # a reply that was continued are not all of this time.
                tokens = result.completion_tokens or len(result.text) / 4
                if not item.partial:
                    self._window.record(sent, failed, item.request.sequences, tokens, self._in_flight)
                self._record_success(endpoint, sent)
            if not isinstance(result, Transient):
                return endpoint, result
            # Only the kind of failure is logged: its detail may quote the prompt.
            logger.debug("%s: %s; retry %d of a request", endpoint.address(), result.reason, item.attempts + 1)
            # Long enough to learn of a server's death, too.
            await asyncio.sleep(backoff_seconds(item.attempts))
            item.attempts += 1
            item.keep_partial(result.partial)
            outcome = await self._judge(item, endpoint, sent, failed, result)
            if outcome != "retry":
                return endpoint, outcome

    async def _judge(
        self, item: Item, endpoint: Endpoint, sent: float, failed: float, problem: Transient
    ) -> Transient | Failure | Literal["retry"] | None:
        """Return the problem where it is the request's own, or what follows: a retry at once, or None for one later.

        Args:
            item: The request.
            endpoint: Where it was sent.
            sent: When.
            failed: When the problem showed.
            problem: The problem.
        """
        was_alone, together = item.is_alone, item.most_together
        if self._endpoints.restarts() != endpoint.restarts:
            self._availability.record_up()
            if problem.reason == "unreachable":
                # It came after the death, and never reached the server.
                return "retry"
            item.deaths += 1
            if item.deaths > ALONE_AFTER:
                return Failure("server_died", f"the server died {item.deaths} times under this request", may_pass=False)
            return None if item.most_together < together else "retry"
        if problem.reason == "unreachable":
            self._availability.check_outage(time.monotonic(), problem.detail)
            return "retry"
        if problem.reason in _SLOW:
            item.timeouts += 1
            if not was_alone:
                self._window.shrink(failed, sent)
            if was_alone or not self._sender.worked_since(endpoint, sent):
                await asyncio.shield(self._start_trials(endpoint.name))
            return problem if was_alone and self._availability.succeeded_since(endpoint.name, failed) else None
        # A request is at fault when it fails before and after the same endpoint completes another one.
        if not self._availability.succeeded_since(endpoint.name, sent):
            await asyncio.shield(self._start_trials(endpoint.name))
        since = item.failed_at if self._config.max_retries else sent
        item.retries += self._availability.succeeded_since(endpoint.name, since)
        item.failed_at = failed
        if item.retries and item.retries >= self._config.max_retries:
            return problem
        # The fault may be of the moment, so the last retry comes after what is queued.
        return None if item.retries >= self._config.max_retries - 1 else "retry"

    def _count_at_work(self, sequences: int) -> None:
        """Count the sequences that endpoints work on. A request that waits for a retry or a server is none."""
        was_idle = not self._at_work
        self._at_work += sequences
        self._counters.set_gauge("in_flight", self._at_work)
        if was_idle or not self._at_work:
            self._note_state()

    def _postpone(self, item: Item, endpoint: Endpoint, busy: Busy) -> None:
        """Queue a request again after a pause, behind the others; a vote before them."""
        self._window.shrink(time.monotonic(), item.sent_at)
        pause = self._sender.pause_seconds(busy, item.waits)
        if item.waits and (
            item.waited_seconds + pause > self._config.max_wait_seconds or self._availability.exceeds_wait(pause)
        ):
            detail = f"{busy.detail}; waited {item.waited_seconds:.0f} s"
            self._verdicts.hold(endpoint.name, item, Failure("busy", detail, may_pass=True))
            return
        now = time.monotonic()
        logger.debug("%s is busy: the next request in %.1f s", endpoint.address(), pause)
        self._sender.pause(endpoint, busy, pause)
        # Another endpoint may be available earlier.
        pause = min(pause, max(backoff_seconds(item.waits), self._endpoints.available_at() - now))
        item.waits += 1
        item.waited_seconds += pause
        item.queued_at = now + pause
        asyncio.get_running_loop().call_later(pause, self._enqueue_again, item)

    def _record_success(self, endpoint: Endpoint, sent: float) -> None:
        self._availability.record_success(endpoint.name, time.monotonic())
        for item, failure in self._verdicts.release(endpoint.name, sent):
            self._settle(item, failure)

    def _start_trials(self, name: str) -> asyncio.Task[None]:
        """Send an endpoint the trial requests, or return the task that does so already."""
        task = self._trials.get(name)
        if task is None or task.done():
            task = self._trials[name] = self._spawn(self._run_trials(name))
        return task

    async def _run_trials(self, name: str) -> None:
        for endpoint in await self._endpoints.current():
            if endpoint.name == name:
                begun = time.monotonic()
                if await self._sender.passes_trials(endpoint):
                    self._record_success(endpoint, begun)
                else:
                    await asyncio.sleep(_TRIAL_SECONDS)
