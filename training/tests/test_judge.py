from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from rich.console import Console

from everyuser_train.config import EvalData
from everyuser_train.examples import PairItem, UgcItem
from everyuser_train.judge import (
    JudgeConfig,
    JudgeReport,
    describe_person,
    judge,
    outcome,
    read_verdict,
    report_table,
)
from everyuser_train.metrics import Estimate
from everyuser_train.personas import NO_PERSONA, Persona
from schemas.base import UsageError, UserError
from tests.endpoint_stub import EndpointStub, refused, said
from tests.tiny import save_tiny

pytestmark = pytest.mark.usefixtures("_quick")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("models")
    return save_tiny(folder / "policy", 0), save_tiny(folder / "reference", 1)


@pytest.fixture
def make(tmp_path: Path, models: tuple[str, str]) -> Callable[..., JudgeConfig]:
    rows = [
        {
            "prompt": f"Post {number // 2}",
            "chosen": "a",
            "rejected": "b",
            "profile": f"Likes {number}",
            "User-Generated Content": [{"prompt": "p", "comment": f"comment {number}"}],
        }
        for number in range(24)
    ]
    (tmp_path / "data.json").write_text(json.dumps(rows))

    def config(stub: EndpointStub, **changes: Any) -> JudgeConfig:
        fields: dict[str, Any] = {
            "output": str(tmp_path / "out"),
            "model": models[0],
            "reference": models[1],
            "data": EvalData(path=str(tmp_path / "data.json")),
            "method": "ica",
            "cases": 10,
            "judge": stub.endpoint(retries=1),
            "max_new_tokens": 6,
            "dtype": "float32",
            "batch_tokens": 1500,
        }
        return JudgeConfig(**fields | changes)

    return config


def shown(body: dict[str, Any]) -> tuple[str, str]:
    """The replies in a question, A and B."""
    text = body["messages"][1]["content"]
    found = re.search(r"# Reply A\n(.*)\n\n# Reply B\n(.*)\n\n# Your verdict$", text, re.DOTALL)
    assert found is not None
    return found[1], found[2]


def by_taste(body: dict[str, Any], before: int) -> web.Response:
    """A judge with a taste of its own, whatever the order."""
    first, second = shown(body)
    return said(f"Because.\n**Verdict: {'A' if hash(first) > hash(second) else 'B'}**")


def count(report: JudgeReport, name: str) -> int:
    estimate: Estimate = getattr(report, name)
    return round(estimate.value * report.cases)


def test_both_orders_are_asked_and_everything_adds_up(make: Callable[..., JudgeConfig], tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    with EndpointStub(by_taste) as stub:
        report = judge(make(stub), lambda *at: seen.append(at))
    assert len(stub.bodies) == 2 * (report.cases - report.identical) and report.cases == 10
    assert {shown(body) for body in stub.bodies} == {shown(body)[::-1] for body in stub.bodies}
    assert count(report, "win") + count(report, "loss") + count(report, "tie") == 10
    assert count(report, "tie") == report.identical and report.inconsistent.value == 0
    assert report.score.value == pytest.approx(report.win.value + report.tie.value / 2)
    # Five posts are too few for an interval.
    assert report.win.low is report.win.high is None
    assert report.first == 0.5 and (report.unjudged, report.too_long, report.first_failure) == (0, 0, None)
    assert seen[0] == ("policy's replies", 0, 10) and seen[-1] == ("verdicts", 20, 20)
    assert JudgeReport.model_validate_json((tmp_path / "out" / "judge.json").read_text()) == report
    verdicts = [json.loads(line)["answer"] for line in (tmp_path / "out" / "verdicts.jsonl").read_text().splitlines()]
    assert {verdict["verdict"] for verdict in verdicts} <= {"first", "second"} and verdicts[0]["text"].startswith(
        "Because"
    )
    console = Console(width=80)
    with console.capture() as captured:
        console.print(report_table(report))
    assert "win" in captured.get() and "inconsistent" in captured.get()


def test_the_policy_wins_what_the_judge_gives_it(make: Callable[..., JudgeConfig], tmp_path: Path) -> None:
    with EndpointStub(by_taste) as stub:
        judge(make(stub))
    kept = [json.loads(line)["answer"] for line in (tmp_path / "out" / "replies.jsonl").read_text().splitlines()]
    ours = {answer["text"] for answer in kept if answer["model"].endswith("policy")}

    def fan(body: dict[str, Any], before: int) -> web.Response:
        return said(f"Verdict: {'A' if shown(body)[0] in ours else 'B'}")

    (tmp_path / "out" / "verdicts.jsonl").unlink()
    with EndpointStub(fan) as stub:
        report = judge(make(stub))
    assert count(report, "win") == 10 - report.identical > 0


@pytest.mark.parametrize(
    ("text", "first", "inconsistent"),
    [("Verdict: A", 1.0, True), ("Verdict: B", 0.0, True), ("Verdict: tie", None, False)],
)
def test_a_judge_that_goes_by_the_place_decides_nothing(
    make: Callable[..., JudgeConfig], text: str, first: float | None, inconsistent: bool
) -> None:
    with EndpointStub(lambda body, before: said(text)) as stub:
        report = judge(make(stub))
    assert report.tie.value == 1 and report.score.value == 0.5 and report.first == first
    assert count(report, "inconsistent") == (10 - report.identical) * inconsistent


def test_a_rerun_asks_only_what_is_missing(make: Callable[..., JudgeConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(body: dict[str, Any], before: int) -> web.Response:
        return (
            refused(500) if before in (3, 4) else refused(400, "bad words") if before == 7 else by_taste(body, before)
        )

    with EndpointStub(failing) as stub:
        first = judge(make(stub, judge=stub.endpoint(retries=0, in_flight=1)))
        asked = len(stub.bodies)
        assert first.unjudged in (2, 3) and first.cases == 10 - first.unjudged
        assert first.first_failure is not None and "HTTP 500" in first.first_failure

        def no_model(*_: Any, **__: Any) -> None:
            raise AssertionError("a model was loaded")

        monkeypatch.setattr("everyuser_train.models.load_model", no_model)
        second = judge(make(stub))
        assert len(stub.bodies) == asked + 2
        # What the judge refused is final.
        assert second.unjudged == 1 and second.first_failure is not None and "bad words" in second.first_failure
        assert judge(make(stub)) == second and len(stub.bodies) == asked + 2


def test_a_larger_sample_keeps_what_is_there(make: Callable[..., JudgeConfig]) -> None:
    with EndpointStub(by_taste) as stub:
        judge(make(stub, cases=6))
        before = len(stub.bodies)
        report = judge(make(stub, cases=9))
        assert report.cases == 9 and len(stub.bodies) - before <= 6
        assert judge(make(stub, cases=400)).cases == 24


def test_a_model_against_itself_is_all_ties(make: Callable[..., JudgeConfig], models: tuple[str, str]) -> None:
    with EndpointStub(by_taste) as stub:
        report = judge(make(stub, reference=models[0], temperature=0.9))
    assert report.identical == report.cases == 10 and report.tie.value == 1 and report.first is None
    assert not stub.bodies


def test_the_judge_knows_the_person_and_no_more(make: Callable[..., JudgeConfig]) -> None:
    with EndpointStub(by_taste) as stub:
        judge(make(stub, cases=24))
    assert stub.bodies
    for body in stub.bodies:
        text = body["messages"][1]["content"]
        number = re.search(r"Preferences: Likes (\d+)\n", text)
        assert number is not None and f"Comment: comment {number[1]}\n" in text
        assert f"# Post\nPost {int(number[1]) // 2}\n" in text
        assert body["temperature"] == 0 and body["max_tokens"] == 256


def test_posts_without_room_are_counted(make: Callable[..., JudgeConfig], tmp_path: Path) -> None:
    rows = [
        {"prompt": "long " * 99 * (number % 2) + str(number), "chosen": "a", "rejected": "b"} for number in range(8)
    ]
    (tmp_path / "data.json").write_text(json.dumps(rows))
    with EndpointStub(by_taste) as stub:
        report = judge(make(stub, max_length=300))
        assert (report.cases, report.too_long) == (4, 4)
        with pytest.raises(UsageError, match="raise max_length"):
            judge(make(stub, max_length=40))


def test_a_judge_without_verdicts(make: Callable[..., JudgeConfig]) -> None:
    with (
        EndpointStub(lambda body, before: said("I cannot say.")) as stub,
        pytest.raises(UserError, match="I cannot say"),
    ):
        judge(make(stub))


def test_without_a_reference(make: Callable[..., JudgeConfig]) -> None:
    with EndpointStub(by_taste) as stub, pytest.raises(UsageError, match="`reference`"):
        judge(make(stub, reference=None))


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("Verdict: A", "first"),
        ("B is warmer.\n\nVerdict: B", "second"),
        ("**Verdict:** tie", "tie"),
        ("verdict - Tie.", "tie"),
        ("Verdict: a tie", "tie"),
        ("Verdict: Reply B", "second"),
        ("First I thought Verdict: A, but\n**Verdict: B**.", "second"),
        ("A", "first"),
        (" [B]. ", "second"),
        ("Tie", "tie"),
        ("Verdict: Both", None),
        ("Verdict: about even", None),
        ("A is better than B", None),
        ("", None),
    ],
)
def test_verdicts_are_read(text: str, verdict: str | None) -> None:
    assert read_verdict(text) == verdict


def test_only_what_both_orders_say_counts() -> None:
    options = ("first", "second", "tie")
    outcomes = {(one, two): outcome(one, two) for one in options for two in options}  # type: ignore[arg-type]
    assert {pair for pair, found in outcomes.items() if found == "win"} == {("first", "second")}
    assert {pair for pair, found in outcomes.items() if found == "loss"} == {("second", "first")}


def test_a_person_in_words() -> None:
    assert describe_person(NO_PERSONA) == "Nothing is known of the person."
    persona = Persona((UgcItem("<1>", "<2>"),), (PairItem("<3>", "<4>", "<5>"),), "<portrait>", "<profile>")
    order = ["<profile>", "<portrait>", "<1>", "<2>", "<3>", "<4>", "<5>"]
    assert re.findall(r"<\w+>", describe_person(persona)) == order
