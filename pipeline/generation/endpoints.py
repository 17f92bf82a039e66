"""Endpoints that somebody else runs: given base URLs, the least busy first."""

from __future__ import annotations

import time
import urllib.request

import aiohttp
import orjson

from pipeline.generation.client import Endpoint
from pipeline.generation.payload import Mask, read_payload
from schemas.base import UserError

_AVOIDED_SECONDS = 5.0


class FixedEndpoints:
    """OpenAI-compatible base URLs that serve the same model."""

    local = False

    def __init__(self, base_urls: tuple[str, ...], model: str, headers: dict[str, str]) -> None:
        self._urls = [url.rstrip("/") for url in base_urls]
        self._endpoints = [Endpoint(url) for url in self._urls]
        self._busy = dict.fromkeys(self._endpoints, 0)
        self._down: set[Endpoint] = set()
        self._avoid_until = dict.fromkeys(self._endpoints, 0.0)
        self._model = model
        self._headers = headers
        self._mask = Mask(headers.get("Authorization", "").removeprefix("Bearer "))

    async def open(self) -> None:
        """Ask each endpoint for its models: a wrong address, key or model is told now, not by every row.

        One that does not answer is avoided, unless none does.
        """
        timeout = aiohttp.ClientTimeout(total=30)
        proxies = bool(urllib.request.getproxies())
        async with aiohttp.ClientSession(timeout=timeout, headers=self._headers, trust_env=proxies) as session:
            for url, endpoint in zip(self._urls, self._endpoints, strict=True):
                problem = await self._check(session, url)
                if problem:
                    self._down.add(endpoint)
                    if len(self._down) == len(self._endpoints):
                        raise UserError(f"engine.base_urls: {url} does not answer ({problem})")

    async def _check(self, session: aiohttp.ClientSession, url: str) -> str | None:
        """What keeps the endpoint from answering, if anything; raises `UserError` for what waiting does not mend."""
        try:
            async with session.get(f"{url}/models") as response:
                status, payload = response.status, await read_payload(response, self._mask)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return self._mask.text(error) or type(error).__name__
        if status in (401, 403):
            raise UserError(
                f"engine.base_urls: {url} refuses the key (HTTP {status}); "
                "set the environment variable that engine.api_key_env names"
            )
        try:
            served = [str(entry["id"]) for entry in orjson.loads(payload)["data"]]
        except (ValueError, KeyError, TypeError):
            return None  # Not every compatible server lists its models.
        if status == 200 and served and self._model not in served:
            raise UserError(
                f"generation.model: {url} does not serve '{self._model}'; it serves {', '.join(served[:5])}"
            )
        return None

    async def acquire(self) -> Endpoint:
        """The endpoint with the fewest requests in flight, of those that have lately been reached."""
        now = time.monotonic()
        usable = [e for e in self._endpoints if e not in self._down or self._avoid_until[e] <= now]
        endpoint = min(usable or self._endpoints, key=self._busy.__getitem__)
        self._busy[endpoint] += 1
        return endpoint

    def release(self, endpoint: Endpoint, reached: bool) -> None:
        """One request less in flight there. An endpoint that cannot be reached is never busy, so it is avoided."""
        self._busy[endpoint] -= 1
        if reached:
            self._down.discard(endpoint)
        else:
            self._down.add(endpoint)
            self._avoid_until[endpoint] = time.monotonic() + _AVOIDED_SECONDS

    def reachable(self) -> bool:
        """Whether any endpoint is not known to be down."""
        return len(self._down) < len(self._endpoints)

    def life(self) -> int:
        """Nobody restarts these."""
        return 0

    async def close(self) -> None:
        """Nothing to give back."""
