"""Annotation with and without prefix reuse, by the real vLLM: `python -m benchmarks.annotation`.

Starts the server twice, asks the same questions through the pipeline's own stages, and reads the server's `/metrics`.
Without files the threads are the packaged posts, with the texts of other posts as responses.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import describe
from benchmarks.model_server import read_metrics, serving
from pipeline.driver.prepare import prepare, with_threads
from pipeline.generation.completions import Completion
from pipeline.generation.service import close_generation_services, generation_service
from pipeline.io.locks import locked
from pipeline.mining import annotate
from pipeline.mining.pairing import load_threads
from pipeline.threads import gather
from pipeline.threads.index import build_index
from schemas.config import BuildConfig, GenerationConfig, VllmEngine
from schemas.loader import validate

_SETTINGS = {"with prefix reuse": (), "without": ("--no-enable-prefix-caching",)}


def main() -> None:
    """Annotate under each setting and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--responses", type=int, default=24)
    parser.add_argument("--dimensions", nargs="+", default=None, help="slugs and groups; by default all")
    parser.add_argument("--submissions", type=Path)
    parser.add_argument("--comments", type=Path)
    parser.add_argument("--model", default=GenerationConfig().model)
    arguments = parser.parse_args()
    print(describe())
    computed = {}
    for setting, extra in _SETTINGS.items():
        with tempfile.TemporaryDirectory() as scratch:
            figures = run(Path(scratch), arguments, extra)
        computed[setting] = figures["computed"]
        print(
            f"{setting:>18}: {figures['responses']} responses, {figures['questions']} questions, "
            f"{figures['seconds']:.1f} s; {figures['prompt']} prompt tokens, {figures['computed']} computed; "
            f"{figures['prompt'] / figures['seconds']:.0f} prompt tokens/s, "
            f"{figures['questions'] / figures['seconds']:.1f} answers/s",
            flush=True,
        )
    print(f"{computed['without'] / computed['with prefix reuse']:.2f} times fewer prompt tokens computed")


def run(scratch: Path, arguments: argparse.Namespace, extra: tuple[str, ...]) -> dict[str, Any]:
    """Annotate once, on a server of this setting."""
    with serving(arguments.model, scratch / "server.log", VllmEngine(args=extra)) as url:
        return _annotate(scratch, arguments, url)


def _annotate(scratch: Path, arguments: argparse.Namespace, url: str) -> dict[str, Any]:
    config = validate(BuildConfig, _config(scratch, arguments, url), "benchmark")
    with locked(scratch / "out"):
        plan = prepare(config, scratch / "out").plan
        for input_slice in gather.pending_slices(plan):
            gather.partition(input_slice, plan)
        for part in gather.pending_parts(plan):
            gather.join(part, plan)
        plan = with_threads(plan, build_index(plan))
        (shard,) = plan.shards()
        asked = annotate.render_questions(load_threads(shard, plan), plan, 0)
        rows = np.unique([entry.row for entry in asked.pending])[: arguments.responses]
        requests = [entry.request for entry in asked.pending if entry.row <= rows[-1]]
        before, started = read_metrics(url), time.monotonic()
        service = generation_service(plan)
        batch = service.submit(asked.journal, requests)
        while not batch.is_done:
            service.wait()
        seconds = time.monotonic() - started
        after = read_metrics(url)
        close_generation_services(plan)
    spent = [outcome for outcome in batch.result() if isinstance(outcome, Completion)]
    if len(spent) != len(requests):
        sys.exit(f"{len(requests) - len(spent)} of {len(requests)} calls failed; the figures would mean nothing")
    prompt = sum(completion.prompt_tokens for completion in spent)
    hits = after.get("vllm:prefix_cache_hits_total", 0) - before.get("vllm:prefix_cache_hits_total", 0)
    return {
        "responses": len(rows),
        "questions": sum(request.sequences for request in requests),
        "seconds": seconds,
        "prompt": prompt,
        "computed": prompt - int(hits),
    }


def _config(scratch: Path, arguments: argparse.Namespace, url: str) -> dict[str, Any]:
    if arguments.submissions and arguments.comments:
        source = {
            "kind": "dump",
            "submissions": [str(arguments.submissions)],
            "comments": [str(arguments.comments)],
        }
    else:
        source = {"kind": "threads", "path": [str(_packaged_threads(scratch))]}
    return {
        "mining": {"source": source, "annotation": {"dimensions": arguments.dimensions}},
        "shard_pairs": 65536,
        "splits": {"train": 1, "validation": 0, "test": 0},
        "history": {"ugc": 0, "pair": 0},
        "generation": {"model": arguments.model},
        "engine": {"kind": "openai", "base_urls": [url]},
    }


def _packaged_threads(scratch: Path) -> Path:
    from pipeline.sampling.posts import read_posts
    from schemas.config import SeedsConfig

    posts = [post for post in read_posts(SeedsConfig(), Counter(), 0) if len(post.text.split()) > 5]
    path = scratch / "threads.jsonl"
    with path.open("w") as file:
        for k, post in enumerate(posts):
            others = [posts[(k + step) % len(posts)].text for step in (7, 31, 53, 97)]
            file.write(json.dumps({"id": post.id, "post": post.prompt, "responses": others}) + "\n")
    return path


if __name__ == "__main__":
    main()
