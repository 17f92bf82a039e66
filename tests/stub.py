"""An OpenAI-compatible server for tests: real HTTP, replies that are good or bad as a test asks.

In a test:     `with StubServer(answer) as stub: ... stub.url ... stub.bodies`
As a process:  `python -m tests.stub --port 8000 --log FILE [--delay SECONDS] [--die-after N]`, which takes
               (and ignores) vLLM's server arguments, so that it can stand in for `engine.command`.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import os
import random
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from aiohttp import web

_TEXT = """
again almost always autumn balcony basket before bicycle bottle bread brother candle carpet chance cheese city corner
cousin evening family field forest friend garden gentle harbour honest kitchen lantern letter library little market
"""
_WORDS = _TEXT.split()

Answer = Callable[[web.Request, dict[str, Any]], Awaitable[web.StreamResponse]]


def good_text(body: dict[str, Any]) -> str:
    """A reply that passes validation: the same for the same request, another for any other."""
    digest = hashlib.blake2b(repr(body).encode(), digest_size=8)
    words = random.Random(digest.digest()).choices(_WORDS, k=24)
    return f"Reply {digest.hexdigest()} says {' '.join(words)}."


def completion(text: str, finish_reason: str = "stop") -> web.Response:
    """A chat completion as vLLM sends it."""
    return web.json_response(
        {
            "object": "chat.completion",
            "choices": [
                {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}
            ],
            "usage": {"prompt_tokens": 100, "completion_tokens": 30, "total_tokens": 130},
        }
    )


async def good(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    """The default: a good reply at once."""
    return completion(good_text(body))


class StubServer:
    """Serves on a free port of the loopback interface, on a thread of its own. `bodies` are the requests it saw."""

    def __init__(self, answer: Answer = good, models: tuple[str, ...] = ("stub",), port: int = 0) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.port = port
        self._answer = answer
        self._models = models
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    @property
    def url(self) -> str:
        """The base URL, up to and with /v1."""
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> StubServer:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self.start(), self._loop).result()
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def start(self) -> None:
        """Begin to listen, on the running loop."""
        app = web.Application()
        app.router.add_get("/health", self._health)
        app.router.add_get("/v1/models", self._list_models)
        app.router.add_post("/v1/chat/completions", self._complete)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def _stop(self) -> None:
        await self._runner.cleanup()
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)

    async def _health(self, request: web.Request) -> web.Response:
        return web.Response()

    async def _list_models(self, request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": model} for model in self._models]})

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        body: dict[str, Any] = await request.json()
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        return await self._answer(request, body)


def main() -> None:
    """Stand in for a model server process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--log", type=Path, required=True, help="one line a request: its seed, when it came in")
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--die-after", type=int, default=0, help="exit at the Nth request this process sees")
    arguments, _ = parser.parse_known_args()
    served = 0

    async def answer(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        nonlocal served
        served += 1
        with arguments.log.open("a") as log:
            log.write(f"{body['seed']}\n")
        if served == arguments.die_after:
            os._exit(1)
        await asyncio.sleep(arguments.delay)
        return await good(request, body)

    async def serve() -> None:
        await StubServer(answer, port=arguments.port).start()
        await asyncio.Event().wait()

    asyncio.run(serve())


if __name__ == "__main__":
    main()
