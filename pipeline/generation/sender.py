"""The sender: sends one request to one endpoint, sends trial requests, and records which endpoints are up."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import Sequence

import aiohttp
import orjson

from pipeline.generation.availability import Availability
from pipeline.generation.classify import Busy, Result, Transient, classify, refusal_error
from pipeline.generation.completions import AnyRequest, Completion, Failure
from pipeline.generation.dialect import Dialect
from pipeline.generation.endpoints import Endpoint, Endpoints
from pipeline.generation.payload import TooLargeError, read_payload
from pipeline.generation.window import backoff_seconds
from pipeline.io.outages import notify
from schemas.base import UserError
from schemas.config import RequestsConfig
from schemas.mask import Mask

_CONNECT_SECONDS = 10.0
_SHORTEST_PAUSE = 0.1
"""Seconds to wait for a busy server, even where it sends `Retry-After: 0`."""


class Sender:
    """Sends requests, each once. `trials` are the trial requests, the plainest first.

    Any method raises `UserError` where the responses show that the run cannot succeed, for now or at all.
    """

    def __init__(self, endpoints: Endpoints, key: str, trials: Sequence[AnyRequest], config: RequestsConfig) -> None:
        self.availability = Availability(config)
        self._endpoints = endpoints
        self._headers = {"Content-Type": "application/json"}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"
        self._trials = trials
        self._dialects: dict[str, Dialect] = defaultdict(Dialect)
        self._config = config
        # A server may quote the key, and its responses go into the journal, the rejections and the dataset.
        self._mask = Mask(key)

    async def open(self) -> None:
        """Return when some endpoint has completed all trial requests."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=self._config.timeout_seconds, sock_connect=_CONNECT_SECONDS),
            headers=self._headers,
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        await self._endpoints.open()
        retries = 0
        while True:
            endpoints = await self._endpoints.current()
            trials = [asyncio.ensure_future(self._run_trials(endpoint)) for endpoint in endpoints]
            try:
                problems = [problem for problem in await asyncio.gather(*trials) if problem]
            finally:
                # Where one endpoint refuses, the others are not waited for.
                for task in trials:
                    task.cancel()
            if len(problems) < len(endpoints):
                return
            if not self._endpoints.is_managed and all(problem.reason == "unreachable" for problem in problems):
                raise UserError(f"engine.base_urls: {endpoints[0].url} does not answer ({problems[0].detail})")
            await asyncio.sleep(backoff_seconds(retries))
            retries += 1

    async def close(self) -> None:
        """Close the connections and release the endpoints."""
        await self._endpoints.close()
        await self._session.close()

    async def post(self, endpoint: Endpoint, request: AnyRequest) -> Result:
        """Send a request and classify the response."""
        result: Result
        try:
            async with self._session.post(
                endpoint.url + request.path,
                data=self._dialects[endpoint.name].body(request),
                proxy=endpoint.proxy,
                allow_redirects=False,
            ) as response:
                payload = await read_payload(response, self._mask)
        except (aiohttp.InvalidURL, UnicodeError) as error:
            raise UserError(
                f"engine.base_urls: {endpoint.address()} is not a valid URL ({error}); "
                "an example is http://localhost:8000/v1"
            ) from None
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            result = Transient("unreachable", self._mask.text(f"{endpoint.address()}: {type(error).__name__}: {error}"))
        except TimeoutError:
            result = Transient("timeout", f"no reply within {self._config.timeout_seconds:g} s")
        except (aiohttp.ClientError, OSError) as error:
            result = Transient("connection", self._mask.text(f"{endpoint.address()}: {type(error).__name__}: {error}"))
        except TooLargeError as error:
            result = Transient("garbled", str(error))
        else:
            result = classify(request, response.status, response.headers, payload, endpoint, self._mask)
        is_up = not isinstance(result, Transient)
        self._endpoints.mark(endpoint, is_up)
        if is_up or self._endpoints.any_up():
            self.availability.record_up()
        else:
            self.availability.record_down(time.monotonic())
        return result

    def pause_seconds(self, busy: Busy, waits: int) -> float:
        """Return how long to wait for a busy endpoint, after so many earlier waits."""
        return backoff_seconds(waits) if busy.seconds is None else max(_SHORTEST_PAUSE, busy.seconds)

    def pause(self, endpoint: Endpoint, busy: Busy, seconds: float) -> None:
        """Send nothing to a busy endpoint for so many seconds."""
        now = time.monotonic()
        self._endpoints.pause(endpoint, now + seconds)
        detail = f"{endpoint.address()} is busy ({busy.detail})"
        self.availability.check_wait(now, self._endpoints.available_at(), detail)

    async def passes_trials(self, endpoint: Endpoint) -> bool:
        """Send the trial requests; return False where the endpoint is down."""
        return await self._run_trials(endpoint) is None

    async def _run_trials(self, endpoint: Endpoint) -> Transient | None:
        """Send the trial requests; return None where all are completed, or the problem of an endpoint that is down."""
        for number, request in enumerate(self._trials):
            retries = 0
            while not isinstance(result := await self.post(endpoint, request), Completion):
                if isinstance(result, Busy):
                    seconds = self.pause_seconds(result, retries)
                    self.pause(endpoint, result, seconds)
                    await asyncio.sleep(seconds)
                elif isinstance(result, Transient) and (number == 0 or result.reason == "unreachable"):
                    self.availability.check_outage(time.monotonic(), f"{endpoint.address()}: {result.detail}")
                    return result
                elif isinstance(result, Failure) or retries == self._config.max_retries:
                    # The server completes plainer requests, so it does not support a field of this one.
                    if self._dialects[endpoint.name].fall_back(request):
                        notify(f"{endpoint.address(request.path)}: requests take another form ({result.detail})")
                        retries = 0
                        continue
                    models = await self._list_models(endpoint)
                    raise refusal_error(result, request, endpoint.address(request.path), models)
                else:
                    await asyncio.sleep(backoff_seconds(retries))
                retries += 1
        return None

    async def _list_models(self, endpoint: Endpoint) -> str:
        """Return the first models that an endpoint lists, for a message: such a list proves nothing."""
        with contextlib.suppress(aiohttp.ClientError, OSError, ValueError, LookupError, TypeError, AttributeError):
            async with self._session.get(
                f"{endpoint.url}/models", proxy=endpoint.proxy, allow_redirects=False
            ) as response:
                listed = orjson.loads(await read_payload(response, self._mask))["data"]
                return ", ".join(f"'{entry['id']}'" for entry in listed[:5])
        return ""
