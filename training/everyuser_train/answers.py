"""Reading the answers of servers, which do not all keep to one shape. Nothing here becomes a text by `str()`.

Functions raise `ValueError` and the like for a shape that they do not know.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import orjson

_LEFT_OUT = frozenset({"thinking", "redacted_thinking", "reasoning", "reasoning_content"})
"""Types of chunks that are no part of an answer."""
_KNOWN = _LEFT_OUT | {"text", "output_text"}
_BESIDE = frozenset({"reasoning", "reasoning_content", "refusal", "tool_calls"})
"""What a message may hold in the place of content."""

_NAMES = "think|thinking|thought|reasoning|seed:think"
_END_OF_THINKING = re.compile(
    rf"</(?:{_NAMES})>|\[/THINK\]|◁/think▷|<\|END_THINKING\|>|<\|channel\|>final<\|message\|>", re.IGNORECASE
)
_THINKING = re.compile(
    rf"<(?:{_NAMES})>|\[THINK\]|◁think▷|<\|START_THINKING\|>|<\|channel\|>analysis<\|message\|>", re.IGNORECASE
)


def parse(payload: bytes) -> Any:
    """The value of a JSON text; NaN and infinite numbers, which Python's servers write, become null."""
    try:
        return orjson.loads(payload)
    except orjson.JSONDecodeError:
        # As strict in all else: halves of characters and integers above 64 bits are refused.
        return orjson.loads(orjson.dumps(json.loads(payload, parse_constant=lambda _: None)))


def chat_text(answer: Any) -> str:
    """The text of a chat completion, without the model's thinking, whether that has ended or not."""
    message = answer["choices"][0]["message"]
    text = _joined(message.get("content") if message.keys() & _BESIDE else message["content"])
    return _THINKING.split(_END_OF_THINKING.split(text)[-1])[0]


def first_logprobs(choice: Mapping[str, Any]) -> list[tuple[str, float | None]]:
    """The likeliest first tokens of a text completion, in the shape of either API. Null: a token that cannot come."""
    found = choice.get("logprobs") or {}
    if found.get("content"):
        return token_logprobs(found["content"][0])
    return [*((found.get("top_logprobs") or [None])[0] or {}).items()]


def token_logprobs(token: Mapping[str, Any]) -> list[tuple[str, float | None]]:
    """The likeliest tokens at a token's place, in the shape of the chat API."""
    return [(top["token"], top["logprob"]) for top in token.get("top_logprobs") or []]


def _joined(content: object) -> str:
    """The text of a message's content: itself, or the chunks of text in a list. None is no text."""
    content = "" if content is None else content
    chunks: list[Any] = content if isinstance(content, list) else [{"type": "text", "text": content}]
    texts: list[Any] = [chunk["text"] for chunk in chunks if chunk["type"] not in _LEFT_OUT]
    if not all(isinstance(text, str) for text in texts) or any(chunk["type"] not in _KNOWN for chunk in chunks):
        raise TypeError("content that is no text")
    return "".join(texts)
