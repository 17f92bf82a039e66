"""`everyuser report` on a whole build, and the files that it writes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.io.manifests import load_manifest, write_manifest
from schemas.report import Report
from tests.pipeline.helpers import run_build


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report") / "out"
    run_build(folder)
    return folder


def report(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["report", *arguments])
    return result.exit_code, result.output


def test_a_build_is_measured_and_its_card_tells(build: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    shutil.copytree(build, folder)
    assert "## Quality" not in (folder / "README.md").read_text()
    benchmark = tmp_path / "bench.txt"
    benchmark.write_text("words that nobody else would ever put in this very order in a forum post about anything\n")

    code, said = report(str(folder), "--workers", "1", "--benchmark", str(benchmark), "--examples", "3")

    assert code == 0, said
    found = Report.model_validate_json((folder / "report.json").read_bytes())
    assert len(found.shown) == 3 and [Path(each.file).name for each in found.contamination] == ["bench.txt"]
    assert "report.html" in said
    assert found.name in (folder / "report.html").read_text()
    card = (folder / "README.md").read_text()
    pictures = sorted(path.relative_to(folder).as_posix() for path in (folder / "figures").iterdir())
    assert pictures and all(f"]({path})" in card for path in pictures)
    assert "## Quality" in card and "| Overlap with bench.txt | 0 posts" in card

    from datasets import load_dataset

    rows = load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    assert sum(split.num_rows for split in rows.values()) == found.examples


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{empty}"], "holds no build"),
        (["{build}", "--benchmark", "{empty}/none.json"], "none.json"),
        (["{build}", "--prompt-price", "1"], "give both prompt_price and completion_price"),
    ],
)
def test_wrong_use_is_one_line(build: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    code, said = report(*(each.format(build=build, empty=tmp_path) for each in arguments))
    assert code == 2 and message in said and said.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"status": "incomplete"}, "unfinished build"),
        ({"schema_version": "2"}, "was built by another version of everyuser (schema 2, here"),
    ],
)
def test_a_build_that_is_unfinished_or_of_another_version_is_not_measured(
    build: Path, tmp_path: Path, change: dict[str, str], message: str
) -> None:
    folder = tmp_path / "out"
    shutil.copytree(build, folder)
    write_manifest(folder, load_manifest(folder).model_copy(update=change))
    code, said = report(str(folder))
    assert code == 2 and message in said
