from __future__ import annotations

import asyncio
import time

import pytest

from pipeline.generation.endpoints import Endpoint, RemoteEndpoints


async def take(endpoints: RemoteEndpoints, count: int) -> list[str]:
    return [(await endpoints.acquire()).url for _ in range(count)]


def names(endpoints: RemoteEndpoints) -> list[str]:
    return [endpoint.url for endpoint in asyncio.run(endpoints.current())]


@pytest.mark.parametrize(
    ("urls", "expected"),
    [
        (["http://a/v1", "http://a/v1"], ["http://a/v1"]),
        (["http://a/v1", "http://a/v1/"], ["http://a/v1"]),
        (["http://A:80/v1//", "HTTP://a/v1"], ["http://a/v1"]),
        (["https://a:443/v1", "https://a/v1"], ["https://a/v1"]),
        (["http://[::1]:8000/v1", "http://[::1]:8000/v1/"], ["http://[::1]:8000/v1"]),
        (["http://a/v1", "http://a:8000/v1", "https://a/v1"], ["http://a/v1", "http://a:8000/v1", "https://a/v1"]),
        (["http://a/V1", "http://a/v1"], ["http://a/V1", "http://a/v1"]),
    ],
)
def test_the_same_address_in_two_spellings_is_one_endpoint(urls: list[str], expected: list[str]) -> None:
    assert names(RemoteEndpoints(urls)) == expected


def test_requests_go_to_the_least_busy() -> None:
    async def acquire_and_release() -> list[str]:
        endpoints = RemoteEndpoints(["http://a/v1", "http://b/v1"])
        taken = await take(endpoints, 4)
        endpoints.release(Endpoint("http://b/v1", "http://b/v1"))
        return [*taken, *await take(endpoints, 1)]

    urls = asyncio.run(acquire_and_release())

    assert sorted(urls[:4]) == ["http://a/v1"] * 2 + ["http://b/v1"] * 2
    assert urls[4] == "http://b/v1"


def test_one_that_is_out_of_order_is_avoided_until_it_works() -> None:
    async def run() -> None:
        endpoints = RemoteEndpoints(["http://a/v1", "http://b/v1"])
        a, b = await endpoints.current()

        endpoints.mark(a, is_up=False)
        assert await take(endpoints, 3) == ["http://b/v1"] * 3
        assert endpoints.any_up()

        endpoints.mark(b, is_up=False)
        assert not endpoints.any_up()

        endpoints.mark(a, is_up=True)
        assert await take(endpoints, 1) == ["http://a/v1"]

    asyncio.run(run())


def test_one_that_rests_gets_nothing_and_the_rest_of_all_is_known() -> None:
    async def run() -> None:
        endpoints = RemoteEndpoints(["http://a/v1", "http://b/v1"])
        a, b = await endpoints.current()
        now = time.monotonic()

        endpoints.pause(a, now + 100)
        endpoints.pause(a, now + 50)
        assert await take(endpoints, 3) == ["http://b/v1"] * 3
        assert endpoints.available_at() <= now

        endpoints.pause(b, now + 70)
        assert endpoints.available_at() == now + 70

    asyncio.run(run())


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://model.example/v1", "http://proxy.example:3128"),
        ("https://model.example/v1", "http://proxy.example:3129"),
        ("http://model.test/v1", None),
        ("http://localhost:8000/v1", None),
        ("http://127.0.0.1:8000/v1", None),
        ("http://127.8.9.1:8000/v1", None),
        ("http://[::1]:8000/v1", None),
        ("http://box.localhost/v1", None),
    ],
)
def test_an_endpoint_has_the_proxy_of_the_environment_but_never_on_this_machine(
    monkeypatch: pytest.MonkeyPatch, url: str, expected: str | None
) -> None:
    monkeypatch.setenv("http_proxy", "http://proxy.example:3128")
    monkeypatch.setenv("https_proxy", "proxy.example:3129")
    monkeypatch.setenv("no_proxy", "model.test")

    (endpoint,) = asyncio.run(RemoteEndpoints([url]).current())

    assert endpoint.proxy == expected


def test_a_proxy_is_named_without_its_password() -> None:
    endpoint = Endpoint("m", "http://model.example/v1", proxy="http://me:secret@proxy.example:3128")

    assert endpoint.address("/models") == "http://model.example/v1/models (through the proxy proxy.example:3128)"
