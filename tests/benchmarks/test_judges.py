from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import judges
from pipeline.report.source import open_build
from pipeline.review.blind_sample import draw_sample
from schemas.review import Labels, ReviewSettings
from tests.benchmarks.test_verification import run
from tests.planted import Planted, swapped
from tests.stub import StubServer


def label(folder: Path, flipped: str) -> Path:
    """Answer the questions of a build's page as the replies were asked for, but for one dimension."""
    build, settings = open_build(folder), ReviewSettings(pairs=12)
    sample = draw_sample(build, settings)
    answers: dict[str, dict[str, str]] = {}
    for (pair, slug), question in sample.key.items():
        level = -question.asked if slug == flipped else question.asked
        answers.setdefault(pair, {})[slug] = "first" if question.first == level else "second"
    labels = Labels.model_validate(
        {
            "review_version": 1,
            "fingerprint": build.manifest.fingerprint,
            "digest": sample.sheet.digest,
            "settings": settings,
            "reviewer": "reader",
            "answers": answers,
        }
    )
    path = folder.with_suffix(".json")
    path.write_text(labels.model_dump_json())
    return path


def ask(monkeypatch: pytest.MonkeyPatch, folder: Path, labels: Path, stub: StubServer) -> None:
    arguments = [str(folder), str(labels), "--url", stub.url, "--orders", "1", "3", "--output", str(folder / "judges")]
    monkeypatch.setattr("sys.argv", ["judges", *arguments])
    judges.main()


@pytest.mark.parametrize(("flipped", "agrees"), [("openness", True), ("helpfulness", False)])
def test_a_judge_is_compared_with_what_people_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], flipped: str, agrees: bool
) -> None:
    with StubServer(Planted(swapped("openness"))) as stub:
        run(monkeypatch, tmp_path / "out", stub, "record")
        labels = label(tmp_path / "out", flipped)
        capsys.readouterr()
        ask(monkeypatch, tmp_path / "out", labels, stub)
        asked = len(stub.bodies)
        first = capsys.readouterr().out
        ask(monkeypatch, tmp_path / "out", labels, stub)

    assert len(stub.bodies) == asked
    rows = [row for row in first.splitlines() if row.startswith("| packaged |")]
    assert [row.split(" | ")[1] for row in rows] == ["1", "3"]
    assert all(("| 1.00 (" in row) is agrees for row in rows)
    assert [row.split(" | ")[:6] for row in capsys.readouterr().out.splitlines() if "packaged |" in row] == [
        row.split(" | ")[:6] for row in rows
    ]
