"""A dataset of the packaged model, ICA and PBA trained on it, and both evaluated: `python -m benchmarks.training`.

Runs the commands that a user would, and prints their figures. Each resumes where it was stopped. A linear classifier
also learns which words go with a direction. Its accuracy on the held-out split shows how much of the direction is in
the replies.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow.parquet as pq
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from benchmarks.machine import describe

LOGGED = ("loss", "rewards/accuracies", "rewards/margins")
METRICS = (
    *("alignment", "reference_absolute", "absolute", "margin"),
    *("reference_absolute_per_token", "absolute_per_token"),
)


def main() -> None:
    """Build, train, evaluate; print tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path, help="folder for the dataset, the runs and the reports")
    parser.add_argument(
        "--everyuser-train", default="training/.venv/bin/everyuser-train", help="`make -C training setup`"
    )
    parser.add_argument("--config", default="configs/training.yaml", help="configuration of the dataset")
    parser.add_argument("--methods", nargs="+", default=["pba", "ica"])
    parser.add_argument(
        "--fit", nargs="*", default=[], metavar="KEY=VALUE", help="keys of the runs, such as data.limit"
    )
    parser.add_argument(
        "--evaluate", nargs="*", default=[], metavar="KEY=VALUE", help="keys of the evaluation on the held-out split"
    )
    parser.add_argument("--evaluate-p-soups", nargs="*", default=[], metavar="KEY=VALUE", help="on P-Soups")
    parser.add_argument("--p-soups", type=Path, help="P-Soups, in the AlignX repository's JSON shape")
    parser.add_argument("--peak-tflops", type=float, help="the GPU's, in model.dtype; prints the share that is used")
    arguments = parser.parse_args()
    if shutil.which(arguments.everyuser_train) is None:
        parser.error(f"{arguments.everyuser_train} is not there: `make -C training setup`, or name another")
    print(describe())
    data = arguments.output / "data"
    run("build", [sys.executable, "-m", "pipeline.cli", "build", arguments.config, "--output", str(data)])
    manifest = orjson.loads((data / "manifest.json").read_bytes())
    sizes = Counter[str]()
    for file in manifest["files"]:
        sizes[Path(file["path"]).name.split("-")[0]] += file["rows"]
    rows = ", ".join(f"{size} for {split}" for split, size in sizes.items())
    print(f"  {manifest['counts']['pairs_accepted']} pairs; rows: {rows}")
    print(f"words of the replies, given the direction, by a linear classifier: {100 * words(data):.1f} %", flush=True)
    for method in arguments.methods:
        folder = arguments.output / method
        keys = [f"data.path={data}", "data.eval_split=null", *arguments.fit]
        fit = [arguments.everyuser_train, "fit", f"training/configs/small-{method}.yaml", "--output", str(folder)]
        run(f"{method}: fit", [*fit, *with_keys(keys)])
        training(folder, arguments.peak_tflops)
        benchmarks: dict[str, tuple[Path, list[str]]] = {"held-out": (data, arguments.evaluate)}
        if arguments.p_soups:
            benchmarks["p-soups"] = (arguments.p_soups, arguments.evaluate_p_soups)
        for name, (source, keys) in benchmarks.items():
            report = folder / f"evaluation-{name}"
            command = [arguments.everyuser_train, "evaluate", "--model", str(folder / "model"), "--data", str(source)]
            command += ["--space", str(data / "preference_space.yaml"), "--output", str(report)]
            run(f"{method}: evaluate on {name}", command + with_keys(keys))
            show(orjson.loads((report / "report.json").read_bytes()))


def run(name: str, command: list[str]) -> None:
    """Run a command with its output on the terminal. Raise `SystemExit` if it fails."""
    started = time.monotonic()
    if subprocess.run(command, stdout=subprocess.DEVNULL).returncode:
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


def words(data: Path) -> float:
    """Return the test accuracy of a linear classifier of words times direction, trained on the train split."""
    splits = {name: _read(data, name) for name in ("train", "test")}
    vectorizer = CountVectorizer(binary=True, min_df=3).fit(splits["train"][0])
    used = splits["train"][2].any(axis=0)

    def features(split: str) -> Any:
        chosen, rejected, directions = splits[split]
        difference = (vectorizer.transform(chosen) - vectorizer.transform(rejected)).toarray()
        # What a word says for one pole of a dimension, it says against the other.
        return np.einsum("nd,nw->ndw", directions[:, used], difference).reshape(len(chosen), -1)

    examples = features("train")
    model = LogisticRegression(C=0.05, fit_intercept=False, max_iter=1000)
    model.fit(np.concatenate([examples, -examples]), np.repeat([1, 0], len(examples)))
    return float(np.mean(model.decision_function(features("test")) > 0))


def _read(data: Path, split: str) -> tuple[list[str], list[str], Any]:
    table = pq.read_table(sorted((data / "data").glob(f"{split}-*.parquet")))
    directions = np.array(table["Preference Direction"].to_pylist()) * 2 - 1
    return table["chosen"].to_pylist(), table["rejected"].to_pylist(), directions


def _name(result: dict[str, Any]) -> str:
    if result["kind"] in ("shuffled", "none"):
        return {"shuffled": "someone else's", "none": "none"}[result["kind"]]
    parts = "+".join(result["parts"]) or "true direction"
    return f"{parts}, {result['items']} items" if result["kind"] == "length" else parts


def _cell(estimate: dict[str, Any], key: str) -> str:
    scale, digits = (1, 2) if key == "margin" else (100, 1)
    low, high = estimate["low"], estimate["high"]
    interval = "" if low is None or high is None else f" [{low * scale:.{digits}f}, {high * scale:.{digits}f}]"
    return f"{estimate['value'] * scale:.{digits}f}{interval}"


if __name__ == "__main__":
    main()
