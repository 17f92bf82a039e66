"""The sender: sends one request to one endpoint, sends trial requests, and records which endpoints are up."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterator

import orjson

from pipeline.generation.availability import Availability
from pipeline.generation.classify import Busy, Result, Transient, refusal_error
from pipeline.generation.completions import AnyRequest, ChoiceRequest, Completion, Failure, Request
from pipeline.generation.continuation import Partial, continued, joined
from pipeline.generation.dialect import Dialect
from pipeline.generation.endpoints import Endpoint, Endpoints
from pipeline.generation.flight import Flight
from pipeline.generation.streaming import with_stream
from pipeline.generation.transport import Transport
from pipeline.generation.trial import Trials, ignores_system, lacks_numbers, reasons_all_the_same
from pipeline.generation.votes import Vote
from pipeline.generation.window import backoff_seconds
from pipeline.io.outages import notify
from pipeline.runtime.progress import Counters
from schemas.base import UserError
from schemas.config import RequestsConfig

_REFUSALS = frozenset({*(f"http_{status}" for status in (400, 404, 405, 415, 422, 500, 501)), "garbled", "timeout"})
"""Reasons of servers that know no streams, hang at them, or send them in a form of their own. A lost connection is of
the moment."""
_REASONING_TOKENS = 2048
"""Tokens for the reasoning of a judge that cannot be kept from it."""
_SHORTEST_PAUSE = 0.1
"""Seconds to wait for a busy server, even where it sends `Retry-After: 0`."""


class Sender:
    """Sends requests, each once.

    Any method raises `UserError` where the responses show that the run cannot succeed, for now or at all.
    """

    def __init__(
        self,
        endpoints: Endpoints,
        key: str,
        trials: Trials,
        config: RequestsConfig,
        counters: Counters,
    ) -> None:
        self.availability = Availability(config, counters)
        self._endpoints = endpoints
        self._transport = Transport(key, config.timeout_seconds, self._hear)
        self._trials = trials
        self._dialects: dict[str, Dialect] = defaultdict(Dialect)
        self._continues: dict[str, bool] = {}
        self._config = config
        self._counters = counters

    async def open(self) -> None:
        """Return when some endpoint has completed all trial requests."""
        await self._transport.open()
        await self._endpoints.open()
        retries = 0
        while True:
            endpoints = await self._endpoints.current()
            trials = [asyncio.ensure_future(self._run_trials(endpoint)) for endpoint in endpoints]
            try:
                problems = [problem for problem in await asyncio.gather(*trials) if problem]
            finally:
                # Where one endpoint refuses, the others are not waited for.
                for task in trials:
                    task.cancel()
            if len(problems) < len(endpoints):
                return
            if not self._endpoints.is_managed and all(problem.reason == "unreachable" for problem in problems):
                raise UserError(f"engine.base_urls: {endpoints[0].url} does not answer ({problems[0].detail})")
            await asyncio.sleep(backoff_seconds(retries))
            retries += 1

    async def close(self) -> None:
        """Close the connections and release the endpoints."""
        await self._endpoints.close()
        await self._transport.close()

    async def post(
        self, endpoint: Endpoint, request: AnyRequest, partial: Partial | None = None, is_trial: bool = False
    ) -> Result:
        """Send a request and classify the response.

        Args:
            endpoint: Where to.
            request: The request.
            partial: The beginning of its reply, after a cut. The completion is whole.
            is_trial: True for a trial request.
        """
        partial = partial if partial and await self._can_continue(endpoint) else None
        deadlines = self._transport.deadlines(endpoint)
        dialect = self._dialects[endpoint.name]
        body = dialect.body(request)
        is_streamed = isinstance(request, Request) and dialect.streams is not False and (is_trial or deadlines.is_slow)
        if is_streamed or partial:
            fields = orjson.loads(body)
            fields = continued(fields, partial) if partial else fields
            body = orjson.dumps(with_stream(fields) if is_streamed else fields)
        # Before its trial requests are settled, an endpoint may know no streams, or hang at one of their fields.
        flight = Flight(endpoint, request, body, partial, is_trial, is_patient=is_streamed and dialect.is_settled)
        deadlines.begin(flight)
        try:
            result = await self._transport.exchange(flight)
        finally:
            deadlines.end(flight)
        is_up = not isinstance(result, Transient)
        # A failure of one request is no outage while others get their tokens.
        if is_up or not deadlines.worked_since(flight.sent):
            self._record(endpoint, is_up)
        if partial and isinstance(result, Failure):
            # A chat template that changes the assistant's text, or the like.
            self._continues[endpoint.name] = False
            return await self.post(endpoint, request, is_trial=is_trial)
        if isinstance(result, Completion):
            dialect.streams = flight.has_stream if is_streamed else dialect.streams
            deadlines.record_completion(flight)
            # Exact at the end: an event's number of tokens is an estimate, and may be too high.
            heard = flight.events * self._endpoints.event_tokens
            self._counters.add("tokens_heard", 0 if is_trial else result.completion_tokens - heard)
            return joined(partial, result) if partial else result
        return result

    def worked_since(self, endpoint: Endpoint, since: float) -> bool:
        """Return whether an endpoint has sent a token or an answer since then."""
        return self._transport.deadlines(endpoint).worked_since(since)

    def _hear(self, flight: Flight, events: int) -> None:
        """Note so many events with a token."""
        self._record(flight.endpoint, is_up=True)
        self._counters.add("tokens_heard", 0 if flight.is_trial else events * self._endpoints.event_tokens)

    def _record(self, endpoint: Endpoint, is_up: bool) -> None:
        self._endpoints.mark(endpoint, is_up)
        if is_up:
            self._transport.deadlines(endpoint).record_work()
        if is_up or self._endpoints.any_up():
            self.availability.record_up()
        else:
            self.availability.record_down(time.monotonic())

    async def _can_continue(self, endpoint: Endpoint) -> bool:
        """Return whether an endpoint continues replies. One that does not say so now is asked again next time."""
        if endpoint.name not in self._continues:
            models = await self._transport.list_models(endpoint)
            if models is None:
                return False
            self._continues[endpoint.name] = any(model.get("owned_by") == "vllm" for model in models)
        return self._continues[endpoint.name]

    def pause_seconds(self, busy: Busy, waits: int) -> float:
        """Return how long to wait for a busy endpoint, after so many earlier waits."""
        return backoff_seconds(waits) if busy.seconds is None else max(_SHORTEST_PAUSE, busy.seconds)

    def pause(self, endpoint: Endpoint, busy: Busy, seconds: float) -> None:
        """Send nothing to a busy endpoint for so many seconds."""
        now = time.monotonic()
        self._endpoints.pause(endpoint, now + seconds)
        detail = f"{endpoint.address()} is busy ({busy.detail})"
        self.availability.check_wait(now, self._endpoints.available_at(), detail)

    async def passes_trials(self, endpoint: Endpoint) -> bool:
        """Send the trial requests; return False where the endpoint is down."""
        return await self._run_trials(endpoint) is None

    async def _run_trials(self, endpoint: Endpoint) -> Transient | None:
        """Send the trial requests; return None where all are completed, or the problem of an endpoint that is down."""
        dialect = self._dialects[endpoint.name]
        plain: Completion | None = None
        for trial in self._trials_for(dialect):
            result = await self._run_trial(endpoint, trial, plain)
            if isinstance(result, Transient):
                return result
            plain = plain or result
            if result is None or dialect.is_settled or not reasons_all_the_same(trial, result):
                continue
            if isinstance(trial, Vote):
                dialect.reasoning_tokens = _REASONING_TOKENS
                notify(
                    f"{endpoint.address()}: the model reasons although it is asked not to; it may take up to "
                    f"{_REASONING_TOKENS} tokens for each answer"
                )
            else:
                notify(
                    f"{endpoint.address()}: the model reasons although it is asked not to, and replies that are cut "
                    "off may be its reasoning; set generation.reasoning: keep out"
                )
        dialect.is_settled = True
        return None

    def _trials_for(self, dialect: Dialect) -> Iterator[AnyRequest]:
        """Yield trial requests, those of votes where a choice before them was refused."""
        for trial in self._trials.requests:
            if not (dialect.is_chat_alone and isinstance(trial, ChoiceRequest)):
                yield trial
        if dialect.is_chat_alone:
            yield from self._trials.votes_instead

    def _takes_votes(self, endpoint: Endpoint, trial: AnyRequest, detail: str) -> bool:
        """Ask for votes instead of a choice that was refused; return False where that is another request, or late."""
        dialect = self._dialects[endpoint.name]
        if dialect.is_settled or not self._trials.votes_instead or not isinstance(trial, ChoiceRequest):
            return False
        dialect.is_chat_alone = True
        notify(f"{endpoint.address(trial.path)}: questions are asked by chat, one in a call ({detail})")
        return True

    def is_chat_alone(self) -> bool:
        """Return whether some endpoint is asked for votes instead of choices."""
        return any(dialect.is_chat_alone for dialect in self._dialects.values())

    async def _run_trial(
        self, endpoint: Endpoint, trial: AnyRequest, plain: Completion | None
    ) -> Completion | Transient | None:
        """Send a trial request in the forms of its last field until one is completed.

        None as `plain`: it is the first. Returns None where it is a choice and votes are asked for instead.
        """
        may_be_down = plain is None or self._dialects[endpoint.name].is_settled
        retries = 0
        while True:
            result = await self._try(endpoint, trial)
            if isinstance(result, Completion):
                if lacks_numbers(trial, result) and self._takes_votes(endpoint, trial, "no log-probabilities"):
                    return None
                if not ignores_system(trial, result, plain) or not self._falls_back(
                    endpoint, trial, "the model gets no system message"
                ):
                    return result
            elif isinstance(result, Busy):
                seconds = self.pause_seconds(result, retries)
                self.pause(endpoint, result, seconds)
                await asyncio.sleep(seconds)
            elif isinstance(result, Transient) and (may_be_down or result.reason == "unreachable"):
                self.availability.check_outage(time.monotonic(), f"{endpoint.address()}: {result.detail}")
                return result
            elif isinstance(result, Failure) or retries == self._config.max_retries:
                # The server completes plainer requests, so it does not support the last field of this one.
                if not self._falls_back(endpoint, trial, result.detail):
                    if self._takes_votes(endpoint, trial, result.detail):
                        return None
                    models = await self._list_models(endpoint)
                    raise refusal_error(result, trial, endpoint.address(trial.path), models)
                retries = 0
                continue
            else:
                await asyncio.sleep(backoff_seconds(retries))
            retries += 1

    async def _try(self, endpoint: Endpoint, trial: AnyRequest) -> Result:
        """Send a trial request. The first is sent without a stream, too, where it is refused with one."""
        dialect = self._dialects[endpoint.name]
        result = await self.post(endpoint, trial, is_trial=True)
        if isinstance(result, Transient) and result.reason == "timeout" and not dialect.is_settled:
            notify(f"{endpoint.address(trial.path)}: {result.detail} to a trial request")
        is_first = isinstance(trial, Request) and dialect.streams is None
        if not is_first or not isinstance(result, Failure | Transient) or result.reason not in _REFUSALS:
            return result
        dialect.streams = False
        unstreamed = await self.post(endpoint, trial, is_trial=True)
        if not isinstance(unstreamed, Completion):
            dialect.streams = None
            return result
        if result.reason == "timeout":
            # Rather than hang at a stream, the server may have loaded its model.
            dialect.streams = None
            await self.post(endpoint, trial, is_trial=True)
            dialect.streams = bool(dialect.streams)
        return unstreamed

    def _falls_back(self, endpoint: Endpoint, trial: AnyRequest, detail: str) -> bool:
        """Change the dialect to the next form of a trial request; return False where there is none."""
        falls_back = self._dialects[endpoint.name].fall_back(trial)
        if falls_back:
            notify(f"{endpoint.address(trial.path)}: requests take another form ({detail})")
        return falls_back

    async def _list_models(self, endpoint: Endpoint) -> str:
        """Return the first models that an endpoint lists, for a message: such a list proves nothing."""
        models = await self._transport.list_models(endpoint) or []
        return ", ".join(f"'{model.get('id')}'" for model in models[:5])
