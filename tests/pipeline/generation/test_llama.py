"""A real server that is not vLLM: `llama-cpp-python[server]` with the packaged model's file.

It knows no `json_schema`, no `structured_outputs` and one prompt a call. It runs where EVERYUSER_LLAMA_SERVER names a
Python that has it: `CMAKE_ARGS=-DGGML_NATIVE=OFF pip install 'llama-cpp-python[server]'` compiles for some minutes.
"""

from __future__ import annotations

import os
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.build import build
from pipeline.generation.completions import Completion, Outcome
from pipeline.generation.journal import read_journal
from schemas import packaged_models
from schemas.base import UserError
from schemas.config import BuildConfig
from schemas.loader import validate
from schemas.manifest import Manifest
from tests.pipeline.generation.asking import unused_port
from tests.pipeline.helpers import rows_of

PYTHON = os.environ.get("EVERYUSER_LLAMA_SERVER", "")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON, reason="EVERYUSER_LLAMA_SERVER names no Python with llama-cpp-python[server]"),
]

THREADS = {"kind": "threads", "path": ["packaged"]}
FEW = ["extraversion", "openness"]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The server's base URL."""
    folder = tmp_path_factory.mktemp("llama")
    model = packaged_models.download(packaged_models.SMALL, folder)
    port = unused_port()
    command = [PYTHON, "-m", "llama_cpp.server", "--model", str(model), "--model_alias", "smol", "--n_ctx", "2048"]
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen([*command, "--port", str(port)], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models"):
                    break
            except OSError:
                assert server.poll() is None and time.monotonic() < deadline, (folder / "server.log").read_text()
                time.sleep(0.5)
        yield f"http://localhost:{port}/v1"
    finally:
        server.kill()
        server.wait()


def built(output: Path, url: str, **keys: Any) -> Manifest:
    config = {
        "shard_pairs": 8,
        "attempts": 2,
        "splits": {"train": 1, "validation": 0, "test": 0},
        "history": {"ugc": 0, "pair": 0},
        "generation": {"model": "smol", "max_tokens": 60, "temperature": 0.7},
        "engine": {"kind": "openai", "base_urls": [url], "in_flight": 2},
        "limits": {"max_lost_share": 1},
        **keys,
    }
    return build(validate(BuildConfig, config, "test"), output)


def outcomes(output: Path) -> list[Outcome]:
    return [o for path in (output / "journal").glob("*.jsonl") for o in read_journal(path).values()]


def test_sampled_pairs(tmp_path: Path, url: str) -> None:
    manifest = built(tmp_path / "out", url, pairs=6, attempts=4)

    assert manifest.counts.pairs_accepted > 0
    assert all(isinstance(outcome, Completion) for outcome in outcomes(tmp_path / "out"))


def test_structured_annotation_asks_for_its_schema_in_the_words_of_this_server(tmp_path: Path, url: str) -> None:
    annotation = {"mode": "json", "dimensions": FEW, "max_tokens": 200}

    manifest = built(tmp_path / "out", url, mining={"source": THREADS, "limit": 2, "annotation": annotation})

    # The grammar leaves the model no other answer.
    found = outcomes(tmp_path / "out")
    assert found and all(isinstance(o, Completion) and o.finish_reason == "stop" for o in found)
    assert not any(name.startswith("annotate/") for name in manifest.counts.rejected)


def test_choices_do_without_the_constraint(tmp_path: Path, url: str) -> None:
    annotation = {"dimensions": FEW, "prompts_per_call": 1, "min_confidence": 0.0}

    manifest = built(tmp_path / "out", url, mining={"source": THREADS, "limit": 2, "annotation": annotation})

    assert all(isinstance(outcome, Completion) for outcome in outcomes(tmp_path / "out"))
    assert manifest.counts.rejected.get("annotate/no_option", 0) == 0


def test_several_prompts_in_one_call_are_refused_before_the_work(tmp_path: Path, url: str) -> None:
    with pytest.raises(UserError, match=r"prompts_per_call: 1"):
        built(tmp_path / "out", url, mining={"source": THREADS, "limit": 4, "annotation": {"dimensions": FEW}})

    assert outcomes(tmp_path / "out") == [] and rows_of(tmp_path / "out" / "pool") == []
