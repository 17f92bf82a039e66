"""The failure taxonomy: the meaning of an HTTP response for the request, its row and the run."""

from __future__ import annotations

import email.utils
import time
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass

import orjson

from pipeline.generation.completions import AnyRequest, ChoiceRequest, Completion, Failure
from pipeline.generation.continuation import Partial
from pipeline.generation.endpoints import Endpoint
from pipeline.generation.votes import Vote
from schemas.answers import count_reasoning, parse, read_count, read_error, read_reasoning, read_reply
from schemas.base import UserError
from schemas.mask import Mask

_OF_A_REQUEST = frozenset({400, 403, 413, 422, 451})
"""Statuses about the content of a request: a prompt too long, content that a moderator stops."""
_LONGEST_WAIT = 10 * 366 * 86400.0
"""Seconds. A longer `Retry-After` could exceed the last date that Python has."""


@dataclass(frozen=True, slots=True)
class Busy:
    """429 or 503: send again later, after `seconds` where the server names them."""

    seconds: float | None
    detail: str


@dataclass(frozen=True, slots=True)
class Transient:
    """A problem that a retry may not meet. It is an outage where no other request succeeds."""

    reason: str
    detail: str
    partial: Partial | None = None
    """What came of the reply before the cut, where it is worth a continuation."""


Result = Completion | Failure | Busy | Transient


def classify(
    request: AnyRequest, status: int, headers: Mapping[str, str], payload: bytes, endpoint: Endpoint, mask: Mask
) -> Result:
    """Classify the response to a request. A `Failure` is provisional: the cause may be the request, or the run.

    Args:
        request: The request.
        status: HTTP status of the response.
        headers: Its headers.
        payload: Its body, without the key.
        endpoint: The endpoint that sent it.
        mask: Removes the key from headers that a message quotes.

    Raises:
        UserError: No request can succeed: 401, 402 or a redirect.
    """
    if 200 <= status < 300:
        return _completion(request, status, payload)
    detail = f"HTTP {status}: {read_error(payload)}"
    if status in (429, 503):
        return Busy(_retry_after(headers.get("Retry-After")), detail)
    # Any other status says nothing about the request: one bad server behind a load balancer may answer 404.
    failure = Failure(f"http_{status}", detail, may_pass=status not in _OF_A_REQUEST)
    address = endpoint.address(request.path)
    if status in (401, 402):
        raise refusal_error(failure, request, address)
    if 300 <= status < 400 and "Location" in headers:
        target = urllib.parse.urljoin(endpoint.url + request.path, mask.text(headers["Location"]))
        base = target.partition("?")[0].removesuffix("/").removesuffix(request.path)
        raise UserError(f"{address} redirects to {target} (HTTP {status}); set engine.base_urls to {base}")
    if status in (408, 409, 425) or status >= 500:
        return Transient(failure.reason, detail)
    return failure


_BY_CHAT = "mining.annotation.mode: json, or mining.annotation.protocol: chat"
"""`in_terms_of` knows these words."""


def refusal_error(refusal: Failure | Transient, request: AnyRequest, address: str, models: str = "") -> UserError:
    """Return the error of a run whose requests an endpoint refuses.

    Args:
        refusal: The response.
        request: The refused request.
        address: The endpoint's address.
        models: Models that the endpoint lists, for the advice.
    """
    listed = f" (the models that it lists: {models})" if models else ""
    match refusal.reason:
        case "http_401" | "http_403":
            problem, advice = "refuses the key", "set the environment variable that engine.api_key_env names"
        case "http_402":
            problem, advice = (
                "asks for payment",
                "top up the account and run the same command again, finished work is kept",
            )
        case "http_404":
            problem, advice = "does not know the model or the path", f"check generation.model{listed} and the base URL"
            if request.path == "/completions":
                advice += f"; an endpoint for chat alone needs {_BY_CHAT}"
        case _ if isinstance(request, ChoiceRequest) and request.sequences > 1:
            problem, advice = "refuses several prompts in one call", "set mining.annotation.prompts_per_call: 1"
        case _ if isinstance(request, ChoiceRequest) and "logprobs" in request.head:
            problem, advice = "gives no log-probabilities", f"do without them by {_BY_CHAT}"
        case _:
            problem = "refuses even a trial request"
            advice = (
                f"if the cause is a setting, check generation.model{listed} and generation.extra; if it is a limit or "
                "a spent budget, run the same command again when it is gone, finished work is kept"
            )
    return UserError(f"{address} {problem} ({refusal.detail}); {advice}")


def _completion(request: AnyRequest, status: int, payload: bytes) -> Completion | Transient:
    try:
        body = parse(payload)
        for choice in body["choices"]:
            if (error := choice.get("error")) or str(choice.get("finish_reason")).lower() == "error":
                # A provider broke off in the middle of the reply.
                detail = read_error(orjson.dumps({"error": error or "finish_reason error"}))
                return Transient("error", f"HTTP {status} with an error: {detail}")
        text, finish_reason = request.read(body)
        first = body["choices"][0]
        usage, reasoning = body.get("usage"), read_reasoning(first)
        # The text of a vote is its shares.
        said = read_reply(first)[0] if isinstance(request, Vote) else text
        return Completion(
            text,
            finish_reason,
            prompt_tokens=read_count(usage, "prompt"),
            completion_tokens=read_count(usage, "completion"),
            reasoning=reasoning,
            reasoning_tokens=count_reasoning(usage, reasoning, said),
        )
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError):
        if b'"error"' in payload[:200]:
            return Transient("error", f"HTTP {status} with an error: {read_error(payload)}")
        return Transient("garbled", f"HTTP {status}, not a completion: {payload[:120].decode(errors='replace')!r}")


def _retry_after(value: str | None) -> float | None:
    """Return the seconds of either form of the header (RFC 9110, section 10.2.3)."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            return None
    return min(max(0.0, seconds), _LONGEST_WAIT)
