"""Readers of chat and text completions, whose shape differs between servers.

No value of another type is converted to text. Functions raise `ValueError`, `TypeError` or `LookupError` for an unknown
shape.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import orjson

_ENDED = frozenset(
    {
        *("stop", "stop_sequence", "stop_token", "eos", "eos_token", "end", "end_turn"),
        *("complete", "completed"),
    }
)
"""Finish reasons, in lower case, of a reply that the model ended itself. OpenAI sends `stop`, Anthropic `end_turn`,
Hugging Face's servers `eos_token`, Cohere `COMPLETE`."""

_CONTENT_SUBSTITUTES = frozenset({"reasoning", "reasoning_content", "refusal", "tool_calls"})
"""Fields that a message may have in place of content."""
_SKIPPED_CHUNKS = frozenset({"thinking", "redacted_thinking", "reasoning", "reasoning_content"})
"""Types of chunks that are not part of a reply."""
_KNOWN_CHUNKS = _SKIPPED_CHUNKS | {"text", "output_text"}

_MAX_BROKEN_OBJECTS = 100
"""Braces that begin no JSON object. The search ends after that many, as each costs a parse."""

_THINKING_TAGS = "think|thinking|thought|reasoning|seed:think"
_THINKING_END = re.compile(
    rf"</(?:{_THINKING_TAGS})>|\[/THINK\]|◁/think▷|<\|END_THINKING\|>|<\|channel\|>final<\|message\|>", re.IGNORECASE
)
_THINKING_START = re.compile(
    rf"<(?:{_THINKING_TAGS})>|\[THINK\]|◁think▷|<\|START_THINKING\|>|<\|channel\|>analysis<\|message\|>",
    re.IGNORECASE,
)


def parse(payload: bytes) -> Any:
    """Return the value of a JSON text. NaN and infinite numbers, which Python servers write, become null."""
    try:
        return orjson.loads(payload)
    except orjson.JSONDecodeError:
        return _plain(json.loads(payload, parse_constant=lambda _: None))


def read_reply(choice: Mapping[str, Any]) -> tuple[str, str]:
    """Return the text of a chat choice, with the thinking inside, and its finish reason (see `read_finish`)."""
    message = choice["message"]
    if "content" not in message and message.keys().isdisjoint(_CONTENT_SUBSTITUTES):
        raise KeyError("content")
    text = _joined(message.get("content"))
    _, reply = split_thinking(text)
    if not reply and message.get("refusal"):
        return "", "refusal"
    return text, read_finish(choice.get("finish_reason"), reply)


def read_text(completion: Any) -> str:
    """Return the text of a chat completion, without thinking."""
    text, _ = read_reply(completion["choices"][0])
    return split_thinking(text)[1]


def split_thinking(text: str) -> tuple[str, str]:
    """Return the model's thinking in a text, without its marks, and the reply.

    Chat templates may write the first mark into the prompt, so thinking begins at the start of the text or at a mark.
    Where no mark ends it, it takes the rest of the text.
    """
    # Nearly all texts: the patterns cost ten times as much.
    if "<" not in text and "[" not in text and "◁" not in text:
        return "", text
    *thinking, reply = _THINKING_END.split(text)
    reply, *unfinished = _THINKING_START.split(reply)
    return _THINKING_START.sub("", "".join([*thinking, *unfinished])).strip(), reply


def read_reasoning(choice: Mapping[str, Any]) -> str:
    """Return the thinking that a server returned apart from a chat choice's text; "" where there is none."""
    message = choice.get("message") or {}
    for name in ("reasoning", "reasoning_content"):
        if isinstance(message.get(name), str) and message[name]:
            return str(message[name])
    content = message.get("content")
    chunks = content if isinstance(content, list) else []
    return "".join(_thought(chunk) for chunk in chunks if chunk["type"] in _SKIPPED_CHUNKS)


def count_reasoning(usage: object, reasoning: str, text: str) -> int:
    """Return the tokens of thinking, `reasoning` and that in `text`: the server's count, or a share of its tokens."""
    details = usage.get("completion_tokens_details") if isinstance(usage, dict) else None
    if counted := read_count(details, "reasoning"):
        return counted
    thinking, reply = split_thinking(text)
    length = len(reasoning) + len(thinking)
    return round(read_count(usage, "completion") * length / (length + len(reply))) if length else 0


def read_finish(reason: object, text: str) -> str:
    """Return `stop` for all of its synonyms, and for no reason beside a text. Other reasons are returned unchanged."""
    if reason is None or reason == "":
        return "stop" if text else "unknown"
    if not isinstance(reason, str):
        raise TypeError("a finish reason that is not text")
    return "stop" if reason.lower() in _ENDED else reason


def read_count(usage: object, kind: str) -> int:
    """Return the tokens of a kind, or 0 for an implausible number: a wrong count must not cost a good reply."""
    value = usage.get(f"{kind}_tokens") if isinstance(usage, dict) else None
    return int(value) if isinstance(value, (int, float)) and 0 <= value < 2**53 else 0


def first_logprobs(choice: Mapping[str, Any]) -> list[tuple[str, float | None]]:
    """Return the likeliest first tokens of a choice with their log-probabilities; None marks an impossible token.

    Both shapes are read: that of chat completions, and that of text completions.

    Raises:
        ValueError: Tokens are numbers (vLLM's `--return-tokens-as-token-ids`). No option would be found among them, and
            every answer would count as "cannot tell".
    """
    found = choice.get("logprobs") or {}
    if found.get("content"):
        return _named(top_logprobs(found["content"][0]))
    return _named([*((found.get("top_logprobs") or [None])[0] or {}).items()])


def letter_logprobs(choice: Mapping[str, Any], is_letter: Callable[[str], bool]) -> list[tuple[str, float | None]]:
    """Return the likeliest tokens in place of a chat reply's first letter, with their log-probabilities.

    Empty where there are none, or only that of the letter, which says nothing about the others. Raises `ValueError` as
    `first_logprobs` does.
    """
    found = choice.get("logprobs") or {}
    for token in found.get("content") or ():
        if any(is_letter(name) for name, _ in _named([(token["token"], None)])):
            tokens = {token["token"]: token.get("logprob")} | dict(top_logprobs(token))
            return _named([*tokens.items()]) if len(tokens) > 1 else []
    return []


def _named(tokens: list[tuple[str, float | None]]) -> list[tuple[str, float | None]]:
    if any(token.startswith("token_id:") for token, _ in tokens):
        raise ValueError("log-probabilities of numbered tokens")
    return tokens


def top_logprobs(token: Mapping[str, Any]) -> list[tuple[str, float | None]]:
    """Return the likeliest tokens in place of a token of a chat completion, with their log-probabilities."""
    return [(top["token"], top["logprob"]) for top in token.get("top_logprobs") or []]


def read_object(text: str) -> dict[str, Any]:
    """Return the last whole JSON object in a text. Thinking, code fences, other words and drafts are skipped."""
    _, text = split_thinking(text)
    decoder = json.JSONDecoder(parse_constant=lambda _: None)
    found, errors, start = None, [ValueError("no JSON object")], text.find("{")
    while start >= 0 and len(errors) <= _MAX_BROKEN_OBJECTS:
        try:
            found, end = decoder.raw_decode(text, start)
        except RecursionError:
            raise ValueError("a JSON object too deep to read") from None
        except json.JSONDecodeError as error:
            errors.append(error)
            # An object inside a broken one is not an answer by itself.
            end = max(start + 1, error.pos)
        start = text.find("{", end)
    if found is None:
        raise errors[-1]
    return dict(_plain(found))


def read_error(payload: bytes) -> str:
    """Return the error message in a response, in one line of at most 200 characters."""
    text: object = payload[:400].decode(errors="replace")
    try:
        body = orjson.loads(payload)
        text = body.get("error", body)
        text = text.get("message", text) if isinstance(text, dict) else text
    except (ValueError, AttributeError):
        pass
    return " ".join((text if isinstance(text, str) else orjson.dumps(text).decode()).split())[:200]


def _joined(content: object) -> str:
    """Return the text of a message's content: a text, a list of chunks, or None for no text."""
    if isinstance(content, str):
        return content
    if content is not None and not isinstance(content, list):
        raise TypeError("content that is not text")
    chunks: list[Any] = content or []
    texts: list[Any] = [chunk["text"] for chunk in chunks if chunk["type"] not in _SKIPPED_CHUNKS]
    if not all(isinstance(text, str) for text in texts) or any(chunk["type"] not in _KNOWN_CHUNKS for chunk in chunks):
        raise TypeError("content that is not text")
    return "".join(texts)


def _thought(chunk: Mapping[str, Any]) -> str:
    """Return the text of a chunk of thinking. Mistral's has chunks of text in it; redacted thinking has no text."""
    found = chunk.get("thinking") or chunk.get("text")
    parts = [part.get("text") for part in found] if isinstance(found, list) else [found]
    return "".join(part for part in parts if isinstance(part, str))


def _plain(value: Any) -> Any:
    """Return a value as the strict parser reads it: lone surrogates and integers above 64 bits raise `ValueError`."""
    try:
        return orjson.loads(orjson.dumps(value))
    except TypeError as error:
        raise ValueError(str(error)) from None
