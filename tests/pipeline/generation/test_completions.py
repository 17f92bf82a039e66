from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest

from pipeline.generation.completions import (
    PROBABILITIES,
    VOTES,
    ChoiceRequest,
    Request,
    choice_head,
    decode_probabilities,
    make_choice_request,
    make_request,
)
from schemas.config import GenerationConfig
from tests.pipeline.helpers import body_of
from tests.stub import choice_of, choices

MESSAGES = {"system": "You write forum replies.", "user": "Which bread keeps longest?"}


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
        request(reasoning="keep out"),
    ],
    ids=[
        *("user text", "system text", "no system", "roles swapped", "counter", "attempt", "model"),
        *("temperature", "top_p", "max_tokens", "stop", "extra", "reasoning"),
    ],
)
def test_any_difference_gives_another_key(other: Request) -> None:
    assert other.key != request().key


def test_seed_depends_on_the_counter_alone() -> None:
    seed = body_of(request())["seed"]

    assert body_of(request({"user": "Another post"}, model="other", temperature=0.1, stop=("x",)))["seed"] == seed
    assert body_of(request(counter=("pairs", 0, 8)))["seed"] != seed


def test_parts_of_a_counter_do_not_run_together() -> None:
    assert body_of(request(counter=(1, 23)))["seed"] != body_of(request(counter=(12, 3)))["seed"]


def test_seeds_are_31_bit_and_rarely_meet() -> None:
    seeds = [body_of(request(counter=("pairs", k)))["seed"] for k in range(2000)]

    assert min(seeds) >= 0
    assert max(seeds) < 2**31
    assert len(set(seeds)) >= 1999


def test_body_is_a_chat_completion_request() -> None:
    sent = body_of(request(temperature=0.5, top_p=0.75, max_tokens=99))

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
        "chat_template_kwargs": {"enable_thinking": False, "thinking": False},
        "reasoning_effort": "none",
    }


def test_reasoning_that_is_kept_out_has_tokens_of_its_own() -> None:
    sent = body_of(request(reasoning="keep out", reasoning_tokens=1000, max_tokens=99))

    assert sent["max_tokens"] == 1099
    assert not sent.keys() & {"chat_template_kwargs", "reasoning_effort"}


@pytest.mark.parametrize("extra", [{"reasoning_effort": "minimal"}, {"chat_template_kwargs": None}])
def test_fields_of_extra_take_the_place_of_all_that_switches_reasoning_off(extra: dict[str, Any]) -> None:
    made = request(extra=extra)

    plain = body_of(request(reasoning="keep out", reasoning_tokens=0))
    assert body_of(made) == plain | {name: value for name, value in extra.items() if value}
    assert made.fields == ("system",)


def test_fields_that_a_server_may_refuse_are_those_of_the_build_alone() -> None:
    user = {"user": MESSAGES["user"]}

    assert request().fields == ("reasoning", "system")
    assert request(user, reasoning="keep out", extra={"response_format": {"type": "text"}}).fields == ()
    wanted = make_request(GenerationConfig(model="m"), user, (0,), response_format={"type": "json_object"})
    assert wanted.fields == ("reasoning", "response_format")


def test_stop_strings_and_extra_fields_are_in_the_body() -> None:
    sent = body_of(
        request(stop=("\n\n", "###"), extra={"top_k": 20, "chat_template_kwargs": {"enable_thinking": False}})
    )

    assert sent["stop"] == ["\n\n", "###"]
    assert sent["top_k"] == 20
    assert sent["chat_template_kwargs"] == {"enable_thinking": False}


def test_null_takes_a_field_out_of_the_body() -> None:
    extra = {"max_tokens": None, "max_completion_tokens": 9, "seed": None, "reasoning_effort": None}
    sent = body_of(request(extra=extra))

    assert sent.keys() == {"model", "messages", "temperature", "top_p", "max_completion_tokens"}
    assert sent["max_completion_tokens"] == 9


def test_a_field_that_the_server_does_not_know_is_not_sent_by_any_stage() -> None:
    config = GenerationConfig(model="m", extra={"max_tokens": None, "response_format": None})

    made = make_request(config, MESSAGES, (0,), max_tokens=16, response_format={"type": "json_object"})

    assert not body_of(made).keys() & {"max_tokens", "response_format"}
    assert made.fields == ("reasoning", "system")


def test_a_message_without_text_is_not_sent() -> None:
    sent = body_of(request({"system": "", "user": "A post"}))

    assert sent["messages"] == [{"role": "user", "content": "A post"}]


def test_texts_are_those_of_the_messages() -> None:
    assert request().texts == (MESSAGES["system"], MESSAGES["user"])


# Many choices in one call

QUESTIONS = ("\nQuestion: Kind?\nAnswer: (", "\nQuestion: Young?\nAnswer: (", "\nQuestion: Rich?\nAnswer: (")


def choice_request(
    prefix: str = "Comment: Rye.",
    questions: tuple[str, ...] = QUESTIONS,
    digest: bytes = b"known",
    structured_outputs: bool = True,
) -> ChoiceRequest:
    return make_choice_request(choice_head("m", structured_outputs), prefix, questions, digest)


def read(*found: Mapping[str, Any]) -> list[list[int]]:
    """Bytes of the options A, B, C for each of as many questions as there are choices."""
    text, _ = choice_request(questions=QUESTIONS[:1] * len(found)).read({"choices": [*found]})
    return decode_probabilities(text).tolist()


def top(logprobs: Mapping[str, Any] | None, text: str = "A") -> dict[str, Any]:
    """One choice, with its logprobs as they come."""
    return {"index": 0, "text": text, "logprobs": None if logprobs is None else {"top_logprobs": [logprobs]}}


def test_body_of_choices_is_what_vllm_wants() -> None:
    assert body_of(choice_request()) == {
        "model": "m",
        "prompt": [f"Comment: Rye.{question}" for question in QUESTIONS],
        "max_tokens": 1,
        "temperature": 0.0,
        "logprobs": 5,
        "structured_outputs": {"choice": ["A", "B", "C"]},
    }


def test_body_of_unconstrained_choices_does_not_ask_for_structured_outputs() -> None:
    sent = body_of(choice_request(structured_outputs=False))

    assert sent.keys() == {"model", "prompt", "max_tokens", "temperature", "logprobs"}


def test_choices_take_as_much_of_the_window_as_there_are_questions() -> None:
    assert choice_request().sequences == 3
    assert request().sequences == 1


def test_paths_are_those_of_the_two_apis() -> None:
    assert (request().path, choice_request().path) == ("/chat/completions", "/completions")


def test_same_choices_have_the_same_key_and_body() -> None:
    first, second = choice_request(), choice_request()

    assert (first.key, first.body) == (second.key, second.body)


@pytest.mark.parametrize(
    ("prefix", "digest"),
    [("Comment: Rye!", b"known"), ("Comment: Rye.", b"other"), ("", b"known"), ("Comment: Rye.", b"")],
)
def test_another_prefix_or_other_questions_give_another_key(prefix: str, digest: bytes) -> None:
    assert choice_request(prefix, digest=digest).key != choice_request().key


def test_prefix_and_questions_do_not_run_together_in_the_key() -> None:
    assert choice_request("ab", digest=b"c").key != choice_request("a", digest=b"bc").key


def test_choices_are_read_in_the_order_of_their_index() -> None:
    certain = {"A": [255, 0, 0], "B": [0, 255, 0], "C": [0, 0, 255]}
    found = [choice_of(index, {letter: 1.0}) for index, letter in enumerate("BCA")]

    assert read(found[2], found[0], found[1]) == [certain["B"], certain["C"], certain["A"]]


@pytest.mark.parametrize(
    "indexes", [(), (0, 1), (0, 1, 3), (0, 1, 1), (1, 2, 3), (0, 0, 1, 2), (-1, 0, 1), (0, 1, 2, 3)]
)
def test_missing_double_or_further_choices_are_refused(indexes: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="not one choice for each prompt"):
        choice_request().read({"choices": [choice_of(index, {"A": 1.0}) for index in indexes]})


def test_shares_are_those_among_the_options() -> None:
    assert read(choice_of(0, {"A": 0.3, "B": 0.1, "C": 0.1, "The": 0.4, "1": 0.1})) == [[153, 51, 51]]


def test_options_with_and_without_a_space_add_up() -> None:
    tokens = {"A": 0.2, " A": 0.3, "B": 0.1, " B": 0.15, "C": 0.25}

    assert read(choice_of(0, tokens)) == [[128, 64, 64]]


@pytest.mark.parametrize("space", [" ", "\u2581", "\u0120"])
def test_a_space_before_an_option_may_be_shown_as_the_tokenizer_marks_it(space: str) -> None:
    assert read(choice_of(0, {f"{space}A": 0.3, f"{space}B": 0.1, "C": 0.1})) == [[153, 51, 51]]


def test_an_option_that_is_not_among_the_likeliest_counts_as_nothing() -> None:
    assert read(choice_of(0, {"B": 0.5, "The": 0.5})) == [[0, 255, 0]]


@pytest.mark.parametrize("token", ["a", "AB", "(A", "A)", "", "A."])
def test_other_tokens_are_no_options(token: str) -> None:
    assert read(choice_of(0, {token: 0.9, "C": 0.1})) == [[0, 0, 255]]


@pytest.mark.parametrize(
    ("text", "shares"), [("B", [0, 255, 0]), (" B\n", [0, 255, 0]), ("The", [0] * 3), ("", [0] * 3)]
)
@pytest.mark.parametrize("logprobs", [{}, None])
def test_without_logprobs_the_text_counts(logprobs: Mapping[str, float] | None, text: str, shares: list[int]) -> None:
    assert read(top(logprobs, text)) == [shares]


def test_what_a_model_was_made_to_say_is_no_certainty() -> None:
    assert read(top({"The": -0.1, "1": -3.0}, "B")) == [[0] * 3]


@pytest.mark.parametrize("logprobs", [{}, {"top_logprobs": None}, {"top_logprobs": []}, {"tokens": ["B"]}])
def test_logprobs_without_alternatives_leave_the_text(logprobs: Mapping[str, Any]) -> None:
    assert read({"index": 0, "text": "B", "logprobs": logprobs}) == [[0, 255, 0]]


def test_choices_without_a_field_for_logprobs_leave_the_text() -> None:
    assert read({"index": 0, "text": "C"}) == [[0, 0, 255]]


def test_a_logprob_above_zero_counts_as_certainty() -> None:
    assert read(top({"A": 1e-6, "B": 700.0, "C": -math.inf})) == [[128, 128, 0]]


@pytest.mark.parametrize("least", [-math.inf, -9999.0, -1e300])
def test_options_that_the_engine_rules_out_count_as_nothing(least: float) -> None:
    assert read(top({"A": least, "B": least, "C": -0.1}, text="C")) == [[0, 0, 255]]
    assert read(top({"A": least, "B": least, "C": least}, text="B")) == [[0] * 3]


@pytest.mark.parametrize("value", [math.nan, "nan"])
def test_a_logprob_that_is_no_number_is_never_certainty(value: object) -> None:
    try:
        found = read(top({"A": value, "B": -2.0, "C": -2.0}))
    except ValueError:
        return
    assert found[0][0] == 0


@pytest.mark.parametrize("said", ["A", " A", "\u2581A"])
def test_a_runner_up_is_no_answer_where_what_the_model_said_has_no_number(said: str) -> None:
    assert read(top({said: None, "B": -2.0, "C": -3.0}, text=said)) == [[0] * 3]
    assert read(top({"B": -2.0, "C": -3.0}, text=said)) == [[0] * 3]
    assert read(top({said: -0.1, "B": None, "C": None}, text=said)) == [[255, 0, 0]]


def test_probabilities_come_back_within_half_a_byte() -> None:
    prompts = [f"Is it {k}?" for k in range(200)]
    found = choices({"prompt": prompts})
    text, _ = choice_request(questions=tuple(prompts)).read({"choices": found})

    restored = decode_probabilities(text)

    assert restored.shape == (200, 3)
    for choice, row in zip(found, restored.tolist(), strict=True):
        weights = [math.exp(choice["logprobs"]["top_logprobs"][0][letter]) for letter in "ABC"]
        for weight, byte in zip(weights, row, strict=True):
            assert abs(weight / sum(weights) - byte / 255) <= 0.5 / 255 + 1e-9


def test_the_finish_reason_says_whether_probabilities_answered_all_questions() -> None:
    numbers, text = choice_of(0, {"A": 0.9, "B": 0.1}), {"index": 1, "text": "B", "logprobs": None}

    assert choice_request(questions=QUESTIONS[:1]).read({"choices": [numbers]})[1] == PROBABILITIES
    assert choice_request(questions=QUESTIONS[:1] * 2).read({"choices": [numbers, text]})[1] == VOTES


def test_no_answer_comes_back_as_zeros() -> None:
    assert read(top(None, "The")) == [[0, 0, 0]]
