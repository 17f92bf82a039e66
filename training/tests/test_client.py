from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from aiohttp import web
from pydantic import ValidationError

from everyuser_train.client import Call, Failure, ask_all, chat
from everyuser_train.config import Endpoint
from schemas.answers import read_text
from schemas.base import UsageError, UserError
from schemas.loader import validate
from tests.endpoint_stub import Answer, EndpointStub, refused, said

pytestmark = pytest.mark.usefixtures("_quick")


def ask(endpoint: Endpoint, texts: list[str]) -> dict[int, str | Failure]:
    outcomes: dict[int, str | Failure] = {}

    def done(number: int, outcome: str | Failure) -> None:
        assert number not in outcomes
        outcomes[number] = outcome

    ask_all(endpoint, (chat(endpoint, [{"role": "user", "content": text}], read_text) for text in texts), done)
    return outcomes


def echo(body: dict[str, Any]) -> web.Response:
    return said(body["messages"][0]["content"])


def in_turn(*answers: web.Response | None) -> Answer:
    """These answers one after another; None, and what comes later, is a good one."""
    return lambda body, before: (answers[before] if before < len(answers) else None) or echo(body)


def test_every_call_gets_its_own_answer_in_a_bounded_window() -> None:
    async def slow(body: dict[str, Any], before: int) -> web.StreamResponse:
        await asyncio.sleep(0.002 * (before % 3))
        return echo(body)

    with EndpointStub(slow) as stub:
        texts = [f"text {number}" for number in range(60)]
        assert ask(stub.endpoint(in_flight=7), texts) == dict(enumerate(texts))
    assert 2 <= stub.most_at_once <= 7
    assert {*stub.paths} == {"/chat/completions"} and {body["model"] for body in stub.bodies} == {"stub"}


def test_calls_are_drawn_as_there_is_room() -> None:
    drawn = 0

    def calls(endpoint: Endpoint) -> Iterator[Call[str]]:
        nonlocal drawn
        for number in range(50):
            drawn += 1
            yield chat(endpoint, [{"role": "user", "content": str(number)}], read_text)

    ahead = []
    with EndpointStub(lambda body, before: echo(body)) as stub:
        ask_all(stub.endpoint(in_flight=4), calls(stub.endpoint()), lambda *_: ahead.append(drawn))
    assert ahead[0] <= 5 and len(ahead) == 50


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503])
def test_transient_failures_are_retried(status: int) -> None:
    with EndpointStub(in_turn(refused(status), refused(status))) as stub:
        assert ask(stub.endpoint(), ["hello"]) == {0: "hello"}
    assert len(stub.bodies) == 3


def test_retries_are_bounded() -> None:
    with EndpointStub(lambda body, before: refused(500, "out of\norder")) as stub:
        outcome = ask(stub.endpoint(retries=2), ["hello"])[0]
    assert outcome == Failure("http_500", "HTTP 500: out of order", final=False)
    assert len(stub.bodies) == 3


def test_a_busy_server_says_how_long() -> None:
    with EndpointStub(in_turn(refused(429, headers={"Retry-After": "0.4"}))) as stub:
        started = time.monotonic()
        assert ask(stub.endpoint(), ["hello"]) == {0: "hello"}
    assert time.monotonic() - started >= 0.4


@pytest.mark.parametrize("status", [400, 413, 422, 418])
def test_a_refused_body_is_final_and_the_others_continue(status: int) -> None:
    def answer(body: dict[str, Any], before: int) -> web.Response:
        return refused(status, "too long") if body["messages"][0]["content"] == "bad" else echo(body)

    with EndpointStub(answer) as stub:
        outcomes = ask(stub.endpoint(), ["good", "bad", "fine"])
    assert outcomes == {0: "good", 1: Failure(f"http_{status}", f"HTTP {status}: too long", final=True), 2: "fine"}
    assert len(stub.bodies) == 3


@pytest.mark.parametrize(
    ("status", "words"), [(401, "api_key_env"), (403, "api_key_env"), (404, "base_url and model"), (302, "redirects")]
)
def test_what_concerns_every_call_ends_the_run(status: int, words: str) -> None:
    headers = {"Location": "/elsewhere"} if status == 302 else None
    answer = lambda body, before: refused(status, "not\nthis", headers)  # noqa: E731
    with EndpointStub(answer) as stub, pytest.raises(UserError, match=words) as caught:
        ask(stub.endpoint(in_flight=2), ["hello"] * 50)
    assert "\n" not in str(caught.value)
    assert len(stub.bodies) <= 4


def test_timeouts_are_retried_then_reported() -> None:
    async def answer(body: dict[str, Any], before: int) -> web.StreamResponse:
        await asyncio.sleep(0.5)
        return echo(body)

    with EndpointStub(answer) as stub:
        outcome = ask(stub.endpoint(timeout_seconds=0.1, retries=1), ["hello"])[0]
    assert outcome == Failure("timeout", "no answer within 0.1 s", final=False)
    assert len(stub.bodies) == 2


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"choices": []}', "<html>", '{"choices": [{"message": null}]}'])
def test_answers_that_are_not_completions_are_retried(text: str) -> None:
    with EndpointStub(in_turn(web.Response(text=text))) as stub:
        assert ask(stub.endpoint(), ["hello"]) == {0: "hello"}
    with EndpointStub(lambda body, before: web.Response(text=text)) as stub:
        outcome = ask(stub.endpoint(retries=1), ["hello"])[0]
    assert isinstance(outcome, Failure) and outcome.reason == "garbled" and not outcome.final


def test_a_lost_connection_is_retried() -> None:
    async def answer(body: dict[str, Any], before: int) -> web.StreamResponse:
        if before == 0:
            raise asyncio.CancelledError  # aiohttp drops the connection
        return echo(body)

    with EndpointStub(answer) as stub:
        assert ask(stub.endpoint(), ["hello"]) == {0: "hello"}


def test_where_nothing_listens_the_run_ends() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        endpoint = Endpoint(base_url=f"http://127.0.0.1:{taken.getsockname()[1]}/v1", model="m", retries=1)
        with pytest.raises(UserError, match=r"does not answer .* check base_url"):
            ask(endpoint, ["hello"])


def test_what_done_raises_ends_the_run() -> None:
    def done(number: int, outcome: object) -> None:
        raise UserError("disk full")

    with EndpointStub(lambda body, before: echo(body)) as stub, pytest.raises(UserError, match="disk full"):
        ask_all(stub.endpoint(), [chat(stub.endpoint(), [{"role": "user", "content": "a"}], read_text)] * 30, done)


def test_the_key_comes_from_the_environment_and_is_never_shown(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    key = "sk-very-secret"
    monkeypatch.setenv("SOME_KEY", f" {key}\n")
    with EndpointStub(in_turn(None, refused(400, f"no rights for {key}"))) as stub:
        outcomes = ask(stub.endpoint(api_key_env="SOME_KEY", in_flight=1), ["a", "b"])
        assert outcomes == {0: "a", 1: Failure("http_400", "HTTP 400: no rights for ***", final=True)}
    assert {*stub.keys} == {f"Bearer {key}"}
    with EndpointStub(lambda body, before: refused(401, f"wrong key {key}")) as stub:
        endpoint = stub.endpoint(api_key_env="SOME_KEY")
        with pytest.raises(UserError) as caught:
            ask(endpoint, ["a"])
    assert key not in f"{caught.value}{endpoint!r}{endpoint.model_dump_json()}{caplog.text}"


@pytest.mark.parametrize(
    "quoted", ["sk-very-secret", "".join(f"\\u{ord(c):04x}" for c in "sk-very-secret"), "sk%2dvery-secret"]
)
@pytest.mark.parametrize("status", [200, 400, 500])
def test_a_key_that_an_answer_quotes_is_masked(monkeypatch: pytest.MonkeyPatch, status: int, quoted: str) -> None:
    monkeypatch.setenv("SOME_KEY", "sk-very-secret")

    def answer(body: dict[str, Any], before: int) -> web.Response:
        text = f"{'No. ' * 45}Your key is {quoted}"
        good = {"choices": [{"message": {"content": text}}]}
        payload = orjson.dumps(good if status == 200 else {"error": text}).decode()
        return web.Response(text=payload.replace("\\\\u", "\\u"), status=status)

    with EndpointStub(answer) as stub:
        (outcome,) = ask(stub.endpoint(api_key_env="SOME_KEY", retries=0), ["a"]).values()
    said = outcome.detail if isinstance(outcome, Failure) else outcome
    assert said.endswith("Your key is ***")


@pytest.mark.parametrize("name", ["sk-proj-Ab12", "gsk_Ab12Cd34", "0123456789ABCDEF", "", "KEY=x"])
def test_a_key_in_the_place_of_its_variable_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="OPENAI_API_KEY") as caught:
        validate(Endpoint, {"base_url": "http://host/v1", "model": "m", "api_key_env": name}, "x.yaml")
    assert not name or name not in str(caught.value)


@pytest.mark.parametrize("value", [None, "", "   ", "a\nb", "clé"])
def test_without_a_usable_key_nothing_is_asked(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    monkeypatch.delenv("SOME_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("SOME_KEY", value)
    with EndpointStub(lambda body, before: echo(body)) as stub, pytest.raises(UsageError, match="SOME_KEY"):
        ask(stub.endpoint(api_key_env="SOME_KEY"), ["a"])
    assert not stub.bodies


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:8000/v1",
        "ftp://host/v1",
        "http:///v1",
        "http://me:pw@host/v1",
        "http://host/v1?key=1",
        "http://host/#a",
    ],
)
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(ValidationError, match="must"):
        Endpoint(base_url=url, model="m")


def test_extra_fields_go_on_top_and_null_takes_one_out() -> None:
    endpoint = Endpoint(base_url="http://host/v1/", model="m", extra={"max_tokens": None, "max_completion_tokens": 9})
    assert endpoint.base_url == "http://host/v1"
    assert endpoint.body(max_tokens=4, temperature=0) == {"model": "m", "temperature": 0, "max_completion_tokens": 9}
