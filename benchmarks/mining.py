"""Mined builds at scale, annotation given: `python -m benchmarks.mining`. From raw threads to finished examples.

Synthetic responses have the levels of one of some hundred kinds of people, with noise, so that histories exist; their
texts are random words. Also times matching by itself, on one of the build's own blocks.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from benchmarks.machine import describe, measure
from pipeline.assembly.examples import open_block
from pipeline.assembly.matching import choose_mined_histories
from pipeline.driver.prepare import with_threads
from pipeline.io.manifests import find_manifest
from pipeline.plan import BuildPlan
from pipeline.threads.index import read_index
from schemas.config import BuildConfig

_DIMENSIONS = 90
_KINDS = 128
"""Kinds of people."""
_WORDS = 30
"""Words of a response."""


def main() -> None:
    """Build each size and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--posts", type=int, nargs="+", default=[10_000, 250_000])
    parser.add_argument("--responses", type=int, default=4, help="of each post")
    parser.add_argument("--workers", type=int, default=1, help="worker processes")
    arguments = parser.parse_args()
    print(describe())
    for posts in arguments.posts:
        with tempfile.TemporaryDirectory() as scratch:
            print(build(Path(scratch), posts, arguments.responses, arguments.workers), flush=True)


def build(scratch: Path, posts: int, responses: int, workers: int) -> str:
    """Build once and return a line of figures."""
    threads, config, output = scratch / "threads.jsonl", scratch / "bench.yaml", scratch / "out"
    with threads.open("wb") as file:
        for thread in planted_threads(posts, responses):
            file.write(orjson.dumps(thread) + b"\n")
    config.write_text("mining: {source: {kind: threads, path: [threads.jsonl]}, annotation: {mode: given}}\n")
    options = ["--direct_running_mode=multi_processing", f"--direct_num_workers={workers}"] if workers > 1 else []
    command = [sys.executable, "-m", "pipeline.cli", "build", str(config), "--output", str(output)]
    done = measure([*command, "--", *options])
    counts = json.loads((output / "manifest.json").read_text())["counts"]
    return (
        f"{posts} posts, {posts * responses} responses, {workers} workers: {done.seconds / 60:.1f} min, "
        f"{counts['examples']} examples of {counts['pairs_accepted']} pairs, peak {done.peak_bytes / 2**20:.0f} MiB\n"
        f"  {match(output)}"
    )


def planted_threads(posts: int, responses: int) -> Iterator[dict[str, Any]]:
    """Yield threads whose responses have levels."""
    rng = np.random.default_rng(0)
    words = np.array([f"word{number}" for number in range(5000)])
    kinds = np.zeros((_KINDS, _DIMENSIONS), dtype=np.int64)
    for kind in kinds:
        active = rng.choice(_DIMENSIONS, rng.integers(3, 9), replace=False)
        kind[active] = rng.choice([-1, 1], len(active))
    for post in range(posts):
        levels = kinds[rng.integers(_KINDS, size=responses)]
        noisy = rng.integers(_DIMENSIONS, size=(responses, 2))
        np.put_along_axis(levels, noisy, rng.choice([-1, 0, 1], (responses, 2)), axis=1)
        texts = words[rng.integers(len(words), size=(responses + 1, _WORDS))]
        yield {
            "id": f"p{post}",
            "post": f"Question {post}: {' '.join(texts[-1])}",
            "responses": [
                {"id": f"r{k}", "author": f"a{k}", "text": " ".join(texts[k]), "levels": levels[k].tolist()}
                for k in range(responses)
            ],
        }


def match(output: Path) -> str:
    """Return examples a second of matching alone, on the build's first shards."""
    manifest = find_manifest(output)
    if manifest is None:
        raise FileNotFoundError(output)
    config = BuildConfig.model_validate_json(json.dumps(manifest.config))
    hashes = {"space": manifest.parts["space"], **manifest.parts["templates"]}
    plan = BuildPlan(output, manifest.fingerprint, config, hashes=hashes)
    index = read_index(plan)
    plan = with_threads(plan, index) if index else plan
    seconds, candidates = [], 0
    for spec in plan.shards()[:5]:
        block, _ = open_block(spec, plan)
        draws = np.random.default_rng(0).random(len(block.pool))
        started = time.perf_counter()
        found = list(
            choose_mined_histories(block.pool, block.own, plan.config.history, plan.sides, draws, draws[: block.own])
        )
        spent = time.perf_counter() - started
        matched = sum(not isinstance(histories, str) for histories in found)
        seconds.append(spent / matched / len(plan.sides))
        candidates = len(block.pool)
    return (
        f"matching alone: {1 / np.median(seconds):.0f} examples/s, median of 5 shards against {candidates} pairs each"
    )


if __name__ == "__main__":
    main()
