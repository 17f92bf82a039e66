from __future__ import annotations

from typing import Any

import orjson
import pytest

from pipeline.generation.requests import Request, make_request
from schemas.config import GenerationConfig

MESSAGES = {"system": "You write forum replies.", "user": "Which bread keeps longest?"}


def body(request: Request) -> dict[str, Any]:
    decoded: dict[str, Any] = orjson.loads(request.body)
    return decoded


def request(
    messages: dict[str, str] = MESSAGES, counter: tuple[object, ...] = ("pairs", 0, 7), **config: Any
) -> Request:
    return make_request(GenerationConfig(**({"model": "m"} | config)), messages, counter)


def test_same_question_has_the_same_key_and_body() -> None:
    first, second = request(), request()

    assert (first.key, first.body) == (second.key, second.body)


@pytest.mark.parametrize(
    "other",
    [
        request(MESSAGES | {"user": "Which bread keeps longest"}),
        request(MESSAGES | {"system": "You write replies."}),
        request({"user": MESSAGES["user"]}),
        request({"user": MESSAGES["system"], "system": MESSAGES["user"]}),
        request(counter=("pairs", 0, 8)),
        request(counter=("pairs", 1, 7)),
        request(model="other"),
        request(temperature=0.7),
        request(top_p=0.9),
        request(max_tokens=64),
        request(stop=("\n\n",)),
        request(extra={"top_k": 20}),
    ],
    ids=[
        *("user text", "system text", "no system", "roles swapped", "counter", "attempt", "model"),
        *("temperature", "top_p", "max_tokens", "stop", "extra"),
    ],
)
def test_any_difference_gives_another_key(other: Request) -> None:
    assert other.key != request().key


def test_seed_depends_on_the_counter_alone() -> None:
    seed = body(request())["seed"]

    assert body(request({"user": "Another post"}, model="other", temperature=0.1, stop=("x",)))["seed"] == seed
    assert body(request(counter=("pairs", 0, 8)))["seed"] != seed


def test_parts_of_a_counter_do_not_run_together() -> None:
    assert body(request(counter=(1, 23)))["seed"] != body(request(counter=(12, 3)))["seed"]


def test_seeds_are_31_bit_and_rarely_meet() -> None:
    seeds = [body(request(counter=("pairs", k)))["seed"] for k in range(2000)]

    assert min(seeds) >= 0
    assert max(seeds) < 2**31
    assert len(set(seeds)) >= 1999


def test_body_is_a_chat_completion_request() -> None:
    sent = body(request(temperature=0.5, top_p=0.75, max_tokens=99))

    seed = sent.pop("seed")
    assert isinstance(seed, int)
    assert sent == {
        "model": "m",
        "messages": [
            {"role": "system", "content": MESSAGES["system"]},
            {"role": "user", "content": MESSAGES["user"]},
        ],
        "temperature": 0.5,
        "top_p": 0.75,
        "max_tokens": 99,
    }


def test_stop_strings_and_extra_fields_are_in_the_body() -> None:
    sent = body(request(stop=("\n\n", "###"), extra={"top_k": 20, "chat_template_kwargs": {"enable_thinking": False}}))

    assert sent["stop"] == ["\n\n", "###"]
    assert sent["top_k"] == 20
    assert sent["chat_template_kwargs"] == {"enable_thinking": False}


def test_a_message_without_text_is_not_sent() -> None:
    sent = body(request({"system": "", "user": "A post"}))

    assert sent["messages"] == [{"role": "user", "content": "A post"}]


def test_texts_are_those_of_the_messages() -> None:
    assert request().texts == (MESSAGES["system"], MESSAGES["user"])
