"""The real thing: vLLM and the packaged model, and what happens when the server dies under a build."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from datasets import load_dataset

from schemas.manifest import Manifest

CONFIG = """
pairs: 24
attempts: 8
splits: {train: 0.5, validation: 0.25, test: 0.25}
history: {ugc: 1, pair: 1, min_support: 0}
generation: {temperature: 0.7, top_p: 0.9, max_tokens: 100, stop: ["\\n"], extra: {repetition_penalty: 1.1}}
"""


def server_of(build: psutil.Process) -> psutil.Process | None:
    """The model server: the guard is a child of the build, the server a child of the guard."""
    for guard in build.children():
        for child in guard.children():
            return child
    return None


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed here")
def test_a_real_model_builds_a_dataset_although_its_server_is_killed_once(tmp_path: Path) -> None:
    config, output = tmp_path / "build.yaml", tmp_path / "out"
    config.write_text(CONFIG)
    command = [sys.executable, "-m", "pipeline.cli", "build", str(config), "--output", str(output)]
    build = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    journal = output / "journal"
    deadline = time.monotonic() + 300
    while build.poll() is None and time.monotonic() < deadline:
        if any(path.stat().st_size for path in journal.glob("*.jsonl")):
            break
        time.sleep(0.1)
    server = server_of(psutil.Process(build.pid))
    assert server is not None
    server.kill()

    said, _ = build.communicate(timeout=600)

    assert build.returncode == 0, said
    manifest = Manifest.model_validate_json((output / "manifest.json").read_bytes())
    assert manifest.runs[-1].server_restarts == 1
    assert manifest.counts.pairs_accepted >= 20
    assert manifest.counts.completion_tokens > 0
    dataset = load_dataset(str(output))
    assert set(dataset) == {"train", "validation", "test"}
    assert sum(split.num_rows for split in dataset.values()) == manifest.counts.examples
    row = dataset["train"][0]
    assert len(row["Preference Direction"]) == 90
    assert row["chosen"] != row["rejected"]
