"""Recording a build's journal, and replaying it as the packaged one."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.build import build
from pipeline.generation import recording
from pipeline.generation.journal import read_journal
from pipeline.io.manifests import CARD
from schemas.base import UsageError, UserError
from schemas.config import ReplayEngine
from tests.pipeline.helpers import run_build, tiny
from tests.pipeline.processes import shards

REPLAY = ReplayEngine(kind="replay", journal="packaged")


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the packaged recording, which is of a tiny build in `built`."""
    monkeypatch.setattr(recording, "RECORDED", tmp_path / "recorded")
    run_build(tmp_path / "built")
    recording.record(tmp_path / "built", recording.RECORDED)
    return recording.RECORDED


def test_a_recorded_build_is_replayed_to_the_same_bytes_and_says_so(tmp_path: Path, recorded: Path) -> None:
    manifest = build(tiny(engine=REPLAY.model_dump()), tmp_path / "again")

    assert shards(tmp_path / "again") == shards(tmp_path / "built")
    assert manifest.recording == recording.read_recording()
    assert manifest.runs[-1].requests_sent == 0
    assert f"replays replies that `stub` wrote on {manifest.recording.date}" in (tmp_path / "again" / CARD).read_text()
    assert "replays replies" not in (tmp_path / "built" / CARD).read_text()


def test_equal_journals_make_equal_files_that_are_compressed(tmp_path: Path, recorded: Path) -> None:
    first = {path.name: path.read_bytes() for path in (recorded / "journal").iterdir()}
    for path in (tmp_path / "built" / "journal").iterdir():
        # Another run gets its replies in another order.
        path.write_bytes(b"".join(reversed(path.read_bytes().splitlines(keepends=True))))

    recording.record(tmp_path / "built", recorded)

    assert {path.name: path.read_bytes() for path in (recorded / "journal").iterdir()} == first
    assert all(name.endswith(".jsonl.gz") for name in first)
    for name in first:
        plain = name.removesuffix(".gz")
        assert read_journal(recorded / "journal" / plain) == read_journal(tmp_path / "built" / "journal" / plain)


def test_a_build_that_differs_from_the_recording_says_what_to_do(tmp_path: Path, recorded: Path) -> None:
    with pytest.raises(UserError, match=r"lacks \d+ of \d+ completions") as caught:
        build(tiny(seed=1, engine=REPLAY.model_dump()), tmp_path / "other")

    assert "make record-demo" in str(caught.value)
    assert "everyuser build quickstart" in str(caught.value)


@pytest.mark.parametrize(
    ("journal", "said"),
    [
        ("nothing", "nothing holds no journal (no .jsonl file there); name the folder `journal` of a finished build"),
        ("built", "built holds no journal (no .jsonl file there); name {}/built/journal"),
    ],
)
def test_a_replay_of_a_folder_without_a_journal_is_an_error_at_the_start(
    tmp_path: Path, recorded: Path, journal: str, said: str
) -> None:
    engine = {"kind": "replay", "journal": str(tmp_path / journal)}

    with pytest.raises(UsageError) as caught:
        build(tiny(engine=engine), tmp_path / "out")

    assert str(caught.value) == f"engine.journal: {tmp_path}/{said.format(tmp_path)}"
    assert not (tmp_path / "out").exists()


def test_a_replay_and_a_folder_without_a_finished_build_are_not_recorded(tmp_path: Path, recorded: Path) -> None:
    build(tiny(engine=REPLAY.model_dump()), tmp_path / "again")

    for folder in ("again", "nothing"):
        with pytest.raises(UserError):
            recording.record(tmp_path / folder, recorded)

    assert recording.read_recording().model == "stub"


def test_without_a_recording_a_replay_says_how_to_make_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "RECORDED", tmp_path / "nothing")

    with pytest.raises(UserError, match="make record-demo"):
        build(tiny(engine=REPLAY.model_dump()), tmp_path / "out")


def test_a_damaged_file_of_a_recording_is_named(tmp_path: Path, recorded: Path) -> None:
    path = next((recorded / "journal").iterdir())
    path.write_bytes(path.read_bytes()[:-20])

    with pytest.raises(UserError, match=f"{path.name} is damaged"):
        read_journal(path.with_name(path.name.removesuffix(".gz")))
