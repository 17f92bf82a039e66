from __future__ import annotations

import asyncio
import functools
import itertools
import threading
import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from pipeline.generation.completions import (
    AnyRequest,
    Completion,
    Failure,
    decode_probabilities,
)
from pipeline.generation.journal import read_journal
from pipeline.runtime.progress import counters_for
from schemas.base import UserError
from tests.pipeline.generation.asking import (
    Load,
    ask,
    close_in_time,
    connect,
    connected,
    cut_off,
    failed,
    failures,
    finish,
    hang,
    hang_up,
    make_choices,
    make_requests,
    number,
    reason,
    settings,
    submit,
    texts,
    trials,
    unused_port,
)
from tests.stub import Answer, StubServer, budget_of, choices, completion, completions, delayed, good, good_text, refuse
from tests.waiting import wait_until

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
    assert counts.get("tokens_heard") == 150
    assert (counts.get("requests_sent"), counts.get("in_flight")) == (5, 0)


def test_without_a_key_no_header_is_sent(tmp_path: Path) -> None:
    with StubServer() as stub:
        ask(tmp_path, make_requests(1), stub.url)

        assert "Authorization" not in stub.headers[0]


@pytest.mark.parametrize("in_flight", [1, 5])
def test_the_window_is_filled_and_never_exceeded(tmp_path: Path, in_flight: int) -> None:
    load = Load()

    async def slowly(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        with load.measured():
            await asyncio.sleep(0.1)
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
        wait_until(lambda: all(batch.is_done for batch in batches), pause=client.wait)

    assert failures([outcome for batch in batches for outcome in batch.result()]) == []


def test_backlog_counts_what_has_no_outcome_yet(tmp_path: Path) -> None:
    released = threading.Event()

    async def answer(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        while number(body) >= 10 and not released.is_set():  # noqa: ASYNC110 - the event is another thread's
            await asyncio.sleep(0.01)
        return await good(request, body)

    with StubServer(answer) as stub, connected(tmp_path, stub.url) as client:
        batch = submit(client, make_requests(30), tmp_path)
        before = client.backlog
        wait_until(lambda: batch.pending == 20, pause=client.wait)
        during = client.backlog
        released.set()
        finish(client, batch)

        assert (before, during, client.backlog) == (30, 20, 0)


def test_two_base_urls_share_the_load(tmp_path: Path) -> None:
    with StubServer(delayed(0.01)) as one, StubServer(delayed(0.01)) as two:
        outcomes = ask(tmp_path, make_requests(60), one.url, two.url)

        assert len(one.bodies) + len(two.bodies) == 60
        assert min(len(one.bodies), len(two.bodies)) >= 15
    assert failures(outcomes) == []


# Rows that fail


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_refused_request_is_asked_exactly_once(tmp_path: Path, status: int) -> None:
    with StubServer(refuse(status, "prompt too long")) as stub:
        outcomes = ask(tmp_path, make_requests(1), stub.url)

        assert len(stub.bodies) == 1
    assert outcomes == [Failure(f"http_{status}", f"HTTP {status}: prompt too long", may_pass=False)]


def test_one_bad_row_among_a_hundred_fails_alone(tmp_path: Path) -> None:
    async def refuse_one(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return await (refuse(400, "prompt too long") if number(body) == 41 else good)(request, body)

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
            tmp_path, make_requests(30), stub.url, config=settings(timeout_seconds=0.3, max_wait_seconds=0.5)
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


def test_a_reply_that_never_comes_fails_once_it_was_asked_alone(tmp_path: Path) -> None:
    with StubServer(hang) as stub:
        outcomes = ask(tmp_path, make_requests(1), stub.url, config=settings(timeout_seconds=0.2, max_retries=0))

        assert len(stub.bodies) == 3
    assert outcomes == [Failure("timeout", "no reply within 0.2 s", may_pass=True)]


def test_a_reply_that_trickles_in_without_a_token_fails(tmp_path: Path) -> None:
    async def trickle(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b" ")
            await asyncio.sleep(0.05)

    with StubServer(trickle) as stub:
        outcomes = ask(tmp_path, make_requests(1), stub.url, config=settings(timeout_seconds=0.2))

    assert reason(outcomes) == "timeout"


def test_an_answer_without_an_end_is_garbled(tmp_path: Path) -> None:
    async def endless(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b" " * 2**16)

    with StubServer(endless) as stub:
        (outcome,) = ask(tmp_path, make_requests(1), stub.url, config=settings(max_retries=0))

    assert outcome == Failure("garbled", "the response is larger than 8 MiB", may_pass=True)


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


def test_a_retried_request_is_the_same_request(tmp_path: Path) -> None:
    with StubServer(refuse(500)) as stub:
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
            StubServer(answer, on_trial=budget_of(len(trials()), answer)) as stub,
            connected(folder, stub.url, config=config) as client,
        ):
            submit(client, make_requests(1), folder)
            is_seen = functools.partial(lambda counts, name: counts.get(name) == 1, counters_for(folder), gauge)
            wait_until(is_seen, pause=client.wait)


def test_requests_that_wait_for_their_retry_are_not_in_flight(tmp_path: Path) -> None:
    answer = refuse(502)
    with (
        StubServer(answer, on_trial=budget_of(len(trials()), answer)) as stub,
        connected(tmp_path, stub.url, config=settings(outage_seconds=20.0)) as client,
    ):
        submit(client, make_requests(1), tmp_path)
        counts = counters_for(tmp_path)
        wait_until(lambda: counts.get("requests_sent") > 0 and counts.get("in_flight") == 0, pause=client.wait)

        assert client.backlog == 1


def test_an_endpoint_that_rests_leaves_the_work_to_the_other(tmp_path: Path) -> None:
    with StubServer(busy("3600")) as full, StubServer() as free:
        outcomes = ask(tmp_path, make_requests(30), full.url, free.url, in_flight=4)

        assert len(full.bodies) <= 4
    assert failures(outcomes) == []


# Calls of many prompts


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
        (hang, "timeout", 3),
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
            tmp_path, make_choices(3, 3, 3, 3), stub.url, config=settings(timeout_seconds=0.5, max_wait_seconds=0.5)
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


def test_closing_in_the_middle_keeps_each_outcome_that_has_arrived(tmp_path: Path) -> None:
    async def some_hang(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return await (hang(request, body) if number(body) % 5 == 4 else good(request, body))

    requests = make_requests(20)
    with StubServer(some_hang) as stub:
        client = connect(tmp_path, stub.url, in_flight=4, config=settings(timeout_seconds=600.0))
        batch = submit(client, requests, tmp_path)
        # When four hang the window is full: the 16 good ones before the 20th have been answered.
        wait_until(lambda: batch.pending == 4, pause=client.wait)
        close_in_time(client)

    kept = read_journal(tmp_path / "journal.jsonl")
    assert kept == {requests[k].key: outcome for k, outcome in enumerate(batch.outcomes) if outcome is not None}
    assert len(kept) == 16


def test_closing_cancels_what_is_queued(tmp_path: Path) -> None:
    with StubServer(hang) as stub:
        client = connect(tmp_path, stub.url, in_flight=4, config=settings(timeout_seconds=600.0))
        submit(client, make_requests(1000), tmp_path)
        wait_until(lambda: len(stub.bodies) == 4, pause=client.wait)
        close_in_time(client)

        assert len(stub.bodies) == 4


def test_closing_does_not_wait_for_a_busy_server(tmp_path: Path) -> None:
    with StubServer(busy("500")) as stub:
        config = settings(max_wait_seconds=1000.0)
        client = connect(tmp_path, stub.url, in_flight=4, config=config)
        submit(client, make_requests(10), tmp_path)
        wait_until(lambda: len(stub.bodies) == 4, pause=client.wait)
        close_in_time(client)


@pytest.mark.parametrize("queued", [0, 10])
def test_closing_does_not_wait_for_a_server_that_has_not_answered_yet(tmp_path: Path, queued: int) -> None:
    with StubServer(on_trial=hang) as stub:
        client = connect(tmp_path, stub.url, in_flight=4, config=settings(timeout_seconds=600.0))
        submit(client, make_requests(queued), tmp_path)
        wait_until(lambda: len(stub.trials) == 1, pause=client.wait)
        close_in_time(client)


def test_closing_twice_is_no_error(tmp_path: Path) -> None:
    with StubServer() as stub:
        client = connect(tmp_path, stub.url, in_flight=4, config=settings())
        close_in_time(client)
        close_in_time(client)


def test_closing_after_a_fault_is_no_error(tmp_path: Path) -> None:
    client = connect(tmp_path, f"http://127.0.0.1:{unused_port()}/v1", in_flight=4, config=settings())
    # The fault may show before the requests are submitted.
    with pytest.raises(UserError):
        finish(client, submit(client, make_requests(1), tmp_path))

    close_in_time(client)
