"""Files beside the code that must agree with it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from pipeline.cli import app
from schemas import SCHEMA_VERSION
from tests import ROOT
from tests.conftest import LONG


def read(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def test_the_long_files_of_tests_exist() -> None:
    assert set(LONG) <= {path.stem for path in (ROOT / "tests").rglob("test_*.py")}


def test_the_newest_entry_of_the_changelog_is_of_this_schema_version() -> None:
    newest = re.search(r"^## (.*)$", read("CHANGELOG.md"), re.M)

    assert newest is not None
    assert re.match(rf"Schema {SCHEMA_VERSION}\b", newest[1])


def test_pre_commit_and_the_locks_have_the_same_ruff() -> None:
    hooks = yaml.safe_load(read(".pre-commit-config.yaml"))["repos"]
    locks = [*ROOT.glob("locks/*.txt"), *ROOT.glob("training/locks/*.txt")]
    locked = {version for path in locks for version in re.findall(r"^ruff==(\S+)", path.read_text(), re.M)}

    assert {hook["rev"] for hook in hooks} == {f"v{version}" for version in locked}


def test_the_distributions_and_the_citation_have_one_version() -> None:
    projects = [tomllib.loads(read(path))["project"] for path in ("pyproject.toml", "training/pyproject.toml")]
    citation = yaml.safe_load(read("CITATION.cff"))

    assert {project["version"] for project in projects} == {citation["version"]}
    assert {project["license"] for project in projects} == {citation["license"]}


def test_workflows_run_targets_that_exist() -> None:
    jobs = yaml.safe_load(read(".github/workflows/ci.yml"))["jobs"]
    commands = [step["run"].split() for job in jobs.values() for step in job["steps"] if "run" in step]

    assert [".ci/run"] in commands
    targets = {command[1] for command in commands if command[0] == "make"}
    assert all(re.search(rf"^{target}:", read("Makefile"), re.M) for target in targets)


@pytest.mark.parametrize(
    "package", ["everyuser", "pipeline", "preference_space", "prompts", "schemas", "training/everyuser_train"], ids=str
)
def test_every_package_is_typed(package: str) -> None:
    data = tomllib.loads(read(str(Path(package).parent / "pyproject.toml")))["tool"]["setuptools"]["package-data"]

    assert (ROOT / package / "py.typed").is_file()
    assert "py.typed" in data.get("*", ()) or "py.typed" in data.get(Path(package).name, ())


def test_version_names_the_distribution_and_the_schema() -> None:
    result = CliRunner().invoke(app, ["--version"])

    assert result.exit_code == 0
    version = tomllib.loads(read("pyproject.toml"))["project"]["version"]
    assert result.stdout == f"everyuser {version} (schema {SCHEMA_VERSION})\n"


def test_no_two_modules_of_the_pipeline_have_one_name() -> None:
    names = [path.stem for path in (ROOT / "pipeline").rglob("*.py") if path.stem != "__init__"]

    assert sorted({name for name in names if names.count(name) > 1}) == []
