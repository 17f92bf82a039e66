"""The real thing: vLLM and the packaged model, fed by two workers, and what happens when the server dies under them."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest
from datasets import load_dataset

from pipeline.io.manifests import read_manifest
from tests.forks import Fork
from tests.pipeline.processes import finish, replay, shards
from tests.portable import PortableCluster
from tests.waiting import wait_until

CONFIG = """
pairs: 16
shard_pairs: 4
attempts: 8
splits: {train: 0.5, validation: 0.25, test: 0.25}
history: {ugc: 1, pair: 1, min_support: 0}
rules: {max_length_ratio: 20}
generation: {temperature: 0.7, top_p: 0.9, max_tokens: 100, stop: [".", "\\n"], extra: {repetition_penalty: 1.1}}
"""
"""Replies of one sentence: the test is about the server, not about what it writes."""


def servers_of(workers: Sequence[int]) -> list[psutil.Process]:
    """The model servers: a guard is a child of a worker, its server a child of the guard."""
    guards = [guard for worker in workers for guard in psutil.Process(worker).children()]
    return [server for guard in guards for server in guard.children()]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed here")
def test_two_workers_build_with_one_real_model_although_its_server_is_killed_once(tmp_path: Path) -> None:
    config, output = tmp_path / "build.yaml", tmp_path / "out"
    config.write_text(CONFIG)
    command = ["-m", "pipeline.cli", "build", str(config), "--output", str(output), "--"]
    # On one core: threads of a model wait for each other, and beside other tests most of that is busy waiting.
    with PortableCluster(tmp_path / "cluster", patience=900, one_core=True) as cluster:
        build = Fork(*command, *cluster.options)
        journal = output / "journal"
        # A worker opens a shard's journal when it asks for it.
        wait_until(lambda: sum(path.stat().st_size > 0 for path in journal.glob("*.jsonl")) >= 2, build)
        workers = cluster.workers()
        running = servers_of(workers)
        assert (len(workers), len(running)) == (2, 1)
        running[0].kill()
        out, err = build.communicate(timeout=600)

    assert build.returncode == 0, out + err
    manifest = read_manifest((output / "manifest.json").read_bytes())
    # Both workers saw it; it is counted once.
    assert manifest.runs[-1].server_restarts == 1
    assert manifest.counts.pairs_accepted >= 12
    assert manifest.counts.completion_tokens > 0
    dataset = load_dataset(str(output))
    assert set(dataset) == {"train", "validation", "test"}
    assert sum(split.num_rows for split in dataset.values()) == manifest.counts.examples
    row = dataset["train"][0]
    assert len(row["Preference Direction"]) == 90
    assert row["chosen"] != row["rejected"]
    finish(config, tmp_path / "again", "--set", f"engine={replay(journal)}")
    assert shards(tmp_path / "again") == shards(output)
