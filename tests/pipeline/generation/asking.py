"""Requests to a stub server through the client, and their outcomes."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

from pipeline.generation.client import Client
from pipeline.generation.completions import (
    AnyRequest,
    ChoiceRequest,
    Completion,
    Failure,
    Outcome,
    Request,
    choice_head,
    make_choice_request,
    make_request,
)
from pipeline.generation.endpoints import RemoteEndpoints
from pipeline.generation.items import RequestBatch
from pipeline.generation.journal import open_journal
from pipeline.generation.service import GenerationService
from pipeline.generation.trial import Trials, trial_requests
from pipeline.plan import BuildPlan
from pipeline.runtime.progress import counters_for
from schemas.config import BuildConfig, GenerationConfig, RequestsConfig
from tests.stub import delayed
from tests.waiting import wait_until

PATIENCE = 60.0
"""Seconds within which a client closes, or a server starts."""


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


def trials(**keys: Any) -> Sequence[AnyRequest]:
    config = BuildConfig.model_validate({"pairs": 1, "generation": {"model": "stub"}} | keys)
    return trial_requests(BuildPlan(Path(), "", config), ["generation"]).requests


def connect(
    folder: Path,
    *urls: str,
    in_flight: int = 8,
    config: RequestsConfig | None = None,
    asked_first: Sequence[AnyRequest] | None = None,
) -> Client:
    first = trials() if asked_first is None else asked_first
    return Client(RemoteEndpoints(urls), "", Trials(first), in_flight, config or settings(), counters_for(folder))


@contextmanager
def connected(
    folder: Path,
    *urls: str,
    in_flight: int = 8,
    config: RequestsConfig | None = None,
    asked_first: Sequence[AnyRequest] | None = None,
) -> Iterator[Client]:
    client = connect(folder, *urls, in_flight=in_flight, config=config, asked_first=asked_first)
    try:
        yield client
    finally:
        client.close()


def submit(client: Client, requests: Sequence[AnyRequest], folder: Path) -> RequestBatch:
    batch = RequestBatch([None] * len(requests), len(requests))
    client.submit(list(enumerate(requests)), batch, open_journal(folder / "journal.jsonl"))
    return batch


def finish(client: Client | GenerationService, batch: RequestBatch) -> list[Outcome]:
    wait_until(lambda: batch.is_done, pause=client.wait)
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


hang = delayed(3600)


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


def make_choices(*sizes: int) -> list[ChoiceRequest]:
    """Calls of so many prompts each."""
    head = choice_head("stub", structured_outputs=True)
    return [
        make_choice_request(head, f"comment {k}\n", tuple(f"is it {q}?" for q in range(size)), bytes([size]))
        for k, size in enumerate(sizes)
    ]


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def close_in_time(client: Client) -> None:
    closing = threading.Thread(target=client.close, daemon=True)
    closing.start()
    closing.join(PATIENCE)
    assert not closing.is_alive()


async def failed(status: int) -> web.StreamResponse:
    return web.Response(status=status, text="oops")
