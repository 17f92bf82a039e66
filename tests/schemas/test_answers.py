from __future__ import annotations

import json
import math
from typing import Any

import orjson
import pytest

from pipeline.quality.rules import Violation, check_text
from schemas.answers import (
    count_reasoning,
    first_logprobs,
    parse,
    read_count,
    read_finish,
    read_object,
    read_reasoning,
    read_reply,
    read_text,
    split_thinking,
)
from schemas.config import RulesConfig

RYE = "Rye bread keeps longest of them all, I think."


def choice(content: object, finish: object = "stop", **message: object) -> dict[str, Any]:
    return {"index": 0, "message": {"role": "assistant", "content": content, **message}, "finish_reason": finish}


def chunk(text: str, kind: str = "text") -> dict[str, str]:
    return {"type": kind, "text": text}


THOUGHT = {"type": "thinking", "thinking": [chunk("Which bread?")]}


# Content


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (RYE, RYE),
        ("", ""),
        (None, ""),
        ([], ""),
        ([chunk("Rye "), chunk("keeps.")], "Rye keeps."),
        ([THOUGHT, chunk("Rye keeps.")], "Rye keeps."),
        ([chunk("Hm.", "reasoning"), chunk("Rye keeps.", "output_text")], "Rye keeps."),
        ([{"type": "redacted_thinking", "data": "xyz"}, chunk("Rye keeps.")], "Rye keeps."),
        ([THOUGHT], ""),
    ],
)
def test_content_is_text_or_chunks_of_which_only_text_counts(content: object, text: str) -> None:
    assert read_reply(choice(content))[0] == text


@pytest.mark.parametrize(
    "content",
    [
        17,
        1.5,
        True,
        {"text": "Rye."},
        ["Rye."],
        [None],
        [chunk("Rye."), {"type": "image_url", "image_url": "x"}],
        [{"type": "image", "text": "Rye."}],
        [{"text": "Rye."}],
        [{"type": "text"}],
        [{"type": "text", "text": None}],
        [{"type": "text", "text": ["Rye."]}],
        [{"type": ["text"], "text": "Rye."}],
    ],
)
def test_content_of_any_other_shape_is_refused(content: object) -> None:
    with pytest.raises((ValueError, TypeError, LookupError, AttributeError)):
        read_reply(choice(content))


def test_a_message_may_lack_content_where_something_stands_in_its_place() -> None:
    message = {"role": "assistant", "reasoning_content": "Which bread?"}
    assert read_reply({"message": message, "finish_reason": "length"}) == ("", "length")
    with pytest.raises(KeyError):
        read_reply({"message": {"role": "assistant"}, "finish_reason": "stop"})


def test_a_refusal_beside_the_content_is_no_empty_reply() -> None:
    assert read_reply(choice(None, refusal="I cannot help with bread.")) == ("", "refusal")
    assert read_reply(choice(RYE, refusal=None)) == (RYE, "stop")


# Thinking


@pytest.mark.parametrize(
    "content",
    [
        f"<think>Which bread?</think>{RYE}",
        f"Which bread?\n</think>\n\n{RYE}",
        f"<thinking>Which bread?</thinking> {RYE}",
        f"<THINKING>a</THINKING><thinking>b</thinking>{RYE}",
        f"[THINK]Which bread?[/THINK]{RYE}",
        f"◁think▷Which bread?◁/think▷{RYE}",
        f"<seed:think>Which?</seed:think>{RYE}",
        f"<|channel|>analysis<|message|>Which?<|end|><|start|>assistant<|channel|>final<|message|>{RYE}",
        [chunk("<think>Which"), chunk(f" bread?</think>{RYE}")],
    ],
)
def test_what_stands_before_the_end_of_thinking_is_cut_off(content: object) -> None:
    text, finish = read_reply(choice(content))

    assert split_thinking(text)[0]
    assert (split_thinking(text)[1].strip(), finish) == (RYE, "stop")


@pytest.mark.parametrize("mark", ["<think>", "<thinking>", "<Thought>", "<reasoning>", "[THINK]", "◁think▷"])
def test_thinking_that_does_not_end_leaves_no_reply(mark: str) -> None:
    text, finish = read_reply(choice(f"{mark}Which bread do they mean? {RYE}", "length"))

    assert split_thinking(text) == (f"Which bread do they mean? {RYE}", "")
    assert check_text(split_thinking(text)[1], finish, RulesConfig()) == Violation(
        "unfinished", "finish_reason length, no text"
    )


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (f"<think>Hm.</think>{RYE}", RYE),
        ([THOUGHT, chunk(RYE)], RYE),
        ("<think>Hm. Rye? Verdict: A", ""),
        (f"{RYE}<think>Hm.", RYE),
        (None, ""),
    ],
)
def test_text_of_a_completion_is_without_thinking_that_does_not_end(content: object, text: str) -> None:
    assert read_text({"choices": [choice(content)]}) == text


def test_nothing_but_thinking_is_an_empty_reply() -> None:
    text, finish = read_reply(choice("<think>Which bread?</think>"))
    assert (split_thinking(text)[1], finish) == ("", "stop")
    assert read_reply(choice("<think>Which bread?</think>", None))[1] == "unknown"


@pytest.mark.parametrize(
    ("found", "reasoning"),
    [
        (choice(RYE), ""),
        (choice(RYE, reasoning="Which bread?"), "Which bread?"),
        (choice(None, reasoning_content="Which bread?", reasoning=None), "Which bread?"),
        (choice(RYE, reasoning={"effort": "none"}), ""),
        (choice([THOUGHT, chunk(RYE)]), "Which bread?"),
        (choice([chunk("Which ", "reasoning"), chunk("bread?", "reasoning"), chunk(RYE)]), "Which bread?"),
        (choice([{"type": "redacted_thinking", "data": "xyz"}, chunk(RYE)]), ""),
        ({"index": 0, "text": "A", "finish_reason": "length"}, ""),
    ],
)
def test_reasoning_is_what_the_server_returns_beside_the_text(found: dict[str, Any], reasoning: str) -> None:
    assert read_reasoning(found) == reasoning


@pytest.mark.parametrize(
    ("usage", "count"),
    [
        ({"completion_tokens": 100, "completion_tokens_details": {"reasoning_tokens": 61}}, 61),
        ({"completion_tokens": 100, "completion_tokens_details": {"reasoning_tokens": 0}}, 75),
        ({"completion_tokens": 100, "completion_tokens_details": None}, 75),
        ({"completion_tokens": 100}, 75),
        (None, 0),
    ],
)
def test_tokens_of_reasoning_are_counted_by_the_server_or_by_their_share_of_the_text(usage: object, count: int) -> None:
    assert count_reasoning(usage, "a" * 20, f"{'a' * 10}</think>{'b' * 10}") == count


def test_without_reasoning_nothing_is_counted() -> None:
    assert count_reasoning({"completion_tokens": 100}, "", "") == 0


# Finish reasons


@pytest.mark.parametrize(
    "reason", ["stop", "STOP", "eos", "eos_token", "end_turn", "stop_sequence", "COMPLETE", "completed", "", None]
)
def test_servers_have_many_words_for_a_reply_that_ended_itself(reason: object) -> None:
    assert read_finish(reason, RYE) == "stop"


@pytest.mark.parametrize("reason", ["length", "max_tokens", "content_filter", "tool_calls", "abort", "insufficient"])
def test_any_other_word_stays_as_it_is(reason: str) -> None:
    assert read_finish(reason, RYE) == reason


@pytest.mark.parametrize("reason", [1, True, ["stop"], {"type": "stop"}])
def test_a_finish_reason_that_is_no_text_is_refused(reason: object) -> None:
    with pytest.raises(TypeError):
        read_finish(reason, RYE)


def test_reasoning_that_took_all_tokens_is_unfinished_and_not_empty() -> None:
    text, finish = read_reply(choice(None, "length", reasoning_content="Which bread?"))

    violation = check_text(text, finish, RulesConfig())
    assert violation == Violation("unfinished", "finish_reason length, no text")


# Counts


@pytest.mark.parametrize(
    ("value", "count"),
    [
        *((7, 7), (7.0, 7), (0, 0)),
        *((-7, 0), (-0.5, 0), (None, 0), ("7", 0), ("many", 0), ([7], 0), ({"all": 7}, 0)),
        *((1e30, 0), (math.inf, 0), (math.nan, 0)),
    ],
)
def test_a_count_of_tokens_is_believed_if_it_is_one(value: object, count: int) -> None:
    assert read_count({"prompt_tokens": value}, "prompt") == count


@pytest.mark.parametrize("usage", [None, [], [1], "many", 17, {}])
def test_usage_of_another_shape_counts_nothing(usage: object) -> None:
    assert read_count(usage, "completion") == 0


# JSON


def test_numbers_that_json_lacks_are_null() -> None:
    assert parse(b'{"a": -Infinity, "b": NaN, "c": [Infinity], "d": "NaN", "e": 1}') == {
        **dict.fromkeys("ab"),
        "c": [None],
        "d": "NaN",
        "e": 1,
    }


@pytest.mark.parametrize(
    "payload",
    [b"", b"NaN x", b'{"a": -Infinity', b'{"a": NaN, "b": "\\ud800"}', b"[" * 5000 + b"NaN", b"[NaN, 1e999x]"],
)
def test_what_is_no_json_is_refused(payload: bytes) -> None:
    with pytest.raises((ValueError, RecursionError)):
        parse(payload)


@pytest.mark.parametrize(
    "text",
    [
        '{"kind": "positive"}',
        ' \n{"kind": "positive"}\n',
        '```json\n{"kind": "positive"}\n```',
        '```\n{"kind": "positive"}\n```\nThat is {all}.',
        'Certainly! {"kind": "positive"}',
        '[{"kind": "positive"}]',
    ],
)
def test_an_object_is_found_in_a_fence_or_between_words(text: str) -> None:
    assert read_object(text) == {"kind": "positive"}


@pytest.mark.parametrize(
    "text",
    [
        'Draft: {"kind": "unclear"}\nFinal: {"kind": "positive"}',
        'Of the form {kind: ...}, so {"kind": "positive"}',
        '{"kind": {"kind": "unclear"}} {"kind": "positive"} {"kind": {"kind": "unclear"}',
        '{"kind": {"kind": "unclear"}, so} {"kind": "positive"} {',
    ],
)
def test_of_several_objects_the_last_whole_one_counts(text: str) -> None:
    assert read_object(text) == {"kind": "positive"}


def test_a_text_of_nothing_but_braces_is_given_up_soon() -> None:
    with pytest.raises(ValueError):
        read_object("{" * 5_000_000)


@pytest.mark.parametrize(
    "text",
    ["", "positive", '"positive"', "[1, 2]", "{", '{"kind": ', "{kind: positive}", '{"a": "\\ud800"}', '{"a": ' * 9999],
)
def test_a_text_without_an_object_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        read_object(text)


# Log-probabilities


def test_logprobs_are_read_in_the_shape_of_either_api() -> None:
    text_shape = {"logprobs": {"top_logprobs": [{"A": -0.5, "B": None}], "tokens": ["A"]}}
    tops = [{"token": "A", "logprob": -0.5, "bytes": [65]}, {"token": "B", "logprob": None}]
    chat_shape = {"logprobs": {"content": [{"token": "A", "logprob": -0.5, "top_logprobs": tops}]}}

    assert first_logprobs(text_shape) == first_logprobs(chat_shape) == [("A", -0.5), ("B", None)]


def test_tokens_by_number_are_no_answer() -> None:
    with pytest.raises(ValueError, match="numbered tokens"):
        first_logprobs({"text": "A", "logprobs": {"top_logprobs": [{"token_id:32": -0.5, "token_id:33": -1.0}]}})


@pytest.mark.parametrize(
    "logprobs",
    [
        None,
        {},
        {"top_logprobs": None},
        {"top_logprobs": []},
        {"top_logprobs": [None]},
        {"content": None},
        {"content": []},
        {"content": [{"token": "A", "logprob": -0.5}]},
        {"content": [{"token": "A", "logprob": -0.5, "top_logprobs": None}]},
    ],
)
def test_logprobs_may_be_absent_in_many_ways(logprobs: object) -> None:
    assert first_logprobs({"logprobs": logprobs, "text": "A"}) == []


def test_what_python_writes_for_minus_infinity_is_a_token_that_cannot_come() -> None:
    payload = json.dumps({"logprobs": {"top_logprobs": [{"A": -math.inf, "B": -0.1}]}}).encode()
    with pytest.raises(orjson.JSONDecodeError):
        orjson.loads(payload)

    assert first_logprobs(parse(payload)) == [("A", None), ("B", -0.1)]
