"""The sender: one request to one endpoint, trial questions, and what their answers say about the endpoints."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import Sequence

import aiohttp
import orjson
from multidict import CIMultiDict, CIMultiDictProxy

from pipeline.generation.classify import Busy, Transient, classify, refusal
from pipeline.generation.completions import AnyRequest, Completion, Failure
from pipeline.generation.dialect import Dialect
from pipeline.generation.endpoints import Endpoint, Endpoints
from pipeline.generation.payload import TooLargeError, read_payload
from pipeline.generation.verdicts import Clocks
from pipeline.generation.window import back_off
from pipeline.io.outages import notify
from schemas.base import UserError
from schemas.config import RequestsConfig
from schemas.mask import Mask

_CONNECT_SECONDS = 10.0
_SHORTEST_PAUSE = 0.1
"""Seconds: the shortest, even where a server says 'at once' and is busy again."""


class Sender:
    """Sends requests, each once. `trials` are the trial questions, the plainest first.

    Where the answers say that the run cannot succeed, for now or at all, any method raises `UserError`.
    """

    def __init__(
        self, endpoints: Endpoints, headers: dict[str, str], trials: Sequence[AnyRequest], config: RequestsConfig
    ) -> None:
        self.clocks = Clocks(config)
        self._endpoints = endpoints
        self._headers = headers | {"Content-Type": "application/json"}
        self._trials = trials
        self._dialects: dict[str, Dialect] = defaultdict(Dialect)
        self._config = config
        # A server may quote the key; answers go into the journal, the rejections and the dataset.
        self._mask = Mask(headers.get("Authorization", "").removeprefix("Bearer "))

    async def open(self) -> None:
        """Return when some endpoint has answered all trial questions."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=self._config.timeout_seconds, sock_connect=_CONNECT_SECONDS),
            headers=self._headers,
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        await self._endpoints.open()
        tries = 0
        while True:
            endpoints = await self._endpoints.current()
            tries_here = [asyncio.ensure_future(self._try(endpoint)) for endpoint in endpoints]
            try:
                answers = [answer for answer in await asyncio.gather(*tries_here) if answer]
            finally:
                # Where one is refused, the others are no longer waited for.
                for task in tries_here:
                    task.cancel()
            if len(answers) < len(endpoints):
                return
            if not self._endpoints.own and all(answer.reason == "unreachable" for answer in answers):
                raise UserError(f"engine.base_urls: {endpoints[0].url} does not answer ({answers[0].detail})")
            await asyncio.sleep(back_off(tries))
            tries += 1

    async def close(self) -> None:
        """Give everything back."""
        await self._endpoints.close()
        await self._session.close()

    async def post(self, endpoint: Endpoint, request: AnyRequest) -> Completion | Failure | Busy | Transient:
        """Send a request, and sort what comes back."""
        answer: Completion | Failure | Busy | Transient
        try:
            async with self._session.post(
                endpoint.url + request.path,
                data=self._dialects[endpoint.name].body(request),
                proxy=endpoint.proxy,
                allow_redirects=False,
            ) as response:
                payload = await read_payload(response, self._mask)
        except (aiohttp.InvalidURL, UnicodeError) as error:
            raise UserError(f"engine.base_urls: {endpoint.place()} is no address ({error})") from None
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            answer = Transient("unreachable", self._mask.text(f"{endpoint.place()}: {type(error).__name__}: {error}"))
        except TimeoutError:
            answer = Transient("timeout", f"no reply within {self._config.timeout_seconds:g} s")
        except (aiohttp.ClientError, OSError) as error:
            answer = Transient("connection", self._mask.text(f"{endpoint.place()}: {type(error).__name__}: {error}"))
        except TooLargeError as error:
            answer = Transient("garbled", str(error))
        else:
            headers = response.headers
            if response.status != 200:
                headers = CIMultiDictProxy(CIMultiDict((name, self._mask.text(text)) for name, text in headers.items()))
            answer = classify(request, response.status, headers, payload, endpoint.place(request.path))
        works = not isinstance(answer, Transient)
        self._endpoints.mark(endpoint, works)
        if works or self._endpoints.reachable():
            self.clocks.works()
        else:
            self.clocks.fails(time.monotonic())
        return answer

    def pause(self, busy: Busy, waits: int) -> float:
        """Return the seconds to wait for a busy endpoint that has been waited for so many times."""
        return back_off(waits) if busy.seconds is None else max(_SHORTEST_PAUSE, busy.seconds)

    def rest(self, endpoint: Endpoint, busy: Busy, pause: float) -> None:
        """Have nothing sent to a busy endpoint for so many seconds."""
        now = time.monotonic()
        self._endpoints.rest(endpoint, now + pause)
        self.clocks.bound_wait(now, self._endpoints.rests_until(), f"{endpoint.place()} is busy ({busy.detail})")

    async def answers_trials(self, endpoint: Endpoint) -> bool:
        """Ask the trial questions; return False where the server is out of order."""
        return await self._try(endpoint) is None

    async def _try(self, endpoint: Endpoint) -> Transient | None:
        """Return what a server out of order answers to the trial questions, or None where it answers them all."""
        for number, request in enumerate(self._trials):
            tries = 0
            while not isinstance(answer := await self.post(endpoint, request), Completion):
                if isinstance(answer, Busy):
                    pause = self.pause(answer, tries)
                    self.rest(endpoint, answer, pause)
                    await asyncio.sleep(pause)
                elif isinstance(answer, Transient) and (number == 0 or answer.reason == "unreachable"):
                    self.clocks.bound_outage(time.monotonic(), f"{endpoint.place()}: {answer.detail}")
                    return answer
                elif isinstance(answer, Failure) or tries == self._config.max_retries:
                    # A server that answers plainer questions lacks what this one asks for.
                    if self._dialects[endpoint.name].yields(request):
                        notify(f"{endpoint.place(request.path)}: asking in other words ({answer.detail})")
                        tries = 0
                        continue
                    raise refusal(answer, request, endpoint.place(request.path), await self._models(endpoint))
                else:
                    await asyncio.sleep(back_off(tries))
                tries += 1
        return None

    async def _models(self, endpoint: Endpoint) -> str:
        """Return the first models that an endpoint lists, for people: such a list proves nothing."""
        with contextlib.suppress(aiohttp.ClientError, OSError, ValueError, LookupError, TypeError, AttributeError):
            async with self._session.get(
                f"{endpoint.url}/models", proxy=endpoint.proxy, allow_redirects=False
            ) as response:
                listed = orjson.loads(await read_payload(response, self._mask))["data"]
                return ", ".join(f"'{entry['id']}'" for entry in listed[:5])
        return ""
