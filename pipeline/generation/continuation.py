"""Continuation of a reply that was cut: the server goes on where the text ends, so that no token is made twice.

vLLM does so for a request whose last message is the assistant's and open-ended (`continue_final_message`). Other
servers ignore the field and would begin the reply again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import orjson

from pipeline.generation.completions import NO_REASONING, Completion
from pipeline.generation.streaming import Streamed
from schemas.answers import split_thinking

_SHORTEST = 60
"""Characters. To generate less again is cheaper than to read a longer prompt."""
_BYTES_PER_TOKEN = 4
_LIMITS = ("max_tokens", "max_completion_tokens")
_CONSTRAINTS = ("response_format", "structured_outputs", "tools")
"""Fields whose grammar describes the whole reply, not its rest."""


@dataclass(frozen=True, slots=True)
class Partial:
    """The beginning of a reply, without spaces at its end: models write them with the next word."""

    text: str
    tokens: int
    """Estimate: a cut stream has no token counts."""


def unfinished(stream: Streamed, text: str, body: bytes, earlier: Partial | None) -> Partial | None:
    """Return what can be continued after a cut; where that is too little, what could be continued before.

    Chat templates remove reasoning from earlier messages. It may have no mark yet where the model was not asked to
    leave it out.

    Args:
        stream: The stream that was cut.
        text: Its text, without the key.
        body: HTTP body of the request.
        earlier: The beginning that this request continued.
    """
    whole = ((earlier.text if earlier else "") + text).rstrip()
    fields = orjson.loads(body)
    is_constrained = any(fields.get(name) for name in _CONSTRAINTS)
    is_plain = any(fields.get(name) == value for name, value in NO_REASONING.items())
    reasons = not is_plain or stream.has_reasoning or bool(split_thinking(whole)[0])
    if len(whole) < _SHORTEST or reasons or is_constrained:
        return earlier
    return Partial(whole, len(whole.encode()) // _BYTES_PER_TOKEN)


def continued(fields: dict[str, Any], partial: Partial) -> dict[str, Any]:
    """Return the fields of a request for the rest of a reply."""
    messages = [*fields["messages"], {"role": "assistant", "content": partial.text}]
    limits = {name: max(1, fields[name] - partial.tokens) for name in _LIMITS if fields.get(name)}
    return fields | limits | {"messages": messages, "continue_final_message": True, "add_generation_prompt": False}


def joined(partial: Partial, rest: Completion) -> Completion:
    """Return the whole reply."""
    return replace(rest, text=partial.text + rest.text, completion_tokens=partial.tokens + rest.completion_tokens)
