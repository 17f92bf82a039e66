"""`everyuser report --judge`: a second judge asks about a finished build, and the report shows what it found."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.report.judging.sample import draw_pairs
from pipeline.report.source import open_build
from preference_space.space import load_space
from schemas.base import UsageError
from schemas.report import Report, SecondJudgeFigures
from tests.pipeline.helpers import rows_of, run_build
from tests.pipeline.processes import shards
from tests.planted import Planted, swapped
from tests.stub import Answer, StubServer, refuse

SLUGS = ["extraversion", "openness", "agreeableness", "neuroticism", "conscientiousness", "humor"]
KEYS: dict[str, Any] = {
    "sampling": {"dimensions": SLUGS, "min_active": 3, "max_active": 4},
    "attempts": 3,
}


@dataclass(frozen=True)
class Judge(Planted):
    """A judge who also says whom a reply suits: the person whose portrait names the poles that the reply shows."""

    by_place: bool = False

    def judge(self, prompt: str) -> dict[str, float]:
        found = re.search(
            r"\nPerson: (.*?)\n\nPost: .*\nReply 1: (.*)\n\nReply 2: (.*)\n\nQuestion: ", prompt, re.DOTALL
        )
        if found is None:
            return super().judge(prompt)
        portrait, *replies = found.groups()
        first, second = (1, 0) if self.by_place else (self._fit(portrait, reply) for reply in replies)
        return {"A": float(first > second), "B": float(second > first), "C": float(first == second)}

    def _fit(self, portrait: str, reply: str) -> int:
        marks = [(d, self.seen(reply, d.slug)) for d in load_space("alignx").dimensions if d.slug in SLUGS]
        return sum(d.pole(level).description in portrait for d, level in marks if level)


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build without a judge whose writer takes the poles of openness for each other."""
    folder = tmp_path_factory.mktemp("judged") / "out"
    run_build(folder, Planted(swapped("openness")), **KEYS)
    return folder


@pytest.fixture
def folder(build: Path, tmp_path: Path) -> Path:
    shutil.copytree(build, tmp_path / "out")
    return tmp_path / "out"


def judged(folder: Path, answer: Answer, *arguments: str) -> tuple[str, StubServer]:
    """Run the command with a judge on a stub server; return its output and the server."""
    with StubServer(answer, models=("second",)) as stub:
        engine = f"verification.engine={{kind: openai, base_urls: ['{stub.url}']}}"
        given = ["--judge", "--set", engine, "--set", "verification.model=second", "--workers", "1", *arguments]
        result = CliRunner().invoke(app, ["report", str(folder), *given])
    return result.output, stub


def report_of(folder: Path) -> Report:
    return Report.model_validate_json((folder / "report.json").read_bytes())


def figures(folder: Path) -> SecondJudgeFigures:
    found = report_of(folder).second_judge
    assert found is not None
    return found


def test_a_judge_finds_what_was_planted(folder: Path) -> None:
    rows = shards(folder)

    said, _ = judged(folder, Judge())

    second = figures(folder)
    assert second.found is not None, said
    assert (second.found.judge, second.sampled, second.unanswered) == ("second", 60, 0)
    for dimension in second.found.dimensions:
        for pole in (dimension.positive, dimension.negative):
            assert pole is None or pole.recovery.value == float(dimension.slug != "openness")
    # Where most of a reply's marks fit its portrait, it is preferred whatever openness says.
    assert second.swap is not None and second.swap.both is not None
    assert second.swap.preferred.value == second.swap.both.value == second.swap.order_agreement == 1.0
    assert second.agreement is None
    assert "60 of 60" in said
    assert "by second, of a sample" in (folder / "README.md").read_text()
    assert shards(folder) == rows


def test_answers_are_kept_and_not_asked_for_again(folder: Path) -> None:
    judged(folder, Judge(), "--judge-pairs", "20")
    first = figures(folder)

    said, stub = judged(folder, refuse(400), "--judge-pairs", "20")

    assert stub.bodies == []
    assert figures(folder) == first, said
    assert first.sampled == 20
    # A larger sample holds the smaller one.
    _, stub = judged(folder, Judge(), "--judge-pairs", "30")
    assert len(stub.bodies) == 10 * 4
    assert figures(folder).sampled == 30


def test_a_report_shows_the_last_judge_of_these_files(folder: Path) -> None:
    judged(folder, Judge(), "--judge-pairs", "5")
    asked = figures(folder)

    result = CliRunner().invoke(app, ["report", str(folder), "--workers", "1"])

    assert result.exit_code == 0, result.output
    assert figures(folder) == asked
    stale = asked.model_copy(update={"files_digest": "other"})
    (folder / "judge" / "figures.json").write_text(stale.model_dump_json())
    CliRunner().invoke(app, ["report", str(folder), "--workers", "1"])
    assert report_of(folder).second_judge is None


def test_a_judge_by_place_prefers_nothing(folder: Path) -> None:
    judged(folder, Judge(by_place=True), "--judge-pairs", "10")
    swap = figures(folder).swap
    assert swap is not None
    assert (swap.preferred.value, swap.order_agreement, swap.undecided) == (0.0, 0.0, 1.0)


def test_pairs_without_an_answer_are_counted_and_left_out(folder: Path) -> None:
    refused: list[str] = []

    async def answer(request: Any, body: dict[str, Any]) -> Any:
        (portrait, *_) = re.findall("Person: .*", body["prompt"][0]) or [""]
        if portrait and not refused:
            refused.append(portrait)
        return await (refuse(400) if portrait and portrait in refused else Judge())(request, body)

    output, _ = judged(folder, answer, "--judge-pairs", "5")

    second = figures(folder)
    assert (second.sampled, second.unanswered) == (5, 1)
    assert second.found is not None
    assert second.found.pairs == 4
    assert "1 of 5 pairs have no answer of second (HTTP 400" in output


def test_a_judge_without_any_answer_is_an_error_and_leaves_the_figures_of_another(folder: Path) -> None:
    earlier = folder / "judge" / "figures.json"
    earlier.parent.mkdir()
    earlier.write_text("of another judge")

    async def answer(request: Any, body: dict[str, Any]) -> Any:
        about_one = "prompt" in body and "Which reply would this person prefer?" not in body["prompt"][0]
        return await (Judge() if about_one else refuse(400))(request, body)

    output, _ = judged(folder, answer, "--judge-pairs", "6")

    assert "6 of 6 pairs have no answer of second (HTTP 400" in output
    assert earlier.read_text() == "of another judge"


def test_two_judges_are_compared_where_the_build_had_one(tmp_path: Path) -> None:
    run_build(tmp_path / "out", Planted(), **KEYS, verification={"mode": "record"})

    judged(tmp_path / "out", Judge(error=0.3), "--judge-pairs", "40")

    second, first = figures(tmp_path / "out"), report_of(tmp_path / "out").verification
    assert first is not None and first.recovery.value == 1.0
    assert second.agreement is not None and second.found is not None
    assert second.agreement.value == second.found.recovery.value < 1.0


def test_kinds_are_told_apart_and_persona_swap_leaves_restraint_out(tmp_path: Path) -> None:
    run_build(tmp_path / "out", Planted(), **KEYS, kinds={"near": 0.3, "restraint": 0.3})
    kinds = Counter(row["kind"] for row in rows_of(tmp_path / "out" / "pool"))

    _, stub = judged(tmp_path / "out", Judge(), "--judge-pairs", "60")

    second = figures(tmp_path / "out")
    assert second.swap is not None and second.swap.both is not None
    assert {kind: found.value for kind, found in second.recovery_by_kind.items()} == dict.fromkeys(sorted(kinds), 1.0)
    assert second.restraint == kinds["restraint"] > 0
    assert second.swap.both.number == kinds["opposite"] + kinds["near"]
    assert second.swap.preferred.value == 1.0
    # Two calls about what the replies show, and two with a portrait.
    assert len(stub.bodies) == 4 * kinds.total() - 2 * kinds["restraint"]


def test_the_sample_is_of_pairs_with_the_portraits_of_both_persons(build: Path) -> None:
    pairs = draw_pairs(open_build(build), 7, seed=3)

    assert len({each.pair.pair_id for each in pairs}) == 7
    assert all(
        each.portraits[0] != each.portraits[1] and each.pair.pair_id.split("-")[1] == each.split for each in pairs
    )
    assert pairs == draw_pairs(open_build(build), 7, seed=3)
    assert pairs != draw_pairs(open_build(build), 7, seed=4)


def test_a_build_without_its_pool_cannot_be_judged(folder: Path) -> None:
    shutil.rmtree(folder / "pool")
    with pytest.raises(UsageError, match="is missing, and a judge is shown the pairs of pool/"):
        draw_pairs(open_build(folder), 7, seed=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "verification.model=x"], "--set is about a judge; add --judge"),
        (["--judge", "--set", "pairs=3"], "only verification and requests can be set"),
        (["--judge", "--set", "verification.votes=0"], "verification.votes"),
        (["--judge", "--set", "verification.engine={kind: replay, journal: x}"], "verification.engine"),
    ],
)
def test_wrong_use_is_one_line(build: Path, arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["report", str(build), *arguments])
    assert result.exit_code == 2 and message in result.output and result.output.count("\n") == 1
    assert not (build / "judge").exists()
