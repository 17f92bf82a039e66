"""Adaptation to two new dimensions, from a trained model and from an untrained one: `python -m benchmarks.adaptation`.

Builds two planted datasets: one of the known dimensions, and one of two dimensions that no row of the first has. Trains
a model on the first. Trains that model and the base on growing parts of the second, with the same recipe, and evaluates
all of them on the second's held-out split against the base. Prints both curves. Each command resumes where it was
stopped, and its work is not repeated.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import orjson

from benchmarks.machine import describe
from benchmarks.planted.build import build
from benchmarks.planted.grammar import turns
from benchmarks.runs import run, with_keys
from schemas.packaged_models import SMALL

NOVEL = ("need_for_play", "conflict_handling")
"""Dimensions that the first dataset does not have, in place of the paper's humor and pragmatism."""

STARTS = ("trained", "untrained")
METRICS = ("absolute", "alignment", "margin")


def main() -> None:
    """Build, train, evaluate; print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path, help="folder for the datasets, the runs and the reports")
    parser.add_argument(
        "--everyuser-train", default="training/.venv/bin/everyuser-train", help="`make -C training setup`"
    )
    parser.add_argument("--method", choices=["ica", "pba"], default="ica")
    parser.add_argument("--model", default=SMALL, help="the base")
    parser.add_argument("--examples", nargs="+", type=int, default=[0, 50, 200, 1000])
    parser.add_argument("--split", default="test", help="`test` has turns of phrase that no training row has")
    parser.add_argument("--fit", nargs="*", default=[], metavar="KEY=VALUE", help="keys of all runs")
    parser.add_argument("--evaluate", nargs="*", default=[], metavar="KEY=VALUE", help="keys of all evaluations")
    arguments = parser.parse_args()
    print(describe(), flush=True)
    output, method = arguments.output, arguments.method
    known, novel = output / "known" / "data", output / "novel" / "data"
    build_both(known, novel)

    def fit(start: str, data: Path, folder: Path, keys: list[str]) -> str:
        """Train from a model; return the new model."""
        # The portraits of planted data say the direction in words: a history would not be needed.
        given = [f"model.name={start}", f"data.path={data}", "data.eval_split=null", "persona.parts=[ugc,pair]"]
        given += ["persona.items_max=4"]
        command = [arguments.everyuser_train, "fit", f"training/configs/small-{method}.yaml", "--output", str(folder)]
        run(f"fit {folder.relative_to(output)}", command + with_keys([*given, *arguments.fit, *keys]))
        return str(folder / "model")

    starts = dict(
        zip(STARTS, (fit(arguments.model, known, output / method / "known", []), arguments.model), strict=True)
    )
    reports: dict[tuple[str, int], dict[str, Any]] = {}
    for examples in arguments.examples:
        for name, start in starts.items():
            folder = output / method / f"{name}-{examples}"
            model = fit(start, novel, folder, [f"data.limit={examples}"]) if examples else start
            command = [arguments.everyuser_train, "evaluate", "--model", model, "--reference", arguments.model]
            command += ["--method", method, "--data", str(novel), "--split", arguments.split]
            keys = ["parts=[[ugc,pair]]", "lengths=[]", "dimensions=false", *arguments.evaluate]
            run(f"evaluate {name}-{examples}", [*command, "--output", str(folder / "report"), *with_keys(keys)])
            reports[name, examples] = orjson.loads((folder / "report" / "report.json").read_bytes())
    print_curves(reports)


def build_both(known: Path, novel: Path) -> None:
    """Build the dataset of the known dimensions, of the usual size, and that of the novel ones, with 1,300 rows."""
    slugs = list(dict.fromkeys(slug for slug, _ in turns()))
    old = [slug for slug in slugs if slug not in NOVEL]
    build(known, "matched", {"matched": ["pairs=2000", f"sampling.dimensions=[{', '.join(old)}]"]})
    few = ["sampling.min_active=1", "sampling.max_active=2", f"sampling.dimensions=[{', '.join(NOVEL)}]"]
    splits = "splits={train: 0.7, validation: 0.05, test: 0.25}"
    build(novel, "matched", {"matched": ["pairs=1000", splits, *few]})


def print_curves(reports: dict[tuple[str, int], dict[str, Any]]) -> None:
    """Print the metrics with the own persona, by start and examples, as a Markdown table, and those of the controls."""
    print(f"\n| examples | start | persona | cases | {' | '.join(METRICS)} |\n|---|---|---|---|{'---|' * len(METRICS)}")
    for (name, examples), report in reports.items():
        for result in report["results"]:
            cells = " | ".join(_cell(result["metrics"][metric], metric) for metric in METRICS)
            print(f"| {examples} | {name} | {result['kind']} | {result['cases']} | {cells} |")


def _cell(estimate: dict[str, float | None], metric: str) -> str:
    scale = 1 if metric == "margin" else 100
    value, low, high = (None if bound is None else f"{bound * scale:.1f}" for bound in estimate.values())
    return f"{value}" if low is None else f"{value} [{low}, {high}]"


if __name__ == "__main__":
    main()
