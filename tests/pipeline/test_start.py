"""What the commands import, and what a build does before it imports Beam."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pipeline import build as pipeline_build
from pipeline.build import build
from pipeline.generation import service
from pipeline.plan import BuildPlan
from tests.forks import python
from tests.pipeline.commands import config_file
from tests.pipeline.helpers import DUMMY, tiny
from tests.stub import StubServer

HEAVY = ("apache_beam", "aiohttp", "datasets", "huggingface_hub", "sklearn")


def test_commands_that_only_look_import_nothing_heavy(tmp_path: Path) -> None:
    build(tiny(**DUMMY), tmp_path)
    code = f"""
import json, sys
from typer.testing import CliRunner
from pipeline.cli import app
found = {{}}
for command in json.loads(sys.argv[1]):
    result = CliRunner().invoke(app, command)
    found[" ".join(command)] = [result.exit_code, [name for name in {HEAVY} if name in sys.modules]]
print(json.dumps(found))
"""
    commands = [
        ["--help"],
        *(["space", "show"], ["space", "sample", "-n", "8"]),
        *(["inspect", str(tmp_path)], ["check", str(tmp_path)], ["review", str(tmp_path)]),
        ["report", str(tmp_path), "--workers", "1"],
    ]

    out, err = python(code, json.dumps(commands)).communicate()

    found = json.loads(out.splitlines()[-1]) if out else err
    # A report measures diversity with scikit-learn.
    allowed = {" ".join(command): ["sklearn"] if command[0] == "report" else [] for command in commands}
    assert found == {command: [0, heavy] for command, heavy in allowed.items()}


def test_ctrl_c_before_the_command_line_is_imported_ends_in_one_line() -> None:
    code = """
import sys
class Interrupted:
    def find_spec(self, name, *_):
        if name == "pipeline.cli":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupted())
from pipeline.command import main
main()
"""
    process = python(code)

    assert (*process.communicate(), process.returncode) == ("", "stopped\n", 130)


def test_a_build_asks_the_model_before_it_imports_what_runs_and_publishes(tmp_path: Path) -> None:
    code = f"""
import sys
from pipeline import cli
from pipeline.generation import service
def connect(*_):
    print([name for name in {HEAVY} if name in sys.modules])
    raise SystemExit
service._connect = connect
cli.app(sys.argv[1:])
"""

    out, err = python(code, "build", config_file(tmp_path), "--output", str(tmp_path / "out")).communicate()

    assert out.splitlines()[-1:] == ["[]"], err


def test_a_build_whose_replies_are_journaled_asks_no_model(tmp_path: Path) -> None:
    with StubServer() as stub:
        settings = tiny(engine={"kind": "openai", "base_urls": [stub.url]})
        build(settings, tmp_path)
    for folder in ("pool", "data", "rejected"):
        shutil.rmtree(tmp_path / folder)
    (tmp_path / "manifest.json").unlink()

    # The stub is gone: a request would fail the build.
    assert build(settings, tmp_path).status == "complete"


def test_examples_of_a_build_without_journals_ask_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with StubServer() as stub:
        settings = tiny(engine={"kind": "openai", "base_urls": [stub.url]}, requests={"journal": False})
        build(settings, tmp_path)
    shutil.rmtree(tmp_path / "data")
    (tmp_path / "manifest.json").unlink()
    monkeypatch.setattr(service, "_connect", lambda *_: pytest.fail("the model is asked"))

    assert build(settings, tmp_path).status == "complete"


@pytest.mark.parametrize(
    ("journals", "asks"), [([], True), (["pairs-train-00000-of-00003.jsonl"], True), (None, False)]
)
def test_shards_without_a_journal_need_the_model(tmp_path: Path, journals: list[str] | None, asks: bool) -> None:
    plan = BuildPlan(tmp_path, "f" * 64, tiny())
    (tmp_path / "journal").mkdir()
    for name in [f"pairs-{spec.name}.jsonl" for spec in plan.shards()] if journals is None else journals:
        (tmp_path / "journal" / name).touch()

    assert pipeline_build._asks_model(plan, plan.shards()) == asks


def test_mined_shards_may_need_no_model(tmp_path: Path) -> None:
    settings = tiny(mining={"share": 1, "source": {"kind": "threads", "path": ["packaged"]}})
    plan = BuildPlan(tmp_path, "f" * 64, settings, threads={"train": 8})

    assert plan.shards()
    assert not pipeline_build._asks_model(plan, plan.shards())
