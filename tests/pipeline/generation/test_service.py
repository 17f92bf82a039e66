"""The service of a run: its key, from the environment to the server and nowhere else, and its journal."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from pipeline.generation.completions import (
    Completion,
    Failure,
)
from pipeline.generation.journal import open_journal, read_journal
from pipeline.generation.service import GenerationService, read_key
from pipeline.plan import BuildPlan
from pipeline.runtime.progress import counters_for
from schemas.base import UserError
from schemas.config import BuildConfig, GenerationConfig, OpenAiEngine
from tests.pipeline.generation.asking import failed, failures, finish, make_requests, number, settings, trials
from tests.stub import StubServer, budget_of, good, refuse


def generator_with_key(
    folder: Path, url: str, monkeypatch: pytest.MonkeyPatch, key: str = "sk-very-secret"
) -> GenerationService:
    monkeypatch.setenv("KEY_OF_THIS_TEST", key)
    engine = OpenAiEngine(kind="openai", base_urls=(url,), api_key_env="KEY_OF_THIS_TEST", in_flight=4)
    config = BuildConfig(pairs=1, engine=engine, generation=GenerationConfig(model="stub"), requests=settings())
    return GenerationService(BuildPlan(folder, "fingerprint", config))


def files_with(folder: Path, secret: str) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]


def test_the_key_is_sent_and_is_in_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def some_fail(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return await (failed(400 if number(body) == 3 else 500) if number(body) >= 3 else good(request, body))

    with StubServer(some_fail) as stub:
        service = generator_with_key(tmp_path, stub.url, monkeypatch)
        finish(service, service.submit("train-0", make_requests(5)))
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
        (outcome,) = finish(service, service.submit("train-0", make_requests(1)))
        counters_for(tmp_path).flush()
        service.close()

    assert "Your key is ***" in (outcome.text if isinstance(outcome, Completion) else outcome.detail)
    assert not any(part in repr(outcome) for part in ("sk-", "secret", "sk%", "secr"))
    assert files_with(tmp_path, "sk-ver") == files_with(tmp_path, "sk%2D") == []


@pytest.mark.parametrize("key", ["sk-very-secret\n", " sk-very-secret", "\tsk-very-secret\r\n"])
def test_white_space_around_a_key_is_none_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    with StubServer() as stub:
        service = generator_with_key(tmp_path, stub.url, monkeypatch, key)
        finish(service, service.submit("train-0", make_requests(1)))
        service.close()

        assert stub.headers[0]["Authorization"] == "Bearer sk-very-secret"


@pytest.mark.parametrize("key", ["sk-very\nsecret", "sk-very secret", "sk-very\x00secret", "sk-vérý"])
def test_a_key_that_is_none_is_refused_by_its_variable(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    if "\x00" in key:
        # The environment of a process holds none, but that of a test may.
        monkeypatch.setattr(os, "environ", {"KEY_OF_THIS_TEST": key})
    else:
        monkeypatch.setenv("KEY_OF_THIS_TEST", key)

    with pytest.raises(UserError, match="KEY_OF_THIS_TEST") as caught:
        read_key("KEY_OF_THIS_TEST")

    assert "sk-" not in str(caught.value)


@pytest.mark.parametrize("status", [401, 402, 403, 404])
def test_the_key_is_in_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    with StubServer(on_trial=refuse(status, "not for sk-very-secret")) as stub:
        service = generator_with_key(tmp_path, stub.url, monkeypatch)
        batch = service.submit("train-0", make_requests(5))
        with pytest.raises(UserError) as caught:
            finish(service, batch)
        service.close()

    assert f"HTTP {status}: not for" in str(caught.value)
    assert "sk-very-secret" not in str(caught.value)
    assert files_with(tmp_path, "sk-very-secret") == []


def test_what_the_journal_knows_is_not_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = make_requests(10)
    with StubServer() as stub:
        first = generator_with_key(tmp_path, stub.url, monkeypatch)
        known = finish(first, first.submit("train-0", requests[:6]))
        first.close()
        asked_before = len(stub.bodies)

        second = generator_with_key(tmp_path, stub.url, monkeypatch)
        outcomes = finish(second, second.submit("train-0", requests))
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
        outcomes = finish(service, service.submit("train-0", requests))
        service.close()

        assert sorted(number(body) for body in stub.bodies) == [0, 2]
    assert failures(outcomes) == [Failure("http_408", "HTTP 408: slow", may_pass=False)]


def test_after_topping_up_the_same_rows_are_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = make_requests(40)
    answer = budget_of(len(trials()) + 20, refuse(400, "budget_exceeded"))
    with StubServer(answer, on_trial=answer) as stub:
        first = generator_with_key(tmp_path, stub.url, monkeypatch)
        with pytest.raises(UserError):
            finish(first, first.submit("train-0", requests))
        first.close()
    with StubServer() as stub:
        second = generator_with_key(tmp_path, stub.url, monkeypatch)
        outcomes = finish(second, second.submit("train-0", requests))
        second.close()

        assert len(stub.bodies) == 20
    assert failures(outcomes) == []


def test_a_redirect_does_not_show_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def elsewhere(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return web.Response(status=307, headers={"location": "/sk%2Dvery-secret/chat/completions?key=sk-very-secret"})

    with StubServer(on_trial=elsewhere) as stub:
        service = generator_with_key(tmp_path, stub.url, monkeypatch)
        with pytest.raises(UserError, match=r"redirects to .*/\*\*\*/") as caught:
            finish(service, service.submit("train-0", make_requests(1)))
        service.close()

    assert "very" not in str(caught.value)
