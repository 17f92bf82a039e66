"""Builds as processes of their own: killed, interrupted, out of space, resumed, replayed. Bytes are compared."""

from __future__ import annotations

import json
import re
import signal
import socket
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from datasets import load_dataset

from pipeline.build import build
from pipeline.driver.configuration import read_config
from pipeline.io.manifests import load_manifest
from tests.pipeline.helpers import number_of, thread, write_jsonl
from tests.pipeline.processes import (
    BY_TWO,
    end,
    finish,
    openai,
    replay,
    shards,
    sometimes_bad,
    start,
    write_config,
)
from tests.stub import StubServer, delayed, refuse
from tests.waiting import wait_until


@pytest.fixture(scope="module", params=["sampled", "mined"])
def source(request: pytest.FixtureRequest) -> str:
    """Where the pairs come from."""
    return str(request.param)


@pytest.fixture(scope="module")
def built(source: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build against a server with faults; its journal is what the tests replay."""
    folder = tmp_path_factory.mktemp("built")
    with StubServer(sometimes_bad) as stub:
        config = write_config(folder, openai(stub, in_flight=16), source)
        build(read_config(str(config), []), folder / "out")
    assert len(list((folder / "out" / "data").glob("*.parquet"))) == 8
    return folder / "out"


def test_another_window_gives_the_same_bytes(built: Path, source: str, tmp_path: Path) -> None:
    with StubServer(sometimes_bad) as stub:
        config = write_config(tmp_path, openai(stub, in_flight=3), source)
        finish(config, tmp_path / "out")

    assert shards(tmp_path / "out") == shards(built)


def test_replay_gives_the_same_bytes_without_a_model(built: Path, source: str, tmp_path: Path) -> None:
    finish(write_config(tmp_path, replay(built / "journal"), source), tmp_path / "out")

    assert shards(tmp_path / "out") == shards(built)


# The same of mined pairs: `test_threads_gathered_by_two_worker_processes_are_the_same_bytes`.
@pytest.mark.parametrize("source", ["sampled"], indirect=True)
def test_replay_in_two_worker_processes_gives_the_same_bytes(built: Path, source: str, tmp_path: Path) -> None:
    finish(write_config(tmp_path, replay(built / "journal"), source), tmp_path / "out", *BY_TWO)

    assert shards(tmp_path / "out") == shards(built)


def test_replay_killed_three_times_gives_the_same_bytes(built: Path, source: str, tmp_path: Path) -> None:
    config, output = write_config(tmp_path, replay(built / "journal"), source), tmp_path / "out"
    for _ in range(3):
        before = len(shards(output))
        process = start(config, output)
        wait_until(lambda before=before: len(shards(output)) > before, process)  # type: ignore[misc]
        process.kill()
        process.communicate()

    finish(config, output)

    assert shards(output) == shards(built)
    assert not list(output.rglob(".tmp-*"))


def test_replay_of_an_incomplete_journal_says_what_is_missing(built: Path, source: str, tmp_path: Path) -> None:
    config = write_config(tmp_path, replay(built / "journal"), source, pairs=210)

    assert "lacks" in end(start(config, tmp_path / "out"), 1)


def repeated(stub: StubServer) -> int:
    """What was asked again, in sequences: a call of choices is as many as it has questions."""
    sizes = {number_of(body): len(body.get("prompt", [""])) for body in stub.bodies}
    asked = Counter(map(number_of, stub.bodies))
    return sum((asked[number] - 1) * size for number, size in sizes.items())


# Two replies for a pair, or a call for each of a thread's five responses.
REQUESTS = {"sampled": 2, "mined": 5}


def test_a_build_killed_half_way_repeats_at_most_the_requests_in_flight(source: str, tmp_path: Path) -> None:
    pairs = {"sampled": 2000, "mined": 400}[source]
    total = REQUESTS[source] * pairs
    with StubServer(delayed(0.02)) as stub:
        config = write_config(tmp_path, openai(stub, in_flight=64), source, pairs)
        output = tmp_path / "out"
        process = start(config, output)
        wait_until(lambda: len(stub.bodies) >= total / 2, process)
        process.kill()
        process.communicate()
        assert total / 2 <= len(stub.bodies) < total * 3 / 4

        finish(config, output)

        assert len({number_of(body) for body in stub.bodies}) == total
        assert repeated(stub) <= 64

    manifest = load_manifest(output)
    assert manifest.status == "complete"
    assert manifest.counts.examples == 2 * (pairs - manifest.counts.pairs_lost)


def test_ctrl_c_stops_with_one_line_and_loses_nothing(source: str, tmp_path: Path) -> None:
    with StubServer(delayed(0.05)) as stub:
        # Eight requests at once.
        in_flight = {"sampled": 8, "mined": 64}[source]
        config = write_config(tmp_path, openai(stub, in_flight), source)
        process = start(config, tmp_path / "out")
        wait_until(lambda: len(stub.bodies) >= 100, process)
        process.send_signal(signal.SIGINT)

        assert re.match("stopped: .*run the same command again", end(process, 130))
        before = len(stub.bodies)
        finish(config, tmp_path / "out")
        assert repeated(stub) <= in_flight
        assert before < len(stub.bodies)

    manifest = load_manifest(tmp_path / "out")
    assert [run.status for run in manifest.runs] == ["interrupted", "complete"]


def test_a_full_disk_is_told_in_one_line_and_the_build_goes_on_when_there_is_space(
    built: Path, source: str, tmp_path: Path
) -> None:
    with StubServer(sometimes_bad) as stub:
        config = write_config(tmp_path, openai(stub, in_flight=16), source)
        said = end(start(config, tmp_path / "out", file_size=24_000), 1)
        assert said.startswith("error: cannot write ")
        assert "run the same command again" in said

        finish(config, tmp_path / "out")

    assert shards(tmp_path / "out") == shards(built)


def test_a_second_build_in_the_same_folder_is_refused(source: str, tmp_path: Path) -> None:
    with StubServer(delayed(60)) as stub:
        config = write_config(tmp_path, openai(stub, in_flight=64), source)
        first = start(config, tmp_path / "out")
        wait_until(lambda: len(stub.bodies) > 0, first)

        said = end(start(config, tmp_path / "out"), 2)
        first.kill()
        first.communicate()

    assert f"another build is at work there (process {first.pid} on {socket.gethostname()})" in said


def test_another_build_in_a_folder_of_the_same_name_is_not_answered_from_a_cache(
    built: Path, source: str, tmp_path: Path
) -> None:
    folder = tmp_path / "elsewhere" / "out"
    with StubServer() as stub:
        finish(write_config(tmp_path, openai(stub, in_flight=64), source, pairs=100), folder)

    first, second = (sum(split.num_rows for split in load_dataset(str(build)).values()) for build in (built, folder))

    assert first == rows_in(built)
    assert second == rows_in(folder)
    assert first != second


def rows_in(output: Path) -> int:
    manifest = load_manifest(output)
    return manifest.counts.examples


def test_changed_configuration_is_refused_and_the_key_named(built: Path, source: str, tmp_path: Path) -> None:
    config = write_config(tmp_path, replay(built / "journal"), source)
    key, there = {"sampled": ("sampling.max_active", 6), "mined": ("mining.clusters", 3)}[source]

    said = end(start(config, built, "--set", f"{key}=5"), 2)

    assert f"holds another build: {key} was {there} and is now 5" in said


def test_a_server_that_dies_is_restarted_and_the_bytes_are_the_same(source: str, tmp_path: Path) -> None:
    with StubServer() as stub:
        finish(write_config(tmp_path / "here", openai(stub, in_flight=16), source, pairs=60), tmp_path / "here" / "out")
    server = [sys.executable, "-m", "tests.stub", "--log", str(tmp_path / "log"), "--die-after", "90"]
    engine = json.dumps({"kind": "vllm", "command": server, "in_flight": 64, "max_restarts": 9})

    finish(write_config(tmp_path / "there", engine, source, pairs=60), tmp_path / "there" / "out")

    manifest = load_manifest(tmp_path / "there" / "out")
    assert manifest.runs[-1].server_restarts > 0
    assert shards(tmp_path / "there" / "out") == shards(tmp_path / "here" / "out")


# Rows that circumstances cost


@pytest.mark.parametrize("moment", ["pool", "data"])
def test_retry_killed_half_way_gives_the_bytes_of_an_undisturbed_build(
    source: str, tmp_path: Path, moment: str
) -> None:
    async def out_of_memory(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        answer = refuse(500, "out of memory") if number_of(body) % 7 == 3 else sometimes_bad
        return await answer(request, body)

    overrides = ["attempts=1", "limits.max_lost_share=1", "requests.max_retries=0"]
    keys = [argument for override in overrides for argument in ("--set", override)]
    with (
        StubServer(sometimes_bad) as good_one,
        StubServer(out_of_memory) as bad_one,
        StubServer(delayed(0.02, sometimes_bad)) as slow_one,
    ):
        config, output = write_config(tmp_path, openai(good_one, 16), source, pairs=100), tmp_path / "out"
        build(read_config(str(config), overrides), tmp_path / "good")
        write_config(tmp_path, openai(bad_one, 16), source, pairs=100)
        build(read_config(str(config), overrides), output)
        before = load_manifest(output)
        assert before.counts.pairs_unanswered + before.counts.threads.get("responses/unanswered", 0) > 0
        there = shards(output / moment)

        write_config(tmp_path, openai(slow_one, 4), source, pairs=100)
        process = start(config, output, *keys, "--retry-lost")

        def has_changed(there: dict[str, bytes] = there) -> bool:
            return any(there[name] != content for name, content in shards(output / moment).items())

        wait_until(has_changed, process)
        process.kill()
        process.communicate()
        assert load_manifest(output).status == "incomplete"
        finish(config, output, *keys, "--retry-lost")

    assert shards(output) == shards(tmp_path / "good")


# While threads are gathered

GATHERED = """
pairs: 60
mining:
  source: {kind: threads, path: ['threads-*.jsonl']}
  annotation: {dimensions: [demographics_and_traits, humor], min_confidence: 0.85}
shard_pairs: 32
history: {ugc: 1, pair: 1, min_support: 0}
splits: {train: 0.6, validation: 0.2, test: 0.2}
generation: {model: stub}
"""
FILES = 4


@pytest.fixture(scope="module")
def many_threads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration of a build that reads more threads than it uses, from several files; a server is missing."""
    folder = tmp_path_factory.mktemp("many")
    for number in range(FILES):
        rows = (thread(2000 * number + k, responses=3) for k in range(2000))
        write_jsonl(folder / f"threads-{number}.jsonl", rows)
    config = folder / "build.yaml"
    config.write_text(GATHERED)
    return config


@pytest.fixture(scope="module")
def undisturbed(many_threads: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build of those threads that nothing stopped."""
    output = tmp_path_factory.mktemp("undisturbed") / "out"
    with StubServer() as stub:
        build(read_config(str(many_threads), [f"engine={openai(stub, in_flight=64)}"]), output)
    return output


def gathered(output: Path) -> dict[str, bytes]:
    """What is kept of the threads."""
    return {path.name: path.read_bytes() for path in sorted((output / "threads").iterdir())}


STAGES = {
    "reading": "threads/shuffle",
    "having read a file": "threads/shuffle/*.json",
    "joining": "threads/.tmp-part-*",
    "having joined": "threads/part-*",
}
"""What is there as soon as a stage of the gathering is reached."""


@pytest.mark.parametrize("stage", STAGES)
def test_a_build_killed_while_it_gathers_threads_gives_the_same_bytes(
    many_threads: Path, undisturbed: Path, tmp_path: Path, stage: str
) -> None:
    output = tmp_path / "out"
    with StubServer() as stub:
        engine = ("--set", f"engine={openai(stub, in_flight=64)}")
        process = start(many_threads, output, *engine)
        wait_until(lambda: any(output.glob(STAGES[stage])), process)
        process.kill()
        process.communicate()

        finish(many_threads, output, *engine)

    assert shards(output) == shards(undisturbed)
    assert gathered(output) == gathered(undisturbed)
    assert not list(output.rglob(".tmp-*"))


def test_threads_gathered_by_two_worker_processes_are_the_same_bytes(
    many_threads: Path, undisturbed: Path, tmp_path: Path
) -> None:
    finish(many_threads, tmp_path / "out", "--set", f"engine={replay(undisturbed / 'journal')}", *BY_TWO)

    assert shards(tmp_path / "out") == shards(undisturbed)
    assert gathered(tmp_path / "out") == gathered(undisturbed)


def test_ctrl_c_while_threads_are_gathered_stops_with_one_line(
    many_threads: Path, undisturbed: Path, tmp_path: Path
) -> None:
    engine = ("--set", f"engine={replay(undisturbed / 'journal')}")
    process = start(many_threads, tmp_path / "out", *engine)
    wait_until(lambda: any((tmp_path / "out").glob("threads/shuffle/*.json")), process)
    process.send_signal(signal.SIGINT)

    assert re.match("stopped: .*run the same command again", end(process, 130))
    finish(many_threads, tmp_path / "out", *engine)
    assert shards(tmp_path / "out") == shards(undisturbed)


def test_disk_that_is_full_after_the_threads_are_gathered_is_told_in_one_line(tmp_path: Path) -> None:
    output = tmp_path / "out"
    with StubServer(delayed(60)) as stub:
        config = write_config(tmp_path, openai(stub, in_flight=64), "mined")
        process = start(config, output)
        wait_until(lambda: len(stub.bodies) > 0, process)
        process.kill()
        process.communicate()
    with StubServer() as stub:
        write_config(tmp_path, openai(stub, in_flight=64), "mined")
        said = end(start(config, output, file_size=10_000), 1)
        assert said.startswith("error: cannot write ")
        assert "threads/" not in said

        finish(config, output)
