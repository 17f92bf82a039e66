"""Endpoints that somebody else runs: given base URLs, the least busy first."""

from __future__ import annotations

import time

import aiohttp
import orjson

from pipeline.generation.client import Endpoint
from schemas.base import UserError

CHAT = "/chat/completions"
_AVOIDED_SECONDS = 5.0


class FixedEndpoints:
    """OpenAI-compatible base URLs that serve the same model."""

    def __init__(self, base_urls: tuple[str, ...], model: str, headers: dict[str, str]) -> None:
        self._urls = [url.rstrip("/") for url in base_urls]
        self._endpoints = [Endpoint(url + CHAT) for url in self._urls]
        self._busy = dict.fromkeys(self._endpoints, 0)
        self._avoid_until = dict.fromkeys(self._endpoints, 0.0)
        self._model = model
        self._headers = headers

    async def open(self) -> None:
        """Ask each endpoint for its models: a wrong address, key or model is told now, not by every row."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30), headers=self._headers) as session:
            for url in self._urls:
                await self._check(session, url)

    async def _check(self, session: aiohttp.ClientSession, url: str) -> None:
        try:
            async with session.get(f"{url}/models") as response:
                status, payload = response.status, await response.read()
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise UserError(f"engine.base_urls: {url} does not answer ({error or type(error).__name__})") from None
        if status in (401, 403):
            raise UserError(
                f"engine.base_urls: {url} refuses the key (HTTP {status}); "
                "set the environment variable that engine.api_key_env names"
            )
        try:
            served = [str(entry["id"]) for entry in orjson.loads(payload)["data"]]
        except (ValueError, KeyError, TypeError):
            return  # Not every compatible server lists its models.
        if status == 200 and served and self._model not in served:
            raise UserError(
                f"generation.model: {url} does not serve '{self._model}'; it serves {', '.join(served[:5])}"
            )

    async def acquire(self) -> Endpoint:
        """The endpoint with the fewest requests in flight, of those that have lately been reached."""
        now = time.monotonic()
        reachable = [endpoint for endpoint in self._endpoints if self._avoid_until[endpoint] <= now]
        endpoint = min(reachable or self._endpoints, key=self._busy.__getitem__)
        self._busy[endpoint] += 1
        return endpoint

    def release(self, endpoint: Endpoint, reached: bool) -> None:
        """One request less in flight there. An endpoint that cannot be reached is never busy, so it is avoided."""
        self._busy[endpoint] -= 1
        self._avoid_until[endpoint] = 0.0 if reached else time.monotonic() + _AVOIDED_SECONDS

    def life(self) -> int:
        """Nobody restarts these."""
        return 0

    async def close(self) -> None:
        """Nothing to give back."""
