from __future__ import annotations

import json
import math
from typing import Any

import pytest

from everyuser_train.annotators import _chat_probabilities, _probabilities
from everyuser_train.judge import read_verdict
from schemas.answers import parse, read_text


def answer(content: str) -> dict[str, Any]:
    return {"choices": [{"message": {"role": "assistant", "content": content}}]}


def test_a_verdict_within_thinking_that_does_not_end_is_none() -> None:
    assert read_verdict(read_text(answer("<think>Verdict: A?"))) is None
    assert read_verdict(read_text(answer("<think>Verdict: A?</think>Verdict: B"))) == "second"


EXCLUDED: list[Any] = [None, -math.inf]


@pytest.mark.parametrize("excluded", EXCLUDED)
def test_an_option_that_the_server_excludes_has_no_weight(excluded: float | None) -> None:
    tops = {"\u2581A": -0.1, "B": excluded, "C": excluded}
    choice = {"index": 0, "text": "A", "logprobs": {"top_logprobs": [tops]}}
    assert _probabilities(parse(json.dumps({"choices": [choice]}).encode()), 1).tolist() == [[1, 0, 0]]

    listed = [{"token": token, "logprob": logprob} for token, logprob in tops.items()]
    content = {"content": [{"token": "A", "logprob": -0.1, "top_logprobs": listed}]}
    chat = {"choices": [{"message": {"content": "A"}, "logprobs": content}]}
    assert _chat_probabilities(parse(json.dumps(chat).encode())).tolist() == [[1, 0, 0]]
    assert _probabilities(parse(json.dumps({"choices": [choice | {"logprobs": content}]}).encode()), 1).tolist() == [
        [1, 0, 0]
    ]
