from __future__ import annotations

import tomllib
from pathlib import Path

import orjson
import pytest
from typer.testing import CliRunner

from everyuser_train.cli import app
from tests.small import prepare

runner = CliRunner()


def test_fit_evaluate_and_chat_go_together(tmp_path: Path) -> None:
    path = prepare(tmp_path, rows=8)
    data, model = str(tmp_path / "data.json"), str(tmp_path / "run" / "model")

    fitted = runner.invoke(app, ["fit", str(path), "-o", str(tmp_path / "run"), "--set", "training.epochs=1"])
    assert fitted.exit_code == 0, fitted.output
    assert "step 2: loss" in fitted.output
    assert f"the model is in {model}" in fitted.output

    report = tmp_path / "report"
    options = ["-m", model, "-d", data, "-o", str(report), "--set", f"cache={tmp_path}", "--set", "lengths=[0, 2]"]
    evaluated = runner.invoke(app, ["evaluate", *options])
    assert evaluated.exit_code == 0, evaluated.output
    assert orjson.loads((report / "report.json").read_bytes())["method"] == "ica"

    talked = runner.invoke(
        app, ["chat", "-m", model, "-d", data, "--row", "row-3", "--post", "hello", "--max-tokens", "4"]
    )
    assert talked.exit_code == 0, talked.output
    assert all(title in talked.output for title in ("portrait", "comment", "pair", "post", "policy", "reference"))


def test_version_is_that_of_the_distribution() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    assert runner.invoke(app, ["--version"]).stdout == f"everyuser-train {project['version']}\n"


def test_chat_asks_until_the_input_ends(tmp_path: Path) -> None:
    prepare(tmp_path, rows=2)
    model = str(tmp_path / "model")
    command = ["chat", "-m", model, "-r", model, "--method", "pba", "--persona", "Likes tea", "--max-tokens", "2"]

    done = runner.invoke(app, command, input="[bold]first\nsecond\x1b[31m\n")

    assert done.exit_code == 0, done.output
    assert "Likes tea" in done.output
    assert "[bold]first" in done.output
    assert "second" in done.output
    assert "\x1b[31m" not in done.output


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["fit", "none.yaml"], "none.yaml: no such file"),
        (["evaluate", "-d", "x.json"], "'model' (--model) is required"),
        (["chat", "-m", "./none"], "give --method ica or --method pba"),
        (["chat", "-m", "./none", "--method", "ica"], "no model there"),
        (["chat", "-m", "x", "--method", "ica"], "--reference"),
        (["chat", "-m", "x", "--method", "ica", "--dtype", "int4"], "--dtype int4"),
        (["chat", "-m", "x", "--method", "ica", "-d", "x", "--persona", "x"], "not both"),
        (["infer", "--annotator", "x", "--base-url", "http://x"], "not both"),
        (["judge", "-m", "x"], "is required"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(command: list[str], message: str) -> None:
    done = runner.invoke(app, command)

    assert done.exit_code == 2
    assert message in done.output
    assert len(done.output.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("command", "resumes"), [(["fit", "run.yaml"], True), (["render", "run.yaml", "-f", "trl", "-o", "rows"], False)]
)
def test_an_interrupt_says_how_to_resume(command: list[str], resumes: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("everyuser_train.loader.load_config", stop)

    done = runner.invoke(app, command)

    assert done.exit_code == 130
    assert done.output.startswith("stopped")
    assert ("run the same command again" in done.output) == resumes


def test_a_bug_names_its_kind_and_the_way_to_its_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("by\nzero")

    monkeypatch.setattr("everyuser_train.loader.load_config", fail)

    plain = runner.invoke(app, ["fit", str(tmp_path / "run.yaml")])
    debugged = runner.invoke(app, ["fit", str(tmp_path / "run.yaml"), "--debug"])

    assert plain.exit_code == debugged.exit_code == 1
    assert plain.output.strip() == "error: ZeroDivisionError: by zero (--debug shows where)"
    assert "Traceback" in debugged.output
