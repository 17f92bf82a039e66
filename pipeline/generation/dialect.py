"""Dialects: fields of a request that an endpoint refuses are sent in another form, or left out.

Only the HTTP body changes. A request's key and the rules for its response stay the same, so journals and rows do not
depend on the endpoint or its version.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

from pipeline.generation.completions import AnyRequest
from pipeline.generation.votes import Vote

Body = dict[str, Any]
Form = Callable[[Body], Body]


def _without(*names: str) -> Form:
    return lambda body: {name: value for name, value in body.items() if name not in names}


def _one_turn(body: Body) -> Body:
    """Write the system message into the user's turn. Gemma's chat template, and others, know no third role."""
    messages = body["messages"]
    text = "\n\n".join(message["content"] for message in messages[:2])
    return body | {"messages": [{"role": "user", "content": text}, *messages[2:]]}


def _non_strict(body: Body) -> Body:
    """Leave OpenAI's strict mode, which takes no schema with optional keys."""
    wanted = body["response_format"]["json_schema"] | {"strict": False}
    return body | {"response_format": {"type": "json_schema", "json_schema": wanted}}


def _with_schema(body: Body) -> Body:
    """Write the schema as `llama-cpp-python` and others take it."""
    schema = body["response_format"]["json_schema"]["schema"]
    return body | {"response_format": {"type": "json_object", "schema": schema}}


def _any_object(body: Body) -> Body:
    return body | {"response_format": {"type": "json_object"}}


def _new_limit(body: Body) -> Body:
    """Name the limit of tokens as OpenAI's reasoning models do, which refuse the older name."""
    return _without("max_tokens")(body) | {"max_completion_tokens": body["max_tokens"]}


_TEMPLATE, _EFFORT = "chat_template_kwargs", "reasoning_effort"
_FORMS: dict[str, tuple[Form, ...]] = {
    # vLLM, SGLang and llama.cpp take the first field; Ollama, OpenAI and other hosted models the second.
    "reasoning": (_without(_EFFORT), _without(_TEMPLATE), _without(_TEMPLATE, _EFFORT)),
    "system": (_one_turn,),
    "response_format": (_non_strict, _with_schema, _any_object, _without("response_format")),
    "structured_outputs": (_without("structured_outputs"),),
    "max_tokens": (_new_limit, _without("max_tokens")),
    "seed": (_without("seed"),),
    "logprobs": (_without("logprobs", "top_logprobs"),),
}
"""Forms to send instead of what a request has, the closest first. The response is checked in any case."""


class Dialect:
    """The forms that one endpoint takes, by the names in `Request.fields`.

    `is_settled` once the endpoint has completed all trial requests. What it refuses later is not for a field's sake.
    """

    def __init__(self) -> None:
        self.is_settled = False
        self._refused = dict.fromkeys(_FORMS, 0)
        self.streams: bool | None = None
        """True where the endpoint streams replies, None before the first trial request is completed."""
        self.is_chat_alone = False
        """True where the endpoint refused a choice, or gave no log-probabilities, and is asked for votes."""
        self.reasoning_tokens = 0
        """Tokens that a vote gets for reasoning, where the model cannot be kept from it."""

    def body(self, request: AnyRequest) -> bytes:
        """Return the HTTP body for this endpoint."""
        refused = [field for field in request.fields if self._refused[field]]
        reasons = isinstance(request, Vote) and "max_tokens" in request.fields and self.reasoning_tokens > 0
        if not refused and not reasons:
            return request.body
        body = orjson.loads(request.body)
        if reasons:
            body["max_tokens"] += self.reasoning_tokens
        for field in refused:
            body = _FORMS[field][self._refused[field] - 1](body)
        return orjson.dumps(body)

    def fall_back(self, trial: AnyRequest) -> bool:
        """Take the next form of the last field of a refused trial request; return False where there is none.

        Trial requests add one field at a time, so the endpoint has completed one that differs in this field only.
        """
        field = trial.fields[-1] if trial.fields else None
        if self.is_settled or field is None or self._refused[field] == len(_FORMS[field]):
            return False
        self._refused[field] += 1
        return True
