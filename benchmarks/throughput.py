"""Rows per second and peak memory of whole builds against an instant stub: `python -m benchmarks.throughput`.

A row is a pair: two requests, 64 in flight, both phases to finished shards. Prints one line a size.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.machine import describe, free_port, measure


def main() -> None:
    """Run each size and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, nargs="+", default=[5_000, 20_000, 100_000])
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--set", action="append", default=[], help="passed on to `everyuser build`")
    arguments = parser.parse_args()
    print(describe())
    with tempfile.TemporaryDirectory() as scratch:
        for pairs in arguments.pairs:
            print(build(Path(scratch), pairs, arguments.in_flight, arguments.set), flush=True)


def build(scratch: Path, pairs: int, in_flight: int, overrides: list[str]) -> str:
    """Build once and return a line of figures."""
    port = free_port()
    config, output = scratch / "bench.yaml", scratch / f"out-{pairs}"
    config.write_text(
        f"pairs: {pairs}\n"
        "generation: {model: stub}\n"
        f"engine: {{kind: openai, base_urls: ['http://127.0.0.1:{port}/v1'], in_flight: {in_flight}}}\n"
    )
    # In a session of its own, Ctrl-C does not reach it.
    stub = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.stub_server", str(port)], stdout=subprocess.PIPE, start_new_session=True
    )
    try:
        assert stub.stdout is not None  # noqa: S101 - for the type checker
        stub.stdout.readline()
        sets = [part for override in overrides for part in ("--set", override)]
        started = time.time()
        done = measure([sys.executable, "-m", "pipeline.cli", "build", str(config), "--output", str(output), *sets])
    finally:
        stub.kill()
        stub.wait()
    manifest = json.loads((output / "manifest.json").read_text())
    pool = max(path.stat().st_mtime for path in (output / "pool").glob("*.parquet"))
    size = sum(entry["bytes"] for entry in manifest["files"])
    return (
        f"{pairs:>7} pairs: {pairs / done.seconds:6.0f} rows/s ({done.seconds:.1f} s, "
        f"{pool - started:.1f} s to the end of phase 1), "
        f"{manifest['counts']['examples']} examples, peak {done.peak_bytes / 2**20:.0f} MiB, "
        f"{size / 2**20:.0f} MiB of shards"
    )


if __name__ == "__main__":
    main()
