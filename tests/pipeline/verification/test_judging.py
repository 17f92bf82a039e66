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
from schemas.manifest import VerificationCounts
from schemas.records import Kind
from tests.pipeline.verification.claims import answered, claim, direction_of, margins_by_slug, of_kind, plan_at

SHOWN = "They laughed extraversion+1 humor+1, fine."
OPPOSITE = "They frowned extraversion-1 humor-1, fine."
ASKED = {"extraversion": 1, "humor": 1, "openness": -1}
"""The replies show two of these, and say nothing of openness."""


def judged(plan: BuildPlan, chosen: str = SHOWN, rejected: str = OPPOSITE, **levels: int) -> Verified:
    return judge_claims(answered(plan, claim(plan, chosen, rejected, **(levels or ASKED))), plan)


def verdict_at(folder: Path, chosen: str = SHOWN, rejected: str = OPPOSITE, **settings: Any) -> Verdict:
    (verdict,) = judged(plan_at(folder, **settings), chosen, rejected).verdicts
    return verdict


def found_in(verified: Verified) -> VerificationCounts:
    """The counts of claims of one kind."""
    (counts,) = verified.counts.values()
    return counts


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
    violation = _violation(findings, 0, direction, direction, "opposite", plan.config.verification)

    assert violation is not None and violation.reason in ("quality", "quality_gap")


@pytest.mark.parametrize(("max_drift", "expected"), [(1.4, "drift"), (1.6, "")])
def test_a_difference_that_nobody_asked_for_is_counted_and_rejects_above_max_drift(
    tmp_path: Path, max_drift: float, expected: str
) -> None:
    # All other dimensions are asked about, so that the one that drifts is among them.
    plan = plan_at(tmp_path, drift_dimensions=89, max_drift=max_drift)

    verified = judged(plan, extraversion=1)

    assert reason(verified.verdicts[0]) == expected
    assert (found_in(verified).drift_asked, found_in(verified).drifted) == (89, int(bool(expected)))


def test_one_order_agrees_with_no_other(tmp_path: Path) -> None:
    assert verdict_at(tmp_path, orders=1, min_dimensions=1).pair.order_agreement is None


@pytest.mark.parametrize("mode", ["record", "filter"])
def test_a_claim_without_an_answer_is_rejected_as_the_request_failed(tmp_path: Path, mode: str) -> None:
    plan = plan_at(tmp_path, mode=mode)
    (good,) = answered(plan, claim(plan, SHOWN, OPPOSITE, **ASKED))
    timeout = Failure("timeout", "silent", may_pass=True)

    verified = judge_claims([replace(good, outcomes=(timeout, good.outcomes[1]))], plan)

    assert verified.verdicts == [Verdict(good.pair, timeout)]
    assert (found_in(verified).pairs, found_in(verified).asked, found_in(verified).pairs_accepted) == (0, 0, 0)
    assert verified.tokens.prompt == 100


def test_counts_are_of_all_pairs_and_then_of_the_accepted(tmp_path: Path) -> None:
    plan = plan_at(tmp_path, min_dimensions=2, drift_dimensions=0, orders=3)
    claims = [claim(plan, SHOWN, OPPOSITE, 0, **ASKED), claim(plan, "humor+1", "humor-1", 1, **ASKED)]

    counts = found_in(judge_claims(answered(plan, *claims), plan))

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

    assert (found_in(verified).quality_pairs, found_in(verified).quality_gaps) == expected


def test_no_claims_have_no_verdicts(tmp_path: Path) -> None:
    verified = judge_claims([], plan_at(tmp_path))

    assert (verified.verdicts, verified.counts) == ([], {})


PLAIN = "The answer is four, fine."
"""A reply that shows nothing of a person."""


def test_a_restraint_pair_is_verified_by_the_person_in_the_rejected_reply(tmp_path: Path) -> None:
    plan = plan_at(tmp_path)
    restraint = of_kind("restraint", claim(plan, PLAIN, SHOWN, **ASKED))

    verified = judge_claims(answered(plan, restraint), plan)

    ((pair, cause),) = verified.verdicts
    assert cause is None
    # The person's levels and the margins are those of any pair; only what is claimed of the replies is reversed.
    assert pair.direction == direction_of(plan, extraversion=1, humor=1)
    assert margins_by_slug(plan, pair.direction_margin)["extraversion"] == pytest.approx(-0.75, abs=0.01)
    counts = verified.counts["restraint"]
    assert (counts.asked, counts.recovered, counts.kept, counts.neutral) == (3, 2, 2, 1)


def test_a_plain_reply_that_shows_the_person_recovers_nothing(tmp_path: Path) -> None:
    plan = plan_at(tmp_path)
    worn = of_kind("restraint", claim(plan, SHOWN, PLAIN, **ASKED))

    assert reason(judge_claims(answered(plan, worn), plan).verdicts[0]) == "too_few_dimensions"


@pytest.mark.parametrize(("max_margin", "expected"), [(0.8, ""), (0.7, "margin")])
def test_margins_of_a_restraint_pair_are_judged_by_their_size(tmp_path: Path, max_margin: float, expected: str) -> None:
    plan = plan_at(tmp_path, max_margin=max_margin)
    restraint = of_kind("restraint", claim(plan, PLAIN, SHOWN, **ASKED))

    assert reason(judge_claims(answered(plan, restraint), plan).verdicts[0]) == expected


@pytest.mark.parametrize(("kind", "expected"), [("near", ""), ("opposite", "too_few_dimensions")])
def test_a_near_pair_never_has_to_keep_more_than_it_differs_in(tmp_path: Path, kind: Kind, expected: str) -> None:
    plan = plan_at(tmp_path, min_dimensions=2)
    pair = of_kind(kind, claim(plan, SHOWN, OPPOSITE, extraversion=1))

    assert reason(judge_claims(answered(plan, pair), plan).verdicts[0]) == expected


def test_a_near_pair_that_shows_nothing_is_rejected(tmp_path: Path) -> None:
    plan = plan_at(tmp_path, min_dimensions=2)
    pair = of_kind("near", claim(plan, SHOWN, OPPOSITE, openness=1))

    assert reason(judge_claims(answered(plan, pair), plan).verdicts[0]) == "too_few_dimensions"


def test_shared_traits_of_a_near_pair_are_among_those_that_drift_is_drawn_from(tmp_path: Path) -> None:
    plan = plan_at(tmp_path, drift_dimensions=89)
    pair = of_kind("near", claim(plan, SHOWN, OPPOSITE, extraversion=1))

    counts = judge_claims(answered(plan, pair), plan).counts["near"]

    assert (counts.asked, counts.drift_asked, counts.drifted) == (1, 89, 1)


def test_counts_are_kept_by_kind(tmp_path: Path) -> None:
    plan = plan_at(tmp_path, mode="record")
    claims = [
        claim(plan, SHOWN, OPPOSITE, 0, **ASKED),
        of_kind("restraint", claim(plan, PLAIN, SHOWN, 1, **ASKED)),
        of_kind("restraint", claim(plan, PLAIN, PLAIN + " Truly.", 2, **ASKED)),
        of_kind("near", claim(plan, SHOWN, OPPOSITE, 3, extraversion=1)),
    ]

    counts = judge_claims(answered(plan, *claims), plan).counts

    found = {kind: (each.pairs, each.asked, each.recovered) for kind, each in counts.items()}
    assert found == {"opposite": (1, 3, 2), "restraint": (2, 6, 2), "near": (1, 1, 1)}
    assert sum(each.prompt_tokens for each in counts.values()) == 100 * sum(
        len(one.requests) for one in answered(plan, *claims)
    )
