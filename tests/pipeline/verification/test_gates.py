from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.driver.check import check_build
from pipeline.io.manifests import CARD, load_manifest
from pipeline.publishing.contents import read_contents
from pipeline.report.source import open_build
from pipeline.verification.gates import missed_gates
from schemas.base import UsageError, UserError
from schemas.config import BuildConfig, LimitsConfig
from schemas.loader import validate
from schemas.manifest import VerificationCounts
from tests.pipeline.helpers import run_build
from tests.planted import Planted, swapped
from tests.stub import refuse

COUNTS = VerificationCounts(asked=200, recovered=150, drift_asked=40, drifted=10, quality_pairs=40, quality_gaps=80_000)
RECORD = {"verification": {"mode": "record"}}


def test_builds_without_gates_miss_none() -> None:
    assert missed_gates(COUNTS, LimitsConfig()) == []


def test_gates_that_are_just_met_are_met() -> None:
    assert missed_gates(COUNTS, LimitsConfig(min_recovery=0.75, max_drift=0.25, max_quality_gap=0.2)) == []


def test_gates_are_met_whatever_binary_fractions_make_of_them() -> None:
    counts = VerificationCounts(asked=25, recovered=14, drift_asked=25, drifted=7, quality_pairs=3, quality_gaps=10_200)

    assert missed_gates(counts, LimitsConfig(min_recovery=0.56, max_drift=0.28, max_quality_gap=0.34)) == []


def test_a_missed_gate_says_by_how_much_and_what_to_do() -> None:
    limits = LimitsConfig(min_recovery=0.8, max_drift=0.2, max_quality_gap=0.15)

    recovery, drift, quality = missed_gates(COUNTS, limits)

    assert "150 (75.0 %) of 200 asked dimensions" in recovery
    assert "5.0 points below limits.min_recovery = 0.8; use a stronger generation.model" in recovery
    assert "10 (25.0 %) of 40 dimensions that nobody asked for" in drift
    assert "5.0 points above limits.max_drift = 0.2" in drift
    assert "40 pairs differ in quality by 0.200 on average, 0.050 above limits.max_quality_gap = 0.15" in quality


def test_a_judge_that_was_never_asked_misses_nothing() -> None:
    assert missed_gates(VerificationCounts(), LimitsConfig(min_recovery=0.9, max_drift=0.1, max_quality_gap=0)) == []


def test_a_gate_without_anything_to_judge_by_is_missed() -> None:
    counts = VerificationCounts(pairs=12, asked=30, recovered=30)

    drift, quality = missed_gates(counts, LimitsConfig(min_recovery=0.9, max_drift=0.1, max_quality_gap=0))

    assert "so limits.max_drift = 0.1 cannot be judged" in drift
    assert "answered about the quality of no pair, so limits.max_quality_gap = 0 cannot be judged" in quality


SLUGS = ["extraversion", "openness", "neuroticism"]
KEYS = RECORD | {"sampling": {"dimensions": SLUGS, "min_active": 3, "max_active": 3}}
STRICT, RELAXED = {"min_recovery": 1.0}, {"min_recovery": 0.6}
SAID = r"33\.3 points below limits\.min_recovery = 1.* change the limit, and the same command judges them again"


@pytest.fixture(scope="module")
def missing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a build that misses `STRICT` and keeps `RELAXED`: a third of what was asked is swapped."""
    folder = tmp_path_factory.mktemp("missing") / "out"
    with pytest.raises(UserError, match=SAID):
        run_build(folder, Planted(swapped("openness")), **KEYS, limits=STRICT)
    return folder


def read_card(folder: Path) -> str:
    return (folder / CARD).read_text(encoding="utf-8")


@pytest.fixture
def missed(missing: Path, tmp_path: Path) -> Path:
    """Return a copy of that build."""
    return Path(shutil.copytree(missing, tmp_path / "out"))


def test_a_build_that_misses_a_gate_is_there_to_look_at(missed: Path) -> None:
    manifest = load_manifest(missed)
    counts = manifest.counts.verification

    assert (manifest.status, counts.recovered * 3) == ("missed_gate", counts.asked * 2)
    assert open_build(missed).examples == manifest.counts.examples > 0
    assert check_build(missed).problems == ()
    assert check_build(missed).state == "finished, but misses a gate of its limits"
    assert "33.3 points below limits.min\\_recovery = 1" in read_card(missed)


def test_a_build_that_misses_a_gate_is_published_by_force_only(missed: Path) -> None:
    with pytest.raises(UsageError, match=r"below limits\.min_recovery = 1.*--force publishes it all the same"):
        read_contents(missed, "me/set", force=False)

    assert read_contents(missed, "me/set", force=True).manifest == load_manifest(missed)


def test_a_build_that_misses_a_gate_ends_once_the_limit_allows(missed: Path) -> None:
    manifest, stub = run_build(missed, refuse(400), **KEYS, limits=RELAXED)

    assert (manifest.status, stub.bodies) == ("complete", [])
    assert load_manifest(missed) == manifest
    assert "is missed" not in read_card(missed)
    assert read_contents(missed, "me/set", force=False).manifest == manifest


def test_a_finished_build_is_judged_by_the_limits_of_a_later_run(missed: Path) -> None:
    run_build(missed, refuse(400), **KEYS, limits=RELAXED)

    with pytest.raises(UserError, match=SAID):
        run_build(missed, refuse(400), **KEYS, limits=STRICT)

    manifest = load_manifest(missed)
    assert (manifest.status, manifest.config["limits"]["min_recovery"]) == ("missed_gate", 1.0)
    assert len(manifest.runs) == 1


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"limits": {"min_recovery": 0.8}}, "need a judge: set verification.mode to record"),
        ({"limits": {"max_drift": 0.2}}, "need a judge: set verification.mode to record"),
        ({"limits": {"max_quality_gap": 0.2}}, "need a judge: set verification.mode to record"),
        (
            {"limits": {"max_drift": 0.2}, "verification": {"mode": "record", "drift_dimensions": 0}},
            "needs verification.drift_dimensions of 1 or more",
        ),
        (
            {"limits": {"max_quality_gap": 0.2}, "verification": {"mode": "record", "quality": False}},
            "needs 'verification.quality: true'",
        ),
    ],
)
def test_gates_need_what_they_judge_by(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        validate(BuildConfig, {"pairs": 10} | keys, "test")
