"""Builds against engines of known speed, slow and fast: `python -m benchmarks.slow_engine`.

Each line is a whole build on `benchmarks.engine_stub`: its seconds, tokens a second and their share of what the engine
makes at most, lost rows, requests sent twice, and the requests in flight. Those are the engine's own figures: `settled`
is the median between 40 % and 80 % of the time.

slow     25 tokens/s in all, at most 2.5 for one request, so that 10 in flight are enough
faster   ten times as much
stalls   as slow, and stands still for 100 s from the 60th second on
fast     20,000 tokens/s, at most 78.125 for one request, so that 256 in flight are needed

`fast` is repeated with fixed windows, one after another on the same machine.
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks.machine import describe, free_port
from pipeline.build import build
from pipeline.generation import client
from pipeline.generation.window import Window
from schemas.config import BuildConfig
from schemas.manifest import Counts

_FULL = 256
_SCENES: dict[str, tuple[float, tuple[str, ...]]] = {
    "slow": (25, ("--rate", "25", "--sequence-rate", "2.5")),
    "faster": (250, ("--rate", "250", "--sequence-rate", "25")),
    "stalls": (25, ("--rate", "25", "--sequence-rate", "2.5", "--stall", "60", "100")),
    "fast": (20_000, ("--rate", "20000", "--sequence-rate", "78.125", "--places", str(_FULL))),
}
"""Best tokens a second, and arguments of the engine."""


def main() -> None:
    """Run the scenes and print their figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", nargs="+", default=list(_SCENES), choices=_SCENES)
    parser.add_argument("--pairs", type=int, default=48, help="of the slow engines")
    parser.add_argument("--fast-pairs", type=int, default=4000)
    parser.add_argument("--fixed", type=int, nargs="*", default=[64, 128, 256], help="windows beside `fast`")
    arguments = parser.parse_args()
    # A stall is logged as an outage while it lasts, which is not what is measured here.
    logging.getLogger("pipeline").setLevel(logging.ERROR)
    print(describe())
    for scene in arguments.scenes:
        best, speed = _SCENES[scene]
        pairs = arguments.fast_pairs if scene == "fast" else arguments.pairs
        print(line(scene, best, *run(pairs, *speed)), flush=True)
        for size in arguments.fixed if scene == "fast" else ():
            with patch.object(client, "Window", lambda maximum, _, size=size: Window(min(maximum, size))):
                print(line(f"fixed at {size}", best, *run(pairs, *speed)), flush=True)


def run(pairs: int, *speed: str) -> tuple[Counts, dict[str, Any]]:
    """Build so many pairs on an engine of this speed. Returns the build's counts and what the engine saw."""
    with engine(*speed) as port, tempfile.TemporaryDirectory() as scratch:
        url = f"http://127.0.0.1:{port}/v1"
        manifest = build(config(pairs, url), Path(scratch) / "out")
        with urllib.request.urlopen(f"{url.removesuffix('/v1')}/stats") as response:  # noqa: S310 - our own server
            return manifest.counts, json.load(response)


def config(pairs: int, url: str) -> BuildConfig:
    """Return a configuration without any setting for the engine's speed, that asks each request once."""
    return BuildConfig.model_validate(
        {
            "pairs": pairs,
            "shard_pairs": max(1, min(256, pairs)),
            "attempts": 1,
            "limits": {"max_lost_share": 1},
            "splits": {"train": 1, "validation": 0, "test": 0},
            "history": {"ugc": 1, "pair": 1, "min_support": 0},
            "generation": {"model": "stub"},
            "engine": {"kind": "openai", "base_urls": (url,)},
        }
    )


@contextmanager
def engine(*speed: str) -> Iterator[int]:
    """Run an engine in a process of its own; yields its port."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.engine_stub", str(port), *speed]
    # In a session of its own, Ctrl-C does not reach it.
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as process:
        try:
            if process.stdout is None or not process.stdout.readline():
                sys.exit(f"failed: {' '.join(command)}")
            yield port
        finally:
            process.kill()


def line(name: str, best: float, counts: Counts, seen: dict[str, Any]) -> str:
    """Return a build's figures as a line."""
    speed = seen["tokens"] / seen["seconds"]
    full = next((at for at, in_flight in seen["load"] if in_flight >= _FULL), None)
    return (
        f"{name:>12}: {seen['seconds']:6.1f} s, {speed:8.1f} tokens/s ({speed / best:.3f} of the best); "
        f"{counts.pairs_accepted} of {counts.pairs_asked} pairs, {sum(counts.rejected.values())} rejected "
        f"({', '.join(counts.rejected) or 'for nothing'}); {seen['requests']} requests, {seen['repeated']} sent "
        f"twice; in flight: settled {seen['settled']:g}, largest {seen['largest']}"
        + ("" if full is None else f", {_FULL} after {full:.1f} s")
    )


if __name__ == "__main__":
    main()
