"""Reading the answers of servers, which do not all keep to one shape. Nothing here becomes a text by `str()`.

Functions raise `ValueError` and the like for a shape that they do not know.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import orjson

_ENDED = frozenset(
    {
        *("stop", "stop_sequence", "stop_token", "eos", "eos_token", "end", "end_turn"),
        *("complete", "completed"),
    }
)
"""Finish reasons, in lower case, of a reply that the model ended itself: OpenAI says `stop`, Anthropic `end_turn`,
Hugging Face's servers `eos_token`, Cohere `COMPLETE`."""

_BESIDE = frozenset({"reasoning", "reasoning_content", "refusal", "tool_calls"})
"""What a message may hold in the place of content."""
_LEFT_OUT = frozenset({"thinking", "redacted_thinking", "reasoning", "reasoning_content"})
"""Types of chunks that are no part of a reply."""
_KNOWN = _LEFT_OUT | {"text", "output_text"}

_MOST_BROKEN = 100
"""Braces in a text that begin no JSON object, after which no further one is looked for: each takes a while."""

_END_OF_THINKING = re.compile(
    r"</(?:think|thinking|thought|reasoning|seed:think)>|\[/THINK\]|◁/think▷|<\|END_THINKING\|>"
    r"|<\|channel\|>final<\|message\|>",
    re.IGNORECASE,
)


def parse(payload: bytes) -> Any:
    """The value of a JSON text; NaN and infinite numbers, which Python's servers write, become null."""
    try:
        return orjson.loads(payload)
    except orjson.JSONDecodeError:
        return _plain(json.loads(payload, parse_constant=lambda _: None))


def read_reply(choice: Mapping[str, Any]) -> tuple[str, str]:
    """Return the text of a chat choice, without the model's thinking, and its finish reason (see `read_finish`)."""
    message = choice["message"]
    content = message.get("content") if message.keys() & _BESIDE else message["content"]
    text = _joined(content)
    marks = [*_END_OF_THINKING.finditer(text)]
    if marks:
        text = text[marks[-1].end() :]
    if not text and message.get("refusal"):
        return "", "refusal"
    return text, read_finish(choice.get("finish_reason"), text)


def read_finish(reason: object, text: str) -> str:
    """Return `stop` for every word that servers have for it, and for none beside a text; else the server's word."""
    if reason is None or reason == "":
        return "stop" if text else "unknown"
    if not isinstance(reason, str):
        raise TypeError("a finish reason that is no text")
    return "stop" if reason.lower() in _ENDED else reason


def read_count(usage: object, kind: str) -> int:
    """Return the tokens of a kind; 0 where there is no credible number. A good reply is never lost for it."""
    value = usage.get(f"{kind}_tokens") if isinstance(usage, dict) else None
    return int(value) if isinstance(value, (int, float)) and 0 <= value < 2**53 else 0


def first_logprobs(choice: Mapping[str, Any]) -> list[tuple[str, float | None]]:
    """Return the likeliest first tokens of a choice, in the shape of either API. Null: a token that cannot come.

    Raises `ValueError` where tokens are numbers (vLLM's `--return-tokens-as-token-ids`): no option is among them, and
    every answer would count as "cannot tell".
    """
    found = choice.get("logprobs") or {}
    if found.get("content"):
        tokens = [(top["token"], top["logprob"]) for top in found["content"][0].get("top_logprobs") or []]
    else:
        tokens = [*((found.get("top_logprobs") or [None])[0] or {}).items()]
    if any(token.startswith("token_id:") for token, _ in tokens):
        raise ValueError("log-probabilities of numbered tokens")
    return tokens


def read_object(text: str) -> dict[str, Any]:
    """Return the last whole JSON object in a text: it may stand in a code fence, between words or after a draft."""
    decoder = json.JSONDecoder(parse_constant=lambda _: None)
    found, errors, start = None, [ValueError("no JSON object")], text.find("{")
    while start >= 0 and len(errors) <= _MOST_BROKEN:
        try:
            found, end = decoder.raw_decode(text, start)
        except RecursionError:
            raise ValueError("a JSON object too deep to read") from None
        except json.JSONDecodeError as error:
            errors.append(error)
            # What stands within a broken object is no answer by itself.
            end = max(start + 1, error.pos)
        start = text.find("{", end)
    if found is None:
        raise errors[-1]
    return dict(_plain(found))


def _joined(content: object) -> str:
    """The text of a message's content: itself, or the chunks of text in a list. None is no text."""
    content = "" if content is None else content
    chunks: list[Any] = content if isinstance(content, list) else [{"type": "text", "text": content}]
    texts: list[Any] = [chunk["text"] for chunk in chunks if chunk["type"] not in _LEFT_OUT]
    if not all(isinstance(text, str) for text in texts) or any(chunk["type"] not in _KNOWN for chunk in chunks):
        raise TypeError("content that is no text")
    return "".join(texts)


def _plain(value: Any) -> Any:
    """What the strict parser would have read: raises for halves of characters and for integers above 64 bits."""
    try:
        return orjson.loads(orjson.dumps(value))
    except TypeError as error:
        raise ValueError(str(error)) from None
