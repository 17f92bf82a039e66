"""The state of builds, as other processes see it."""

from __future__ import annotations

import json
import os
import signal
import socket
from pathlib import Path

import pytest

from pipeline.driver.status import find_status
from pipeline.io.storage import AnyPath
from pipeline.runtime import progress
from tests.forks import Fork
from tests.pipeline.commands import assert_one_line, run, succeed
from tests.pipeline.helpers import prepared, run_build, tiny
from tests.pipeline.processes import openai, write_config
from tests.stub import StubServer, delayed, refuse
from tests.waiting import wait_until


def start(config: Path, folder: AnyPath) -> Fork:
    return Fork("-m", "pipeline.cli", "build", str(config), "--output", str(folder), env=dict(os.environ))


@pytest.mark.parametrize("place", ["local", "s3"], indirect=True)
def test_a_build_that_runs_is_killed_stopped_and_finished(folder: AnyPath, tmp_path: Path) -> None:
    with StubServer(delayed(0.2)) as stub:
        config = write_config(tmp_path, openai(stub, 4))
        killed = start(config, folder)
        wait_until(lambda: len(stub.bodies) >= 20, killed)

        found = find_status(folder)
        assert (found.state, found.phase, found.pairs.of) == ("running", "pairs", 200)
        assert found.holder == f"process {killed.pid} on {socket.gethostname()}"

        killed.kill()
        killed.communicate()
        assert find_status(folder).state == "killed"

        asked = len(stub.bodies)
        stopped = start(config, folder)
        wait_until(lambda: len(stub.bodies) >= asked + 20, stopped)
        stopped.send_signal(signal.SIGINT)
        stopped.communicate()
        assert find_status(folder).state == "interrupted"

    with StubServer() as stub:
        finished = start(write_config(tmp_path, openai(stub, 64)), folder)
        assert finished.communicate()[1] == ""
    found = find_status(folder)
    assert (found.state, found.phase, found.holder) == ("complete", None, None)
    assert (found.pair_shards.done, found.example_shards.done) == (found.pair_shards.of, found.example_shards.of)
    # In a bucket a run that is killed in its first seconds has left no counts.
    assert [entry.status for entry in found.runs][-2:] == ["interrupted", "complete"]


def test_a_failed_build_shows_its_losses(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="refused"):
        run_build(tmp_path / "out", refuse(400, "refused"))

    printed = succeed("status", str(tmp_path / "out"))

    assert printed.startswith("everyuser: failed; the same build command resumes it\n")
    found = json.loads(succeed("status", str(tmp_path / "out"), "--json"))
    assert found["rejected"] == {"generate/http_400": 60}
    assert "generate/http_400 60" in printed


def test_paces_and_the_time_left_are_those_of_the_last_two_minutes(tmp_path: Path) -> None:
    plan = prepared(tmp_path / "out", tiny())
    lines = [
        {"run": run, "seconds": seconds, "pairs": pairs, "prompt_tokens": 0, "completion_tokens": tokens, **more}
        for run, seconds, pairs, tokens, more in (
            ("a", 10.0, 5, 100, {}),
            ("b", 0.0, 5, 0, {"answers": 0}),
            ("b", 300.0, 10, 1000, {"answers": 10}),
            ("b", 400.0, 20, 3000, {"answers": 30}),
        )
    ]
    (tmp_path / "out" / "logs").mkdir()
    (tmp_path / "out" / progress.PACE).write_text("".join(json.dumps(line) + "\n" for line in lines))
    counters = progress.counters_for(plan.output)
    for name, number in {"begun": 60, "questions": 120, "answers": 30, "settled": 15}.items():
        counters.add(name, number)
    counters.flush()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.driver.status._is_counting", lambda *_: True)
        found = find_status(plan.output)
    progress.delete_counts(plan.output)

    assert (found.state, found.pairs_per_minute, found.tokens_per_second) == ("detached", 6.0, 20.0)
    assert found.seconds_left == pytest.approx(90 / 0.2)


def test_a_copy_of_a_build_in_a_bucket_has_leases_and_no_holder(tmp_path: Path) -> None:
    run_build(tmp_path / "out")
    (tmp_path / "out" / ".lock").unlink()
    (tmp_path / "out" / ".lock").mkdir()

    assert find_status(tmp_path / "out").state == "complete"


def test_a_folder_without_a_build_is_named(tmp_path: Path) -> None:
    assert_one_line(run("status", str(tmp_path)), 2, f"{tmp_path} holds no build")
