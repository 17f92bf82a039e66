from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest
from aiohttp import web

from pipeline.generation.client import Endpoint
from pipeline.generation.endpoints import FixedEndpoints
from schemas.base import UserError
from tests.stub import StubServer


class ModelsAnswer(StubServer):
    """A stub that answers /v1/models with what a test asks."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__()
        self._status = status
        self._text = text
        self.keys: list[str | None] = []

    async def _list_models(self, request: web.Request) -> web.Response:
        self.keys.append(request.headers.get("Authorization"))
        return web.Response(status=self._status, text=self._text, content_type="application/json")


def open_endpoints(*urls: str, model: str = "stub", headers: dict[str, str] | None = None) -> FixedEndpoints:
    endpoints = FixedEndpoints(urls, model, headers or {})
    asyncio.run(endpoints.open())
    return endpoints


def refusal(*urls: str, **arguments: Any) -> str:
    with pytest.raises(UserError) as caught:
        open_endpoints(*urls, **arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_a_server_that_serves_the_model_is_accepted() -> None:
    with StubServer(models=("other", "stub")) as stub:
        open_endpoints(stub.url)


def test_a_wrong_model_is_named_with_what_is_served() -> None:
    with StubServer(models=("llama", "mistral")) as stub:
        text = refusal(stub.url, model="lama")

    assert text == f"generation.model: {stub.url} does not serve 'lama'; it serves llama, mistral"


def test_a_long_list_of_served_models_is_cut() -> None:
    with StubServer(models=tuple(f"model-{k}" for k in range(300))) as stub:
        text = refusal(stub.url)

    assert "model-0" in text
    assert len(text) < 300


def test_every_base_url_is_asked() -> None:
    with StubServer() as right, StubServer(models=("other",)) as wrong:
        text = refusal(right.url, wrong.url)

    assert wrong.url in text


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_is_told_without_the_key(status: int) -> None:
    stub = ModelsAnswer(status, '{"error": "no"}')

    with stub:
        text = refusal(stub.url, headers={"Authorization": "Bearer sk-very-secret"})

    assert stub.keys == ["Bearer sk-very-secret"]
    assert f"{stub.url} refuses the key (HTTP {status})" in text
    assert "engine.api_key_env" in text
    assert "sk-very-secret" not in text


def test_a_key_that_no_header_can_hold_is_told_without_the_key() -> None:
    with StubServer() as stub:
        text = refusal(stub.url, headers={"Authorization": "Bearer sk-very-secret\nsk-other"})

    assert "sk-very-secret" not in text


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (404, "<html>not here</html>"),
        (405, ""),
        (500, '{"data": [{"id": "other"}]}'),
        (200, ""),
        (200, "[]"),
        (200, "null"),
        (200, "{}"),
        (200, '{"data": null}'),
        (200, '{"data": []}'),
        (200, '{"data": ["other"]}'),
        (200, '{"data": [{"name": "other"}]}'),
    ],
)
def test_a_server_that_does_not_list_its_models_is_accepted(status: int, text: str) -> None:
    with ModelsAnswer(status, text) as stub:
        open_endpoints(stub.url)


def test_nothing_listening_is_told_with_the_address() -> None:
    url = f"http://127.0.0.1:{unused_port()}/v1"

    text = refusal(url)

    assert text.startswith(f"engine.base_urls: {url} does not answer")


@pytest.mark.parametrize("url", ["localhost/v1", "", "http://", "ftp://127.0.0.1/v1", "http://127.0.0.1:port/v1"])
def test_an_address_that_is_none_is_told(url: str) -> None:
    assert refusal(url).startswith("engine.base_urls: ")


def test_a_slash_at_the_end_of_a_base_url_does_not_matter() -> None:
    with StubServer() as stub:
        endpoints = open_endpoints(f"{stub.url}/")

        assert asyncio.run(endpoints.acquire()) == Endpoint(stub.url)


def test_requests_go_to_the_least_busy() -> None:
    async def acquire_and_release() -> list[str]:
        endpoints = FixedEndpoints(("http://a/v1", "http://b/v1"), "stub", {})
        taken = [await endpoints.acquire() for _ in range(4)]
        endpoints.release(Endpoint("http://b/v1"), reached=True)
        taken.append(await endpoints.acquire())
        return [endpoint.url[7] for endpoint in taken]

    letters = asyncio.run(acquire_and_release())

    assert sorted(letters[:4]) == ["a", "a", "b", "b"]
    assert letters[4] == "b"
