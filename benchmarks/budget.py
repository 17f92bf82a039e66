"""A budget of half the tokens, on an instant stub: `python -m benchmarks.budget [--pairs 20000] [--workers 2]`.

Builds once without a limit, then into another folder with half of its tokens, which must stop, then resumes that
without a limit. Prints the tokens at the stop against the limit, what was asked twice, and whether the files are equal.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import describe, free_port

_ROWS = ("pool", "data", "rejected")


def main() -> None:
    """Run the three builds and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=20_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--in-flight", type=int, default=64)
    arguments = parser.parse_args()
    print(describe())
    port = free_port()
    with (
        tempfile.TemporaryDirectory() as scratch,
        subprocess.Popen(
            [sys.executable, str(Path(__file__).parent / "stub_server.py"), str(port)], stdout=subprocess.PIPE
        ) as stub,
    ):
        assert stub.stdout is not None  # noqa: S101 - for the type checker
        stub.stdout.readline()
        try:
            _compare(Path(scratch), port, arguments)
        finally:
            stub.kill()


def _compare(scratch: Path, port: int, arguments: argparse.Namespace) -> None:
    config = scratch / "budget.yaml"
    config.write_text(
        f"pairs: {arguments.pairs}\n"
        "generation: {model: stub}\n"
        f"engine: {{kind: openai, base_urls: ['http://127.0.0.1:{port}/v1'], in_flight: {arguments.in_flight}}}\n"
    )
    whole, half = scratch / "whole", scratch / "half"
    _build(config, whole, arguments.workers, 0)
    full = _used(_runs(whole)[-1])
    limit = full // 2
    print(_build(config, half, arguments.workers, 3, f"limits.max_tokens={limit}"))
    used = _used(_runs(half)[-1])
    print(f"limit {limit} tokens, used {used}: {100 * (used / limit - 1):+.3f} %")
    _build(config, half, arguments.workers, 0)
    total = sum(_used(run) for run in _runs(half))
    print(f"tokens of both runs {total}, of the whole build {full}: {100 * (total / full - 1):+.3f} % asked twice")
    print("the files are equal" if _bytes(whole) == _bytes(half) else "THE FILES DIFFER")


def _build(config: Path, output: Path, workers: int, code: int, *overrides: str) -> str:
    """Build, and return the last line. Raise `SystemExit` for another exit code."""
    sets = [part for override in overrides for part in ("--set", override)]
    beam = ["--", "--direct_running_mode=multi_processing", f"--direct_num_workers={workers}"] if workers > 1 else []
    command = [sys.executable, "-m", "pipeline.cli", "build", str(config), "--output", str(output), *sets, *beam]
    started = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != code:
        sys.exit(f"exit code {done.returncode} instead of {code}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    print(f"{output.name}, exit code {code}: {time.monotonic() - started:.0f} s", flush=True)
    return (done.stdout + done.stderr).splitlines()[-1]


def _runs(output: Path) -> Sequence[dict[str, Any]]:
    runs: Sequence[dict[str, Any]] = json.loads((output / "manifest.json").read_text())["runs"]
    return runs


def _used(run: dict[str, Any]) -> int:
    return int(run["prompt_tokens"] + run["completion_tokens"])


def _bytes(output: Path) -> dict[str, bytes]:
    paths = [path for folder in _ROWS for path in sorted((output / folder).rglob("*.parquet"))]
    return {str(path.relative_to(output)): path.read_bytes() for path in paths}


if __name__ == "__main__":
    main()
