"""How an endpoint is asked: what it refuses of a request is put in other words, or left out.

Only what is sent changes. A request's key and the rules for its answer stay, so journals, resumes and rows do not
depend on which endpoint, or which version of a server, answered.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

from pipeline.generation.completions import AnyRequest, ChoiceRequest

Body = dict[str, Any]

_SCHEMA, _CHOICE = "response_format", "structured_outputs"


def _loose(body: Body) -> Body:
    """OpenAI's strict mode takes no schema with optional keys."""
    wanted = body[_SCHEMA]["json_schema"] | {"strict": False}
    return body | {_SCHEMA: {"type": "json_schema", "json_schema": wanted}}


def _with_schema(body: Body) -> Body:
    """As `llama-cpp-python` and others take a schema."""
    schema = body[_SCHEMA]["json_schema"]["schema"]
    return body | {_SCHEMA: {"type": "json_object", "schema": schema}}


def _any_object(body: Body) -> Body:
    return body | {_SCHEMA: {"type": "json_object"}}


def _plain(body: Body) -> Body:
    return {name: value for name, value in body.items() if name not in (_SCHEMA, _CHOICE)}


_FORMS: dict[str, tuple[Callable[[Body], Body], ...]] = {
    _SCHEMA: (_loose, _with_schema, _any_object, _plain),
    _CHOICE: (_plain,),
}
"""For each field that servers refuse, what to send instead: the strictest first. The answer is checked in any case."""


class Dialect:
    """What one endpoint was seen to refuse."""

    def __init__(self) -> None:
        self._refused = dict.fromkeys(_FORMS, 0)

    def body(self, request: AnyRequest) -> bytes:
        """Return the HTTP body for this endpoint."""
        field = _field(request)
        if field is None or not self._refused[field]:
            return request.body
        form = _FORMS[field][self._refused[field] - 1]
        return orjson.dumps(form(orjson.loads(request.body)))

    def yields(self, request: AnyRequest) -> bool:
        """Take the next form for such requests, as this one was refused; return False where there is none."""
        field = _field(request)
        if field is None or self._refused[field] == len(_FORMS[field]):
            return False
        self._refused[field] += 1
        return True


def _field(request: AnyRequest) -> str | None:
    """The field of a request that servers may not know."""
    if isinstance(request, ChoiceRequest):
        return _CHOICE if _CHOICE in request.head else None
    return _SCHEMA if b'"response_format"' in request.body else None
