"""ICA and PBA trained on planted truth, and evaluated with all controls: `python -m benchmarks.planted OUTPUT`.

The datasets hold about 4,000 rows each, once with matched histories and once with users. `validation` has new posts in
the language of training, `test` new posts and turns of phrase that training never heard. `reworded` is `test` with
histories in the language of training, so that no reply can be copied from them. Each command resumes where it was
stopped; a finished one is not repeated, and then its seconds are those of reading its result.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import orjson

from benchmarks.machine import describe
from benchmarks.planted.aims import aims
from benchmarks.planted.build import FULL, build, write_reworded
from benchmarks.planted.oracle import accuracies
from benchmarks.runs import run, show, training, with_keys

ITEMS = (0, 1, 2, 4, 8)
STAGES = ("build", "fit", "evaluate")
REWORDED = "reworded"
_SHORT = ["lengths=[]", "known=[]", "flip=false", "dimensions=false"]
EVALUATIONS = {"test": [], "validation": _SHORT, REWORDED: _SHORT}
"""Keys of the evaluation on each split, and on the reworded rows."""


def main() -> None:
    """Run the stages; print tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path, help="folder for datasets, runs and reports")
    parser.add_argument("--personas", nargs="+", default=list(FULL), choices=FULL)
    parser.add_argument("--methods", nargs="+", default=["ica", "pba"], choices=["ica", "pba"])
    parser.add_argument("--stages", nargs="+", default=STAGES, choices=STAGES, help="the others must have run")
    parser.add_argument(
        "--everyuser-train", default="training/.venv/bin/everyuser-train", help="`make -C training setup`"
    )
    parser.add_argument(
        "--fit", nargs="*", default=["training.max_steps=60"], metavar="KEY=VALUE", help="keys of the runs"
    )
    parser.add_argument(
        "--evaluate", nargs="*", default=["cases=200"], metavar="KEY=VALUE", help="keys of the evaluations"
    )
    arguments = parser.parse_args()
    if shutil.which(arguments.everyuser_train) is None:
        parser.error(f"{arguments.everyuser_train} is not there: `make -C training setup`, or name another")
    print(describe())
    for persona in arguments.personas:
        data = arguments.output / persona / "data"
        if "build" in arguments.stages:
            build(data, persona)
            show_oracle(data)
        for method in arguments.methods:
            folder = arguments.output / persona / method
            if "fit" in arguments.stages:
                fit(arguments.everyuser_train, data, method, folder, arguments.fit)
            if "evaluate" in arguments.stages:
                evaluate(arguments.everyuser_train, data, method, folder, arguments.evaluate)


def show_oracle(data: Path) -> None:
    """Print the accuracy of a reader who knows the language."""
    for split in ("test", "validation"):
        found = ", ".join(f"{100 * share:.1f}" for share in accuracies(data, split, ITEMS))
        print(f"  {split}: a reader of the language is right in {found} % with {', '.join(map(str, ITEMS))} items")


def fit(command: str, data: Path, method: str, folder: Path, keys: list[str]) -> None:
    """Train by the packaged recipe, or resume that."""
    # The portrait says the direction in words, and nothing would have to be learnt from the history.
    own = [f"data.path={data}", "data.eval_split=null", "persona.parts=[ugc,pair]", "persona.items_max=4"]
    recipe = f"training/configs/small-{method}.yaml"
    run(
        f"{folder}: fit",
        [command, "fit", recipe, "--output", str(folder), *with_keys([*own, *keys])],
    )
    training(folder, None)


def evaluate(command: str, data: Path, method: str, folder: Path, keys: list[str]) -> None:
    """Evaluate on each set of rows; print figures and aims."""
    for name, own in EVALUATIONS.items():
        if name == REWORDED and method == "pba":
            continue  # It sees no history.
        report = folder / f"evaluation-{name}"
        options = ["--model", str(folder / "model"), "--output", str(report), *source(data, name)]
        settings = ["parts=[[ugc,pair]]", "lengths=[0,1,2,4]", f"known={list(ITEMS)}", *own, *keys]
        run(f"{folder}: evaluate on {name}", [command, "evaluate", *options, *with_keys(settings)])
        found = orjson.loads((report / "report.json").read_bytes())
        show(found)
        if name == "test":
            print("| aim | figure | range | reached |\n|---|---|---|---|")
            print("\n".join(aim.line for aim in aims(found)), flush=True)


def source(data: Path, name: str) -> list[str]:
    """Return the options that name the rows of an evaluation."""
    if name != REWORDED:
        return ["--data", str(data), "--split", name]
    file = data.with_name("reworded.jsonl")
    write_reworded(data, file)
    return ["--data", str(file), "--space", str(data / "preference_space.yaml")]


if __name__ == "__main__":
    main()
