from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from pipeline.generation.completions import ChoiceRequest
from pipeline.verification.ask import VerifyShard, asked_dimensions
from tests.pipeline.verification.claims import asked, claim, direction_of, plan_at
from tests.stub import option_texts

CHOSEN, REJECTED = "I called them all extraversion+1.", "I stayed at home extraversion-1."


def questions(shard: VerifyShard) -> list[tuple[str, str]]:
    """The prefix and the end of each prompt, in the order of sending."""
    pairs = []
    for request in shard.requests():
        assert isinstance(request, ChoiceRequest)
        pairs += [(request.prefix, question) for question in request.questions]
    return pairs


def test_each_reply_is_asked_about_active_dimensions_others_and_quality_in_every_order(tmp_path: Path) -> None:
    plan = plan_at(tmp_path, drift_dimensions=2, orders=3)

    sent = questions(asked(plan, claim(plan, CHOSEN, REJECTED, extraversion=1, humor=-1)))

    about = Counter((prefix, question.splitlines()[1]) for prefix, question in sent)
    assert set(about.values()) == {3}
    assert len(about) == 2 * (2 + 2 + 1)
    assert [prefix for prefix, _ in sent] == sorted((p for p, _ in sent), key=[p for p, _ in sent].index)
    assert sent[0][0].endswith(f"\nComment: {CHOSEN}")
    assert sent[-1][0].endswith(f"\nComment: {REJECTED}")
    assert len({question for _, question in sent[: len(sent) // 2]} & {q for _, q in sent[len(sent) // 2 :]}) == 15


@pytest.mark.parametrize("orders", [3, 6])
def test_each_answer_is_in_each_place_equally_often(tmp_path: Path, orders: int) -> None:
    plan = plan_at(tmp_path, orders=orders)

    sent = questions(asked(plan, claim(plan, CHOSEN, REJECTED, extraversion=1)))

    places = Counter(
        (question.splitlines()[1], letter, text)
        for _, question in sent[: len(sent) // 2]
        for letter, text in option_texts(question).items()
    )
    assert set(places.values()) == {orders // 3}
    assert len(places) == 4 * 9


def test_one_order_is_another_one_for_other_pairs(tmp_path: Path) -> None:
    plan = plan_at(tmp_path, orders=1, drift_dimensions=0, quality=False)

    shard = asked(plan, *(claim(plan, CHOSEN, REJECTED, k, extraversion=1) for k in range(12)))

    assert len({question for _, question in questions(shard)}) == 3
    assert all(claim.requests[0].questions == claim.requests[1].questions for claim in shard.claims)  # type: ignore[attr-defined]


def test_questions_about_a_reply_are_cut_into_calls(tmp_path: Path) -> None:
    plan = plan_at(tmp_path, prompts_per_call=4, orders=3, drift_dimensions=1, quality=False)

    (found,) = asked(plan, claim(plan, CHOSEN, REJECTED, extraversion=1)).claims

    assert [request.sequences for request in found.requests] == [4, 2, 4, 2]
    assert len({request.key for request in found.requests}) == 4


def test_others_are_drawn_from_what_the_build_samples_and_from_the_counter_alone(tmp_path: Path) -> None:
    plan = plan_at(tmp_path, drift_dimensions=2)
    alone, whole = (
        asked(plan, *(claim(plan, CHOSEN, REJECTED, k, extraversion=1) for k in numbers), attempt=attempt)
        for numbers, attempt in (([7], 0), (range(30), 0))
    )
    again = asked(plan, claim(plan, CHOSEN, REJECTED, 7, extraversion=1), attempt=1)

    assert (alone.claims[0].asked == whole.claims[7].asked).all()
    assert (alone.claims[0].asked.shape != again.claims[0].asked.shape) or (
        alone.claims[0].asked != again.claims[0].asked
    ).any()
    assert len({tuple(found.asked[:, 0]) for found in whole.claims}) > 20


def test_no_dimension_is_drawn_that_is_active_or_that_the_build_does_not_sample(tmp_path: Path) -> None:
    plan = plan_at(tmp_path, drift_dimensions=3)
    config = plan.config.sampling.model_copy(update={"dimensions": ("extraversion", "humor", "openness")})
    plan.config.__dict__["sampling"] = config
    directions = np.array([direction_of(plan, extraversion=1)] * 50, dtype=np.int8)
    draws = np.random.default_rng(0).random(directions.shape)

    is_asked = asked_dimensions(directions, draws, plan)

    allowed = np.array(direction_of(plan, extraversion=1, humor=1, openness=1), dtype=bool)
    assert (is_asked == allowed).all()


def test_shard_without_claims_asks_nothing(tmp_path: Path) -> None:
    shard = asked(plan_at(tmp_path))

    assert shard.requests() == []
    assert shard.with_outcomes([]).claims == []
    assert shard.journal == "verify-train-00000-of-00003"
