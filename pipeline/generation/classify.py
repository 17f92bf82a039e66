"""The failure taxonomy: what an HTTP answer means for the request, its row and the run."""

from __future__ import annotations

import email.utils
import time
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass

import orjson

from pipeline.generation.completions import AnyRequest, ChoiceRequest, Completion, Failure
from schemas.answers import parse, read_count
from schemas.base import UserError

_OF_A_REQUEST = frozenset({400, 403, 413, 422, 451})
"""Refusals that are about what a request says: a prompt too long, content that a moderator stops."""
_LONGEST_WAIT = 10 * 366 * 86400.0
"""Seconds: what a server asks beyond that is no date that a calendar has."""


@dataclass(frozen=True, slots=True)
class Busy:
    """429 or 503: wait (`seconds` as the server asks, if it does), then ask again."""

    seconds: float | None
    detail: str


@dataclass(frozen=True, slots=True)
class Transient:
    """A fault that another attempt may not meet: bounded retries, or an outage where nothing else succeeds."""

    reason: str
    detail: str


def classify(
    request: AnyRequest, status: int, headers: Mapping[str, str], payload: bytes, place: str
) -> Completion | Failure | Busy | Transient:
    """Sort the answer to a request. A `Failure` is provisional: the cause may be the request, or the run.

    Raises `UserError` for 401, 402 and redirects, with which no request can succeed.
    """
    if 200 <= status < 300:
        return _completion(request, status, payload)
    detail = f"HTTP {status}: {_message(payload)}"
    if status in (429, 503):
        return Busy(_retry_after(headers.get("Retry-After")), detail)
    # Any other status, such as the 404 of one bad server behind a load balancer, says nothing about the request.
    failure = Failure(f"http_{status}", detail, may_pass=status not in _OF_A_REQUEST)
    if status in (401, 402):
        raise refusal(failure, request, place)
    if 300 <= status < 400 and "Location" in headers:
        target = urllib.parse.urljoin(place.partition(" ")[0], headers["Location"])
        base = target.partition("?")[0].removesuffix("/").removesuffix(request.path)
        raise UserError(f"{place} redirects to {target} (HTTP {status}); set engine.base_urls to {base}")
    if status in (408, 409, 425) or status >= 500:
        return Transient(failure.reason, detail)
    return failure


def refusal(answer: Failure | Transient, request: AnyRequest, place: str, served: str = "") -> UserError:
    """Return the error for an answer that no request of the run would be spared. `served`: models that it lists."""
    models = f" (the models that it lists: {served})" if served else ""
    match answer.reason:
        case "http_401" | "http_403":
            told, advice = "refuses the key", "set the environment variable that engine.api_key_env names"
        case "http_402":
            told, advice = (
                "asks for payment",
                "top up the account and run the same command again, finished work is kept",
            )
        case "http_404":
            told, advice = "does not know the model or the path", f"check generation.model{models} and the base URL"
            if request.path == "/completions":
                advice += "; an endpoint for chat alone needs mining.annotation.mode: json"
        case _ if isinstance(request, ChoiceRequest) and request.sequences > 1:
            told, advice = "refuses several prompts in one call", "set mining.annotation.prompts_per_call: 1"
        case _ if isinstance(request, ChoiceRequest) and "logprobs" in request.head:
            told, advice = "gives no log-probabilities", "set mining.annotation.mode: json, which needs none"
        case _:
            told = "refuses even a trial question"
            advice = (
                f"if the cause is a setting, check generation.model{models} and generation.extra; if it is a limit or "
                "a spent budget, run the same command again when it is gone, finished work is kept"
            )
    return UserError(f"{place} {told} ({answer.detail}); {advice}")


def _completion(request: AnyRequest, status: int, payload: bytes) -> Completion | Transient:
    try:
        body = parse(payload)
        for choice in body["choices"]:
            if (error := choice.get("error")) or str(choice.get("finish_reason")).lower() == "error":
                # A provider broke off amid the reply.
                detail = _message(orjson.dumps({"error": error or "finish_reason error"}))
                return Transient("error", f"HTTP {status} with an error: {detail}")
        text, finish_reason = request.read(body)
        usage = body.get("usage")
        return Completion(text, finish_reason, read_count(usage, "prompt"), read_count(usage, "completion"))
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError):
        if b'"error"' in payload[:200]:
            return Transient("error", f"HTTP {status} with an error: {_message(payload)}")
        return Transient("garbled", f"HTTP {status}, not a completion: {payload[:120].decode(errors='replace')!r}")


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
    """Seconds, from either form of the header (RFC 9110, section 10.2.3)."""
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
