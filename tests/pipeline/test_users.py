"""Builds with users: every promise holds, and the bytes are the same on two processes, after kills and by replay."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.users.__main__ import check
from pipeline.build import build
from pipeline.driver.configuration import read_config
from pipeline.io.manifests import load_manifest
from tests.pipeline.processes import BY_TWO, finish, openai, replay, shards, sometimes_bad, start
from tests.stub import StubServer, delayed
from tests.waiting import wait_until

CONFIG = """
persona: users
users: {{count: 30, pairs_per_user: 4, active: {{min: 6, max: 10}}, min_items: 1}}
kinds: {{near: 0.25, restraint: 0.2}}
splits: {{train: 0.6, validation: 0.1, test: 0.2, test_seen_users: 0.1}}
shard_pairs: 16
attempts: 3
history: {{ugc: 2, pair: 2, min_support: 0}}
portrait: model
generation: {{model: stub}}
engine: {engine}
"""
"""132 pairs of 33 slots, in shards of at most four. The model writes portraits, so phase two sends requests too."""


def write_config(folder: Path, engine: str) -> Path:
    path = folder / "users.yaml"
    path.write_text(CONFIG.format(engine=engine))
    return path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build against a server with faults; its journal is what the tests replay."""
    folder = tmp_path_factory.mktemp("built")
    with StubServer(sometimes_bad) as stub:
        build(read_config(str(write_config(folder, openai(stub, in_flight=16))), []), folder / "out")
    return folder / "out"


def test_every_row_keeps_every_promise(built: Path) -> None:
    ledger = check(built)

    assert ledger.broken == [], ledger.table()
    assert all(verdict.checked for verdict in ledger.verdicts.values())
    assert {"opposite", "near", "restraint"} == load_manifest(built).counts.kinds.keys()


def test_another_window_gives_the_same_bytes(built: Path, tmp_path: Path) -> None:
    with StubServer(sometimes_bad) as stub:
        finish(write_config(tmp_path, openai(stub, in_flight=3)), tmp_path / "out")

    assert shards(tmp_path / "out") == shards(built)


@pytest.mark.parametrize("runner", [(), BY_TWO], ids=["one process", "two processes"])
def test_replay_gives_the_same_bytes(built: Path, tmp_path: Path, runner: tuple[str, ...]) -> None:
    finish(write_config(tmp_path, replay(built / "journal")), tmp_path / "out", *runner)

    assert shards(tmp_path / "out") == shards(built)


@pytest.mark.parametrize("phase", ["pool", "data"])
def test_a_build_killed_in_a_phase_resumes_to_the_same_bytes(built: Path, tmp_path: Path, phase: str) -> None:
    with StubServer(delayed(0.02, sometimes_bad)) as stub:
        config, output = write_config(tmp_path, openai(stub, in_flight=4)), tmp_path / "out"
        process = start(config, output)
        wait_until(lambda: any((output / phase).glob("*.parquet")), process)
        process.kill()
        process.communicate()
        assert 0 < len([*(output / phase).glob("*.parquet")]) < len([*(built / phase).glob("*.parquet")])

        finish(config, output)

    assert shards(output) == shards(built)
    assert not list(output.rglob(".tmp-*"))
