"""A client of OpenAI-compatible endpoints: a bounded window of calls, and outcomes as they arrive.

The `openai` library sends, waits and retries. This module reads the answers and decides which failures end the run.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import httpx2
import openai

from everyuser_train.config import Endpoint
from schemas.answers import parse, read_error
from schemas.base import UsageError, UserError
from schemas.mask import Mask

T = TypeVar("T")

_CONNECT_SECONDS = 10.0
_TRANSIENT = frozenset({408, 409, 425, 429})
"""Statuses below 500 that a later run may not get. The library retries most of them."""


@dataclass(frozen=True)
class Call(Generic[T]):
    """One POST. `read` extracts a value from the parsed answer, or raises `ValueError` or the like."""

    path: str
    body: Mapping[str, Any]
    read: Callable[[Any], T]


@dataclass(frozen=True)
class Failure:
    """A call without a usable answer. `final`: the endpoint refuses this body, so a retry would fail again."""

    reason: str
    detail: str
    final: bool


def ask_all(endpoint: Endpoint, calls: Iterable[Call[T]], done: Callable[[int, T | Failure], None]) -> None:
    """Make all calls, at most `in_flight` at a time.

    Args:
        endpoint: Where to send the calls.
        calls: Read lazily, one as soon as the window has room.
        done: Gets the number and the outcome of each call when it arrives. Its exceptions end the run.

    Raises:
        UsageError: The key's environment variable is not set.
        UserError: No call can succeed: the endpoint refuses the key, the path or the model (401, 403, 404), redirects,
            or nothing listens there.
    """
    asyncio.run(_ask_all(endpoint, _key(endpoint), calls, done))


def chat(endpoint: Endpoint, messages: list[dict[str, str]], read: Callable[[Any], T], **fields: object) -> Call[T]:
    """Return the call for a chat completion of `messages`, with further `fields` of the body."""
    return Call("/chat/completions", endpoint.body(messages=messages, **fields), read)


def _key(endpoint: Endpoint) -> str:
    if not endpoint.api_key_env:
        return ""
    key = os.environ.get(endpoint.api_key_env, "").strip()
    if not key:
        raise UsageError(f"the environment variable {endpoint.api_key_env} (api_key_env) is not set")
    if not (key.isascii() and key.isprintable()):
        raise UsageError(
            f"the environment variable {endpoint.api_key_env} (api_key_env) is not a key: it has control or non-ASCII "
            "characters"
        )
    return key


async def _ask_all(
    endpoint: Endpoint, key: str, calls: Iterable[Call[T]], done: Callable[[int, T | Failure], None]
) -> None:
    numbered = enumerate(calls)
    # Servers may quote the key, and answers are kept and shown.
    mask = Mask(key)
    client = openai.AsyncOpenAI(
        base_url=endpoint.base_url,
        # Without a value here, the library would take one from its own variables.
        api_key=key or "none",
        max_retries=endpoint.retries,
        timeout=httpx2.Timeout(endpoint.timeout_seconds, connect=_CONNECT_SECONDS),
    )

    async def work() -> None:
        for number, call in numbered:
            outcome = await _ask(client, endpoint, call, mask)
            done(number, outcome)

    try:
        async with client, asyncio.TaskGroup() as workers:
            for _ in range(endpoint.in_flight):
                workers.create_task(work())
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None


async def _ask(client: openai.AsyncOpenAI, endpoint: Endpoint, call: Call[T], mask: Mask) -> T | Failure:
    headers = {} if endpoint.api_key_env else {"Authorization": openai.Omit()}
    payload = b""
    for _ in range(endpoint.retries + 1):
        try:
            response = await client.post(
                call.path,
                body=call.body,
                cast_to=httpx2.Response,
                # A redirect turns a POST into a GET, and can send the key to another host.
                options={"follow_redirects": False, "headers": headers},
            )
        except openai.APIStatusError as error:
            return _refusal(endpoint, call, error.status_code, mask(error.response.content))
        except openai.APIConnectionError as error:
            return _unanswered(endpoint, error, mask)
        payload = mask(response.content)
        try:
            return call.read(parse(payload))
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError):
            continue
    return Failure("garbled", f"not an answer of {call.path}: {payload[:120].decode(errors='replace')!r}", False)


def _unanswered(endpoint: Endpoint, error: openai.APIConnectionError, mask: Mask) -> Failure:
    """Return the failure of a call that got no answer. Raises `UserError` where the connection was refused."""
    cause = error.__cause__ or error
    detail = mask.text(f"{type(cause).__name__}: {cause}")
    if isinstance(cause, httpx2.ConnectError | httpx2.ConnectTimeout):
        raise UserError(f"{endpoint.base_url} does not answer ({detail}); check base_url and the server")
    if isinstance(error, openai.APITimeoutError):
        return Failure("timeout", f"no answer within {endpoint.timeout_seconds:g} s", False)
    return Failure("connection", detail, False)


def _refusal(endpoint: Endpoint, call: Call[Any], status: int, payload: bytes) -> Failure:
    """Return the failure for a status other than 2xx. Raises `UserError` where it concerns every call."""
    url, detail = endpoint.base_url + call.path, f"HTTP {status}: {read_error(payload)}"
    if status in (401, 403):
        raise UserError(f"{url} refuses the key ({detail}); set the environment variable that api_key_env names")
    if status == 404:
        raise UserError(
            f"{url} does not know the path or the model '{endpoint.model}' ({detail}); check base_url and model"
        )
    if 300 <= status < 400:
        raise UserError(f"{url} redirects (HTTP {status}); set base_url to the address that it leads to")
    return Failure(f"http_{status}", detail, status < 500 and status not in _TRANSIENT)
