from __future__ import annotations

import json
from typing import Any

import pytest

from pipeline.reading.values import (
    UnreadableError,
    parse_flag,
    parse_id,
    parse_list,
    parse_post,
    parse_text,
    parse_topics,
)

NAN = float("nan")
IMAGE = {"role": "user", "content": [{"type": "text", "text": "See:"}, {"type": "image_url", "image_url": "x"}]}


@pytest.mark.parametrize(("value", "text"), [("a\nb", "a\nb"), ("", ""), ("nan", "nan"), (None, ""), (NAN, "")])
def test_text_is_taken_as_it_is_and_a_missing_one_is_empty(value: Any, text: str) -> None:
    assert parse_text(value, "text") == text


@pytest.mark.parametrize("value", [True, 0, 1.5, float("inf"), b"x", ["x"], {"text": "x"}, "half \ud800"])
def test_anything_else_is_no_text(value: Any) -> None:
    with pytest.raises(UnreadableError, match="'text'"):
        parse_text(value, "text")


def test_post_of_a_chat_is_what_the_user_says() -> None:
    chat = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": "Because."},
        {"role": "user", "content": "And how?"},
    ]

    assert parse_post(chat, "post") == "Why?\n\nAnd how?"
    assert parse_post([{"role": "user", "content": [{"type": "text", "text": "Why?"}]}], "post") == "Why?"
    assert parse_post("Why?", "post") == "Why?"
    assert parse_post(f" {json.dumps(chat, indent=1)}\n", "post") == "Why?\n\nAnd how?"
    assert parse_post(repr(chat), "post") == "Why?\n\nAnd how?"
    assert parse_post(None, "post") == ""


@pytest.mark.parametrize("text", ["[Serious] Why?", '["role"]', "[{'name': 'x'}]", '[{"role": "user"} is what I see'])
def test_text_that_only_looks_like_a_list_is_a_post_as_it_is(text: str) -> None:
    assert parse_post(text, "post") == text


@pytest.mark.parametrize(
    "text", ["[{'role': 'user', 'content': 'a'}\n {'role': 'x', 'content': 'b'}]", '[{"role": 1}]']
)
def test_chat_in_a_text_that_cannot_be_read_is_no_post(text: str) -> None:
    with pytest.raises(UnreadableError, match="'post'"):
        parse_post(text, "post")


@pytest.mark.parametrize(
    "value",
    [["Why?"], [], [{"content": "x"}], [{"role": "user", "content": [1]}], [{"role": 1, "content": "x"}], [IMAGE]],
)
def test_other_lists_are_no_post(value: Any) -> None:
    with pytest.raises(UnreadableError, match="'post"):
        parse_post(value, "post")


@pytest.mark.parametrize(
    ("value", "identity"),
    [
        ("t3_x", "t3_x"),
        (" x ", "x"),
        (0, "0"),
        (1237940039285380274899124225, "1237940039285380274899124225"),
        (7.0, "7"),
        (None, ""),
        (NAN, ""),
        (" ", ""),
    ],
)
def test_id_is_an_exact_text(value: Any, identity: str) -> None:
    assert parse_id(value, "id") == identity


@pytest.mark.parametrize("value", [True, 1.5, 1e20, float("inf"), ["x"], {"id": 1}, b"x"])
def test_anything_else_is_no_id(value: Any) -> None:
    with pytest.raises(UnreadableError, match="'id'"):
        parse_id(value, "id")


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (["a", {"b": 1}], ["a", {"b": 1}]),
        (("a",), ["a"]),
        (None, []),
        (NAN, []),
        (" ", []),
        ('["a", "b"]', ["a", "b"]),
        ("""['a', "it's"]""", ["a", "it's"]),
        ("{'text': ['a', 'b']}", [{"text": "a"}, {"text": "b"}]),
        ({"text": ["a", "b"], "score": [1, 2]}, [{"text": "a", "score": 1}, {"text": "b", "score": 2}]),
        ({"text": []}, []),
    ],
)
def test_list_is_a_list_a_text_that_holds_one_or_an_object_of_lists(value: Any, found: list[Any]) -> None:
    assert parse_list(value, "responses") == found


@pytest.mark.parametrize(
    "value",
    [5, True, "a, b", "['a' 'b']", "['a', ", "[" * 100_000, "__import__('os')", {"text": "a"}, {"a": [1], "b": [1, 2]}],
)
def test_anything_else_is_no_list(value: Any) -> None:
    with pytest.raises(UnreadableError, match="'responses'"):
        parse_list(value, "responses")


@pytest.mark.parametrize(
    ("value", "topics"),
    [
        (["Music", "Sci Fi ", ""], ["music", "sci_fi"]),
        ("music, Sci Fi", ["music", "sci_fi"]),
        ("['music', 'art']", ["music", "art"]),
        ('["music", "art"]', ["music", "art"]),
        (" , ", []),
        ("", []),
        ([], []),
        (None, []),
        (NAN, []),
        ([None, "music"], ["music"]),
    ],
)
def test_topics_are_a_list_or_a_text_with_commas(value: Any, topics: list[str]) -> None:
    assert parse_topics(value, "topics") == topics


@pytest.mark.parametrize("value", [5, [5], "['music' 'art']", {"a": "b"}])
def test_anything_else_is_no_topics(value: Any) -> None:
    with pytest.raises(UnreadableError, match="'topics'"):
        parse_topics(value, "topics")


@pytest.mark.parametrize(
    ("value", "flag"),
    [
        *((True, True), (1, True), (1.0, True), (" Yes ", True), ("true", True), ("1", True)),
        *((False, False), (0, False), (None, False), (float("nan"), False), ("", False), ("no", False)),
    ],
)
def test_truth_values_are_read_in_words_too(value: Any, flag: bool) -> None:
    assert parse_flag(value, "impersonal") is flag


@pytest.mark.parametrize("value", ["maybe", 2, [True], {"a": 1}])
def test_other_values_are_no_truth_values(value: Any) -> None:
    with pytest.raises(UnreadableError, match="'impersonal' is neither true nor false"):
        parse_flag(value, "impersonal")
