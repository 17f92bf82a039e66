"""The part that servers of the tests share: an event loop on a thread, and a port of the loopback interface."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, Self

from aiohttp import web


class Server:
    """A server that runs from `__enter__` to `__exit__`. A subclass makes `app`, or starts and stops in another way.

    `port` is 0 for any free port, and is the port in use once the server runs.
    """

    def __init__(self, port: int = 0) -> None:
        self.port = port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    @property
    def url(self) -> str:
        """The server's address."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        self.complete(self.start())
        return self

    def __exit__(self, *_: object) -> None:
        self.complete(self.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def complete(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine on the server's thread, and wait for its end."""
        asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def app(self) -> web.Application:
        """Return what answers requests."""
        raise NotImplementedError

    async def start(self) -> None:
        """Begin to listen, on the running loop."""
        self._runner = web.AppRunner(self.app(), access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Close connections, and cancel what still runs."""
        await self._runner.cleanup()
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
