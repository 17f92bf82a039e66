from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.generation.completions import Failure
from pipeline.plan import BuildPlan
from pipeline.verification.findings import read_findings
from pipeline.verification.judging import Verdict, Verified, _violation, judge_claims
from tests.pipeline.verification.claims import answered, claim, direction_of, margins_by_slug, plan_at

SHOWN = "They laughed extraversion+1 humor+1, fine."
OPPOSITE = "They frowned extraversion-1 humor-1, fine."
ASKED = {"extraversion": 1, "humor": 1, "openness": -1}
"""The replies show two of these, and say nothing of openness."""


def judged(plan: BuildPlan, chosen: str = SHOWN, rejected: str = OPPOSITE, **levels: int) -> Verified:
    return judge_claims(answered(plan, claim(plan, chosen, rejected, **(levels or ASKED))), plan)


def verdict_at(folder: Path, chosen: str = SHOWN, rejected: str = OPPOSITE, **settings: Any) -> Verdict:
    (verdict,) = judged(plan_at(folder, **settings), chosen, rejected).verdicts
    return verdict


def reason(verdict: Verdict) -> str:
    return verdict.cause.reason if verdict.cause else ""


def test_recording_changes_nothing_but_what_it_records(tmp_path: Path) -> None:
    plan = plan_at(tmp_path, mode="record", min_dimensions=3, min_quality=1.0)

    ((pair, cause),) = judged(plan, rejected="foul").verdicts

    assert cause is None
    assert pair.direction == pair.asked_direction == direction_of(plan, **ASKED)
    assert (pair.quality_chosen, pair.quality_rejected, pair.order_agreement) == (1.0, 0.0, 1.0)
    assert pair.judge == "dummy"
    assert type(pair).model_validate(pair.model_dump()) == pair


def test_filtering_makes_neutral_what_the_replies_do_not_show(tmp_path: Path) -> None:
    plan = plan_at(tmp_path)

    ((pair, cause),) = judged(plan).verdicts

    assert cause is None
    assert pair.direction == direction_of(plan, extraversion=1, humor=1)
    assert pair.asked_direction == direction_of(plan, **ASKED)
    assert margins_by_slug(plan, pair.direction_margin)["openness"] == 0


def test_the_wrong_pole_is_not_turned_round(tmp_path: Path) -> None:
    plan = plan_at(tmp_path)

    ((pair, _),) = judged(plan, extraversion=-1, humor=1).verdicts

    assert pair.direction == direction_of(plan, humor=1)
    assert margins_by_slug(plan, pair.direction_margin)["extraversion"] > 0


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"min_margin": 1.4}, ""),
        ({"min_margin": 1.6}, "too_few_dimensions"),
        ({"min_dimensions": 2}, ""),
        ({"min_dimensions": 3}, "too_few_dimensions"),
        ({"min_share": 0.66}, ""),
        ({"min_share": 0.67}, "too_small_share"),
        ({"max_margin": 1.6}, ""),
        ({"max_margin": 1.4}, "margin"),
    ],
)
def test_thresholds_of_what_is_kept(tmp_path: Path, settings: dict[str, Any], expected: str) -> None:
    assert reason(verdict_at(tmp_path, **settings)) == expected


@pytest.mark.parametrize(
    ("rejected", "settings", "expected"),
    [
        (OPPOSITE, {"min_quality": 1.0, "max_quality_gap": 0.0}, ""),
        ("extraversion-1 humor-1", {"min_quality": 0.5}, ""),
        ("extraversion-1 humor-1", {"min_quality": 0.51}, "quality"),
        ("extraversion-1 humor-1", {"max_quality_gap": 0.5}, ""),
        ("extraversion-1 humor-1", {"max_quality_gap": 0.49}, "quality_gap"),
    ],
)
def test_thresholds_of_quality(tmp_path: Path, rejected: str, settings: dict[str, Any], expected: str) -> None:
    assert reason(verdict_at(tmp_path, rejected=rejected, **settings)) == expected


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("settings", [{"min_quality": 0.1}, {"max_quality_gap": 1.0}])
def test_a_quality_without_an_answer_meets_no_threshold(tmp_path: Path, side: int, settings: dict[str, float]) -> None:
    plan = plan_at(tmp_path, **settings)
    (good,) = answered(plan, claim(plan, SHOWN, OPPOSITE, **ASKED))
    findings = read_findings([good], len(good.pair.direction), plan.config.verification.orders)
    findings.qualities[0, side] = np.nan

    direction = np.array(good.pair.direction, dtype=np.int8)
    violation = _violation(findings, 0, direction, direction, plan.config.verification)

    assert violation is not None and violation.reason in ("quality", "quality_gap")


@pytest.mark.parametrize(("max_drift", "expected"), [(1.4, "drift"), (1.6, "")])
def test_a_difference_that_nobody_asked_for_is_counted_and_rejects_above_max_drift(
    tmp_path: Path, max_drift: float, expected: str
) -> None:
    # All other dimensions are asked about, so that the one that drifts is among them.
    plan = plan_at(tmp_path, drift_dimensions=89, max_drift=max_drift)

    verified = judged(plan, extraversion=1)

    assert reason(verified.verdicts[0]) == expected
    assert (verified.counts.drift_asked, verified.counts.drifted) == (89, int(bool(expected)))


def test_one_order_agrees_with_no_other(tmp_path: Path) -> None:
    assert verdict_at(tmp_path, orders=1, min_dimensions=1).pair.order_agreement is None


@pytest.mark.parametrize("mode", ["record", "filter"])
def test_a_claim_without_an_answer_is_rejected_as_the_request_failed(tmp_path: Path, mode: str) -> None:
    plan = plan_at(tmp_path, mode=mode)
    (good,) = answered(plan, claim(plan, SHOWN, OPPOSITE, **ASKED))
    timeout = Failure("timeout", "silent", may_pass=True)

    verified = judge_claims([replace(good, outcomes=(timeout, good.outcomes[1]))], plan)

    assert verified.verdicts == [Verdict(good.pair, timeout)]
    assert (verified.counts.pairs, verified.counts.asked, verified.counts.pairs_accepted) == (0, 0, 0)
    assert verified.tokens.prompt == 100


def test_counts_are_of_all_pairs_and_then_of_the_accepted(tmp_path: Path) -> None:
    plan = plan_at(tmp_path, min_dimensions=2, drift_dimensions=0, orders=3)
    claims = [claim(plan, SHOWN, OPPOSITE, 0, **ASKED), claim(plan, "humor+1", "humor-1", 1, **ASKED)]

    counts = judge_claims(answered(plan, *claims), plan).counts

    assert (counts.pairs, counts.asked, counts.recovered, counts.verified) == (2, 6, 3, 3)
    assert (counts.pairs_accepted, counts.kept, counts.neutral) == (1, 2, 1)
    # Three dimensions and quality, of two replies each, in three orders.
    assert counts.questions == 2 * 2 * 4 * 3
    assert (counts.prompt_tokens, counts.completion_tokens) == (400, 48)


@pytest.mark.parametrize(("quality", "expected"), [(True, (3, 15_000)), (False, (0, 0))])
def test_differences_in_quality_are_summed_whichever_reply_is_better(
    tmp_path: Path, quality: bool, expected: tuple[int, int]
) -> None:
    plan = plan_at(tmp_path, mode="record", quality=quality)
    replies = [(SHOWN, "foul"), ("extraversion+1", OPPOSITE), (SHOWN, OPPOSITE)]
    claims = [claim(plan, chosen, rejected, k, **ASKED) for k, (chosen, rejected) in enumerate(replies)]

    verified = judge_claims(answered(plan, *claims), plan)

    assert (verified.counts.quality_pairs, verified.counts.quality_gaps) == expected


def test_no_claims_have_no_verdicts(tmp_path: Path) -> None:
    verified = judge_claims([], plan_at(tmp_path))

    assert (verified.verdicts, verified.counts.pairs) == ([], 0)
