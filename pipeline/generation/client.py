"""The client: takes the requests of many shards from their threads, and gives back the outcomes.

Requests are sent by a `Dispatcher`, whose event loop has a thread of its own.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
import time
from collections.abc import Sequence

import uvloop

from pipeline.generation.account import Account
from pipeline.generation.budget import Budget
from pipeline.generation.completions import AnyRequest, Completion, Outcome
from pipeline.generation.dispatcher import Dispatcher
from pipeline.generation.endpoints import Endpoints
from pipeline.generation.items import Item, RequestBatch
from pipeline.generation.journal import JournalWriter
from pipeline.generation.roles import Role
from pipeline.generation.sender import Sender
from pipeline.generation.spending import Spending
from pipeline.generation.trial import Trials
from pipeline.generation.window import Window
from pipeline.runtime.progress import Counters
from schemas.base import UserError
from schemas.config import RequestsConfig
from schemas.config.engines import PriceConfig

_START = 16
"""Sequences in flight at first, on an endpoint of unknown capacity."""


class Client:
    """Sends requests and journals their outcomes. `submit` and `wait` are called by other threads.

    `backlog` counts the requests without an outcome; at `watermark` the client needs more. The next call of `submit` or
    `wait` raises an error of the whole run. Requests without an outcome are then not in the journal, so the next run
    sends them again.

    Args:
        endpoints: Where requests are sent.
        key: The key that every request carries; empty for none.
        trials: Trial requests, which are sent before the first request.
        in_flight: Upper bound of the number of sequences in flight.
        config: Limits of retries and waits.
        counters: Take the client's counts.
        price: What tokens cost; None: unknown.
        budget: What the build may use; None: without a limit.
        role: Role of the model, for the account of time.
    """

    def __init__(
        self,
        endpoints: Endpoints,
        key: str,
        trials: Trials,
        in_flight: int,
        config: RequestsConfig,
        counters: Counters,
        price: PriceConfig | None = None,
        budget: Budget | None = None,
        role: Role = "generation",
    ) -> None:
        self.backlog = 0
        self.watermark = 4 * in_flight
        self._sender = Sender(endpoints, key, trials, config, counters)
        window = Window(in_flight, None if endpoints.is_managed else _START)
        self._spending = Spending(price, budget, counters)
        self._account = Account(role)
        counters.add_source(self._account.gauges)
        self._dispatcher = Dispatcher(
            endpoints,
            self._sender,
            window,
            config,
            counters,
            settle=self._settle,
            fail=self._fail,
            account=self._account,
            spending=self._spending if budget else None,
        )
        self._counters = counters
        self._error: Exception | None = None
        self._changed = threading.Condition()
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="everyuser-client", daemon=True)
        self._thread.start()
        if budget is not None:
            budget.listen(self._wake, self._fail)
        self._opening = asyncio.run_coroutine_threadsafe(self._dispatcher.open(), self._loop)

    def submit(
        self,
        requests: Sequence[tuple[int, AnyRequest]],
        batch: RequestBatch,
        journal: JournalWriter,
        is_begun: bool = False,
    ) -> None:
        """Queue requests.

        Args:
            requests: Each with its position in the batch.
            batch: Takes the outcomes.
            journal: Keeps the outcomes.
            is_begun: True for further votes, which are sent before all other requests.
        """
        self.check()
        with self._changed:
            self.backlog += len(requests)
        now = time.monotonic()
        items = [Item(batch, position, request, journal, now) for position, request in requests]
        self._loop.call_soon_threadsafe(self._dispatcher.submit, items, is_begun)

    def wait(self) -> None:
        """Return when a batch is done or the backlog is short, but after half a second at the latest."""
        self._account.wait(1)
        with self._changed:
            self._changed.wait(timeout=0.5)
        self._account.wait(-1)
        self.check()

    def check(self) -> None:
        """Raise an error of the whole run that has happened by now."""
        if self._error is not None:
            raise self._error

    def is_chat_alone(self) -> bool:
        """Return whether choices take votes by chat (`Trials`). Waits for the trial requests."""
        try:
            self._opening.result()
        except concurrent.futures.CancelledError:
            self.check()
            raise
        return self._sender.is_chat_alone()

    def close(self) -> None:
        """Drop the queue, cancel the requests in flight, and stop the thread."""
        self._fail(UserError("the build was stopped"))
        if self._loop.is_running():
            asyncio.run_coroutine_threadsafe(self._dispatcher.close(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def _fail(self, error: BaseException | None) -> None:
        if self._error is None:
            self._error = error if isinstance(error, Exception) else RuntimeError(str(error))
        with self._changed:
            self._changed.notify_all()

    def _wake(self) -> None:
        # The loop may just be closing.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._dispatcher.wake)

    def _settle(self, item: Item, outcome: Outcome) -> None:
        item.journal.append(item.request.key, outcome)
        if isinstance(outcome, Completion):
            self._counters.add("prompt_tokens", outcome.prompt_tokens)
            self._counters.add("completion_tokens", outcome.completion_tokens)
            self._counters.add("reasoning_tokens", outcome.reasoning_tokens)
            self._spending.record(item, outcome)
        self._counters.add("answers", item.request.sequences)
        item.batch.outcomes[item.position] = outcome
        with self._changed:
            item.batch.pending -= 1
            self.backlog -= 1
            if item.batch.is_done or self.backlog == self.watermark:
                self._changed.notify_all()
