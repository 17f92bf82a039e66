"""Builds as processes of their own: killed, interrupted, out of space, resumed, replayed. Bytes are compared."""

from __future__ import annotations

import asyncio
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from datasets import load_dataset

from schemas.manifest import Manifest
from tests.stub import StubServer, completion, good, good_text

CONFIG = """
pairs: {pairs}
shard_pairs: 32
attempts: 3
splits: {{train: 0.6, validation: 0.2, test: 0.2}}
history: {{ugc: 2, pair: 2, min_support: 0}}
generation: {{model: stub}}
engine: {engine}
"""


def write_config(folder: Path, engine: str, pairs: int = 200) -> Path:
    path = folder / "build.yaml"
    path.write_text(CONFIG.format(pairs=pairs, engine=engine))
    return path


def start(config: Path, output: Path, *arguments: str, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pipeline.cli", "build", str(config), "--output", str(output), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)


def finish(config: Path, output: Path, *arguments: str) -> str:
    process = start(config, output, *arguments)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    return said


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not condition() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)


def shards(output: Path) -> dict[str, bytes]:
    """Every shard that the build wrote, by its name."""
    return {str(path.relative_to(output)): path.read_bytes() for path in sorted(output.rglob("*-of-*.parquet"))}


async def sometimes_bad(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    """Good replies, cut-off ones, refusals and bad requests, as the request's seed has it."""
    kind = body["seed"] % 11
    if kind == 0:
        return completion(good_text(body), finish_reason="length")
    if kind == 1:
        return completion("As an AI language model I would rather not say anything about it.")
    if kind == 2:
        return web.json_response({"error": {"message": "too long"}}, status=400)
    return await good(request, body)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build against a server with faults; its journal is what the tests replay."""
    folder = tmp_path_factory.mktemp("built")
    with StubServer(sometimes_bad) as stub:
        config = write_config(folder, f"{{kind: openai, base_urls: ['{stub.url}'], in_flight: 16}}")
        finish(config, folder / "out")
    assert len(list((folder / "out" / "data").glob("*.parquet"))) == 8
    return folder / "out"


def replay_config(folder: Path, built: Path) -> Path:
    return write_config(folder, f"{{kind: replay, journal: {built / 'journal'}}}")


def test_another_window_gives_the_same_bytes(built: Path, tmp_path: Path) -> None:
    with StubServer(sometimes_bad) as stub:
        config = write_config(tmp_path, f"{{kind: openai, base_urls: ['{stub.url}'], in_flight: 3}}")
        finish(config, tmp_path / "out")

    assert shards(tmp_path / "out") == shards(built)


def test_replay_gives_the_same_bytes_without_a_model(built: Path, tmp_path: Path) -> None:
    finish(replay_config(tmp_path, built), tmp_path / "out")

    assert shards(tmp_path / "out") == shards(built)


@pytest.mark.parametrize("in_flight", [1, 500])
def test_replay_with_another_window_gives_the_same_bytes(built: Path, tmp_path: Path, in_flight: int) -> None:
    finish(replay_config(tmp_path, built), tmp_path / "out", "--set", f"engine.in_flight={in_flight}")

    assert shards(tmp_path / "out") == shards(built)


def test_replay_in_two_worker_processes_gives_the_same_bytes(built: Path, tmp_path: Path) -> None:
    beam_options = ("--", "--direct_running_mode=multi_processing", "--direct_num_workers=2")

    finish(replay_config(tmp_path, built), tmp_path / "out", *beam_options)

    assert shards(tmp_path / "out") == shards(built)


def test_replay_killed_three_times_gives_the_same_bytes(built: Path, tmp_path: Path) -> None:
    config, output = replay_config(tmp_path, built), tmp_path / "out"
    for _ in range(3):
        before = len(shards(output))
        process = start(config, output)
        wait_until(lambda before=before: len(shards(output)) > before, process)  # type: ignore[misc]
        process.kill()
        process.communicate()

    finish(config, output)

    assert shards(output) == shards(built)
    assert not list(output.rglob(".tmp-*"))


def test_replay_of_an_incomplete_journal_says_what_is_missing(built: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path, f"{{kind: replay, journal: {built / 'journal'}}}", pairs=210)

    process = start(config, tmp_path / "out")
    said, _ = process.communicate(timeout=60)

    assert process.returncode == 1
    assert "lacks" in said.splitlines()[-1]


def test_a_build_killed_half_way_repeats_at_most_the_requests_in_flight(tmp_path: Path) -> None:
    async def slowly(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        await asyncio.sleep(0.02)
        return await good(request, body)

    with StubServer(slowly) as stub:
        config = write_config(tmp_path, f"{{kind: openai, base_urls: ['{stub.url}'], in_flight: 64}}", pairs=2000)
        output = tmp_path / "out"
        process = start(config, output)
        wait_until(lambda: len(stub.bodies) >= 2000, process)
        process.kill()
        process.communicate()
        assert 2000 <= len(stub.bodies) < 3000

        finish(config, output)

        asked = Counter(body["seed"] for body in stub.bodies)
        assert len(asked) == 4000
        assert sum(asked.values()) - len(asked) <= 64

    manifest = Manifest.model_validate_json((output / "manifest.json").read_bytes())
    assert manifest.status == "complete"
    assert manifest.counts.examples == 4000


def test_ctrl_c_stops_with_one_line_and_loses_nothing(tmp_path: Path) -> None:
    async def slowly(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        await asyncio.sleep(0.05)
        return await good(request, body)

    with StubServer(slowly) as stub:
        config = write_config(tmp_path, f"{{kind: openai, base_urls: ['{stub.url}'], in_flight: 8}}")
        # Where the tests run in the background, SIGINT is ignored, and so by all that they start.
        heeding = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
        process = start(config, tmp_path / "out", **heeding)
        wait_until(lambda: len(stub.bodies) >= 100, process)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)

        assert process.returncode == 130, said
        assert said.splitlines()[-1].startswith("stopped: run the same command again")
        assert "Traceback" not in said
        before = len(stub.bodies)
        finish(config, tmp_path / "out")
        asked = Counter(body["seed"] for body in stub.bodies)
        assert sum(asked.values()) - len(asked) <= 8
        assert before < len(stub.bodies)

    manifest = Manifest.model_validate_json((tmp_path / "out" / "manifest.json").read_bytes())
    assert [run.status for run in manifest.runs] == ["interrupted", "complete"]


def test_a_full_disk_is_told_in_one_line_and_the_build_goes_on_when_there_is_space(built: Path, tmp_path: Path) -> None:
    def small_files_only() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (24_000, 24_000))

    with StubServer(sometimes_bad) as stub:
        config = write_config(tmp_path, f"{{kind: openai, base_urls: ['{stub.url}'], in_flight: 16}}")
        process = start(config, tmp_path / "out", preexec_fn=small_files_only)
        said, _ = process.communicate(timeout=60)
        assert process.returncode == 1, said
        assert said.splitlines()[-1].startswith("error: cannot write ")
        assert "run the same command again" in said.splitlines()[-1]
        assert "Traceback" not in said

        finish(config, tmp_path / "out")

    assert shards(tmp_path / "out") == shards(built)


def test_a_second_build_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    async def never(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        await asyncio.sleep(60)
        return await good(request, body)

    with StubServer(never) as stub:
        config = write_config(tmp_path, f"{{kind: openai, base_urls: ['{stub.url}']}}")
        first = start(config, tmp_path / "out")
        wait_until(lambda: len(stub.bodies) > 0, first)

        second = start(config, tmp_path / "out")
        said, _ = second.communicate(timeout=60)
        first.kill()
        first.communicate()

    assert second.returncode == 2
    assert f"another build is at work there (process {first.pid})" in said


def test_another_build_in_a_folder_of_the_same_name_is_not_answered_from_a_cache(built: Path, tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere" / "out"
    with StubServer() as stub:
        finish(write_config(tmp_path, f"{{kind: openai, base_urls: ['{stub.url}']}}", pairs=100), folder)

    first, second = load_dataset(str(built)), load_dataset(str(folder))

    assert sum(split.num_rows for split in first.values()) != 200
    assert sum(split.num_rows for split in second.values()) == 200
