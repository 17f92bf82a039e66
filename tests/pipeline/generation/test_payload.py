from __future__ import annotations

import asyncio
import gzip
import html
import json
import tracemalloc
import urllib.parse
import zlib
from collections.abc import Awaitable, Callable

import aiohttp
import pytest
from aiohttp import web

from pipeline.generation.payload import LARGEST, Mask, TooLargeError, read_payload

KEY = 'sk-proj/Ab9_"x+z=&y'


def in_code_points(text: str) -> str:
    return "".join(f"\\u{ord(char):04X}" for char in text)


@pytest.mark.parametrize(
    "written",
    [
        KEY,
        json.dumps(KEY)[1:-1],
        json.dumps(json.dumps(KEY))[3:-3],
        json.dumps(KEY)[1:-1].replace("/", "\\/"),
        in_code_points(KEY),
        json.dumps(in_code_points(KEY).lower())[1:-1],
        urllib.parse.quote(KEY),
        urllib.parse.quote(KEY, safe=""),
        urllib.parse.quote(urllib.parse.quote(KEY, safe=""), safe=""),
        "".join(f"%{ord(char):02x}" for char in KEY),
        html.escape(KEY),
        html.escape(html.escape(KEY)),
        "".join(f"&#{ord(char)};" for char in KEY),
        "".join(f"&#x{ord(char):X};" for char in KEY),
    ],
)
def test_a_key_is_masked_however_it_is_written(written: str) -> None:
    assert Mask(KEY)(f"The key '{written}' is no good.".encode()) == b"The key '***' is no good."
    assert Mask(KEY).text(f"line one\nthe key {written}") == "line one the key ***"


@pytest.mark.parametrize("text", ["", "sk-proj", "A reply about bread & butter, 100%.", KEY[:-1], '{"a": "\\u00e4"}'])
def test_all_else_stays(text: str) -> None:
    assert Mask(KEY)(text.encode()) == text.encode()


@pytest.mark.parametrize("key", ["", "x", "none", "EMPTY"])
def test_a_word_in_the_place_of_a_key_is_no_secret(key: str) -> None:
    assert Mask(key)(b"My glass is EMPTY, none is left, x.") == b"My glass is EMPTY, none is left, x."


def test_an_answer_stays_json() -> None:
    body = {"choices": [{"message": {"content": f'Your "key"\n is \\{KEY}\\ and {KEY}.'}}]}

    masked = json.loads(Mask(KEY)(json.dumps(body).encode()))

    assert masked["choices"][0]["message"]["content"] == 'Your "key"\n is \\***\\ and ***.'


# Size


async def fetched(respond: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> bytes:
    app = web.Application()
    app.router.add_get("/", respond)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{runner.addresses[0][1]}/") as got,
        ):
            return await read_payload(got, Mask("key-of-this-test"))
    finally:
        await runner.cleanup()


def test_a_body_is_read_whole_and_masked() -> None:
    async def respond(request: web.Request) -> web.StreamResponse:
        return web.Response(body=b"x" * 100_000 + b"key-of-this-test" + b"x" * (LARGEST - 100_016))

    assert asyncio.run(fetched(respond)) == b"x" * 100_000 + b"***" + b"x" * (LARGEST - 100_016)


def test_a_body_without_an_end_is_given_up_at_the_bound() -> None:
    async def respond(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"x" * 2**16)

    with pytest.raises(TooLargeError, match="larger than 8 MiB"):
        asyncio.run(fetched(respond))


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_small_body_that_unpacks_to_a_large_one_takes_no_more_memory_than_the_bound(encoding: str) -> None:
    packer = zlib.compressobj(9, wbits=31 if encoding == "gzip" else 15)
    bomb = b"".join(packer.compress(bytes(2**20)) for _ in range(96)) + packer.flush()
    assert len(bomb) < 2**20

    async def respond(request: web.Request) -> web.StreamResponse:
        return web.Response(body=bomb, headers={"Content-Encoding": encoding})

    tracemalloc.start()
    try:
        with pytest.raises(TooLargeError):
            asyncio.run(fetched(respond))
        assert tracemalloc.get_traced_memory()[1] < 5 * LARGEST
    finally:
        tracemalloc.stop()


def test_a_compressed_body_is_read() -> None:
    async def respond(request: web.Request) -> web.StreamResponse:
        return web.Response(body=gzip.compress(b"Rye."), headers={"Content-Encoding": "gzip"})

    assert asyncio.run(fetched(respond)) == b"Rye."
