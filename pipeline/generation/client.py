"""The client: a sliding window of requests over one or more endpoints, fed by shards, on a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import random
import threading
import urllib.request
from collections import deque
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import aiohttp

from pipeline.generation.classify import Busy, Transient, classify
from pipeline.generation.journal import JournalWriter
from pipeline.generation.payload import Mask, TooLargeError, read_payload
from pipeline.generation.requests import AnyRequest, Completion, Failure, Outcome
from pipeline.progress import Tally
from schemas.base import UserError
from schemas.config import RequestsConfig

try:
    import uvloop

    _new_event_loop = uvloop.new_event_loop
except ImportError:  # Windows
    _new_event_loop = asyncio.new_event_loop

_LONGEST_PAUSE = 30.0
"""Seconds: the longest wait between two tries that we choose ourselves."""
_CONNECT_SECONDS = 10.0
_SHORTEST_PAUSE = 0.1
"""Seconds: the shortest, even where a server says 'at once' and is busy again."""
_ALONE_AFTER = 2
"""Servers that may die under a request before it is sent alone."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A base URL, to which a request's path is added.

    `life` is that of the server behind the URL: it grows when the server is restarted.
    """

    url: str
    life: int = 0


class Endpoints(Protocol):
    """Gives out endpoints, and waits while there is none. `local` ones are on this machine's loopback interface."""

    local: bool

    async def open(self) -> None:
        """Make sure that something answers; raises `UserError`."""

    async def acquire(self) -> Endpoint:
        """The endpoint to use now; waits while a server starts. Raises `UserError` when there will be none."""

    def release(self, endpoint: Endpoint, reached: bool) -> None:
        """Tell that the request has ended, and whether anything had listened there."""

    def reachable(self) -> bool:
        """Whether there is an endpoint that was not out of reach when it was last tried."""

    def life(self) -> int:
        """How often a server has been restarted so far."""

    async def close(self) -> None:
        """Give everything back."""


@dataclass(eq=False, slots=True)
class Ticket:
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


@dataclass(slots=True)
class _Item:
    ticket: Ticket
    position: int
    request: AnyRequest
    journal: JournalWriter
    queued: float


@dataclass
class Window:
    """Adaptive concurrency: additive increase, multiplicative decrease (Chiu and Jain, 1989)."""

    largest: int
    limit: float = field(init=False)
    _shrunk_at: float = field(default=-1.0, init=False)

    def __post_init__(self) -> None:
        self.limit = float(self.largest)

    def grow(self, sequences: int = 1) -> None:
        """A request of so many sequences succeeded: about one more for each window full of them."""
        if self.limit < self.largest:
            self.limit = min(self.largest, self.limit + min(1.0, sequences / self.limit))

    def shrink(self, now: float) -> None:
        """The server is busy. Answers that were under way together count once."""
        if now - self._shrunk_at > 0.5:
            self._shrunk_at = now
            self.limit = max(1.0, self.limit / 2)


class Client:
    """Sends requests and journals their outcomes. `submit` and `wait` are called by other threads.

    `backlog` counts the requests that have no outcome yet; at `watermark` it is time for more. A fault that concerns
    the whole run is raised by the next call of `submit` or `wait`.
    """

    def __init__(
        self, endpoints: Endpoints, headers: dict[str, str], in_flight: int, config: RequestsConfig, tally: Tally
    ) -> None:
        self.backlog = 0
        self.watermark = 4 * in_flight
        self._endpoints = endpoints
        self._headers = headers | {"Content-Type": "application/json"}
        self._window = Window(in_flight)
        self._config = config
        self._tally = tally
        self._queue: deque[_Item] = deque()
        self._active: set[asyncio.Task[None]] = set()
        self._sequences = 0
        self._failing_since: float | None = None
        self._alone = asyncio.Lock()
        # A server may quote the key; answers go into the journal, the rejections and the dataset.
        self._mask = Mask(headers.get("Authorization", "").removeprefix("Bearer "))
        self._fault: Exception | None = None
        self._changed = threading.Condition()
        self._loop = _new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="everyuser-client", daemon=True)
        self._thread.start()
        self._open = asyncio.run_coroutine_threadsafe(self._start(), self._loop)

    def submit(self, requests: Sequence[tuple[int, AnyRequest]], ticket: Ticket, journal: JournalWriter) -> None:
        """Queue requests; `requests` pairs each with its position in the ticket."""
        self._raise_fault()
        with self._changed:
            self.backlog += len(requests)
        now = self._loop.time()
        items = [_Item(ticket, position, request, journal, now) for position, request in requests]
        self._loop.call_soon_threadsafe(self._enqueue, items)

    def wait(self) -> None:
        """Return when a ticket is done or the backlog short, or after a moment."""
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

    async def _start(self) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=self._config.timeout_seconds, sock_connect=_CONNECT_SECONDS),
            # Looking for proxies at every request costs; few machines have one.
            trust_env=bool(urllib.request.getproxies()) and not self._endpoints.local,
            headers=self._headers,
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        await self._endpoints.open()

    async def _stop(self) -> None:
        self._queue.clear()
        self._open.cancel()
        for task in self._active:
            task.cancel()
        await asyncio.gather(*self._active, return_exceptions=True)
        await self._endpoints.close()
        await self._session.close()

    def _enqueue(self, items: list[_Item]) -> None:
        self._queue.extend(items)
        self._pump()

    def _pump(self) -> None:
        while self._queue and self._fault is None:
            # One that is larger than the window goes alone.
            size = self._queue[0].request.sequences
            if self._active and self._sequences + size > int(self._window.limit):
                break
            task = self._loop.create_task(self._run(self._queue.popleft()))
            self._active.add(task)
            self._sequences += size
            task.add_done_callback(functools.partial(self._ended, size))
        self._tally.gauge("in_flight", self._sequences)

    def _ended(self, size: int, task: asyncio.Task[None]) -> None:
        self._active.discard(task)
        self._sequences -= size
        if not task.cancelled() and task.exception() is not None:
            self._fail(task.exception())
        self._pump()

    def _fail(self, error: BaseException | None) -> None:
        if self._fault is None:
            self._fault = error if isinstance(error, Exception) else RuntimeError(str(error))
        with self._changed:
            self._changed.notify_all()

    async def _run(self, item: _Item) -> None:
        begun = self._loop.time()
        self._tally.observe("queue_milliseconds", round(1000 * (begun - item.queued)))
        self._tally.observe("in_flight", self._sequences)
        outcome = await self._ask(item.request)
        self._tally.observe("request_milliseconds", round(1000 * (self._loop.time() - begun)))
        item.journal.append(item.request.key, outcome)
        if isinstance(outcome, Completion):
            self._tally.add("prompt_tokens", outcome.prompt_tokens)
            self._tally.add("completion_tokens", outcome.completion_tokens)
        self._tally.add("answers", item.request.sequences)
        item.ticket.outcomes[item.position] = outcome
        with self._changed:
            item.ticket.missing -= 1
            self.backlog -= 1
            if item.ticket.done or self.backlog == self.watermark:
                self._changed.notify_all()

    async def _ask(self, request: AnyRequest) -> Outcome:
        """One request to its final outcome: bounded in retries, in waiting, and in servers that die under it."""
        await asyncio.wrap_future(self._open)
        retries = deaths = waits = 0
        waited = 0.0
        while True:
            # A request under which servers have died twice is sent alone: if it is to blame, its neighbours are not.
            async with self._alone if deaths >= _ALONE_AFTER else contextlib.nullcontext():
                endpoint = await self._endpoints.acquire()
                answer = await self._post(endpoint, request)
            if isinstance(answer, Completion):
                self._window.grow(request.sequences)
                return answer
            if isinstance(answer, Failure):
                return answer
            if isinstance(answer, Busy):
                self._window.shrink(self._loop.time())
                pause = _pause(waits) if answer.seconds is None else max(_SHORTEST_PAUSE, answer.seconds)
                if waited + pause > self._config.max_wait_seconds:
                    return Failure("busy", f"{answer.detail}; waited {waited:.0f} s", may_pass=True)
                waits += 1
                waited += pause
                await asyncio.sleep(pause)
                continue
            if answer.was_answered and retries == self._config.retries:
                return Failure(answer.reason, answer.detail, may_pass=True)
            # Also long enough to learn that the server has died.
            await asyncio.sleep(_pause(retries))
            if self._endpoints.life() != endpoint.life:
                self._failing_since = None
                if deaths >= _ALONE_AFTER:
                    detail = f"the server died {deaths + 1} times under this request"
                    return Failure("server_died", detail, may_pass=False)
                deaths += 1
            elif answer.reason != "unreachable":
                # What never reached a server is no fault of its row; `_note_outage` bounds it.
                retries += 1
                if retries > self._config.retries:
                    return Failure(answer.reason, answer.detail, may_pass=True)

    async def _post(self, endpoint: Endpoint, request: AnyRequest) -> Completion | Failure | Busy | Transient:
        reached = True
        try:
            async with self._session.post(endpoint.url + request.path, data=request.body) as response:
                payload = await read_payload(response, self._mask)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            reached = False
            failure = Transient("unreachable", self._mask.text(f"{type(error).__name__}: {error}"))
        except TimeoutError:
            failure = Transient("timeout", f"no reply within {self._config.timeout_seconds:g} s")
        except (aiohttp.ClientError, OSError) as error:
            failure = Transient("connection", self._mask.text(f"{type(error).__name__}: {error}"))
        except TooLargeError as error:
            failure = Transient("garbled", str(error))
        else:
            self._failing_since = None
            return classify(request, response.status, response.headers, payload, endpoint.url + request.path)
        finally:
            self._endpoints.release(endpoint, reached)
            self._tally.add("requests_sent", int(reached))
        if not reached:
            self._note_outage(failure.detail)
        return failure

    def _note_outage(self, detail: str) -> None:
        now = self._loop.time()
        if self._endpoints.reachable():
            self._failing_since = None
        elif self._failing_since is None:
            self._failing_since = now
        elif now - self._failing_since > self._config.outage_seconds:
            raise UserError(
                f"no endpoint has answered for {self._config.outage_seconds:g} s ({detail}); "
                "when it is back, run the same command again, finished work is kept"
            )


def _pause(tries: int) -> float:
    """Exponential back-off with full jitter; the jitter decides when, never what."""
    return random.uniform(0.5, 1.0) * min(_LONGEST_PAUSE, 0.25 * 2.0 ** min(tries, 16))
