"""The same DAG on Beam's portable job service, with two worker processes over gRPC: what Flink and others speak."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pipeline.io.manifests import load_manifest
from tests.pipeline.processes import end, finish, openai, replay, shards, sometimes_bad, start, write_config
from tests.portable import PortableCluster
from tests.stub import StubServer, delayed
from tests.waiting import wait_until

TOKENS = 130
"""Tokens of each answer of the stub, and of its prompt."""
JAR = "EVERYUSER_FLINK_JOB_SERVER_JAR"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PortableCluster]:
    with PortableCluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture(scope="module", params=["sampled", "mined"])
def source(request: pytest.FixtureRequest) -> str:
    return str(request.param)


sampled_alone = pytest.mark.parametrize("source", ["sampled"], indirect=True)


@pytest.fixture(scope="module")
def built(source: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build by the local runner, against a server with faults; its journal is what the tests replay."""
    folder = tmp_path_factory.mktemp("built")
    with StubServer(sometimes_bad) as stub:
        finish(write_config(folder, openai(stub, in_flight=16), source), folder / "out")
    return folder / "out"


def served(folder: Path, delay: float = 0.0) -> str:
    """The engine that starts a stub in place of vLLM; `folder` gets a line for each request and for each start."""
    command = [sys.executable, "-m", "tests.stub", "--log", str(folder / "requests"), "--delay", str(delay)]
    return json.dumps({"kind": "vllm", "command": command, "in_flight": 64})


def servers(log: Path) -> list[int]:
    """The stub servers that run with this log."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline"]):
        line = process.info["cmdline"] or []
        if "tests.stub" in line and str(log) in line:
            found.append(process.info["pid"])
    return found


def test_replay_on_two_workers_gives_the_bytes_of_the_local_runner(
    cluster: PortableCluster, built: Path, source: str, tmp_path: Path
) -> None:
    finish(write_config(tmp_path, replay(built / "journal"), source), tmp_path / "out", "--", *cluster.options)

    assert shards(tmp_path / "out") == shards(built)


@sampled_alone
def test_a_detached_job_on_two_workers_gives_the_same_bytes(
    cluster: PortableCluster, built: Path, tmp_path: Path, source: str
) -> None:
    config, output = write_config(tmp_path, replay(built / "journal"), source), tmp_path / "out"

    finish(config, output, "--detach", "--", *cluster.options)
    wait_until(lambda: load_manifest(output).status == "complete")

    assert shards(output) == shards(built)


@sampled_alone
def test_two_workers_feed_one_server_and_one_that_is_killed_costs_its_shards_in_flight(
    cluster: PortableCluster, source: str, tmp_path: Path
) -> None:
    undisturbed, output = tmp_path / "here" / "out", tmp_path / "there" / "out"
    with StubServer() as stub:
        finish(write_config(tmp_path / "here", openai(stub, in_flight=16), source), undisturbed)
    log = tmp_path / "there" / "requests"
    config = write_config(tmp_path / "there", served(tmp_path / "there", delay=0.03), source)

    process = start(config, output, "--", *cluster.options)
    wait_until(lambda: len(shards(output)) >= 2, process)
    workers = cluster.workers()
    assert (len(workers), len(servers(log))) == (2, 1)
    done = shards(output)
    psutil.Process(workers[0]).kill()
    said = end(process, 1)

    assert said.startswith("error: ")
    assert "run the same command again" in said
    assert done.items() <= shards(output).items()
    finish(config, output, "--", *cluster.options)
    assert shards(output) == shards(undisturbed)
    asked = log.read_text().split()
    # Two workers, with a window of 64 each.
    assert len(asked) - len(set(asked)) <= 2 * 64


@sampled_alone
def test_metrics_of_all_workers_reach_the_manifest(cluster: PortableCluster, source: str, tmp_path: Path) -> None:
    with StubServer(sometimes_bad) as stub:
        config = write_config(tmp_path, openai(stub, in_flight=16), source)
        finish(config, tmp_path / "out", "--", *cluster.options)
        asked = len(stub.bodies)

    run = load_manifest(tmp_path / "out").runs[-1]
    assert run.requests_sent == asked
    assert run.completion_tokens == load_manifest(tmp_path / "out").counts.completion_tokens
    assert 0 < run.in_flight <= 32
    assert run.request_seconds > 0


@sampled_alone
def test_two_workers_share_a_budget(cluster: PortableCluster, source: str, tmp_path: Path) -> None:
    with StubServer(delayed(0.02)) as stub:
        config = write_config(tmp_path, openai(stub, in_flight=4), source)
        finish(config, tmp_path / "whole")
        total = len(stub.bodies)
        limit = total // 2 * TOKENS

        said = end(start(config, tmp_path / "half", "--set", f"limits.max_tokens={limit}", "--", *cluster.options), 3)

        assert said.startswith(f"error: stopped before limits.max_tokens = {limit} would be passed")
        assert 0.8 * limit < (len(stub.bodies) - total) * TOKENS <= limit
        finish(config, tmp_path / "half", "--", *cluster.options)
        assert len(stub.bodies) == 2 * total
    assert shards(tmp_path / "half") == shards(tmp_path / "whole")


@pytest.mark.skipif(JAR not in os.environ, reason=f"{JAR} names no job server of Flink (a jar)")
def test_flink_gives_the_bytes_of_the_local_runner(
    cluster: PortableCluster, built: Path, source: str, tmp_path: Path
) -> None:
    """On Flink's own embedded cluster, with the workers of the pool."""
    pool = [option for option in cluster.options if option.startswith("--environment_")]
    flink = ["--runner=FlinkRunner", f"--flink_job_server_jar={os.environ[JAR]}", "--parallelism=2", *pool]

    finish(write_config(tmp_path, replay(built / "journal"), source), tmp_path / "out", "--", *flink)

    assert shards(tmp_path / "out") == shards(built)
