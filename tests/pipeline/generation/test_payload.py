from __future__ import annotations

import asyncio
import gzip
import tracemalloc
import zlib
from collections.abc import Awaitable, Callable

import aiohttp
import pytest
from aiohttp import web

from pipeline.generation.payload import MAX_BYTES, TooLargeError, read_payload
from schemas.mask import Mask


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
        return web.Response(body=b"x" * 100_000 + b"key-of-this-test" + b"x" * (MAX_BYTES - 100_016))

    assert asyncio.run(fetched(respond)) == b"x" * 100_000 + b"***" + b"x" * (MAX_BYTES - 100_016)


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
        assert tracemalloc.get_traced_memory()[1] < 5 * MAX_BYTES
    finally:
        tracemalloc.stop()


def test_a_compressed_body_is_read() -> None:
    async def respond(request: web.Request) -> web.StreamResponse:
        return web.Response(body=gzip.compress(b"Rye."), headers={"Content-Encoding": "gzip"})

    assert asyncio.run(fetched(respond)) == b"Rye."
