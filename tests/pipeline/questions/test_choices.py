from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from pipeline.generation.completions import Completion, Failure, Outcome, choice_head
from pipeline.quality.rules import Violation
from pipeline.questions.choices import (
    ORDERS,
    Asked,
    Questionnaire,
    by_meaning,
    dimension_texts,
    make_questionnaire,
    question_texts,
    read_options,
)
from preference_space.space import load_space
from prompts.renderer import load_templates
from tests.stub import option_texts

TIMEOUT = Failure("timeout", "", may_pass=True)


def sheet(size: int = 30, model: str = "m") -> Questionnaire:
    """Two questions in six orders."""
    texts = [[f"question {k}, order {n}" for n in range(len(ORDERS))] for k in range(2)]
    return make_questionnaire(choice_head(model, True), texts, size)


def asked(*pairs: tuple[int, int]) -> Asked:
    return np.array(pairs, dtype=np.int64)


def answers(*shares: Sequence[int]) -> Completion:
    return Completion(bytes(np.array(shares, dtype=np.uint8).reshape(-1).tolist()).hex(), "stop", 1, 1)


def test_questions_are_sent_in_their_orders_and_cut_into_requests() -> None:
    requests = sheet(size=2).requests("prefix", asked((1, 3), (0, 0), (1, 5)))

    assert [request.questions for request in requests] == [  # type: ignore[attr-defined]
        ("question 1, order 3", "question 0, order 0"),
        ("question 1, order 5",),
    ]


def test_a_key_identifies_prefix_questions_orders_and_model() -> None:
    keys = [
        questionnaire.requests(prefix, questions)[0].key
        for questionnaire, prefix, questions in (
            (sheet(), "a", asked((0, 0))),
            (sheet(), "b", asked((0, 0))),
            (sheet(), "a", asked((1, 0))),
            (sheet(), "a", asked((0, 1))),
            (sheet(model="other"), "a", asked((0, 0))),
        )
    ]

    assert len({*keys}) == 5
    assert sheet(size=3).requests("a", asked((0, 0)))[0].key == keys[0]


def test_a_question_about_a_dimension_has_the_meanings_in_every_order() -> None:
    dimension = load_space("alignx").plain[0]

    texts = dimension_texts(load_templates()["annotate"], dimension)

    for order, text in zip(ORDERS, texts, strict=True):
        options = [*option_texts(text).values()]
        assert options[order.index(0)].startswith(dimension["positive"]["label"])
        assert options[order.index(1)].startswith(dimension["negative"]["label"])
        assert "cannot tell" in options[order.index(2)]


def test_the_question_about_quality_shows_no_person() -> None:
    labels = [{"label": label, "description": ""} for label in ("good", "fair", "poor")]

    texts = question_texts(load_templates()["quality"], labels)

    for order, text in zip(ORDERS, texts, strict=True):
        assert [option.split(":")[0] for option in option_texts(text).values()] == [
            ("Good", "Fair", "Poor")[meaning] for meaning in order
        ]


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ([answers([255, 0, 0]), TIMEOUT], TIMEOUT),
        ([answers([255, 0, 0])], Violation("incomplete", "1 answers to 2 questions")),
        ([answers([0, 0, 0], [0, 0, 0])], Violation("no_option", "the model gave none of the options to any question")),
    ],
)
def test_outcomes_without_answers_say_why(outcomes: list[Outcome], expected: object) -> None:
    assert read_options(outcomes, 2) == expected


def test_answers_of_several_requests_follow_each_other() -> None:
    found = read_options([answers([255, 0, 0]), answers([0, 128, 127])], 2)

    assert np.asarray(found).tolist() == [[255, 0, 0], [0, 128, 127]]


def test_options_become_meanings_whose_probabilities_add_up_to_one() -> None:
    # Rounded shares of a third add up to 254 or 256; a question without an answer stays without one.
    options = np.array([[200, 50, 5], [85, 85, 86], [0, 0, 0]], dtype=np.uint8)

    found = by_meaning(options, np.array([ORDERS.index((2, 0, 1)), 0, 3]))

    assert found[0] == pytest.approx(np.array([50, 5, 200]) / 255)
    assert found.sum(axis=1) == pytest.approx([1, 1, 0])
    assert found.dtype == np.float32
