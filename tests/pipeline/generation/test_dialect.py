from __future__ import annotations

from typing import Any

import orjson
import pytest

from pipeline.generation.completions import AnyRequest, choice_head, make_choice_request, make_request
from pipeline.generation.dialect import Dialect
from pipeline.generation.json_formats import json_format
from schemas.config import GenerationConfig

CONFIG = GenerationConfig(model="m", reasoning="keep out")
MESSAGES = {"user": 'Say "response_format" and {"structured_outputs": 1}.'}
SCHEMA = {"type": "object", "properties": {"hi": {"type": "string"}}}
EXTRA = CONFIG.model_copy(update={"extra": {"response_format": {"type": "json_object"}}})
OF_EXTRA = make_request(EXTRA, MESSAGES, (0,))
SYSTEM = make_request(CONFIG, {"system": "Be brief.", **MESSAGES}, (0,))
NOT_REASONING = make_request(GenerationConfig(model="m"), {"system": "Be brief.", **MESSAGES}, (0,))
CHAT = make_request(CONFIG, MESSAGES, (0,))
JSON = make_request(CONFIG, MESSAGES, (0,), response_format=json_format("hi", SCHEMA))
FREE = make_choice_request(choice_head("m", structured_outputs=False), "Rye.", ("Kind?",), b"known")
CHOICE = make_choice_request(choice_head("m", structured_outputs=True), "Rye.", ("Kind?", "Young?"), b"known")


def sent(dialect: Dialect, request: AnyRequest) -> dict[str, Any]:
    body: dict[str, Any] = orjson.loads(dialect.body(request))
    return body


@pytest.mark.parametrize("request_", [CHAT, OF_EXTRA, SYSTEM, NOT_REASONING, JSON, FREE, CHOICE])
def test_where_nothing_is_refused_all_is_sent_as_it_is(request_: AnyRequest) -> None:
    assert Dialect().body(request_) == request_.body


@pytest.mark.parametrize("request_", [CHAT, OF_EXTRA, FREE])
def test_what_has_no_other_form_does_not_yield(request_: AnyRequest) -> None:
    dialect = Dialect()

    assert not dialect.fall_back(request_)
    assert dialect.body(request_) == request_.body


def test_a_schema_is_asked_for_in_other_words_before_it_is_left_out() -> None:
    dialect, formats = Dialect(), []
    while dialect.fall_back(JSON):
        formats.append(sent(dialect, JSON).get("response_format"))
        assert {**sent(dialect, JSON), "response_format": None} == {**orjson.loads(CHAT.body), "response_format": None}

    assert formats == [
        {"type": "json_schema", "json_schema": {"name": "hi", "schema": SCHEMA, "strict": False}},
        {"type": "json_object", "schema": SCHEMA},
        {"type": "json_object"},
        None,
    ]


def test_choices_do_without_the_constraint() -> None:
    dialect = Dialect()

    assert dialect.fall_back(CHOICE) and not dialect.fall_back(CHOICE)
    assert sent(dialect, CHOICE) == {**orjson.loads(FREE.body), "prompt": ["Rye.Kind?", "Rye.Young?"]}


def test_one_field_that_is_refused_leaves_the_other() -> None:
    dialect = Dialect()
    dialect.fall_back(CHOICE)

    assert dialect.body(JSON) == JSON.body


def test_a_system_message_becomes_the_beginning_of_the_users_turn() -> None:
    dialect = Dialect()

    assert dialect.fall_back(SYSTEM) and not dialect.fall_back(SYSTEM)
    turn = {"role": "user", "content": f"Be brief.\n\n{MESSAGES['user']}"}
    assert sent(dialect, SYSTEM) == {**orjson.loads(SYSTEM.body), "messages": [turn]}
    assert dialect.body(CHAT) == CHAT.body


def test_reasoning_is_switched_off_by_the_fields_that_the_server_takes() -> None:
    dialect, left = Dialect(), []
    trial = make_request(GenerationConfig(model="m"), MESSAGES, (0,))
    while dialect.fall_back(trial):
        left.append({*sent(dialect, trial)} - {*orjson.loads(CHAT.body)})

    assert left == [{"chat_template_kwargs"}, {"reasoning_effort"}, set()]


def test_refused_fields_of_one_request_take_another_form_each() -> None:
    dialect = Dialect()
    dialect.fall_back(SYSTEM)
    # The last field of a trial request is the one that it adds.
    dialect.fall_back(make_request(GenerationConfig(model="m"), MESSAGES, (0,)))

    body = sent(dialect, NOT_REASONING)
    assert [message["role"] for message in body["messages"]] == ["user"]
    assert "reasoning_effort" not in body and "chat_template_kwargs" in body


def test_a_settled_dialect_does_not_change() -> None:
    dialect = Dialect()
    dialect.is_settled = True

    assert not dialect.fall_back(SYSTEM)
    assert dialect.body(SYSTEM) == SYSTEM.body
