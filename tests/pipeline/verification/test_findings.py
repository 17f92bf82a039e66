from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.generation.completions import Completion, Failure
from pipeline.plan import BuildPlan
from pipeline.verification.ask import Claim
from pipeline.verification.findings import Findings, read_findings
from tests.pipeline.verification.claims import answered, by_marks, claim, margins_by_slug, plan_at

CHOSEN, REJECTED = "I called them all extraversion+1, fine.", "I stayed at home extraversion-1, foul."
SIZE = 90


def found(plan: BuildPlan, claims: list[Claim]) -> Findings:
    return read_findings(claims, SIZE, plan.config.verification.orders)


def test_margin_is_the_score_of_the_chosen_reply_less_that_of_the_rejected(tmp_path: Path) -> None:
    plan = plan_at(tmp_path, drift_dimensions=1)

    findings = found(plan, answered(plan, claim(plan, CHOSEN, REJECTED, extraversion=1, humor=1)))

    # The judge gives 0.75 to what it believes, whatever its bias to the first option.
    margins = margins_by_slug(plan, findings.margins[0])
    assert margins.pop("extraversion") == pytest.approx(1.5, abs=0.02)
    assert margins.pop("humor") == 0
    assert list(margins.values()) == [0]
    assert findings.margins.dtype == np.float32


def test_swapped_replies_have_the_opposite_margins_and_qualities(tmp_path: Path) -> None:
    plan = plan_at(tmp_path)
    claims = [claim(plan, CHOSEN, REJECTED, extraversion=1), claim(plan, REJECTED, CHOSEN, extraversion=1)]

    findings = found(plan, answered(plan, *claims))

    d = int(np.flatnonzero(findings.margins[0] > 1)[0])
    assert findings.margins[0, d] == -findings.margins[1, d]
    assert findings.qualities.tolist() == [[1.0, 0.0], [0.0, 1.0]]


def test_quality_is_weighted_by_probability(tmp_path: Path) -> None:
    plan = plan_at(tmp_path)

    def half(prompt: str) -> Mapping[str, float]:
        sure = by_marks(prompt)
        return {letter: (share + 1 / 3) / 2 for letter, share in sure.items()}

    findings = found(plan, answered(plan, claim(plan, CHOSEN, "I stayed at home.", extraversion=1), judge=half))

    assert findings.qualities[0] == pytest.approx([0.75, 0.5], abs=0.01)


def test_a_judge_who_says_nothing_of_quality_leaves_it_open(tmp_path: Path) -> None:
    plan = plan_at(tmp_path)

    def silent(prompt: str) -> Mapping[str, float]:
        is_quality = "well written" in prompt.rpartition("\nQuestion: ")[2]
        return {"The": 1.0} if is_quality else by_marks(prompt)

    findings = found(plan, answered(plan, claim(plan, CHOSEN, REJECTED, extraversion=1), judge=silent))

    assert np.isnan(findings.qualities).all()
    assert np.nanmax(findings.margins) > 1


def test_without_the_question_there_is_no_quality(tmp_path: Path) -> None:
    plan = plan_at(tmp_path, quality=False)

    findings = found(plan, answered(plan, claim(plan, CHOSEN, REJECTED, extraversion=1)))

    assert np.isnan(findings.qualities).all()


def test_a_judge_who_takes_the_first_option_finds_nothing_and_agrees_with_himself_nowhere(tmp_path: Path) -> None:
    plan = plan_at(tmp_path)

    def first(prompt: str) -> Mapping[str, float]:
        return {"A": 1.0, "B": 0.0, "C": 0.0}

    biased = found(plan, answered(plan, claim(plan, CHOSEN, REJECTED, extraversion=1), judge=first))
    honest = found(plan, answered(plan, claim(plan, CHOSEN, REJECTED, extraversion=1)))

    assert np.nanmax(np.abs(biased.margins)) == 0
    assert (biased.agreement[0], honest.agreement[0]) == (0, 1)


def test_a_failed_request_leaves_its_claim_alone_without_findings(tmp_path: Path) -> None:
    plan = plan_at(tmp_path)
    good, bad = answered(plan, *(claim(plan, CHOSEN, REJECTED, k, extraversion=1) for k in range(2)))
    timeout = Failure("timeout", "", may_pass=True)

    findings = found(plan, [replace(bad, outcomes=(bad.outcomes[0], timeout)), good])

    assert findings.unanswered == {0: timeout}
    assert np.isnan(findings.margins[0]).all()
    assert np.isfinite(findings.margins[1]).any()


@pytest.mark.parametrize(("text", "reason"), [("000000", "incomplete"), (None, "no_option")])
def test_answers_that_are_none_are_no_findings(tmp_path: Path, text: str | None, reason: str) -> None:
    plan = plan_at(tmp_path)
    (good,) = answered(plan, claim(plan, CHOSEN, REJECTED, extraversion=1))
    empty = "00" * 3 * len(good.asked) if text is None else text

    findings = found(plan, [replace(good, outcomes=(good.outcomes[0], Completion(empty, "stop", 1, 1)))])

    assert [cause.reason for cause in findings.unanswered.values()] == [reason]
