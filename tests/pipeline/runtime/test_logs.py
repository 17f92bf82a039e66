from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from pipeline.generation.availability import Availability
from pipeline.runtime import logs, timing
from pipeline.runtime.progress import counters_for
from preference_space.space import PreferenceSpace, load_space
from schemas.config import RequestsConfig
from tests import ROOT
from tests.pipeline.commands import config_file, run
from tests.pipeline.helpers import write_jsonl
from tests.pipeline.processes import BY_TWO
from tests.stub import StubServer, good, is_trial

KEY = "sk-secret-0123456789"
MARKER = "QUETZALCOATL"


def test_records_from_a_level_on_are_lines_in_the_block_only() -> None:
    lines: list[str] = []
    logger, other = logging.getLogger("pipeline.io.shards"), logging.getLogger("apache_beam")

    with logs.shown(logging.WARNING, lines.append):
        logger.warning("%s is 100%% full", "it")
        logger.info("not shown")
        other.warning("not ours")
    logger.warning("too late")

    assert lines == ["WARNING: it is 100% full"]
    assert logging.getLogger("pipeline").propagate


def test_a_line_that_cannot_be_written_raises_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    def broken(line: str) -> None:
        raise OSError("no space")

    with logs.shown(logging.INFO, broken):
        logging.getLogger("schemas").info("lost")

    assert "no space" in capsys.readouterr().err


def test_a_shard_far_slower_than_the_median_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    clock = 0.0
    monkeypatch.setattr("pipeline.runtime.timing.time.monotonic", lambda: clock)
    for number, seconds in enumerate([20.0] * 8 + [99.0, 101.0]):
        path = tmp_path / "pool" / f"train-{number}"
        timing.begin(path)
        clock += seconds
        timing.stored(path, "12 pairs")
    timing.stored(tmp_path / "pool" / "begun-elsewhere", "12 pairs")

    assert caplog.messages[0] == "stored pool/train-0: 12 pairs, in 20.0 s"
    assert caplog.messages[-1] == "stored pool/begun-elsewhere: 12 pairs"
    slow = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert slow == ["slow shard pool/train-9: 101 s, where the median of this process is 20.0 s"]


def test_an_outage_is_logged_once_when_it_lasts_and_when_it_ends(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    availability = Availability(RequestsConfig(outage_seconds=60), counters_for(tmp_path))
    for now in (0.0, 1.0, 6.0, 7.0):
        availability.record_down(now)
        availability.check_outage(now, "connection refused")
    availability.record_up()
    availability.record_down(8.0)
    availability.record_up()

    assert len(caplog.messages) == 2
    assert "connection refused" in caplog.messages[0]
    assert "60 s" in caplog.messages[0]
    assert "answers again" in caplog.messages[1]


@pytest.mark.parametrize(("flags", "shown"), [((), ["WARNING: "]), (("--debug",), ["DEBUG", "WARNING"])])
def test_the_command_shows_records_as_safe_text(
    monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...], shown: list[str]
) -> None:
    def load(source: str) -> PreferenceSpace:
        logging.getLogger("preference_space.space").debug("reading %s", source)
        logging.getLogger("preference_space.space").warning("odd \x1b[31m \u202e name")
        return alignx

    alignx = load_space("alignx")
    monkeypatch.setattr("preference_space.space.load_space", load)

    lines = run("space", "check", "alignx", *flags).err.splitlines()

    assert len(lines) == len(shown)
    assert all(level in line for level, line in zip(shown, lines, strict=True))
    assert lines[-1].endswith("odd  [31m <U+202E> name")


@pytest.mark.parametrize("arguments", [("--debug",), ("--verbose", *BY_TWO)], ids=["debug", "verbose-by-two"])
def test_no_log_holds_a_key_or_a_text(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    rows = [{"id": f"p{k}", "text": f"{MARKER} number {k}, what now?"} for k in range(60)]
    failed: set[int] = set()

    async def failing_first(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        if is_trial(body) or body["seed"] in failed or body["seed"] % 3:
            return await good(request, body)
        failed.add(body["seed"])
        return web.Response(status=500, text=f"{request.headers['Authorization']} asked {body['messages']}")

    with StubServer(failing_first) as stub:
        config = config_file(
            tmp_path,
            seeds={"path": str(write_jsonl(tmp_path / "posts.jsonl", rows))},
            engine={"kind": "openai", "base_urls": [stub.url], "api_key_env": "STUB_KEY"},
            requests={"max_retries": 5},
        )
        command = [sys.executable, "-m", "pipeline.cli", "build", config, "--output", str(tmp_path / "out"), *arguments]
        environment = os.environ | {"STUB_KEY": KEY, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    logged = done.stderr + "".join(path.read_text() for path in (tmp_path / "out" / "logs").iterdir())
    assert len(failed) > 5
    assert re.search(r"INFO pipeline\.runtime\.timing: stored pool/train-\S+: \d+ of 12 pairs, in ", logged)
    assert ("retry 1 of a request" in logged) == ("--debug" in arguments)
    assert not any(secret in logged + done.stdout for secret in (KEY, MARKER))
