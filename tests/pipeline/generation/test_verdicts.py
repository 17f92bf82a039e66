"""Faults of the whole run, told apart from failures of its requests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from pipeline.generation.client import Client
from pipeline.generation.completions import (
    Failure,
)
from pipeline.generation.journal import read_journal
from pipeline.runtime.progress import counters_for
from schemas.base import UserError
from schemas.config import RequestsConfig
from tests.pipeline.generation.asking import (
    ask,
    close_in_time,
    connect,
    connected,
    failures,
    finish,
    hang,
    hang_up,
    make_choices,
    make_requests,
    number,
    settings,
    submit,
    trials,
    unused_port,
)
from tests.stub import Answer, StubServer, budget_of, delayed, good, refuse


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


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 413, 422])
def test_a_refused_trial_question_ends_the_run_before_any_work(tmp_path: Path, status: int) -> None:
    with StubServer(on_trial=refuse(status)) as stub, pytest.raises(UserError, match=f"HTTP {status}: not for you"):
        ask(tmp_path, make_requests(20), stub.url)

    # The field that is refused may be `stream`, where the status may mean one.
    assert (stub.bodies, len(stub.trials)) == ([], 2 if status in (400, 404, 422) else 1)
    assert read_journal(tmp_path / "journal.jsonl") == {}


@pytest.mark.parametrize("status", [401, 402])
def test_what_no_row_can_succeed_with_ends_the_run(tmp_path: Path, status: int) -> None:
    with StubServer(budget_of(28, refuse(status))) as stub, pytest.raises(UserError, match=f"HTTP {status}: not for"):
        ask(tmp_path, make_requests(80), stub.url)

    assert failures([*read_journal(tmp_path / "journal.jsonl").values()]) == []


@pytest.mark.parametrize("status", [400, 403, 404, 413, 422])
@pytest.mark.parametrize("rows", [70, 62])
def test_what_befalls_all_rows_from_one_on_is_the_fault_of_the_run(tmp_path: Path, status: int, rows: int) -> None:
    requests = make_requests(rows)
    answer = budget_of(60, refuse(status, "budget_exceeded"))
    with StubServer(answer, on_trial=answer) as stub, pytest.raises(UserError, match="budget_exceeded"):
        ask(tmp_path, requests, stub.url)

    journal = read_journal(tmp_path / "journal.jsonl")
    assert len(journal) == 60 - len(trials())
    assert failures([*journal.values()]) == []


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

    spent = budget_of(len(trials()), refuse(400, "budget_exceeded"))
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
    with StubServer() as stub, connected(tmp_path, stub.url, asked_first=trials(pairs=2, **keys)) as client:
        finish(client, submit(client, make_requests(3), tmp_path))

        assert ["prompt" in body for body in stub.trials] == [False] * 3 + [True] * 3
        assert len(stub.bodies) == 3
    assert (counters_for(tmp_path).get("requests_sent"), counters_for(tmp_path).get("prompt_tokens")) == (3, 300)
    assert len(read_journal(tmp_path / "journal.jsonl")) == 3


def test_a_kind_of_request_that_the_server_does_not_know_ends_the_run(tmp_path: Path) -> None:
    async def chat_alone(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return await (refuse(404) if "prompt" in body else good)(request, body)

    mined = trials(pairs=None, mining={"source": {"kind": "threads", "path": ("packaged",)}})
    with (
        StubServer(on_trial=chat_alone) as stub,
        connected(tmp_path, stub.url, asked_first=mined) as client,
        pytest.raises(UserError, match=f"{stub.url}/completions does not know") as caught,
    ):
        finish(client, submit(client, make_choices(2), tmp_path))

    assert "mining.annotation.mode: json" in str(caught.value)


def test_a_refusal_of_one_endpoint_does_not_wait_for_another(tmp_path: Path) -> None:
    with StubServer(on_trial=hang) as silent, StubServer(on_trial=refuse(404)) as wrong:
        client = connect(tmp_path, silent.url, wrong.url, config=settings(timeout_seconds=600.0))
        with pytest.raises(UserError, match=wrong.url):
            finish(client, submit(client, make_requests(1), tmp_path))
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
    with StubServer(delayed(0.5), on_trial=delayed(0.5)) as stub:
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


def test_a_fault_of_the_run_is_raised_again_by_every_call(tmp_path: Path) -> None:
    with StubServer(refuse(401)) as stub, connected(tmp_path, stub.url) as client:
        with pytest.raises(UserError):
            finish(client, submit(client, make_requests(1), tmp_path))

        with pytest.raises(UserError):
            client.wait()
        with pytest.raises(UserError):
            submit(client, make_requests(1), tmp_path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_ends_the_run(tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl").symlink_to("/dev/full")

    with StubServer() as stub, pytest.raises(UserError, match=r"cannot write .*journal\.jsonl: No space left"):
        ask(tmp_path, make_requests(20), stub.url)
