"""A build that runs two model servers, one for the writer and one for the judge, is killed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import psutil

from tests.pipeline.generation.guards import find_guard, find_server, still_there
from tests.pipeline.processes import finish, openai, shards, start, write_config
from tests.stub import StubServer
from tests.waiting import wait_until

VERIFIED = """
verification: {{mode: record, model: judge, engine: {engine}}}
"""


def server(log: Path) -> str:
    """The engine of a server that notes its requests in `log`, and is slow enough to be stopped at work."""
    command = [sys.executable, "-m", "tests.stub", "--log", str(log), "--delay", "0.02"]
    return json.dumps({"kind": "vllm", "device": "cpu", "command": command, "in_flight": 32})


def test_both_servers_of_a_killed_build_end_and_the_resumed_build_has_the_same_bytes(tmp_path: Path) -> None:
    with StubServer() as stub:
        more = VERIFIED.format(engine=openai(stub, in_flight=64))
        config = write_config(tmp_path / "whole", openai(stub, in_flight=64), pairs=60, more=more)
        finish(config, tmp_path / "whole" / "out")
    writer, judge, output = tmp_path / "writer.log", tmp_path / "judge.log", tmp_path / "killed" / "out"
    config = write_config(tmp_path / "killed", server(writer), pairs=60, more=VERIFIED.format(engine=server(judge)))

    process = start(config, output)
    build = psutil.Process(process.pid)
    servers = [find(log, build) for log in (writer, judge) for find in (find_guard, find_server)]
    wait_until(lambda: judge.exists() and len(judge.read_text().split()) >= 30, process)
    process.kill()
    process.communicate()

    assert still_there(*servers) == []
    finish(config, output)
    assert shards(output) == shards(tmp_path / "whole" / "out")
