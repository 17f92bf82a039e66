"""A dataset of the packaged model, ICA and PBA trained on it, and both evaluated: `python -m benchmarks.training`.

Runs the commands that a user would, and prints their figures. Each resumes where it was stopped. A linear classifier
also learns which words go with a direction. Its accuracy on the held-out split shows how much of the direction is in
the replies.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow.parquet as pq
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from benchmarks.machine import describe
from benchmarks.runs import run, show, training, with_keys


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


if __name__ == "__main__":
    main()
