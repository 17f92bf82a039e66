"""Streams as servers and proxies send them, read as the whole completion."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from pipeline.generation.streaming import Streamed, assemble, end_of_events, has_begun
from schemas.answers import read_reply
from tests.stub import event


def delta(finish_reason: str | None = None, **fields: Any) -> bytes:
    return event({"choices": [{"index": 0, "delta": fields, "finish_reason": finish_reason}]})


ROLE = delta(role="assistant", content="")
USAGE = event({"choices": [], "usage": {"prompt_tokens": 12, "completion_tokens": 3}})
DONE = b"data: [DONE]\n\n"
WHOLE = ROLE + delta(content="Rye ") + delta(content="keeps.") + delta("stop") + USAGE + DONE


def reply(stream: Streamed) -> tuple[str, str]:
    return read_reply(orjson.loads(stream.body)["choices"][0])


def test_a_stream_is_read_as_the_completion_sent_whole() -> None:
    stream = assemble(WHOLE)

    assert reply(stream) == ("Rye keeps.", "stop")
    assert orjson.loads(stream.body)["usage"] == {"prompt_tokens": 12, "completion_tokens": 3}
    assert (stream.is_whole, stream.text, stream.has_reasoning) == (True, "Rye keeps.", False)


@pytest.mark.parametrize(
    "received",
    [
        WHOLE.replace(b"\n", b"\r\n"),
        WHOLE.replace(b"\n", b"\r"),
        WHOLE.replace(b"data: ", b"data:"),
        b"\xef\xbb\xbf" + WHOLE,
        b": ping\n\n" + WHOLE.replace(DONE, b": OPENROUTER PROCESSING\n\n" + DONE),
        WHOLE.replace(b"data: ", b"event: message\nid: 7\nretry: 10\ndata: "),
        WHOLE.replace(b'{"choices"', b'{\ndata: "choices"'),
        WHOLE.removesuffix(b"\n\n"),
        WHOLE.removesuffix(DONE),
        WHOLE.replace(delta("stop"), b""),
        WHOLE.replace(ROLE, ROLE + event({"choices": []}) + event({"choices": None})),
        WHOLE.replace(b'"index": 0', b'"index": 0, "logprobs": NaN'),
    ],
    ids=[
        *("CRLF", "CR", "no space", "mark of order", "comments", "fields", "two lines", "no last line", "no end mark"),
        *("no finish reason", "no choices", "NaN"),
    ],
)
def test_servers_and_proxies_write_events_in_many_ways(received: bytes) -> None:
    stream = assemble(received)

    assert reply(stream) == ("Rye keeps.", "stop")
    assert stream.is_whole


def test_without_counts_the_events_with_text_are_counted() -> None:
    assert orjson.loads(assemble(WHOLE.replace(USAGE, b"")).body)["usage"] == {"completion_tokens": 2}


def test_the_last_finish_reason_counts() -> None:
    assert reply(assemble(delta(content="Rye") + delta("length") + DONE)) == ("Rye", "length")


@pytest.mark.parametrize("cut", [len(ROLE), len(ROLE) + 30, WHOLE.index(b"keeps"), WHOLE.index(delta("stop")) + 9])
def test_a_stream_that_was_cut_is_not_whole_and_keeps_its_text(cut: int) -> None:
    stream = assemble(WHOLE[:cut])

    assert not stream.is_whole
    assert "Rye keeps.".startswith(stream.text)
    assert ("Rye" in stream.text) == (cut > len(ROLE) + 60)


def test_no_place_of_a_cut_is_an_error() -> None:
    received = ROLE + delta(content="Brot für 日本") + DONE

    texts = {assemble(received[:end]).text for end in range(len(received) + 1)}

    assert texts == {"", "Brot für 日本"}


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
def test_reasoning_stays_apart(field: str) -> None:
    stream = assemble(delta(**{field: "Hmm, "}) + delta(**{field: "bread."}) + delta(content="Rye.") + delta("stop"))

    message = orjson.loads(stream.body)["choices"][0]["message"]
    assert message == {field: "Hmm, bread.", "content": "Rye."}
    assert stream.has_reasoning


def test_a_refusal_is_read_as_one() -> None:
    assert reply(assemble(delta(refusal="I ") + delta(refusal="cannot.") + delta("stop"))) == ("", "refusal")


def test_chunks_of_content_are_joined() -> None:
    thinking = [{"type": "thinking", "thinking": [{"type": "text", "text": "Hmm."}]}]
    stream = assemble(delta(content=thinking) + delta(content="Rye ") + delta(content="keeps.") + delta("stop"))

    assert reply(stream) == ("Rye keeps.", "stop")


def test_an_error_in_a_stream_is_the_answer() -> None:
    stream = assemble(delta(content="Rye") + event({"error": {"message": "out of memory"}}) + DONE)

    assert orjson.loads(stream.body) == {"error": {"message": "out of memory"}}


def test_an_error_of_the_choice_is_kept() -> None:
    failed = event({"choices": [{"index": 0, "delta": {}, "finish_reason": "error", "error": {"code": 502}}]})

    choice = orjson.loads(assemble(delta(content="Rye") + failed).body)["choices"][0]

    assert (choice["finish_reason"], choice["error"]) == ("error", {"code": 502})


def test_a_message_that_a_stream_sends_whole_is_read() -> None:
    whole = {"choices": [{"index": 0, "message": {"content": "Rye keeps."}, "finish_reason": "stop"}]}

    assert reply(assemble(event(whole) + DONE)) == ("Rye keeps.", "stop")


def test_a_message_after_its_own_pieces_is_not_read_twice() -> None:
    whole = {"index": 0, "delta": {}, "message": {"content": "Rye keeps."}, "finish_reason": "stop"}

    assert reply(assemble(delta(content="Rye keeps.") + event({"choices": [whole]}) + DONE)) == ("Rye keeps.", "stop")


def test_a_stream_without_a_choice_is_no_empty_reply() -> None:
    assert orjson.loads(assemble(USAGE + DONE).body)["choices"] == []


@pytest.mark.parametrize("received", [b"data: oops\n\n" + DONE, b"data: 7\n\n", b'data: {"choices": 7}\n\n'])
def test_what_is_no_chat_completion_is_an_error(received: bytes) -> None:
    with pytest.raises((ValueError, TypeError, AttributeError)):
        assemble(received)


@pytest.mark.parametrize(
    ("received", "expected"),
    [
        (b"", False),
        (b": ping\n\n", False),
        (ROLE, False),
        (ROLE + b": ping\n\n", False),
        (b"data: oops\n\n", False),
        (ROLE + delta(content="R"), True),
        (delta(reasoning="H"), True),
    ],
)
def test_a_token_is_told_from_signs_of_life(received: bytes, expected: bool) -> None:
    assert has_begun(received) is expected


@pytest.mark.parametrize("ending", [b"\n\n", b"\r\n\r\n", b"\r\r"])
def test_events_before_the_first_token_are_searched_once(ending: bytes) -> None:
    whole = ROLE.removesuffix(b"\n\n") + ending
    received = bytearray(2 * whole + delta(content="R")[:9])

    assert end_of_events(received, 0) == end_of_events(received, len(whole)) == 2 * len(whole)
    assert end_of_events(received, 2 * len(whole)) == 2 * len(whole)
