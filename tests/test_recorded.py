"""The recording that everyuser ships is of the quickstart as it is now."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.build import build
from pipeline.driver.quickstart import load_quickstart
from pipeline.generation.recording import RECORDED, read_recording
from schemas.base import UserError
from schemas.manifest import Counts
from schemas.packaged_models import LARGE

REPLAY = "engine={kind: replay, journal: packaged}"


def test_the_recorded_quickstart_is_replayed_whole(tmp_path: Path) -> None:
    try:
        recording = read_recording()
        counts = build(load_quickstart([REPLAY], tmp_path / "out").config, tmp_path / "out").counts
    except UserError as error:
        pytest.fail(
            f"posts, space, templates, sampling or rules are not those of the recording; make record-demo: {error}"
        )

    found = Counts(pairs_accepted=counts.pairs_accepted, examples=counts.examples, rejected=counts.rejected)
    expected = recording.model_dump(include={"pairs_accepted", "examples", "rejected"})
    assert found.model_dump(include=set(expected)) == expected, (
        "rules judge recorded replies otherwise; make record-demo"
    )


def test_the_recording_is_small_and_of_the_larger_model() -> None:
    recording = read_recording()

    assert recording.model == LARGE
    assert (recording.pairs, recording.pairs_accepted) == (64, 64)
    assert any(name.startswith("vllm") for name in recording.versions)
    assert sum(path.stat().st_size for path in RECORDED.rglob("*") if path.is_file()) < 1_000_000
