"""The failure taxonomy: what an HTTP answer means for the request, its row and the run."""

from __future__ import annotations

import email.utils
import time
from collections.abc import Mapping
from dataclasses import dataclass

import orjson

from pipeline.generation.answers import parse, read_count
from pipeline.generation.requests import AnyRequest, Completion, Failure
from schemas.base import UserError


@dataclass(frozen=True, slots=True)
class Busy:
    """429 or 503: wait (`seconds` as the server asks, if it does), then ask again."""

    seconds: float | None
    detail: str


@dataclass(frozen=True, slots=True)
class Transient:
    """A fault that another attempt may not meet; bounded retries."""

    reason: str
    detail: str

    @property
    def was_answered(self) -> bool:
        """Whether a server did answer, so that it is alive."""
        return self.reason == "garbled" or self.reason.startswith("http_")


def classify(
    request: AnyRequest, status: int, headers: Mapping[str, str], payload: bytes, url: str
) -> Completion | Failure | Busy | Transient:
    """Sort the answer to a request. Raises `UserError` for 401, 403 and 404, with which no row can ever succeed."""
    if status == 200:
        return _completion(request, payload)
    detail = f"HTTP {status}: {_message(payload)}"
    if status in (429, 503):
        return Busy(_retry_after(headers.get("Retry-After")), detail)
    if status in (401, 403):
        raise UserError(f"{url} refuses the key ({detail}); set the environment variable that engine.api_key_env names")
    if status == 404:
        other = (
            "; an endpoint for chat alone needs mining.annotation.mode: json" if request.path == "/completions" else ""
        )
        raise UserError(
            f"{url} does not know the model or the path ({detail}); check generation.model and the base URL{other}"
        )
    if status in (408, 409, 425) or status >= 500:
        return Transient(f"http_{status}", detail)
    return Failure(f"http_{status}", detail, may_pass=False)


def _completion(request: AnyRequest, payload: bytes) -> Completion | Transient:
    try:
        body = parse(payload)
        text, finish_reason = request.read(body)
        usage = body.get("usage")
        return Completion(text, finish_reason, read_count(usage, "prompt"), read_count(usage, "completion"))
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError):
        return Transient("garbled", f"not a completion: {payload[:120].decode(errors='replace')!r}")


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
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None
