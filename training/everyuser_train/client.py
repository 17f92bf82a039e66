"""A small client of OpenAI-compatible endpoints: a bounded window of calls, retries, and outcomes as they arrive."""

from __future__ import annotations

import asyncio
import email.utils
import functools
import os
import random
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Generic, TypeVar

import aiohttp
import orjson
from pydantic import Field, JsonValue, field_validator

from everyuser_train.answers import parse
from everyuser_train.base import Record, UsageError, UserError
from everyuser_train.payload import Mask, TooLargeError, read_payload
from everyuser_train.problems import Fits, Hidden

T = TypeVar("T")

_mask = functools.lru_cache(maxsize=1)(Mask)

_CONNECT_SECONDS = 10.0
_SHORTEST_PAUSE = 0.1
"""Seconds: the shortest wait, even where a server says 'at once'."""
_LONGEST_PAUSE = 30.0
"""Seconds: the longest wait between two tries that we choose ourselves."""
_LONGEST_ASKED_PAUSE = 120.0
"""Seconds: the longest that a server can make us wait by `Retry-After`."""


class Endpoint(Record):
    """An OpenAI-compatible endpoint, and how it is asked."""

    base_url: str = Field(description="Up to and with the version, such as http://127.0.0.1:8000/v1.")
    model: str = Field(min_length=1, description="The model's name there.")
    api_key_env: (
        Annotated[
            str,
            # A key has small letters or hyphens; it would be written to errors and reports.
            Field(pattern=r"^[A-Z_][A-Z0-9_]{0,63}$"),
            Fits(
                "the name of an environment variable in capital letters, such as OPENAI_API_KEY; the key itself "
                "belongs into that variable"
            ),
            Hidden(),
        ]
        | None
    ) = Field(
        None, description="Environment variable, in capital letters, that holds the key; the only way to give it."
    )
    in_flight: int = Field(16, ge=1, le=1024, description="Calls under way at the same time.")
    timeout_seconds: float = Field(120.0, gt=0, description="Longest wait for one answer.")
    retries: int = Field(6, ge=0, description="Further tries after 429, 5xx, timeouts and lost connections.")

    extra: dict[str, JsonValue] = Field(
        default_factory=dict, description="Further fields of a call's body; null takes one of ours out."
    )

    def body(self, **fields: object) -> dict[str, Any]:
        """The body of a call: the model, `fields`, and `extra` on top."""
        return {
            name: value for name, value in {"model": self.model, **fields, **self.extra}.items() if value is not None
        }

    @field_validator("base_url")
    @classmethod
    def _plain(cls, value: str) -> str:
        url = urllib.parse.urlsplit(value)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise ValueError("must begin with http:// or https:// and a host")
        if "@" in url.netloc or url.query or url.fragment:
            # They would be written to errors and reports; and a key belongs into the environment.
            raise ValueError("must hold no user, password, query or fragment; name the key's variable in api_key_env")
        return value.rstrip("/")


@dataclass(frozen=True)
class Call(Generic[T]):
    """One POST. `read` takes what is wanted out of the parsed answer, or raises `ValueError` or the like."""

    path: str
    body: Mapping[str, Any]
    read: Callable[[Any], T]


@dataclass(frozen=True)
class Failure:
    """A call without a usable answer. `final`: it would fail again, as the endpoint refuses this very body."""

    reason: str
    detail: str
    final: bool


@dataclass(frozen=True)
class _Transient:
    failure: Failure
    pause: float | None = None
    reached: bool = True


def ask_all(endpoint: Endpoint, calls: Iterable[Call[T]], done: Callable[[int, T | Failure], None]) -> None:
    """Make all calls, at most `in_flight` at a time; `done` gets each one's number and outcome when it arrives.

    `calls` is drawn from as the window has room. Raises `UserError` for what no call can get round: the key, the
    address or the model is refused (401, 403, 404, a redirect), or nothing listens there; and what `done` raises.
    """
    headers = _headers(endpoint)
    asyncio.run(_ask_all(endpoint, headers, calls, done))


def chat(endpoint: Endpoint, messages: list[dict[str, str]], read: Callable[[Any], T], **fields: object) -> Call[T]:
    """A chat completion of these messages, with further `fields` of the body."""
    return Call("/chat/completions", endpoint.body(messages=messages, **fields), read)


def _headers(endpoint: Endpoint) -> dict[str, str]:
    headers = {"Content-Type": "application/json"}
    if endpoint.api_key_env:
        key = os.environ.get(endpoint.api_key_env, "").strip()
        if not key:
            raise UsageError(f"the environment variable {endpoint.api_key_env} (api_key_env) is not set")
        if not (key.isascii() and key.isprintable()):
            raise UsageError(
                f"the environment variable {endpoint.api_key_env} (api_key_env) holds no key: odd characters"
            )
        headers["Authorization"] = f"Bearer {key}"
    return headers


async def _ask_all(
    endpoint: Endpoint, headers: dict[str, str], calls: Iterable[Call[T]], done: Callable[[int, T | Failure], None]
) -> None:
    numbered = enumerate(calls)
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=endpoint.timeout_seconds, sock_connect=_CONNECT_SECONDS),
        # Looking for proxies at every call costs; few machines have one.
        trust_env=bool(urllib.request.getproxies()),
        headers=headers,
        cookie_jar=aiohttp.DummyCookieJar(),
    ) as session:
        workers = [asyncio.create_task(_work(session, endpoint, numbered, done)) for _ in range(endpoint.in_flight)]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)


async def _work(
    session: aiohttp.ClientSession,
    endpoint: Endpoint,
    numbered: Iterator[tuple[int, Call[T]]],
    done: Callable[[int, T | Failure], None],
) -> None:
    for number, call in numbered:
        outcome = await _ask(session, endpoint, call)
        done(number, outcome)


async def _ask(session: aiohttp.ClientSession, endpoint: Endpoint, call: Call[T]) -> T | Failure:
    tries = 0
    while True:
        answer = await _post(session, endpoint, call)
        if not isinstance(answer, _Transient):
            return answer
        if tries >= endpoint.retries:
            if not answer.reached:
                detail = answer.failure.detail
                raise UserError(f"{endpoint.base_url} does not answer ({detail}); check base_url and the server")
            return answer.failure
        await asyncio.sleep(_backoff(tries) if answer.pause is None else max(_SHORTEST_PAUSE, answer.pause))
        tries += 1


async def _post(session: aiohttp.ClientSession, endpoint: Endpoint, call: Call[T]) -> T | Failure | _Transient:
    url = endpoint.base_url + call.path
    # A server may quote the key that it is sent; answers are kept, and shown.
    mask = _mask(session.headers.get("Authorization", "").removeprefix("Bearer "))
    try:
        # A redirect would turn a POST into a GET, and may lead the key elsewhere.
        async with session.post(url, data=orjson.dumps(call.body), allow_redirects=False) as response:
            payload = await read_payload(response, mask)
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
        return _Transient(Failure("unreachable", mask.text(f"{type(error).__name__}: {error}"), False), reached=False)
    except TimeoutError:
        return _Transient(Failure("timeout", f"no answer within {endpoint.timeout_seconds:g} s", False))
    except (aiohttp.ClientError, OSError) as error:
        return _Transient(Failure("connection", mask.text(f"{type(error).__name__}: {error}"), False))
    except TooLargeError as error:
        return _Transient(Failure("garbled", str(error), False))
    if response.status == 200:
        return _read(call, payload)
    return _refusal(endpoint, call, response, payload)


def _read(call: Call[T], payload: bytes) -> T | _Transient:
    try:
        return call.read(parse(payload))
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError):
        detail = f"not the answer of {call.path}: {payload[:120].decode(errors='replace')!r}"
        return _Transient(Failure("garbled", detail, False))


def _refusal(
    endpoint: Endpoint, call: Call[Any], response: aiohttp.ClientResponse, payload: bytes
) -> Failure | _Transient:
    """What another status than 200 means. Raises `UserError` where it concerns every call."""
    status, url = response.status, endpoint.base_url + call.path
    failure = Failure(f"http_{status}", f"HTTP {status}: {_message(payload)}", status < 500)
    if status in (401, 403):
        raise UserError(
            f"{url} refuses the key ({failure.detail}); set the environment variable that api_key_env names"
        )
    if status == 404:
        raise UserError(
            f"{url} does not know the path or the model '{endpoint.model}' ({failure.detail}); check base_url and model"
        )
    if 300 <= status < 400:
        raise UserError(f"{url} redirects (HTTP {status}); give the address that it leads to as base_url")
    if status in (408, 409, 425, 429) or status >= 500:
        return _Transient(
            Failure(failure.reason, failure.detail, False), _retry_after(response.headers.get("Retry-After"))
        )
    return failure


def _message(payload: bytes) -> str:
    """The server's own words, in one line."""
    text: object = payload[:400].decode(errors="replace")
    try:
        body = orjson.loads(payload)
        text = body.get("error", body)
        text = text.get("message", text) if isinstance(text, dict) else text
    except (ValueError, AttributeError):
        pass
    return " ".join((text if isinstance(text, str) else orjson.dumps(text).decode()).split())[:200]


def _retry_after(value: str | None) -> float | None:
    """Seconds, from either form of the header (RFC 9110, section 10.2.3), and no more than a server can ask for."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            return None
    return min(seconds, _LONGEST_ASKED_PAUSE)


def _backoff(tries: int) -> float:
    """Exponential back-off with jitter, seconds; it decides when, never what."""
    return random.uniform(0.5, 1.0) * min(_LONGEST_PAUSE, 0.5 * 2.0 ** min(tries, 16))
