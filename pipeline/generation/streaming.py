"""Reader of streamed chat completions: server-sent events to the JSON body of the same completion sent whole.

Events are parsed once, when the stream has ended. What follows then reads one shape only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from schemas.answers import parse

MEDIA_TYPE = "text/event-stream"
_BLANK_LINES = (b"\n\n", b"\n\r\n", b"\r\r")
_TEXTS = ("content", "reasoning", "reasoning_content", "refusal")
"""Fields of a delta that hold pieces of text. Servers name the reasoning either way."""


@dataclass(frozen=True, slots=True)
class Streamed:
    """A stream as far as it was received.

    `body` is a JSON body, of a completion or of an error. `is_whole`: the stream had its end. `text` is the content so
    far, and `has_reasoning` says that the model also thought, apart from it.
    """

    body: bytes
    is_whole: bool
    text: str = ""
    has_reasoning: bool = False


def with_stream(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a request that asks for a stream which ends with its token counts."""
    return fields | {"stream": True, "stream_options": {"include_usage": True}}


def assemble(received: bytes) -> Streamed:
    """Join the events of a stream. Raises `ValueError` and the like where one is not of a chat completion."""
    parts: dict[str, list[Any]] = {}
    choice: dict[str, Any] = {}
    usage, is_whole, tokens = None, False, 0
    for data, is_ended in _events(received):
        if data.strip() == b"[DONE]":
            is_whole = True
            continue
        try:
            chunk = parse(data)
        except ValueError:
            if is_ended:
                raise
            break  # The connection was lost in the middle of an event.
        if chunk.get("error"):
            return Streamed(orjson.dumps({"error": chunk["error"]}), is_whole=True)
        usage = chunk.get("usage") or usage
        for piece in chunk.get("choices") or ():
            # A server that ignores `stream` in part sends the message whole, some also at the end of a stream.
            delta = piece.get("delta") or (None if parts else piece.get("message")) or {}
            for name in _TEXTS:
                if delta.get(name):
                    parts.setdefault(name, []).append(delta[name])
            tokens += any(delta.get(name) for name in _TEXTS)
            choice |= {"index": 0} | {name: piece[name] for name in ("finish_reason", "error") if piece.get(name)}
    is_whole = is_whole or "finish_reason" in choice or "error" in choice
    message = {name: _join(found) for name, found in parts.items()}
    content = message.setdefault("content", "")
    # A server that sends no counts with a stream sends a token in each event.
    choices = [choice | {"message": message}] if choice else []
    body = orjson.dumps({"choices": choices, "usage": usage or {"completion_tokens": tokens}})
    has_reasoning = not message.keys().isdisjoint(("reasoning", "reasoning_content")) or not isinstance(content, str)
    return Streamed(body, is_whole, content if isinstance(content, str) else "", has_reasoning)


def has_begun(received: bytes) -> bool:
    """Return whether a stream holds a token. Comments and a first event that names the role alone are none."""
    try:
        stream = assemble(received)
    except (ValueError, LookupError, TypeError, AttributeError):
        return False
    return bool(stream.text) or stream.has_reasoning


def end_of_events(received: bytearray, start: int) -> int:
    """Return where the last whole event ends, from `start` on; `start` where none has ended."""
    ends = (at + len(mark) for mark in _BLANK_LINES if (at := received.rfind(mark, start)) >= 0)
    return max(ends, default=start)


def _events(received: bytes) -> Iterator[tuple[bytes, bool]]:
    """Yield the data of each event, and whether its line has ended. Comments and other fields are skipped."""
    text = received.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    *lines, rest = text.split(b"\n")
    data: list[bytes] = []
    for line in lines:
        if line.startswith(b"data:"):
            data.append(line[5:].removeprefix(b" "))
        elif not line and data:
            yield b"\n".join(data), True
            data.clear()
    if rest.startswith(b"data:"):
        data.append(rest[5:].removeprefix(b" "))
    if data:
        yield b"\n".join(data), False


def _join(parts: list[Any]) -> Any:
    """Return the text of pieces; a list of chunks where a server, as Mistral's, sends chunks."""
    if all(isinstance(part, str) for part in parts):
        return "".join(parts)
    chunks: list[Any] = []
    for part in parts:
        chunks += part if isinstance(part, list) else [{"type": "text", "text": part}]
    return chunks
