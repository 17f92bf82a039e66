"""Slow, silent and stalled servers: a request is bounded by silence, and no row is lost to slowness."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from pipeline.generation.client import Client
from pipeline.generation.completions import Completion, Failure
from pipeline.generation.endpoints import RemoteEndpoints
from pipeline.generation.trial import Trials
from pipeline.runtime.progress import counters_for
from schemas.base import UserError
from tests.pipeline.generation.asking import (
    Load,
    ask,
    close_in_time,
    connect,
    connected,
    failures,
    finish,
    hang,
    make_requests,
    number,
    settings,
    submit,
    texts,
    trials,
)
from tests.stub import IS_STREAMED, StubServer, budget_of, good, refuse, stream
from tests.waiting import wait_until

LIMIT = 0.8
"""Seconds of silence after which these tests give up a request."""
PIECES = ["We baked rye bread ", "every Saturday, and ", "my grandmother said ", "that it keeps ", "for a week."]


def asked(stub: StubServer) -> Counter[int]:
    """How often each request was sent."""
    return Counter(map(number, stub.bodies))


# What bounds a request


@pytest.mark.parametrize("event_tokens", [1, 8])
def test_a_stream_that_takes_far_longer_than_the_limit_is_sent_once(
    tmp_path: Path, event_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RemoteEndpoints, "event_tokens", event_tokens)

    async def slowly(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return await stream(request, PIECES, pause=0.6 * LIMIT)

    with StubServer(slowly) as stub:
        outcomes = ask(tmp_path, make_requests(8), stub.url, config=settings(timeout_seconds=LIMIT))

        assert set(asked(stub).values()) == {1}
    assert outcomes == [Completion("".join(PIECES), "stop", 100, 30)] * 8
    assert counters_for(tmp_path).get("tokens_heard") == counters_for(tmp_path).get("completion_tokens") == 240


def test_comments_are_no_tokens(tmp_path: Path) -> None:
    async def ping(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        if asked(stub)[number(body)] > 1:
            return await good(request, body)
        return await stream(request, [PIECES[0], *[b": ping\n\n"] * 1000], pause=0.2 * LIMIT)

    with StubServer(ping) as stub:
        outcomes = ask(tmp_path, make_requests(1), stub.url, config=settings(timeout_seconds=LIMIT))

        assert asked(stub) == {0: 2}
    assert failures(outcomes) == []


def test_a_request_waits_for_its_first_token_while_the_server_works_on_others(tmp_path: Path) -> None:
    async def first_waits(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        if number(body) == 0:
            await asyncio.sleep(3 * LIMIT)
            return await good(request, body)
        return await stream(request, PIECES, pause=0.7 * LIMIT)

    with StubServer(first_waits) as stub:
        outcomes = ask(tmp_path, make_requests(4), stub.url, config=settings(timeout_seconds=LIMIT))

        assert set(asked(stub).values()) == {1}
    assert failures(outcomes) == []


def test_a_request_that_others_overtake_is_lost_and_sent_again(tmp_path: Path) -> None:
    async def lose_one(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        if number(body) == 0 and asked(stub)[0] == 1:
            return await hang(request, body)
        await asyncio.sleep(0.1 * LIMIT)
        return await good(request, body)

    def ask_others() -> None:
        finish(client, submit(client, make_requests(4, start=next(numbers)), tmp_path))

    numbers = itertools.count(1, 4)
    with StubServer(lose_one) as stub, connected(tmp_path, stub.url, config=settings(timeout_seconds=LIMIT)) as client:
        lost = submit(client, make_requests(1), tmp_path)
        # Others are answered all the time, so the server is never silent.
        wait_until(lambda: lost.is_done, pause=ask_others)

        assert asked(stub)[0] == 2
    assert failures(lost.result()) == []


@pytest.mark.parametrize("is_healthy", [True, False])
def test_a_silent_server_is_waited_for_as_long_as_it_says_that_it_is_healthy(tmp_path: Path, is_healthy: bool) -> None:
    async def late(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        await asyncio.sleep(2.5 * LIMIT if asked(stub)[number(body)] == 1 else 0)
        return await good(request, body)

    with StubServer(late, is_healthy=is_healthy) as stub:
        outcomes = ask(tmp_path, make_requests(2), stub.url, config=settings(timeout_seconds=LIMIT))

        assert set(asked(stub).values()) == {1 if is_healthy else 2}
    assert failures(outcomes) == []


@pytest.mark.parametrize(("seconds", "is_healthy"), [(0.6 * LIMIT, False), (3 * LIMIT, True), (3 * LIMIT, False)])
def test_a_server_that_stalls_amid_replies_costs_no_row(tmp_path: Path, seconds: float, is_healthy: bool) -> None:
    began = 0.0

    async def stall(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        nonlocal began
        began = began or time.monotonic() + 0.2

        async def pieces() -> AsyncIterator[str]:
            for piece in PIECES:
                await asyncio.sleep(0.1)
                if time.monotonic() > began:
                    await asyncio.sleep(began + seconds - time.monotonic())
                yield piece

        return await stream(request, pieces())

    with StubServer(stall, is_healthy=is_healthy) as stub:
        outcomes = ask(tmp_path, make_requests(12), stub.url, in_flight=4, config=settings(timeout_seconds=LIMIT))

        assert (max(asked(stub).values()) == 1) == (seconds < LIMIT or is_healthy)
    assert texts(outcomes) == ["".join(PIECES)] * 12


# Whose fault


@pytest.mark.parametrize("tokens", [0, 1])
def test_a_request_that_always_hangs_is_sent_alone_in_the_end_and_fails_alone(tmp_path: Path, tokens: int) -> None:
    load, alone, outage = Load(), [], []

    async def poisoned(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        with load.measured():
            if number(body) == 3:
                alone.append(load.seen[-1] == 1)
                await stream(request, PIECES[:tokens], ends=False)
                return await until_gone(request)
            outage.append(counters_for(tmp_path).get("outage"))
            return await stream(request, PIECES, pause=0.05 * LIMIT)

    with StubServer(poisoned, is_healthy=False) as stub:
        outcomes = ask(tmp_path, make_requests(60), stub.url, in_flight=4, config=settings(timeout_seconds=LIMIT))

        assert asked(stub) == Counter(dict.fromkeys(range(60), 1) | {3: 3})
    assert [k for k, outcome in enumerate(outcomes) if isinstance(outcome, Failure)] == [3]
    (failure,) = failures(outcomes)
    assert (failure.reason, failure.may_pass) == ("timeout", True)
    assert f"{LIMIT:g} s" in failure.detail
    assert alone == [False, False, True]
    assert set(outage) == {0}


async def until_gone(request: web.Request) -> web.Response:
    """Wait until the client has hung up, as an engine stops then."""
    while request.transport is not None:  # noqa: ASYNC110 - aiohttp has no event for it
        await asyncio.sleep(0.02)
    return web.Response()


async def hang_after(pieces: list[str]) -> AsyncIterator[str]:
    for piece in pieces:
        yield piece
    await asyncio.sleep(3600)


def test_a_server_with_time_for_few_at_once_loses_no_row(tmp_path: Path) -> None:
    """Three requests fit, and the others get no token for longer than the limit."""
    load = Load()

    async def crowded(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        with load.measured():
            if load.seen[-1] > 3:
                return await until_gone(request)
            return await stream(request, PIECES, pause=0.1 * LIMIT)

    with StubServer(crowded) as stub:
        outcomes = ask(tmp_path, make_requests(24), stub.url, config=settings(timeout_seconds=LIMIT, max_retries=0))

    assert failures(outcomes) == []


@pytest.mark.parametrize("status", [408, 504, 524])
def test_a_gateway_that_gives_up_while_the_server_is_busy_costs_no_row(tmp_path: Path, status: int) -> None:
    load = Load()

    async def gateway(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        with load.measured():
            await asyncio.sleep(0.05)
            return await (refuse(status) if load.seen[-1] > 2 else good)(request, body)

    with StubServer(gateway) as stub:
        outcomes = ask(tmp_path, make_requests(24), stub.url, in_flight=8, config=settings(max_retries=0))

    assert failures(outcomes) == []


def test_a_fault_of_the_moment_costs_no_row_though_others_are_answered(tmp_path: Path) -> None:
    until = 0.0

    async def flaky(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        nonlocal until
        until = until or time.monotonic() + 0.7
        await asyncio.sleep(0.05)
        is_bad = number(body) % 2 == 1 and time.monotonic() < until
        return await (refuse(502) if is_bad else good)(request, body)

    with StubServer(flaky) as stub:
        outcomes = ask(tmp_path, make_requests(120), stub.url, in_flight=4, config=settings(max_retries=1))

        assert max(asked(stub).values()) == 2
    assert failures(outcomes) == []


def test_of_two_endpoints_the_silent_one_holds_up_few(tmp_path: Path) -> None:
    with StubServer(hang, on_trial=budget_of(len(trials()), hang), is_healthy=False) as silent, StubServer() as works:
        config = settings(timeout_seconds=LIMIT)
        outcomes = ask(tmp_path, make_requests(100), silent.url, works.url, config=config)

        assert len(silent.bodies) < 20
    assert failures(outcomes) == []


def test_an_engine_of_few_tokens_a_second_answers_all_and_is_asked_once(tmp_path: Path) -> None:
    """48 requests share 300 tokens/s, so each takes several times the limit, and a token every 0.2 s."""
    at_work: list[asyncio.Event] = []

    async def tokens() -> AsyncIterator[str]:
        for word in ["word "] * 20:
            turn = asyncio.Event()
            at_work.append(turn)
            if len(at_work) == 1:
                asyncio.get_running_loop().call_later(1 / 300, make_token)
            await turn.wait()
            yield word

    def make_token() -> None:
        at_work.pop(0).set()
        if at_work:
            asyncio.get_running_loop().call_later(1 / 300, make_token)

    async def engine(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return await stream(request, tokens())

    with StubServer(engine) as stub:
        outcomes = ask(tmp_path, make_requests(48), stub.url, in_flight=48, config=settings(timeout_seconds=LIMIT))

        assert asked(stub) == dict.fromkeys(range(48), 1)
    assert texts(outcomes) == ["word " * 20] * 48


# Going on after a cut


@pytest.mark.parametrize("owner", ["vllm", "library"])
def test_a_reply_that_was_cut_is_continued_where_the_server_can(tmp_path: Path, owner: str) -> None:
    async def cut(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        if len(stub.bodies) == 1:
            return await stream(request, hang_after(PIECES[:-1]))
        return await stream(request, [" for a week."] if "continue_final_message" in body else PIECES)

    with StubServer(cut, owner=owner) as stub:
        outcomes = ask(tmp_path, make_requests(1), stub.url, config=settings(timeout_seconds=LIMIT))
        first, second = stub.bodies

    assert texts(outcomes) == ["".join(PIECES)]
    if owner == "vllm":
        written = "".join(PIECES[:-1]).rstrip()
        assert second["messages"] == [*first["messages"], {"role": "assistant", "content": written}]
        assert second["max_tokens"] == first["max_tokens"] - len(written) // 4
        assert outcomes == [Completion("".join(PIECES), "stop", 100, 30 + len(written) // 4)]
    else:
        assert second == first


@pytest.mark.parametrize("ending", ["abort", "end"])
def test_a_lost_connection_is_a_cut_too(tmp_path: Path, ending: str) -> None:
    async def cut(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        if "continue_final_message" in body:
            return await stream(request, [" for a week."])
        response = await stream(request, PIECES[:-1], ends=False)
        await asyncio.sleep(0.1)
        if ending == "abort" and request.transport:
            request.transport.abort()
        return response

    with StubServer(cut) as stub:
        outcomes = ask(tmp_path, make_requests(1), stub.url)

        assert len(stub.bodies) == 2
    assert texts(outcomes) == ["".join(PIECES)]


def test_a_reply_that_is_cut_again_and_again_gets_on(tmp_path: Path) -> None:
    async def one_piece(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        written = body["messages"][-1]["content"] if "continue_final_message" in body else ""
        rest = TEXT[len(written) :]
        return await (stream(request, [rest]) if len(rest) < 70 else stream(request, hang_after([rest[:70]])))

    with StubServer(one_piece) as stub:
        outcomes = ask(tmp_path, make_requests(1), stub.url, config=settings(timeout_seconds=0.2))

        assert len(stub.bodies) > 3
    assert texts(outcomes) == [TEXT]


TEXT = " ".join(f"{k} loaves" for k in range(40))


def test_a_server_that_refuses_a_continuation_begins_again(tmp_path: Path) -> None:
    async def cut(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        if "continue_final_message" in body:
            return await refuse(400, "the template changes the message")(request, body)
        return await stream(request, hang_after(PIECES[:-1]) if len(stub.bodies) == 1 else PIECES)

    with StubServer(cut) as stub:
        outcomes = ask(tmp_path, make_requests(1), stub.url, config=settings(timeout_seconds=LIMIT))

        assert len(stub.bodies) == 3
    assert texts(outcomes) == ["".join(PIECES)]


# When a stream is asked for


def test_streams_end_when_the_server_turns_out_to_be_fast(tmp_path: Path) -> None:
    with StubServer() as stub:
        ask(tmp_path, make_requests(80), stub.url, in_flight=4)

        assert stub.streamed[0]
        assert not any(stub.streamed[20:])


def test_a_request_that_timed_out_is_asked_again_as_a_stream(tmp_path: Path) -> None:
    async def slow_later(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        if number(body) < 40:
            return await good(request, body)
        return await (stream(request, PIECES, pause=0.5) if request[IS_STREAMED] else hang(request, body))

    with StubServer(slow_later) as stub, connected(tmp_path, stub.url, config=settings(timeout_seconds=1.0)) as client:
        finish(client, submit(client, make_requests(40), tmp_path))
        outcomes = finish(client, submit(client, make_requests(2, start=40), tmp_path))

        assert stub.streamed[40:] == [False, False, True, True]
    assert texts(outcomes) == ["".join(PIECES)] * 2


def test_a_server_that_ignores_streams_is_asked_for_none(tmp_path: Path) -> None:
    with StubServer(streams=False) as stub:
        outcomes = ask(tmp_path, make_requests(8), stub.url)

        assert stub.streamed == [False] * 8
    assert failures(outcomes) == []


@pytest.mark.parametrize("status", [400, 404, 405, 415, 422, 500, 501])
def test_a_server_that_refuses_streams_is_asked_for_none(tmp_path: Path, status: int) -> None:
    async def refuse_streams(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return await (refuse(status, "stream: unknown field") if request[IS_STREAMED] else good)(request, body)

    with StubServer(refuse_streams, on_trial=refuse_streams) as stub:
        outcomes = ask(tmp_path, make_requests(8), stub.url)

        assert stub.streamed == [False] * 8
    assert failures(outcomes) == []


def test_a_server_whose_streams_have_a_form_of_their_own_is_asked_for_none(tmp_path: Path) -> None:
    async def stream_plainly(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return web.Response(text="data: {}\n\n") if request[IS_STREAMED] else await good(request, body)

    with StubServer(stream_plainly, on_trial=stream_plainly) as stub:
        outcomes = ask(tmp_path, make_requests(8), stub.url)

        assert stub.streamed == [False] * 8
    assert failures(outcomes) == []


def test_a_server_that_hangs_at_streams_is_asked_for_none_and_a_line_says_what_is_waited_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def hang_at_streams(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return await (hang if request[IS_STREAMED] else good)(request, body)

    with StubServer(hang_at_streams, on_trial=hang_at_streams) as stub:
        outcomes = ask(tmp_path, make_requests(8), stub.url, config=settings(timeout_seconds=LIMIT))

        assert stub.streamed == [False] * 8
        (line,) = [record.getMessage() for record in caplog.records if "trial" in record.getMessage()]
        assert line == f"{stub.url}/chat/completions: no reply within {LIMIT:g} s to a trial request"
    assert failures(outcomes) == []


def test_a_server_that_loads_its_model_during_the_first_trial_is_still_asked_for_streams(tmp_path: Path) -> None:
    async def load(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        await asyncio.sleep(2.5 * LIMIT if len(stub.trials) == 1 else 0)
        return await good(request, body)

    with StubServer(on_trial=load) as stub:
        outcomes = ask(tmp_path, make_requests(4), stub.url, config=settings(timeout_seconds=LIMIT))

        # With a stream, without one, and with one again.
        assert len(stub.trials) == len(trials()) + 2
        assert stub.streamed == [True] * 4
    assert failures(outcomes) == []


def test_a_server_that_is_healthy_but_never_answers_is_an_outage(tmp_path: Path) -> None:
    config = settings(timeout_seconds=LIMIT, outage_seconds=0.5 * LIMIT)
    with StubServer(on_trial=hang) as stub, connected(tmp_path, stub.url, config=config) as client:
        with pytest.raises(UserError, match=f"no reply within {LIMIT:g} s"):
            finish(client, submit(client, make_requests(1), tmp_path))

        assert len(stub.trials) == 2


# Keys, and the end


def test_a_key_that_a_stream_quotes_in_pieces_is_in_no_outcome(tmp_path: Path) -> None:
    key = "sk-of-this-test-1234567890"

    async def quote(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return await stream(request, ["Your key is ", key[:9], key[9:], ", and all is well with the bread."])

    with StubServer(quote) as stub:
        client = Client(RemoteEndpoints([stub.url]), key, Trials(trials()), 4, settings(), counters_for(tmp_path))
        outcomes = finish(client, submit(client, make_requests(1), tmp_path))
        client.close()

    assert texts(outcomes) == ["Your key is ***, and all is well with the bread."]


def test_closing_amid_streams_waits_for_none(tmp_path: Path) -> None:
    async def endless(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return await stream(request, PIECES * 10_000, pause=0.05)

    with StubServer(endless) as stub:
        client = connect(tmp_path, stub.url, in_flight=4)
        submit(client, make_requests(8), tmp_path)
        wait_until(lambda: counters_for(tmp_path).get("tokens_heard") > 8, pause=client.wait)
        close_in_time(client)

        assert len(stub.bodies) == 4
