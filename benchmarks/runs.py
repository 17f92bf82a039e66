"""Runs of this project's commands, and the figures that they leave, as text."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import orjson

LOGGED = ("loss", "rewards/accuracies", "rewards/margins")
METRICS = (
    *("alignment", "reference_absolute", "absolute", "margin"),
    *("reference_absolute_per_token", "absolute_per_token"),
)


def run(name: str, command: list[str]) -> None:
    """Run a command with its messages on the terminal. Raise `SystemExit` if it fails or is stopped."""
    started = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            code = process.wait()
        except KeyboardInterrupt:
            # The terminal stops the command too. Once it has said how to resume, there is nothing to add.
            if process.wait() == 130:
                sys.exit(130)
            raise
    if code:
        sys.exit(f"failed: {' '.join(command)}")
    print(f"{name}: {time.monotonic() - started:.0f} s", flush=True)


def with_keys(keys: list[str]) -> list[str]:
    """Return `--set` arguments for keys."""
    return [part for key in keys for part in ("--set", key)]


def training(folder: Path, peak_tflops: float | None) -> None:
    """Print a run's metrics, first and last quarter of its steps."""
    lines = [orjson.loads(line) for line in (folder / "metrics.jsonl").read_bytes().splitlines()]
    lines = [line for line in lines if "loss" in line]
    quarter = max(1, len(lines) // 4)
    for name, some in (("first", lines[:quarter]), ("last", lines[-quarter:])):
        means = {key: np.mean([line[key] for line in some]) for key in LOGGED}
        print(f"  {name} {len(some)} lines: " + ", ".join(f"{key} {value:.3f}" for key, value in means.items()))
    last, record = lines[-1], orjson.loads((folder / "run.json").read_bytes())
    rate, weights = last["num_tokens"] / last["seconds"], record["parameters"]
    print(
        f"  {last['step']} steps, {last['num_tokens']:.0f} tokens, {last['seconds']:.0f} s, {rate:.0f} tokens/s; "
        f"{weights['trained']} of {weights['all']} weights trained; peak memory {last['peak_memory'] / 2**20:.0f} MiB"
    )
    if peak_tflops:
        # A token costs 2 operations a weight forward and 2 backward, and 2 more for each weight that is trained.
        operations = 4 * weights["all"] + 2 * weights["trained"]
        print(
            f"  model FLOP utilisation {100 * operations * rate / (peak_tflops * 1e12):.1f} % of {peak_tflops} TFLOP/s"
        )


def show(report: dict[str, Any]) -> None:
    """Print an evaluation as a Markdown table."""
    print(f"\n| persona | cases | {' | '.join(METRICS)} |")
    print("|---|---|" + "---|" * len(METRICS))
    for result in report["results"]:
        row(_name(result), result["cases"], result["metrics"], METRICS)
    for contrast in report["contrasts"]:
        row(f"own minus {contrast['kind']}", contrast["cases"], contrast["metrics"], METRICS)
    for kind in report["kinds"]:
        row(f"pairs of kind {kind['kind']}", kind["cases"], kind["metrics"], METRICS)
    for user in report["users"]:
        name = f"by user, {user['kind'] or 'all'} pairs, {'whole' if user['known'] is None else user['known']} known"
        row(f"{name}, mean", user["users"], user["mean"], METRICS)
        row(f"{name}, worst tenth", user["users"], user["worst"], METRICS)
    for flip in report["flips"]:
        row("flip", flip["cases"], flip["metrics"], flip["metrics"])
    for pole in report["dimensions"]:
        row(f"{pole['slug']} {pole['level']:+d}", pole["cases"], pole["metrics"], METRICS)
    for note in report["notes"]:
        print(f"note: {note}")
    print(f"{report['examples']} examples, {report['dtype']}, {report['seconds']:.0f} s\n", flush=True)


def row(name: str, cases: int, metrics: dict[str, Any], names: Any) -> None:
    """Print one row."""
    cells = [f"{_cell(metrics[key], key)}" if key in metrics else "" for key in names]
    print(f"| {name} | {cases} | {' | '.join(cells)} |")


def _name(result: dict[str, Any]) -> str:
    if result["kind"] in ("shuffled", "none"):
        return {"shuffled": "someone else's", "none": "none"}[result["kind"]]
    parts = "+".join(result["parts"]) or "true direction"
    items = {"length": "items", "known": "items in all"}.get(result["kind"])
    return f"{parts}, {result['items']} {items}" if items else parts


def _cell(estimate: dict[str, Any], key: str) -> str:
    scale, digits = (1, 2) if key == "margin" else (100, 1)
    low, high = estimate["low"], estimate["high"]
    interval = "" if low is None or high is None else f" [{low * scale:.{digits}f}, {high * scale:.{digits}f}]"
    return f"{estimate['value'] * scale:.{digits}f}{interval}"
