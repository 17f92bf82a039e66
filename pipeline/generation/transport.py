"""The transport: HTTP to the endpoints, whole or streamed, and the deadlines of what is in flight."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable
from typing import Any

import aiohttp
import orjson

from pipeline.generation.classify import Result, Transient, classify
from pipeline.generation.deadlines import Deadlines
from pipeline.generation.endpoints import Endpoint
from pipeline.generation.flight import Flight
from pipeline.generation.payload import TooLargeError, read_payload, receive
from pipeline.generation.streaming import MEDIA_TYPE, assemble
from schemas.base import UserError
from schemas.mask import Mask

_CONNECT_SECONDS = 10.0
_HEALTH_SECONDS = 10.0
_CHECKS = 8
"""Looks at the deadlines within the limit of silence. One timer for all costs less than one for each request."""


class Transport:
    """Sends requests, each once, and gives up those past their deadline.

    Args:
        key: The key that every request carries; empty for none.
        seconds: Longest silence of a request.
        on_tokens: Takes the number of events with a token that have just come of a stream.
    """

    def __init__(self, key: str, seconds: float, on_tokens: Callable[[Flight, int], None]) -> None:
        self._headers = {"Content-Type": "application/json"}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"
        # A server may quote the key, and its responses go into the journal, the rejections and the dataset.
        self._mask = Mask(key)
        self._seconds = seconds
        self._on_tokens = on_tokens
        self._deadlines: dict[str, Deadlines] = {}
        self._watchers: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        """Open the pool of connections."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS),
            headers=self._headers,
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def close(self) -> None:
        """Close the connections."""
        for watcher in self._watchers:
            watcher.cancel()
        await asyncio.gather(*self._watchers, return_exceptions=True)
        await self._session.close()

    def deadlines(self, endpoint: Endpoint) -> Deadlines:
        """Return the deadlines of the requests to an endpoint."""
        found = self._deadlines.get(endpoint.name)
        if found is None:
            found = self._deadlines[endpoint.name] = Deadlines(self._seconds)
            self._watchers.append(asyncio.create_task(self._watch(found)))
        return found

    async def exchange(self, flight: Flight) -> Result:
        """Send a request and classify the response.

        Raises:
            UserError: The URL is not valid, or the response says that no request can succeed.
        """
        endpoint, request = flight.endpoint, flight.request
        try:
            async with (
                flight.scope,
                self._session.post(
                    endpoint.url + request.path, data=flight.body, proxy=endpoint.proxy, allow_redirects=False
                ) as response,
            ):
                flight.has_stream = response.headers.get("Content-Type", "").lower().startswith(MEDIA_TYPE)
                hear = functools.partial(self._hear, flight) if flight.has_stream else None
                await receive(response, flight.received, hear)
        except (aiohttp.InvalidURL, UnicodeError) as error:
            raise UserError(
                f"engine.base_urls: {endpoint.address()} is not a valid URL ({error}); "
                "an example is http://localhost:8000/v1"
            ) from None
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            return Transient("unreachable", self._mask.text(f"{endpoint.address()}: {type(error).__name__}: {error}"))
        except TimeoutError:
            detail = f"no {'token for' if flight.has_token else 'reply within'} {self._seconds:g} s"
            return Transient("timeout", detail, flight.rescue(self._mask))
        except (aiohttp.ClientError, OSError) as error:
            detail = self._mask.text(f"{endpoint.address()}: {type(error).__name__}: {error}")
            return Transient("connection", detail, flight.rescue(self._mask))
        except TooLargeError as error:
            return Transient("garbled", str(error))
        payload = bytes(flight.received)
        if flight.has_stream and response.ok:
            with contextlib.suppress(ValueError, LookupError, TypeError, AttributeError):
                stream = assemble(payload)
                if not stream.is_whole:
                    detail = f"{endpoint.address()}: the stream ended before the reply did"
                    return Transient("connection", detail, flight.rescue(self._mask))
                payload = stream.body
        # After joining, as the pieces of a stream may divide the key.
        return classify(request, response.status, response.headers, self._mask(payload), endpoint, self._mask)

    async def list_models(self, endpoint: Endpoint) -> list[dict[str, Any]] | None:
        """Return the models that an endpoint lists, or None where it does not answer as a working server does."""
        with contextlib.suppress(aiohttp.ClientError, OSError, ValueError):
            async with self._session.get(
                f"{endpoint.url}/models",
                proxy=endpoint.proxy,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=_HEALTH_SECONDS),
            ) as response:
                payload = await read_payload(response, self._mask)
                if response.status >= 500:
                    return None
                with contextlib.suppress(ValueError, LookupError, TypeError):
                    return [entry for entry in orjson.loads(payload)["data"] if isinstance(entry, dict)]
                return []
        return None

    def _hear(self, flight: Flight, piece: bytes) -> None:
        if events := flight.hear(piece):
            self._on_tokens(flight, events)

    async def _watch(self, deadlines: Deadlines) -> None:
        while True:
            await asyncio.sleep(self._seconds / _CHECKS)
            is_healthy = False
            if deadlines.needs_health() and deadlines.endpoint is not None:
                is_healthy = await self.list_models(deadlines.endpoint) is not None
            deadlines.give_up(is_healthy)
