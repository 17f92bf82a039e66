"""Commands of `everyuser` in the process of the tests, and their output."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import yaml
from typer.testing import CliRunner

from pipeline.cli import app
from tests.pipeline.helpers import TINY
from tests.stub import StubServer

PRINTED: list[str] = []
"""The output of each command of this process."""


class Result(NamedTuple):
    """Exit code and output of a command."""

    code: int
    out: str
    err: str


def run(*arguments: str) -> Result:
    """Run a command in this process."""
    outcome = CliRunner(env={"COLUMNS": "300"}).invoke(app, list(arguments))
    PRINTED.append(outcome.stdout + outcome.stderr)
    return Result(outcome.exit_code, outcome.stdout, outcome.stderr)


def succeed(*arguments: str) -> str:
    """Run a command that must succeed and print no error; return its output."""
    result = run(*arguments)
    assert (result.code, result.err) == (0, ""), result.out + result.err
    return result.out


def assert_one_line(result: Result, code: int, *parts: str) -> None:
    """Assert an exit code, and one line on standard error with these parts."""
    assert result.code == code, result.out + result.err
    assert result.err.count("\n") == 1, result.err
    assert result.err.startswith("error: ")
    assert all(part in result.err for part in parts), result.err


def config_file(folder: Path, stub: StubServer | None = None, **keys: Any) -> str:
    """Write the configuration of a small build, with keys replaced, and return its path."""
    engine = {"engine": {"kind": "openai", "base_urls": [stub.url]}} if stub else {}
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(TINY | engine | keys))
    return str(path)
