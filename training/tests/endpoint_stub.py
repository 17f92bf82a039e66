"""An OpenAI-compatible endpoint on a thread: real HTTP, answers as a test makes them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any, Self

from aiohttp import web

from everyuser_train.config import Endpoint

Answer = Callable[[dict[str, Any], int], Awaitable[web.StreamResponse] | web.StreamResponse]
"""Gets a call's body and how many calls came before it."""


def said(text: str) -> web.Response:
    """Return a chat completion."""
    return web.json_response({"choices": [{"index": 0, "message": {"role": "assistant", "content": text}}]})


def refused(status: int, message: str = "no", headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response({"error": {"message": message}}, status=status, headers=headers)


class EndpointStub:
    """A server on a free loopback port, as a context manager. `bodies` are the calls it received."""

    def __init__(self, answer: Answer) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.keys: list[str | None] = []
        self.most_at_once = 0
        self._at_once = 0
        self._answer = answer
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def endpoint(self, **fields: Any) -> Endpoint:
        return Endpoint(base_url=f"http://127.0.0.1:{self._port}/v1", model="stub", **fields)

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _start(self) -> None:
        app = web.Application(client_max_size=2**26)
        app.router.add_post("/v1/{path:.*}", self._serve)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self._port = self._runner.addresses[0][1]

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        before = len(self.bodies)
        self.bodies.append(body)
        self.paths.append(f"/{request.match_info['path']}")
        self.keys.append(request.headers.get("Authorization"))
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            answer = self._answer(body, before)
            return answer if isinstance(answer, web.StreamResponse) else await answer
        finally:
            self._at_once -= 1
