from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pipeline.report.page import render_page
from pipeline.report.source import open_build
from pipeline.review.blind_sample import draw_sample
from schemas.review import Labels, ReviewScore, ReviewSettings
from tests.pipeline.commands import assert_one_line, run, succeed
from tests.pipeline.report.fake import HOSTILE, report
from tests.pipeline.review.builds import labels_of, make_build


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reviewed")
    make_build(folder)
    return folder


@pytest.fixture
def files(folder: Path, tmp_path: Path) -> list[str]:
    """The labels of two reviewers: one sees what was asked, the other the opposite in `length`."""
    sample = draw_sample(open_build(folder), ReviewSettings(pairs=8))
    ann = labels_of(sample, lambda question: question.asked)
    bob = labels_of(sample, lambda question: question.asked * (-1 if question.dimension == 1 else 1), "bob")
    return [write(tmp_path / f"{labels.reviewer}.json", labels) for labels in (ann, bob)]


def write(path: Path, labels: Labels) -> str:
    path.write_text(labels.model_dump_json())
    return str(path)


def test_the_page_is_written_into_the_build_and_counted(folder: Path) -> None:
    printed = succeed("review", str(folder), "--pairs", "8")
    sheet = draw_sample(open_build(folder), ReviewSettings(pairs=8)).sheet
    questions = sum(len(pair.questions) for pair in sheet.pairs)
    assert printed.splitlines()[0] == f"in    {folder / 'review.html'}: 8 pairs, {questions} questions"
    assert sheet.digest in (folder / "review.html").read_text()


def test_the_page_goes_where_it_is_asked_to(folder: Path, tmp_path: Path) -> None:
    succeed("review", str(folder), "--seed", "3", "--before", "0", "--output", str(tmp_path / "mine.html"))
    sheet = draw_sample(open_build(folder), ReviewSettings(seed=3, before=0)).sheet
    assert sheet.digest in (tmp_path / "mine.html").read_text()


def test_a_page_replaces_a_page_and_no_other_file(folder: Path, tmp_path: Path) -> None:
    page, letter, other = tmp_path / "page.html", tmp_path / "letter.html", tmp_path / "report.html"
    letter.write_text("<!doctype html><p>Dear Ann")
    other.write_text(render_page(report()))
    for seed in ("1", "2"):
        succeed("review", str(folder), "--seed", seed, "-o", str(page))
    sheet = draw_sample(open_build(folder), ReviewSettings(seed=2)).sheet
    assert sheet.digest in page.read_text()
    for path in (letter, other):
        before = path.read_bytes()
        said = f"{path} exists and is no review page; name another --output, or remove it"
        assert_one_line(run("review", str(folder), "-o", str(path)), 2, said)
        assert path.read_bytes() == before


@pytest.mark.parametrize("part", ["pool", "rejected/pairs", "data"])
def test_a_damaged_file_is_named_and_not_to_be_deleted(folder: Path, tmp_path: Path, part: str) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    path = copy / part / "train-00000-of-00001.parquet"
    path.write_bytes(path.read_bytes()[:-9])
    said = "restore it from a copy; `everyuser check` names all such files"
    assert_one_line(run("review", str(copy)), 2, f"{path} is damaged", said)


def test_a_score_says_how_well_people_and_dataset_agree(folder: Path, files: list[str]) -> None:
    printed = succeed("review", str(folder), "--score", *files)
    assert "2 files of labels by 2 reviewers" in printed
    for words in ("what was asked, before filtering", "the dataset", "the judge, a judge", "among reviewers: alpha"):
        assert words in printed
    assert "ann: " in printed and "100% as asked" in printed
    assert (
        "length: asked 'Likes little length', bob saw 'Likes much length (more of it)', judge's margin -0.60" in printed
    )
    assert "more disagreements: --json has all" in printed


def test_json_has_the_whole_score(folder: Path, files: list[str]) -> None:
    found = ReviewScore.model_validate_json(
        succeed("review", str(folder), "--json", "--score", files[0], "--score", files[1])
    )
    assert [one.reviewer for one in found.reviewers] == ["ann", "bob"]
    assert len(found.disagreements) == 8


def test_a_hostile_name_reaches_no_terminal(folder: Path, tmp_path: Path) -> None:
    sample = draw_sample(open_build(folder), ReviewSettings(pairs=8))
    labels = labels_of(sample, lambda question: -question.asked, f"[bold]x[/]{HOSTILE[-60:-10]}\x1b[31m"[:100])
    path = write(tmp_path / "hostile.json", labels)
    printed = succeed("review", str(folder), "--score", path)
    assert "\x1b" not in printed
    assert "[bold]x[/]" in printed
    assert (
        json.loads(succeed("review", str(folder), "--json", "--score", path))["reviewers"][0]["reviewer"]
        == labels.reviewer
    )


def test_what_cannot_be_scored_is_an_error_of_one_line(folder: Path, files: list[str], tmp_path: Path) -> None:
    assert_one_line(run("review", str(folder), files[0]), 2, files[0], "needs --score")
    assert_one_line(run("review", str(folder), "--json"), 2, "--json needs --score")
    assert_one_line(
        run("review", str(folder), "--pairs", "0"), 2, "'pairs' is 0; expected a whole number from 1 to 5000"
    )
    assert_one_line(run("review", str(folder), "--score", str(tmp_path / "no.json")), 2, "no.json: cannot be read")
    assert_one_line(run("review", str(tmp_path), "--score", files[0]), 2, "holds no build")
