"""Dialects: fields of a request that an endpoint refuses are sent in another form, or left out.

Only the HTTP body changes. A request's key and the rules for its response stay the same, so journals and rows do not
depend on the endpoint or its version.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

from pipeline.generation.completions import AnyRequest, ChoiceRequest

Body = dict[str, Any]

_SCHEMA, _CHOICE = "response_format", "structured_outputs"


def _non_strict(body: Body) -> Body:
    """Leave OpenAI's strict mode, which takes no schema with optional keys."""
    wanted = body[_SCHEMA]["json_schema"] | {"strict": False}
    return body | {_SCHEMA: {"type": "json_schema", "json_schema": wanted}}


def _with_schema(body: Body) -> Body:
    """Write the schema as `llama-cpp-python` and others take it."""
    schema = body[_SCHEMA]["json_schema"]["schema"]
    return body | {_SCHEMA: {"type": "json_object", "schema": schema}}


def _any_object(body: Body) -> Body:
    return body | {_SCHEMA: {"type": "json_object"}}


def _plain(body: Body) -> Body:
    return {name: value for name, value in body.items() if name not in (_SCHEMA, _CHOICE)}


_FALLBACKS: dict[str, tuple[Callable[[Body], Body], ...]] = {
    _SCHEMA: (_non_strict, _with_schema, _any_object, _plain),
    _CHOICE: (_plain,),
}
"""Forms to send instead of a refused field, the strictest first. The response is checked in any case."""


class Dialect:
    """The forms of fields that one endpoint takes."""

    def __init__(self) -> None:
        self._refused = dict.fromkeys(_FALLBACKS, 0)
        self.streams: bool | None = None
        """True where the endpoint streams replies, None before the first trial request is completed."""

    def body(self, request: AnyRequest) -> bytes:
        """Return the HTTP body for this endpoint."""
        field = _field(request)
        if field is None or not self._refused[field]:
            return request.body
        form = _FALLBACKS[field][self._refused[field] - 1]
        return orjson.dumps(form(orjson.loads(request.body)))

    def fall_back(self, request: AnyRequest) -> bool:
        """Take the next form for requests like this one, which was refused; return False where there is none."""
        field = _field(request)
        if field is None or self._refused[field] == len(_FALLBACKS[field]):
            return False
        self._refused[field] += 1
        return True


def _field(request: AnyRequest) -> str | None:
    """Return the field of a request that servers may not know."""
    if isinstance(request, ChoiceRequest):
        return _CHOICE if _CHOICE in request.head else None
    return _SCHEMA if request.wants_schema else None
