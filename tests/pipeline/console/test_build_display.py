from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from rich.console import Console

from pipeline.console.build_display import BuildDisplay
from pipeline.driver.resume import Work
from pipeline.plan import BuildPlan
from pipeline.sampling.assignment import count_restraint_pairs
from schemas.config import BuildConfig
from schemas.manifest import Counts, FileEntry, Manifest, VerificationCounts
from tests.pipeline.helpers import made_manifest, tiny


def manifest_of(config: BuildConfig | None = None, **counts: object) -> Manifest:
    return made_manifest(
        config=(config or tiny()).model_dump(mode="json"),
        counts=Counts(pairs_asked=60, **counts),  # type: ignore[arg-type]
        files=(FileEntry(path="data/train-00000-of-00001.parquet", rows=1, bytes=1, sha256=""),),
    )


def summary_of(manifest: Manifest, folder: Path) -> str:
    screen = io.StringIO()
    BuildDisplay(Console(file=screen, width=80)).summary(manifest, folder, "my build.yaml")
    return screen.getvalue()


def test_summary_names_open_rows_and_the_command_that_asks_again(tmp_path: Path) -> None:
    counts: dict[str, Any] = {
        "pairs_lost": 4,
        "pairs_unanswered": 3,
        "threads": {"responses/unanswered": 7},
        "examples": 112,
    }

    said = summary_of(manifest_of(**counts, rejected={"generate/timeout": 4}), tmp_path)

    command = f"everyuser build 'my build.yaml' -o {tmp_path} --retry-lost"
    assert (
        f"open  3 pairs and 7 responses lost to timeouts and server errors; to ask again: {command}"
        in said.splitlines()
    )
    assert "short 8 of 120 examples are missing: generate/timeout 4; check the server and its log" in said


def test_summary_of_a_build_that_lost_nothing_offers_no_retry(tmp_path: Path) -> None:
    said = summary_of(manifest_of(pairs_accepted=60, examples=120), tmp_path)

    assert "--retry-lost" not in said
    assert "short" not in said


def test_summary_counts_pairs_by_kind_and_misses_no_mirror_image_of_restraint(tmp_path: Path) -> None:
    found = {"near": VerificationCounts(asked=20, recovered=13)}
    kinds = {"opposite": 39, "near": 12, "restraint": 9}
    counts = {"pairs_accepted": 60, "examples": 111, "kinds": kinds, "verification_by_kind": found}

    config = tiny(kinds={"near": 0.2, "restraint": 0.15}, seed=2)
    assert count_restraint_pairs(config) == 9

    said = summary_of(manifest_of(config, **counts), tmp_path)

    assert "pairs by kind: opposite 39, near 12 (65% of 20 dimensions recovered), restraint 9" in said
    assert "short" not in said


def test_a_lost_restraint_pair_is_one_missing_example(tmp_path: Path) -> None:
    config = tiny(kinds={"restraint": 0.15})
    asked = 120 - count_restraint_pairs(config)

    said = summary_of(manifest_of(config, pairs_accepted=59, pairs_lost=1, examples=asked - 1), tmp_path)

    assert f"short 1 of {asked} examples are missing" in said


def test_summary_of_a_build_with_one_kind_does_not_count_kinds(tmp_path: Path) -> None:
    assert "by kind" not in summary_of(manifest_of(pairs_accepted=60, examples=120, kinds={"opposite": 60}), tmp_path)


def test_summary_counts_the_steps_of_cleaning(tmp_path: Path) -> None:
    said = summary_of(manifest_of(pairs_accepted=60, examples=120, cleaned={"lead_in": 3, "wrapping": 12}), tmp_path)

    assert "texts cleaned before they were judged: wrapping 12, lead_in 3" in said


def test_summary_gives_advice_that_fits_the_commonest_loss(tmp_path: Path) -> None:
    rejected = {"assemble/history_too_short": 25, "validate/copied": 2}

    said = summary_of(manifest_of(pairs_lost=27, examples=66, rejected=rejected), tmp_path)

    (line,) = [line for line in said.splitlines() if line.startswith("short")]
    assert "assemble/history_too_short 25, validate/copied 2; use more pairs" in line
    assert "min_support" not in line


def test_resumed_phase_names_only_the_pairs_that_are_missing(tmp_path: Path) -> None:
    plan, screen = BuildPlan(tmp_path, "f", tiny()), io.StringIO()
    done, todo = [*plan.shards()[:3]], [*plan.shards()[3:]]

    with BuildDisplay(Console(file=screen, width=80)) as display:
        display.phase_begins("pairs", plan, Work(done, todo, 0))

    said = screen.getvalue()
    assert "pairs: 3 of 5 shards are there already" in said
    assert "pairs: 24 to build in 2 shards" in said
