from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import pytest

from pipeline.generation.completions import (
    PROBABILITIES,
    VOTES,
    choice_head,
    decode_probabilities,
    make_choice_request,
)
from pipeline.generation.votes import Vote, make_vote, vote_head

HEAD = choice_head("m", structured_outputs=True)
CHOICE = make_choice_request(HEAD, "Rye.", ("Kind? (", "Young? ("), b"known")


def a_vote(question: int = 0, number: int = 0) -> Vote:
    return make_vote(CHOICE, vote_head(HEAD), question, number)


def said(text: str, *tokens: Mapping[str, float], **message: Any) -> dict[str, Any]:
    """A chat completion; `tokens` are the likeliest ones in each place, the one that was sampled first."""
    content = [
        {
            "token": next(iter(tops)),
            "logprob": math.log(next(iter(tops.values()))),
            "top_logprobs": [{"token": token, "logprob": math.log(share)} for token, share in tops.items()],
        }
        for tops in tokens
    ]
    choice = {"message": {"role": "assistant", "content": text, **message}, "finish_reason": "stop"}
    return {"choices": [choice | ({"logprobs": {"content": content}} if tokens else {})]}


def read(response: dict[str, Any]) -> tuple[list[int], str]:
    text, how = a_vote().read(response)
    return decode_probabilities(text)[0].tolist(), how


def test_body_is_a_chat_request_about_one_question() -> None:
    body = json.loads(a_vote(question=1).body)

    assert [turn["role"] for turn in body["messages"]] == ["system", "user"]
    assert body["messages"][1]["content"] == "Rye.Young? ("
    assert (body["model"], body["temperature"], body["logprobs"]) == ("m", 1.0, True)
    assert body["structured_outputs"] == {"choice": ["A", "B", "C"]}
    assert body["chat_template_kwargs"]["enable_thinking"] is False


def test_votes_on_a_question_differ_in_the_seed_alone() -> None:
    first, second = (json.loads(a_vote(number=number).body) for number in (0, 1))

    assert first.pop("seed") != second.pop("seed")
    assert first == second
    assert json.loads(a_vote().body) == json.loads(a_vote().body)


def test_each_vote_has_its_own_key() -> None:
    votes = [a_vote(question, number) for question in (0, 1) for number in range(3)]

    assert len({vote.key for vote in votes} | {CHOICE.key}) == 7


@pytest.mark.parametrize(
    "tokens",
    [
        [{"B": 0.6, "A": 0.2, "C": 0.2}],
        [{"B": 0.5, " B": 0.1, "A": 0.2, "C": 0.2}],
        [{"(": 0.9, "B": 0.1}, {"B": 0.6, "A": 0.2, "C": 0.2}, {")": 1.0}],
        [{"(B": 0.6, "(A": 0.2, "(C": 0.2}],
        [{"\u0120B": 0.6, "\u2581A": 0.2, "C)": 0.2}],
        [{'{"': 1.0}, {"answer": 1.0}, {'":': 1.0}, {' "': 1.0}, {"B": 0.3, "A": 0.1, "C": 0.1, "It": 0.5}],
    ],
    ids=["alone", "with a space", "in brackets", "with a bracket", "marked spaces", "JSON"],
)
def test_with_numbers_a_vote_has_the_probabilities_of_all_options(tokens: list[dict[str, float]]) -> None:
    assert read(said("(B)", *tokens)) == ([51, 153, 51], PROBABILITIES)


@pytest.mark.parametrize(
    ("text", "shares"),
    [
        ("B", [0, 255, 0]),
        ("(C) The comment alone cannot tell", [0, 0, 255]),
        ('```json\n{"answer": "A"}\n```', [255, 0, 0]),
        ("Answer: B.", [0, 255, 0]),
        ("B) Reserved, as A quiet person would be", [0, 255, 0]),
        ("<think>\nA or C?\n</think>\n\nC", [0, 0, 255]),
        ("It is B because of the tone", [0, 255, 0]),
        ("A or B", [0, 0, 0]),
        ("A careful reading does not show it; I cannot tell.", [0, 0, 0]),
        ("I cannot say", [0, 0, 0]),
        ("Because", [0, 0, 0]),
        ("", [0, 0, 0]),
    ],
)
def test_without_numbers_the_letter_in_the_text_counts(text: str, shares: list[int]) -> None:
    assert read(said(text)) == (shares, VOTES)


def test_the_number_of_the_sampled_token_alone_is_a_vote() -> None:
    assert read(said("B", {"B": 0.4})) == ([0, 255, 0], VOTES)


def test_letters_in_the_models_thinking_are_no_answer() -> None:
    thought = said("<think>A</think>B", {"<think>": 1.0}, {"A": 0.9, "B": 0.1}, {"</think>": 1.0}, {"B": 0.8, "C": 0.2})

    assert read(thought) == ([0, 255, 0], VOTES)


def test_numbered_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match="numbered tokens"):
        read(said("B", {"token_id:33": 0.9, "token_id:34": 0.1}))


def test_what_a_server_may_refuse_is_named_in_the_order_of_the_trial_requests() -> None:
    assert a_vote().fields == ("max_tokens", "system", "reasoning", "seed", "logprobs", "structured_outputs")
    assert Vote("key", {"model": "m"}, "", "Rye.", "Kind?", None).fields == ()
