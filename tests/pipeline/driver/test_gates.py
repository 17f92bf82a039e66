from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.driver.finish import check_limits
from pipeline.driver.gates import missed_gates
from pipeline.io.manifests import load_manifest
from pipeline.plan import BuildPlan
from schemas.base import UserError
from schemas.config import BuildConfig, LimitsConfig
from schemas.loader import validate
from schemas.manifest import Counts, VerificationCounts
from tests.pipeline.helpers import run_build, tiny
from tests.planted import Planted, swapped
from tests.stub import refuse

COUNTS = VerificationCounts(asked=200, recovered=150, drift_asked=40, drifted=10)
RECORD = {"verification": {"mode": "record"}}


def test_builds_without_gates_miss_none() -> None:
    assert missed_gates(COUNTS, LimitsConfig()) == []


def test_gates_that_are_just_met_are_met() -> None:
    assert missed_gates(COUNTS, LimitsConfig(min_recovery=0.75, max_drift=0.25)) == []


def test_gates_are_met_whatever_binary_fractions_make_of_them() -> None:
    counts = VerificationCounts(asked=25, recovered=14, drift_asked=25, drifted=7)

    assert missed_gates(counts, LimitsConfig(min_recovery=0.56, max_drift=0.28)) == []


def test_a_missed_gate_says_by_how_much_and_what_to_do() -> None:
    recovery, drift = missed_gates(COUNTS, LimitsConfig(min_recovery=0.8, max_drift=0.2))

    assert "150 (75.0 %) of 200 asked dimensions" in recovery
    assert "5.0 points below limits.min_recovery = 0.8; use a stronger generation.model" in recovery
    assert "10 (25.0 %) of 40 dimensions that nobody asked for" in drift
    assert "5.0 points above limits.max_drift = 0.2" in drift


def test_a_judge_that_was_never_asked_misses_nothing() -> None:
    assert missed_gates(VerificationCounts(), LimitsConfig(min_recovery=0.9, max_drift=0.1)) == []


def test_a_build_that_misses_a_gate_is_not_finished(tmp_path: Path) -> None:
    counts = Counts(pairs_asked=60, pairs_accepted=60, examples=120, verification=COUNTS)

    def check(limit: float) -> None:
        check_limits(BuildPlan(tmp_path, "f" * 64, tiny(**RECORD, limits={"min_recovery": limit})), counts)

    check(0.7)
    with pytest.raises(UserError, match=r"5\.0 points below .* change the limit, and the same command finishes"):
        check(0.8)


def test_a_build_that_misses_a_gate_stays_and_ends_once_the_limit_allows(tmp_path: Path) -> None:
    slugs = ["extraversion", "openness", "neuroticism"]
    keys = RECORD | {"sampling": {"dimensions": slugs, "min_active": 3, "max_active": 3}}
    with pytest.raises(UserError, match=r"33\.3 points below limits\.min_recovery = 1"):
        run_build(tmp_path / "out", Planted(swapped("openness")), **keys, limits={"min_recovery": 1.0})
    assert load_manifest(tmp_path / "out").status == "incomplete"
    assert list((tmp_path / "out" / "data").glob("*.parquet"))

    manifest, stub = run_build(tmp_path / "out", refuse(400), **keys, limits={"min_recovery": 0.6})

    assert (manifest.status, stub.bodies) == ("complete", [])
    counts = manifest.counts.verification
    assert counts.recovered * 3 == counts.asked * 2


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"limits": {"min_recovery": 0.8}}, "need a judge: set verification.mode to record"),
        ({"limits": {"max_drift": 0.2}}, "need a judge: set verification.mode to record"),
        (
            {"limits": {"max_drift": 0.2}, "verification": {"mode": "record", "drift_dimensions": 0}},
            "needs verification.drift_dimensions of 1 or more",
        ),
    ],
)
def test_gates_need_what_they_judge_by(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        validate(BuildConfig, {"pairs": 10} | keys, "test")
