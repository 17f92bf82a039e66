from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from pipeline.generation.completions import ChoiceRequest, Completion, Failure, Outcome, choice_head
from pipeline.quality.rules import Violation
from pipeline.report.judging.sample import SampledPair
from pipeline.report.judging.swap import Preferences, read_preferences, swap_figures, swap_requests
from prompts.renderer import load_templates
from schemas.records import SeedPost
from tests.schemas.records import pair
from tests.stub import choice_of

POST = SeedPost(id="p", text="What now?")
SAMPLED = SampledPair("train", pair(chosen="The lively one.", rejected="The calm one."), ("Is lively.", "Is calm."))


def requests() -> list[ChoiceRequest]:
    made = swap_requests(SAMPLED, POST, load_templates()["prefer"], choice_head("judge", structured_outputs=False))
    return [request for request in made if isinstance(request, ChoiceRequest)]


def answered(request: ChoiceRequest, *shares: Mapping[str, float]) -> Outcome:
    text, reason = request.read({"choices": [choice_of(k, each) for k, each in enumerate(shares)]})
    return Completion(text, reason, 100, len(shares))


def sure(letter: str) -> dict[str, float]:
    return {option: float(option == letter) for option in "ABC"}


def test_each_portrait_is_asked_about_in_both_orders() -> None:
    first, second = requests()

    assert "Person: Is lively." in first.prefix and "What now?" in first.prefix
    assert "Person: Is calm." in second.prefix
    one, other = first.questions
    assert one.index("lively") < one.index("calm") and other.index("calm") < other.index("lively")
    assert first.key != second.key


def test_the_own_reply_is_the_one_of_the_portrait_in_either_place() -> None:
    lively, calm = requests()

    found = read_preferences([answered(lively, sure("A"), sure("B")), answered(calm, sure("B"), sure("C"))])

    assert not isinstance(found, Violation | Failure)
    assert found.argmax(axis=2).tolist() == [[0, 0], [0, 2]]


def test_without_an_answer_there_are_no_preferences() -> None:
    lively, calm = requests()
    failure = Failure("http_400", "no", may_pass=False)
    assert read_preferences([answered(lively, sure("A"), sure("B")), failure]) == failure
    nothing = answered(calm, {"Sure": 1.0}, {"Sure": 1.0})
    assert isinstance(read_preferences([nothing]), Violation)


def preferences(*portraits: tuple[str, str]) -> Preferences:
    """Answers to both orders of each portrait: `o` for its own reply, `x` for the other one, `-` for neither."""
    return np.array([[[float(k == "ox-".index(answer)) for k in range(3)] for answer in each] for each in portraits])


def test_figures_count_portraits_and_pairs() -> None:
    found = swap_figures(
        ["a", "b", "c"],
        [
            preferences(("o", "o"), ("o", "-")),
            preferences(("o", "o"), ("-", "-")),
            preferences(("x", "o")),
        ],
    )

    assert found is not None
    assert found.preferred.value == pytest.approx(3 / 5)
    assert found.preferred.number == 5
    assert found.both is not None
    assert (found.both.value, found.both.number) == (0.5, 2)
    assert found.undecided == pytest.approx(2 / 5)
    assert found.order_agreement == pytest.approx(3 / 5)


def test_a_judge_that_prefers_a_place_prefers_no_reply() -> None:
    found = swap_figures(["a"], [preferences(("o", "x"), ("x", "o"))])
    assert found is not None
    assert (found.preferred.value, found.order_agreement, found.undecided) == (0.0, 0.0, 1.0)


def test_pairs_without_mirror_images_cannot_turn_round() -> None:
    found = swap_figures(["a"], [preferences(("o", "o"))])
    assert found is not None
    assert found.both is None
    assert swap_figures([], []) is None
