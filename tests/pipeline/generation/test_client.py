from __future__ import annotations

import asyncio
import functools
import itertools
import json
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from pipeline.generation.client import Client, RequestBatch
from pipeline.generation.completions import (
    AnyRequest,
    ChoiceRequest,
    Completion,
    Failure,
    Outcome,
    Request,
    choice_head,
    decode_probabilities,
    make_choice_request,
    make_request,
)
from pipeline.generation.endpoints import RemoteEndpoints
from pipeline.generation.journal import open_journal, read_journal
from pipeline.generation.service import GenerationService, read_key
from pipeline.generation.trial import trial_requests
from pipeline.generation.window import Window
from pipeline.plan import BuildPlan
from pipeline.runtime.progress import counters_for
from schemas.base import UserError
from schemas.config import BuildConfig, GenerationConfig, OpenAiEngine, RequestsConfig
from tests.stub import Answer, StubServer, choices, completion, completions, good, good_text

PATIENCE = 20.0
"""Seconds after which a test that waits has failed."""


def make_requests(count: int, start: int = 0) -> list[Request]:
    config = GenerationConfig(model="stub")
    return [make_request(config, {"user": f"post {k}"}, (k,)) for k in range(start, start + count)]


def number(body: dict[str, Any]) -> int:
    """Which of `make_requests` this is."""
    return int(body["messages"][0]["content"].split()[1])


def settings(**changes: float) -> RequestsConfig:
    return RequestsConfig.model_validate(
        {"timeout_seconds": 20.0, "max_retries": 1, "max_wait_seconds": 20.0, "outage_seconds": 1.0} | changes
    )


def trials(**keys: Any) -> list[AnyRequest]:
    config = BuildConfig.model_validate({"pairs": 1, "generation": {"model": "stub"}} | keys)
    return trial_requests(BuildPlan(Path(), "", config))


def connect(folder: Path, *urls: str, in_flight: int = 8, config: RequestsConfig | None = None) -> Client:
    return Client(RemoteEndpoints(urls), "", trials(), in_flight, config or settings(), counters_for(folder))


@contextmanager
def connected(folder: Path, *urls: str, in_flight: int = 8, config: RequestsConfig | None = None) -> Iterator[Client]:
    client = connect(folder, *urls, in_flight=in_flight, config=config)
    try:
        yield client
    finally:
        client.close()


def submit(client: Client, requests: Sequence[AnyRequest], folder: Path) -> RequestBatch:
    batch = RequestBatch([None] * len(requests), len(requests))
    client.submit(list(enumerate(requests)), batch, open_journal(folder / "journal.jsonl"))
    return batch


def wait_until(condition: Callable[[], bool], client: Client) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        client.wait()
        assert time.monotonic() < deadline, "waited for too long"


def finish(client: Client, batch: RequestBatch) -> list[Outcome]:
    wait_until(lambda: batch.is_done, client)
    return batch.result()


def ask(
    folder: Path, requests: Sequence[AnyRequest], *urls: str, in_flight: int = 8, config: RequestsConfig | None = None
) -> list[Outcome]:
    with connected(folder, *urls, in_flight=in_flight, config=config) as client:
        return finish(client, submit(client, requests, folder))


def texts(outcomes: Sequence[Outcome]) -> list[str]:
    return [outcome.text if isinstance(outcome, Completion) else f"failed: {outcome.reason}" for outcome in outcomes]


def failures(outcomes: Sequence[Outcome]) -> list[Failure]:
    return [outcome for outcome in outcomes if isinstance(outcome, Failure)]


def reason(outcomes: Sequence[Outcome]) -> str:
    """The reason of the one outcome, which is a failure."""
    (outcome,) = outcomes
    assert isinstance(outcome, Failure)
    return outcome.reason


class Load:
    """Measures inside the stub how many requests, or prompts of them, it has at once."""

    def __init__(self) -> None:
        self._now = 0
        self.seen: list[int] = []

    @contextmanager
    def measured(self, size: int = 1) -> Iterator[None]:
        self._now += size
        self.seen.append(self._now)
        try:
            yield
        finally:
            self._now -= size


async def hang(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    await asyncio.sleep(3600)
    return await good(request, body)


async def cut_off(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    """Half a reply, then the connection is gone."""
    response = web.StreamResponse(headers={"Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b'{"choices": [{"message": {"content": "half a')
    assert request.transport is not None
    request.transport.abort()
    return response


async def hang_up(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    """Not even a status."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


# The window


def test_outcomes_are_in_the_order_of_the_requests(tmp_path: Path) -> None:
    async def later_ones_first(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        await asyncio.sleep(0.1 if number(body) % 7 == 0 else 0)
        return completion(f"reply {number(body)}")

    with StubServer(later_ones_first) as stub:
        outcomes = ask(tmp_path, make_requests(50), stub.url)

    assert texts(outcomes) == [f"reply {k}" for k in range(50)]


def test_a_completion_has_text_finish_reason_and_tokens(tmp_path: Path) -> None:
    with StubServer() as stub:
        outcomes = ask(tmp_path, make_requests(3), stub.url)
        bodies = sorted(stub.bodies, key=number)

    assert outcomes == [Completion(good_text(body), "stop", 100, 30) for body in bodies]


def test_tokens_and_requests_are_counted(tmp_path: Path) -> None:
    with StubServer() as stub:
        ask(tmp_path, make_requests(5), stub.url)

    counts = counters_for(tmp_path)
    assert (counts.get("prompt_tokens"), counts.get("completion_tokens")) == (500, 150)
    assert (counts.get("requests_sent"), counts.get("in_flight")) == (5, 0)


@pytest.mark.parametrize("in_flight", [1, 5])
def test_the_window_is_filled_and_never_exceeded(tmp_path: Path, in_flight: int) -> None:
    load = Load()

    async def slowly(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        with load.measured():
            await asyncio.sleep(0.01)
        return await good(request, body)

    with StubServer(slowly) as stub:
        ask(tmp_path, make_requests(40), stub.url, in_flight=in_flight)

    assert len(load.seen) == 40
    assert max(load.seen) == in_flight


def test_a_slow_request_holds_nobody_up_not_even_across_shards(tmp_path: Path) -> None:
    released = asyncio.Event()

    async def first_waits_for_the_last(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        if number(body) == 0:
            await released.wait()
        if number(body) == 59:
            released.set()
        return await good(request, body)

    with StubServer(first_waits_for_the_last) as stub, connected(tmp_path, stub.url, in_flight=2) as client:
        batches = [submit(client, make_requests(20, start), tmp_path) for start in (0, 20, 40)]
        wait_until(lambda: all(batch.is_done for batch in batches), client)

    assert failures([outcome for batch in batches for outcome in batch.result()]) == []


def test_backlog_counts_what_has_no_outcome_yet(tmp_path: Path) -> None:
    with StubServer() as stub, connected(tmp_path, stub.url) as client:
        batch = submit(client, make_requests(30), tmp_path)
        finish(client, batch)

        assert client.backlog == 0


def test_window_halves_once_for_answers_that_come_together_and_grows_by_one_a_round() -> None:
    window = Window(16)

    window.shrink(now=100.0)
    window.shrink(now=100.1)
    halved = window.limit
    for _ in range(8):
        window.grow()
    grown = window.limit

    assert halved == 8
    assert 8.8 < grown < 9.0


def test_window_stays_between_one_and_its_largest() -> None:
    window = Window(4)

    for k in range(10):
        window.shrink(now=float(k))
    smallest = window.limit
    for _ in range(100):
        window.grow()

    assert smallest == 1
    assert window.limit == 4


def test_two_base_urls_share_the_load(tmp_path: Path) -> None:
    async def slowly(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        await asyncio.sleep(0.01)
        return await good(request, body)

    with StubServer(slowly) as one, StubServer(slowly) as two:
        outcomes = ask(tmp_path, make_requests(60), one.url, two.url)

        assert len(one.bodies) + len(two.bodies) == 60
        assert min(len(one.bodies), len(two.bodies)) >= 15
    assert failures(outcomes) == []


# Rows that fail


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_refused_request_is_asked_exactly_once(tmp_path: Path, status: int) -> None:
    async def refuse(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return web.json_response({"error": {"message": "prompt too long"}}, status=status)

    with StubServer(refuse) as stub:
        outcomes = ask(tmp_path, make_requests(1), stub.url)

        assert len(stub.bodies) == 1
    assert outcomes == [Failure(f"http_{status}", f"HTTP {status}: prompt too long", may_pass=False)]


def test_one_bad_row_among_a_hundred_fails_alone(tmp_path: Path) -> None:
    async def refuse_one(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        if number(body) == 41:
            return web.json_response({"error": {"message": "prompt too long"}}, status=400)
        return await good(request, body)

    requests = make_requests(101)
    with StubServer(refuse_one) as stub:
        outcomes = ask(tmp_path, requests, stub.url)

        assert len(stub.bodies) == 101
    assert [k for k, outcome in enumerate(outcomes) if isinstance(outcome, Failure)] == [41]
    assert read_journal(tmp_path / "journal.jsonl") == {
        request.key: outcome for request, outcome in zip(requests, outcomes, strict=True)
    }


def test_every_kind_of_fault_at_once_rejects_exactly_its_rows(tmp_path: Path) -> None:
    async def faulty(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        match number(body):
            case 3:
                return web.Response(status=400, text="no")
            case 7:
                return web.Response(status=503, text="busy")
            case 11:
                return web.Response(text="garbage")
            case 15:
                return await hang(request, body)
            case 19:
                return await cut_off(request, body)
            case 23:
                return web.Response(status=500, text="oops")
            case _:
                return await good(request, body)

    with StubServer(faulty) as stub:
        outcomes = ask(
            tmp_path, make_requests(30), stub.url, config=settings(timeout_seconds=1.0, max_wait_seconds=0.5)
        )

    assert {k: outcome.reason for k, outcome in enumerate(outcomes) if isinstance(outcome, Failure)} == {
        3: "http_400",
        7: "busy",
        11: "garbled",
        15: "timeout",
        19: "connection",
        23: "http_500",
    }


@pytest.mark.parametrize("retries", [0, 1, 2])
def test_a_reply_garbled_for_ever_fails_after_the_retries(tmp_path: Path, retries: int) -> None:
    async def garble(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return web.Response(text="<html>It works!</html>")

    with StubServer(garble) as stub:
        outcomes = ask(tmp_path, make_requests(1), stub.url, config=settings(max_retries=retries))

        assert len(stub.bodies) == retries + 1
    assert reason(outcomes) == "garbled"


@pytest.mark.parametrize("answer", [cut_off, hang_up])
def test_a_connection_that_is_cut_for_ever_fails_after_the_retries(tmp_path: Path, answer: Any) -> None:
    with StubServer(answer) as stub:
        outcomes = ask(tmp_path, make_requests(1), stub.url, config=settings(max_retries=2))

        assert len(stub.bodies) == 3
    assert reason(outcomes) == "connection"


def test_a_slow_reply_fails_after_the_retries(tmp_path: Path) -> None:
    with StubServer(hang) as stub:
        outcomes = ask(tmp_path, make_requests(1), stub.url, config=settings(timeout_seconds=0.2))

        assert len(stub.bodies) == 2
    assert outcomes == [Failure("timeout", "no reply within 0.2 s", may_pass=True)]


def test_a_reply_that_trickles_in_fails_after_the_retries(tmp_path: Path) -> None:
    async def trickle(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b" ")
            await asyncio.sleep(0.05)

    with StubServer(trickle) as stub:
        outcomes = ask(tmp_path, make_requests(1), stub.url, config=settings(timeout_seconds=0.3, max_retries=1))

    assert reason(outcomes) == "timeout"


@pytest.mark.parametrize(
    "fault",
    [
        lambda request, body: failed(500),
        lambda request, body: failed(502),
        lambda request, body: failed(408),
        cut_off,
        hang_up,
    ],
    ids=["500", "502", "408", "cut off", "hung up"],
)
def test_a_fault_that_passes_ends_in_a_completion(tmp_path: Path, fault: Any) -> None:
    asked = 0

    async def twice_then_good(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        nonlocal asked
        asked += 1
        response: web.StreamResponse = await (fault(request, body) if asked <= 2 else good(request, body))
        return response

    with StubServer(twice_then_good) as stub:
        outcomes = ask(tmp_path, make_requests(1), stub.url, config=settings(max_retries=2))

        assert texts(outcomes) == [good_text(stub.bodies[-1])]
        assert len(stub.bodies) == 3


async def failed(status: int) -> web.StreamResponse:
    return web.Response(status=status, text="oops")


def test_a_retried_request_is_the_same_request(tmp_path: Path) -> None:
    async def fail(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return web.Response(status=500)

    with StubServer(fail) as stub:
        ask(tmp_path, make_requests(1), stub.url, config=settings(max_retries=1))

        assert stub.bodies[0] == stub.bodies[1]


# A busy server


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_asked_again_when_it_says(tmp_path: Path, status: int) -> None:
    times: list[float] = []

    async def busy_once(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        times.append(time.monotonic())
        if len(times) == 1:
            return web.Response(status=status, headers={"Retry-After": "1"})
        return await good(request, body)

    with StubServer(busy_once) as stub:
        outcomes = ask(tmp_path, make_requests(1), stub.url, config=settings(max_retries=1))

        assert texts(outcomes) == [good_text(stub.bodies[0])]
    assert times[1] - times[0] > 0.9


def test_the_window_shrinks_for_a_busy_server_and_grows_again(tmp_path: Path) -> None:
    load = Load()

    async def busy_at_first(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        with load.measured():
            await asyncio.sleep(0.02)
        if len(load.seen) <= 16:
            return web.Response(status=429, headers={"Retry-After": "0.2"})
        return await good(request, body)

    with StubServer(busy_at_first) as stub:
        outcomes = ask(tmp_path, make_requests(250), stub.url, in_flight=16)

    assert failures(outcomes) == []
    refused, afterwards = load.seen[:16], load.seen[16:]
    assert max(refused) == 16
    assert max(afterwards[:16]) < 12
    assert max(afterwards) == 16


def busy(retry_after: str | None = None, status: int = 429) -> Answer:
    async def answer(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        headers = {"Retry-After": retry_after} if retry_after else {}
        return web.json_response({"error": {"message": "full"}}, status=status, headers=headers)

    return answer


@pytest.mark.parametrize("retry_after", [None, "0.1", "0", "-1", "Wed, 21 Oct 2015 07:28:00 GMT"])
def test_a_server_that_is_busy_for_one_row_alone_fails_it_for_now(tmp_path: Path, retry_after: str | None) -> None:
    with StubServer(busy(retry_after)) as stub:
        outcomes = ask(tmp_path, make_requests(1), stub.url, config=settings(max_wait_seconds=0.5))

        assert 2 <= len(stub.bodies) < 50
    (outcome,) = failures(outcomes)
    assert (outcome.reason, outcome.may_pass) == ("busy", True)


@pytest.mark.parametrize("retry_after", [None, "0.1"])
@pytest.mark.parametrize("status", [429, 503])
def test_a_server_that_is_busy_for_all_ends_the_run_and_blames_no_row(
    tmp_path: Path, retry_after: str | None, status: int
) -> None:
    answer = budget_of(20, busy(retry_after, status))
    with StubServer(answer, on_trial=answer) as stub, pytest.raises(UserError) as caught:
        ask(tmp_path, make_requests(60), stub.url, config=settings(max_wait_seconds=0.7))

    assert f"HTTP {status}: full" in str(caught.value)
    assert "requests.max_wait_seconds" in str(caught.value)
    assert "run the same command again" in str(caught.value)
    journal = read_journal(tmp_path / "journal.jsonl")
    assert 0 < len(journal) < 20
    assert failures([*journal.values()]) == []


def test_a_server_that_wants_a_longer_wait_than_allowed_ends_the_run_and_says_until_when(tmp_path: Path) -> None:
    with StubServer(busy("86400")) as stub, pytest.raises(UserError, match=r"requests\.max_wait_seconds") as caught:
        ask(tmp_path, make_requests(20), stub.url)

    assert f"{datetime.now() + timedelta(days=1):%Y-%m-%d}" in str(caught.value)
    assert read_journal(tmp_path / "journal.jsonl") == {}


def test_all_requests_wait_for_a_server_that_says_how_long(tmp_path: Path) -> None:
    times: list[float] = []

    async def busy_for_the_fifth(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        times.append(time.monotonic())
        return await (busy("1")(request, body) if len(times) == 5 else good(request, body))

    with StubServer(busy_for_the_fifth) as stub:
        outcomes = ask(tmp_path, make_requests(12), stub.url, in_flight=1)

    assert failures(outcomes) == []
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert len(times) == 13
    assert [k for k, gap in enumerate(gaps) if gap > 0.9] == [4]


def test_a_wait_and_an_outage_are_seen_while_they_last(tmp_path: Path) -> None:
    for gauge, answer in (("paused", busy("15")), ("outage", refuse(502))):
        folder = tmp_path / gauge
        folder.mkdir()
        config = settings(outage_seconds=20.0)
        with (
            StubServer(answer, on_trial=budget_of(1, answer)) as stub,
            connected(folder, stub.url, config=config) as client,
        ):
            submit(client, make_requests(1), folder)
            wait_until(
                functools.partial(lambda counts, name: counts.get(name) == 1, counters_for(folder), gauge), client
            )


def test_an_endpoint_that_rests_leaves_the_work_to_the_other(tmp_path: Path) -> None:
    with StubServer(busy("3600")) as full, StubServer() as free:
        outcomes = ask(tmp_path, make_requests(30), full.url, free.url, in_flight=4)

        assert len(full.bodies) <= 4
    assert failures(outcomes) == []


# Calls of many prompts


def make_choices(*sizes: int) -> list[ChoiceRequest]:
    """Calls of so many prompts each."""
    head = choice_head("stub", structured_outputs=True)
    return [
        make_choice_request(head, f"comment {k}\n", tuple(f"is it {q}?" for q in range(size)), bytes([size]))
        for k, size in enumerate(sizes)
    ]


def asked_prompts(folder: Path, requests: Sequence[AnyRequest], in_flight: int) -> list[int]:
    """Numbers of prompts in flight on the server, at the arrival of each call."""
    load = Load()

    async def slowly(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        with load.measured(len(body.get("prompt", "1"))):
            await asyncio.sleep(0.01)
        return await good(request, body)

    with StubServer(slowly) as stub:
        outcomes = ask(folder, requests, stub.url, in_flight=in_flight)

    assert failures(outcomes) == []
    assert len(load.seen) == len(requests)
    return load.seen


def test_the_window_counts_the_prompts_of_a_call(tmp_path: Path) -> None:
    seen = asked_prompts(tmp_path, make_choices(*[5] * 40), in_flight=17)

    assert max(seen) == 15


def test_calls_of_many_sizes_never_exceed_the_window(tmp_path: Path) -> None:
    requests = [
        request for pair in zip(make_choices(*range(1, 21)), make_requests(20), strict=True) for request in pair
    ]

    assert max(asked_prompts(tmp_path, requests, in_flight=20)) <= 20


def test_a_call_as_large_as_the_window_is_sent(tmp_path: Path) -> None:
    assert asked_prompts(tmp_path, make_choices(8, 8, 8), in_flight=8) == [8, 8, 8]


def test_a_call_that_is_larger_than_the_window_goes_alone(tmp_path: Path) -> None:
    seen = asked_prompts(tmp_path, make_choices(2, 2, 30, 2, 2, 30, 30, 2), in_flight=8)

    assert (max(seen), seen.count(30)) == (30, 3)


def test_only_prompts_under_way_are_counted(tmp_path: Path) -> None:
    load = Load()

    async def look(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        await asyncio.sleep(0.01)
        load.seen.append(counters_for(tmp_path).get("in_flight"))
        return await good(request, body)

    with StubServer(look) as stub:
        ask(tmp_path, make_choices(3, 3, 3, 3), stub.url, in_flight=6)

    assert max(load.seen) == 6
    assert counters_for(tmp_path).get("in_flight") == 0


def test_a_busy_server_gets_one_call_at_a_time_until_it_has_kept_up(tmp_path: Path) -> None:
    load = Load()

    async def busy_at_first(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        with load.measured(len(body["prompt"])):
            await asyncio.sleep(0.01)
        if len(load.seen) <= 2:
            return web.Response(status=429, headers={"Retry-After": "0.2"})
        return await good(request, body)

    with StubServer(busy_at_first) as stub:
        outcomes = ask(tmp_path, make_choices(*[6] * 12), stub.url, in_flight=12)

    assert failures(outcomes) == []
    # Of a window that was halved, each call wins one sequence back.
    assert max(load.seen[4:8]) == 6
    assert max(load.seen[8:]) == 12


def test_choices_are_answered_with_probabilities(tmp_path: Path) -> None:
    requests = make_choices(4, 7, 1)
    with StubServer() as stub:
        outcomes = ask(tmp_path, requests, stub.url)
        bodies = sorted(stub.bodies, key=lambda body: str(body["prompt"][0]))

    for request, body, outcome in zip(requests, bodies, outcomes, strict=True):
        text, finish_reason = request.read({"choices": choices(body)})
        size = request.sequences
        assert outcome == Completion(text, finish_reason, prompt_tokens=100 * size, completion_tokens=size)
        assert decode_probabilities(text).shape == (size, 3)
    assert read_journal(tmp_path / "journal.jsonl") == {
        request.key: outcome for request, outcome in zip(requests, outcomes, strict=True)
    }


async def short(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    """One choice too few."""
    return completions(choices(body)[:-1])


@pytest.mark.parametrize(
    ("fault", "expected", "calls"),
    [
        (lambda request, body: failed(400), "http_400", 1),
        (lambda request, body: failed(500), "http_500", 2),
        (lambda request, body: failed(503), "busy", None),
        (short, "garbled", 2),
        (hang, "timeout", 2),
        (hang_up, "connection", 2),
    ],
    ids=["400", "500", "503", "short", "hangs", "hung up"],
)
def test_a_call_of_choices_fails_as_a_chat_does_and_fails_alone(
    tmp_path: Path, fault: Any, expected: str, calls: int | None
) -> None:
    faulty_calls = 0

    async def faulty(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        nonlocal faulty_calls
        if not body["prompt"][0].startswith("comment 2\n"):
            return await good(request, body)
        faulty_calls += 1
        response: web.StreamResponse = await fault(request, body)
        return response

    with StubServer(faulty) as stub:
        outcomes = ask(
            tmp_path, make_choices(3, 3, 3, 3), stub.url, config=settings(timeout_seconds=1.0, max_wait_seconds=0.5)
        )

    assert {k: outcome.reason for k, outcome in enumerate(outcomes) if isinstance(outcome, Failure)} == {2: expected}
    assert calls in (None, faulty_calls)


def test_a_call_of_choices_that_recovers_is_the_same_call(tmp_path: Path) -> None:
    asked = 0

    async def once_busy_once_garbled(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        nonlocal asked
        asked += 1
        if asked == 1:
            return web.Response(status=503, headers={"Retry-After": "0.1"})
        return await (short(request, body) if asked == 2 else good(request, body))

    with StubServer(once_busy_once_garbled) as stub:
        outcomes = ask(tmp_path, make_choices(5), stub.url)

        assert stub.bodies[0] == stub.bodies[1] == stub.bodies[2]
    assert failures(outcomes) == []


# Faults of the whole run


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_nothing_listening_is_told_by_the_first_wait(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{unused_port()}/v1"

    with pytest.raises(UserError, match="does not answer") as caught:
        ask(tmp_path, make_requests(20), url)

    assert url in str(caught.value)
    assert read_journal(tmp_path / "journal.jsonl") == {}


def test_an_outage_ends_the_run_and_blames_no_row(tmp_path: Path) -> None:
    with connected_to_one_that_has_gone(tmp_path, settings(max_retries=1, outage_seconds=1.0)) as client:
        batch = submit(client, make_requests(20, start=5), tmp_path)

        with pytest.raises(UserError, match="run the same command again"):
            finish(client, batch)

    assert len(read_journal(tmp_path / "journal.jsonl")) == 5


@contextmanager
def connected_to_one_that_has_gone(folder: Path, config: RequestsConfig) -> Iterator[Client]:
    """A client that has had five good answers from a server that then went away."""
    with StubServer() as stub:
        client = connect(folder, stub.url, config=config)
        finish(client, submit(client, make_requests(5), folder))
    try:
        yield client
    finally:
        client.close()


def test_an_outage_that_ends_in_time_costs_no_row(tmp_path: Path) -> None:
    with StubServer() as stub:
        port = stub.port
        client = connect(tmp_path, stub.url, config=settings(outage_seconds=20.0))
        finish(client, submit(client, make_requests(5), tmp_path))
    try:
        batch = submit(client, make_requests(20, start=5), tmp_path)
        time.sleep(2.0)  # Each has found nobody by now, and more often than it may fail otherwise.
        with StubServer(port=port):
            outcomes = finish(client, batch)
    finally:
        client.close()

    assert failures(outcomes) == []


def test_when_one_of_two_servers_goes_away_the_other_does_the_work(tmp_path: Path) -> None:
    with StubServer() as stays:
        with StubServer() as goes:
            client = connect(tmp_path, goes.url, stays.url, config=settings(max_retries=3, outage_seconds=5.0))
            finish(client, submit(client, make_requests(20), tmp_path))
        try:
            outcomes = finish(client, submit(client, make_requests(40, start=20), tmp_path))
        finally:
            client.close()

    assert failures(outcomes) == []


def refuse(status: int, message: str = "not for you") -> Answer:
    async def answer(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return web.json_response({"error": {"message": message}}, status=status)

    return answer


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 413, 422])
def test_a_refused_trial_question_ends_the_run_before_any_work(tmp_path: Path, status: int) -> None:
    with StubServer(on_trial=refuse(status)) as stub, pytest.raises(UserError, match=f"HTTP {status}: not for you"):
        ask(tmp_path, make_requests(20), stub.url)

    assert (stub.bodies, len(stub.trials)) == ([], 1)
    assert read_journal(tmp_path / "journal.jsonl") == {}


@pytest.mark.parametrize("status", [401, 402])
def test_what_no_row_can_succeed_with_ends_the_run(tmp_path: Path, status: int) -> None:
    with StubServer(budget_of(28, refuse(status))) as stub, pytest.raises(UserError, match=f"HTTP {status}: not for"):
        ask(tmp_path, make_requests(80), stub.url)

    assert failures([*read_journal(tmp_path / "journal.jsonl").values()]) == []


def budget_of(requests: int, afterwards: Answer) -> Answer:
    """Good answers to so many requests, and then others."""
    served = 0

    async def answer(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        nonlocal served
        served += 1
        return await (good if served <= requests else afterwards)(request, body)

    return answer


@pytest.mark.parametrize("status", [400, 403, 404, 413, 422])
@pytest.mark.parametrize("rows", [70, 62])
def test_what_befalls_all_rows_from_one_on_is_the_fault_of_the_run(tmp_path: Path, status: int, rows: int) -> None:
    requests = make_requests(rows)
    answer = budget_of(60, refuse(status, "budget_exceeded"))
    with StubServer(answer, on_trial=answer) as stub, pytest.raises(UserError, match="budget_exceeded"):
        ask(tmp_path, requests, stub.url)

    journal = read_journal(tmp_path / "journal.jsonl")
    assert len(journal) == 59  # One was the trial request.
    assert failures([*journal.values()]) == []


def test_after_topping_up_the_same_rows_are_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = make_requests(40)
    answer = budget_of(21, refuse(400, "budget_exceeded"))
    with StubServer(answer, on_trial=answer) as stub:
        first = generator_with_key(tmp_path, stub.url, monkeypatch)
        with pytest.raises(UserError):
            finish_served(first, first.submit("train-0", requests))
        first.close()
    with StubServer() as stub:
        second = generator_with_key(tmp_path, stub.url, monkeypatch)
        outcomes = finish_served(second, second.submit("train-0", requests))
        second.close()

        assert len(stub.bodies) == 20
    assert failures(outcomes) == []


@pytest.mark.parametrize("status", [400, 403, 413, 422])
@pytest.mark.parametrize("bad", [{0}, {5}, {39}, {*range(0, 40, 2)}, {*range(40)}])
def test_what_befalls_some_rows_alone_is_their_own_fault(tmp_path: Path, status: int, bad: set[int]) -> None:
    async def moderate(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return await (refuse(status, "flagged") if number(body) in bad else good)(request, body)

    with StubServer(moderate) as stub:
        outcomes = ask(tmp_path, make_requests(40), stub.url)

        assert len(stub.bodies) == 40
    failed = {k: outcome for k, outcome in enumerate(outcomes) if isinstance(outcome, Failure)}
    assert failed == dict.fromkeys(bad, Failure(f"http_{status}", f"HTTP {status}: flagged", may_pass=False))


def test_one_bad_server_behind_an_address_costs_no_row_for_good(tmp_path: Path) -> None:
    """A 404 waits for a verdict as a refusal does, but a resumed run asks again what may pass."""
    lost = {*range(0, 40, 3)}

    async def balance(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return await (refuse(404, "no such model") if number(body) in lost else good)(request, body)

    with StubServer(balance) as stub:
        outcomes = ask(tmp_path, make_requests(40), stub.url)
        assert len(stub.bodies) == 40
    failed = {k: outcome for k, outcome in enumerate(outcomes) if isinstance(outcome, Failure)}
    assert failed == dict.fromkeys(lost, Failure("http_404", "HTTP 404: no such model", may_pass=True))


def test_answers_under_way_when_a_budget_ends_do_not_put_the_blame_on_rows(tmp_path: Path) -> None:
    """Requests in flight were admitted earlier, so only later ones show a change of the server."""
    refused = asyncio.Event()

    async def admit_four(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        if number(body) >= 4:
            refused.set()
            return await refuse(400, "budget_exceeded")(request, body)
        await refused.wait()
        await asyncio.sleep(0.2)
        return await good(request, body)

    spent = budget_of(1, refuse(400, "budget_exceeded"))
    with StubServer(admit_four, on_trial=spent) as stub, pytest.raises(UserError, match="budget_exceeded"):
        ask(tmp_path, make_requests(10), stub.url, in_flight=10)

    assert failures([*read_journal(tmp_path / "journal.jsonl").values()]) == []


def test_one_of_two_endpoints_that_refuses_all_is_named(tmp_path: Path) -> None:
    spent = budget_of(10, refuse(400, "budget_exceeded"))
    with StubServer(spent, on_trial=spent) as one, StubServer() as other, pytest.raises(UserError) as caught:
        ask(tmp_path, make_requests(200), one.url, other.url)

    assert one.url in str(caught.value)
    assert other.url not in str(caught.value)
    assert failures([*read_journal(tmp_path / "journal.jsonl").values()]) == []


@pytest.mark.parametrize("status", [408, 409, 425, 500])
def test_a_row_lost_to_circumstances_may_pass(tmp_path: Path, status: int) -> None:
    async def fail_one(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return await (refuse(status) if number(body) == 3 else good)(request, body)

    with StubServer(fail_one) as stub:
        outcomes = ask(tmp_path, make_requests(8), stub.url)

    assert failures(outcomes) == [Failure(f"http_{status}", f"HTTP {status}: not for you", may_pass=True)]


def test_trial_questions_are_no_rows(tmp_path: Path) -> None:
    keys = {"mining": {"source": {"kind": "threads", "path": ("packaged",)}, "share": 0.5}}
    with StubServer() as stub:
        client = Client(RemoteEndpoints([stub.url]), "", trials(pairs=2, **keys), 4, settings(), counters_for(tmp_path))
        try:
            finish(client, submit(client, make_requests(3), tmp_path))
        finally:
            client.close()

        assert ["prompt" in body for body in stub.trials] == [False, True, True, True]
        assert len(stub.bodies) == 3
    assert (counters_for(tmp_path).get("requests_sent"), counters_for(tmp_path).get("prompt_tokens")) == (3, 300)
    assert len(read_journal(tmp_path / "journal.jsonl")) == 3


def test_a_kind_of_request_that_the_server_does_not_know_ends_the_run(tmp_path: Path) -> None:
    async def chat_alone(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return await (refuse(404) if "prompt" in body else good)(request, body)

    mined = trials(pairs=None, mining={"source": {"kind": "threads", "path": ("packaged",)}})
    with StubServer(on_trial=chat_alone) as stub:
        client = Client(RemoteEndpoints([stub.url]), "", mined, 4, settings(), counters_for(tmp_path))
        batch = submit(client, make_choices(2), tmp_path)
        with pytest.raises(UserError, match=f"{stub.url}/completions does not know") as caught:
            finish(client, batch)
        client.close()

    assert "mining.annotation.mode: json" in str(caught.value)


def test_a_refusal_of_one_endpoint_does_not_wait_for_another(tmp_path: Path) -> None:
    with StubServer(on_trial=hang) as silent, StubServer(on_trial=refuse(404)) as wrong:
        client = connect(tmp_path, silent.url, wrong.url, config=settings(timeout_seconds=600.0))
        batch = submit(client, make_requests(1), tmp_path)
        with pytest.raises(UserError, match=wrong.url):
            finish(client, batch)
        close_in_time(client)


@pytest.mark.parametrize("listed", [("openai/*",), ("stub:latest",), ()])
def test_a_model_that_no_list_names_is_asked(tmp_path: Path, listed: tuple[str, ...]) -> None:
    with StubServer(models=listed) as stub:
        outcomes = ask(tmp_path, make_requests(3), stub.url)

    assert failures(outcomes) == []


def test_a_model_that_is_unknown_is_told_with_those_that_are_listed(tmp_path: Path) -> None:
    models = ("llama", "mistral", *(f"model-{k}" for k in range(300)))
    with StubServer(models=models, on_trial=refuse(404, "no such model")) as stub, pytest.raises(UserError) as caught:
        ask(tmp_path, make_requests(1), stub.url)

    assert "no such model" in str(caught.value)
    assert "generation.model (the models that it lists: 'llama', 'mistral', 'model-0'" in str(caught.value)
    assert len(str(caught.value)) < 400


# Outages


async def error_in_200(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    return web.json_response({"error": {"message": "upstream is gone"}})


async def web_page(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    return web.Response(text="<html>maintenance</html>")


OUTAGES = [refuse(500), refuse(502), refuse(504), refuse(520), error_in_200, web_page, hang_up]


@pytest.mark.parametrize("fault", OUTAGES, ids=["500", "502", "504", "520", "error", "page", "hung up"])
def test_what_all_requests_meet_for_a_while_costs_no_row(tmp_path: Path, fault: Answer) -> None:
    answer = outage_after(12, fault, seconds=2.0)
    with StubServer(answer, on_trial=answer) as stub:
        outcomes = ask(tmp_path, make_requests(48), stub.url, config=settings(max_retries=1, outage_seconds=20.0))

        assert len(stub.bodies) > 48
    assert failures(outcomes) == []


def outage_after(requests: int, fault: Answer, seconds: float) -> Answer:
    """Good answers to so many requests, then faults for a while."""
    served, since = 0, 0.0

    async def answer(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        nonlocal served, since
        served += 1
        if served == requests + 1:
            since = time.monotonic()
        is_out = served > requests and time.monotonic() - since < seconds
        return await (fault if is_out else good)(request, body)

    return answer


@pytest.mark.parametrize(
    "fault", [*OUTAGES, hang], ids=["500", "502", "504", "520", "error", "page", "hung up", "hangs"]
)
@pytest.mark.parametrize("served", [0, 12])
def test_what_all_requests_meet_for_too_long_ends_the_run_and_blames_no_row(
    tmp_path: Path, fault: Answer, served: int
) -> None:
    answer = outage_after(served, fault, seconds=3600.0)
    with StubServer(answer, on_trial=answer) as stub, pytest.raises(UserError, match="no endpoint has answered"):
        ask(tmp_path, make_requests(48), stub.url, config=settings(timeout_seconds=0.5, outage_seconds=1.0))

    assert failures([*read_journal(tmp_path / "journal.jsonl").values()]) == []


def test_a_slow_server_is_no_outage(tmp_path: Path) -> None:
    async def slowly(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        await asyncio.sleep(0.5)
        return await good(request, body)

    with StubServer(slowly, on_trial=slowly) as stub:
        outcomes = ask(tmp_path, make_requests(2), stub.url, in_flight=1, config=settings(outage_seconds=0.1))

    assert failures(outcomes) == []


def test_one_of_two_endpoints_that_is_out_of_order_costs_no_row(tmp_path: Path) -> None:
    answer = outage_after(6, refuse(502), seconds=3600.0)
    with StubServer(answer, on_trial=answer) as broken, StubServer() as works:
        outcomes = ask(tmp_path, make_requests(100), broken.url, works.url, config=settings(max_retries=1))

    assert failures(outcomes) == []


def test_the_same_address_twice_is_one_that_can_be_gone(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{unused_port()}/v1"

    with pytest.raises(UserError, match="does not answer"):
        ask(tmp_path, make_requests(3), url, f"{url}/")


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_ends_the_run_and_names_the_address(tmp_path: Path, status: int) -> None:
    with StubServer() as right:

        async def elsewhere(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
            return web.Response(status=status, headers={"Location": f"{right.url}{request.path.removeprefix('/v1')}"})

        with StubServer(on_trial=elsewhere) as stub, pytest.raises(UserError) as caught:
            ask(tmp_path, make_requests(3), stub.url)

    assert f"set engine.base_urls to {right.url}" in str(caught.value)
    assert right.trials == []


def test_a_redirect_does_not_show_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def elsewhere(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return web.Response(status=307, headers={"location": "/sk%2Dvery-secret/chat/completions?key=sk-very-secret"})

    with StubServer(on_trial=elsewhere) as stub:
        service = generator_with_key(tmp_path, stub.url, monkeypatch)
        with pytest.raises(UserError, match=r"redirects to .*/\*\*\*/") as caught:
            finish_served(service, service.submit("train-0", make_requests(1)))
        service.close()

    assert "very" not in str(caught.value)


def test_a_fault_of_the_run_is_raised_again_by_every_call(tmp_path: Path) -> None:
    async def refuse(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return web.Response(status=401)

    with StubServer(refuse) as stub, connected(tmp_path, stub.url) as client:
        batch = submit(client, make_requests(1), tmp_path)
        with pytest.raises(UserError):
            finish(client, batch)

        with pytest.raises(UserError):
            client.wait()
        with pytest.raises(UserError):
            submit(client, make_requests(1), tmp_path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_ends_the_run(tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl").symlink_to("/dev/full")

    with StubServer() as stub, pytest.raises(UserError, match=r"cannot write .*journal\.jsonl: No space left"):
        ask(tmp_path, make_requests(20), stub.url)


# Proxies


def test_a_server_on_this_machine_is_asked_without_the_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{unused_port()}")
    with StubServer() as stub:
        assert failures(ask(tmp_path, make_requests(3), stub.url)) == []


def test_a_proxy_is_used_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with StubServer() as proxy:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
        outcomes = ask(tmp_path, make_requests(3), "http://model.example/v1")

        assert len(proxy.bodies) == 3
    assert failures(outcomes) == []


def test_an_error_names_the_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = unused_port()
    monkeypatch.setenv("http_proxy", f"http://me:secret@127.0.0.1:{port}")

    with pytest.raises(UserError, match="does not answer") as caught:
        ask(tmp_path, make_requests(3), "http://model.example/v1")

    assert f"through the proxy 127.0.0.1:{port}" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_an_answer_of_a_proxy_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with StubServer(on_trial=refuse(403, "blocked by policy")) as proxy, pytest.raises(UserError) as caught:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
        ask(tmp_path, make_requests(3), "http://model.example/v1")

    assert "blocked by policy" in str(caught.value)
    assert f"through the proxy 127.0.0.1:{proxy.port}" in str(caught.value)


# Closing


def close_in_time(client: Client) -> None:
    closing = threading.Thread(target=client.close, daemon=True)
    closing.start()
    closing.join(PATIENCE)
    assert not closing.is_alive()


def test_closing_in_the_middle_keeps_each_outcome_that_has_arrived(tmp_path: Path) -> None:
    async def some_hang(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return await (hang(request, body) if number(body) % 5 == 4 else good(request, body))

    requests = make_requests(40)
    with StubServer(some_hang) as stub:
        client = connect(tmp_path, stub.url, in_flight=8, config=settings(timeout_seconds=600.0))
        batch = submit(client, requests, tmp_path)
        # When eight hang the window is full: the 32 good ones before the 40th have been answered.
        wait_until(lambda: batch.pending == 8, client)
        close_in_time(client)

    kept = read_journal(tmp_path / "journal.jsonl")
    assert kept == {requests[k].key: outcome for k, outcome in enumerate(batch.outcomes) if outcome is not None}
    assert len(kept) == 32


def test_closing_cancels_what_is_queued(tmp_path: Path) -> None:
    with StubServer(hang) as stub:
        client = connect(tmp_path, stub.url, in_flight=4, config=settings(timeout_seconds=600.0))
        submit(client, make_requests(1000), tmp_path)
        wait_until(lambda: len(stub.bodies) == 4, client)
        close_in_time(client)

        assert len(stub.bodies) == 4


def test_closing_does_not_wait_for_a_busy_server(tmp_path: Path) -> None:
    async def busy(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return web.Response(status=429, headers={"Retry-After": "500"})

    with StubServer(busy) as stub:
        config = settings(max_wait_seconds=1000.0)
        client = connect(tmp_path, stub.url, in_flight=4, config=config)
        submit(client, make_requests(10), tmp_path)
        wait_until(lambda: len(stub.bodies) == 4, client)
        close_in_time(client)


@pytest.mark.parametrize("queued", [0, 10])
def test_closing_does_not_wait_for_a_server_that_has_not_answered_yet(tmp_path: Path, queued: int) -> None:
    with StubServer(on_trial=hang) as stub:
        client = connect(tmp_path, stub.url, in_flight=4, config=settings())
        submit(client, make_requests(queued), tmp_path)
        wait_until(lambda: len(stub.trials) == 1, client)
        close_in_time(client)


def test_closing_twice_is_no_error(tmp_path: Path) -> None:
    with StubServer() as stub:
        client = connect(tmp_path, stub.url, in_flight=4, config=settings())
        close_in_time(client)
        close_in_time(client)


def test_closing_after_a_fault_is_no_error(tmp_path: Path) -> None:
    client = connect(tmp_path, f"http://127.0.0.1:{unused_port()}/v1", in_flight=4, config=settings())
    batch = submit(client, make_requests(1), tmp_path)
    with pytest.raises(UserError):
        finish(client, batch)

    close_in_time(client)


# The key, from the environment to the server and nowhere else


def generator_with_key(
    folder: Path, url: str, monkeypatch: pytest.MonkeyPatch, key: str = "sk-very-secret"
) -> GenerationService:
    monkeypatch.setenv("KEY_OF_THIS_TEST", key)
    engine = OpenAiEngine(kind="openai", base_urls=(url,), api_key_env="KEY_OF_THIS_TEST", in_flight=4)
    config = BuildConfig(pairs=1, engine=engine, generation=GenerationConfig(model="stub"), requests=settings())
    return GenerationService(BuildPlan(folder, "fingerprint", config))


def finish_served(service: GenerationService, batch: RequestBatch) -> list[Outcome]:
    deadline = time.monotonic() + PATIENCE
    while not batch.is_done:
        service.wait()
        assert time.monotonic() < deadline, "waited for too long"
    return batch.result()


def files_with(folder: Path, secret: str) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]


def test_the_key_is_sent_and_is_in_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def some_fail(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return await (failed(400 if number(body) == 3 else 500) if number(body) >= 3 else good(request, body))

    with StubServer(some_fail) as stub:
        service = generator_with_key(tmp_path, stub.url, monkeypatch)
        finish_served(service, service.submit("train-0", make_requests(5)))
        counters_for(tmp_path).flush()
        service.close()

        assert {headers["Authorization"] for headers in stub.headers} == {"Bearer sk-very-secret"}
    assert len(read_journal(tmp_path / "journal" / "train-0.jsonl")) == 5
    assert files_with(tmp_path, "sk-very-secret") == []


ESCAPED = "".join(f"\\u{ord(char):04x}" for char in "sk-very-secret")


def quoted(status: int, key: str) -> web.Response:
    """An answer that quotes the key, at the place where a long text is cut."""
    text = f"{'No. ' * 45}Your key is {key}"
    message = (
        {"choices": [{"message": {"content": text}, "finish_reason": "stop"}]} if status == 200 else {"error": text}
    )
    return web.json_response(text=json.dumps(message).replace("\\\\u", "\\u"), status=status)


@pytest.mark.parametrize("key", ["sk-very-secret", ESCAPED, "sk%2Dvery%2Dsecret"], ids=["plain", "json", "url"])
@pytest.mark.parametrize("status", [200, 201, 400, 422, 500])
def test_a_key_that_an_answer_quotes_is_in_no_outcome_and_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, key: str
) -> None:
    async def quote(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return quoted(status, key)

    with StubServer(quote) as stub:
        service = generator_with_key(tmp_path, stub.url, monkeypatch)
        (outcome,) = finish_served(service, service.submit("train-0", make_requests(1)))
        counters_for(tmp_path).flush()
        service.close()

    assert "Your key is ***" in (outcome.text if isinstance(outcome, Completion) else outcome.detail)
    assert not any(part in repr(outcome) for part in ("sk-", "secret", "sk%", "secr"))
    assert files_with(tmp_path, "sk-ver") == files_with(tmp_path, "sk%2D") == []


def test_an_answer_without_an_end_is_garbled(tmp_path: Path) -> None:
    async def endless(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b" " * 2**16)

    with StubServer(endless) as stub:
        (outcome,) = ask(tmp_path, make_requests(1), stub.url, config=settings(max_retries=0))

    assert outcome == Failure("garbled", "the response is larger than 8 MiB", may_pass=True)


@pytest.mark.parametrize("key", ["sk-very-secret\n", " sk-very-secret", "\tsk-very-secret\r\n"])
def test_white_space_around_a_key_is_none_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    with StubServer() as stub:
        service = generator_with_key(tmp_path, stub.url, monkeypatch, key)
        finish_served(service, service.submit("train-0", make_requests(1)))
        service.close()

        assert stub.headers[0]["Authorization"] == "Bearer sk-very-secret"


@pytest.mark.parametrize("key", ["sk-very\nsecret", "sk-very secret", "sk-very\x00secret", "sk-vérý"])
def test_a_key_that_is_none_is_refused_by_its_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    if "\x00" in key:
        # The environment of a process holds none, but that of a test may.
        monkeypatch.setattr(os, "environ", {"KEY_OF_THIS_TEST": key})
    else:
        monkeypatch.setenv("KEY_OF_THIS_TEST", key)

    with pytest.raises(UserError, match="KEY_OF_THIS_TEST") as caught:
        read_key("KEY_OF_THIS_TEST")

    assert "sk-" not in str(caught.value)


def test_without_a_key_no_header_is_sent(tmp_path: Path) -> None:
    with StubServer() as stub:
        ask(tmp_path, make_requests(1), stub.url)

        assert "Authorization" not in stub.headers[0]


@pytest.mark.parametrize("status", [401, 402, 403, 404])
def test_the_key_is_in_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    with StubServer(on_trial=refuse(status, "not for sk-very-secret")) as stub:
        service = generator_with_key(tmp_path, stub.url, monkeypatch)
        batch = service.submit("train-0", make_requests(5))
        with pytest.raises(UserError) as caught:
            finish_served(service, batch)
        service.close()

    assert f"HTTP {status}: not for" in str(caught.value)
    assert "sk-very-secret" not in str(caught.value)
    assert files_with(tmp_path, "sk-very-secret") == []


def test_what_the_journal_knows_is_not_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = make_requests(10)
    with StubServer() as stub:
        first = generator_with_key(tmp_path, stub.url, monkeypatch)
        known = finish_served(first, first.submit("train-0", requests[:6]))
        first.close()
        asked_before = len(stub.bodies)

        second = generator_with_key(tmp_path, stub.url, monkeypatch)
        outcomes = finish_served(second, second.submit("train-0", requests))
        second.close()

        assert asked_before == 6
        assert Counter(number(body) for body in stub.bodies) == Counter(range(10))
    assert outcomes[:6] == known


def test_of_failures_a_resumed_run_asks_again_what_may_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = make_requests(3)
    journal = open_journal(tmp_path / "journal" / "train-0.jsonl")
    for request, may_pass in zip(requests, (True, False, True), strict=True):
        journal.append(request.key, Failure("http_408", "HTTP 408: slow", may_pass=may_pass))
    journal.close()

    with StubServer() as stub:
        service = generator_with_key(tmp_path, stub.url, monkeypatch)
        outcomes = finish_served(service, service.submit("train-0", requests))
        service.close()

        assert sorted(number(body) for body in stub.bodies) == [0, 2]
    assert failures(outcomes) == [Failure("http_408", "HTTP 408: slow", may_pass=False)]
