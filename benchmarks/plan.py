"""A plan by a trial against the true build: `python -m benchmarks.plan CONFIG --trial 32 [--set KEY=VALUE]`.

Plans without a model and by a trial, then builds, with the trial's replies moved away so that all is asked again.
Prints tokens, accepted share and minutes as planned and as they came.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.machine import describe
from benchmarks.runs import with_keys


def main() -> None:
    """Plan, build, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", metavar="CONFIG")
    parser.add_argument("--trial", type=int, default=32)
    parser.add_argument("--set", action="append", default=[], help="a key of the configuration")
    parser.add_argument("--output", type=Path, help="folder to build in; by default one that is deleted")
    arguments = parser.parse_args()
    print(describe())
    with tempfile.TemporaryDirectory() as scratch:
        output = arguments.output or Path(scratch) / "out"
        keys = with_keys(arguments.set)
        given = [arguments.config, "--output", str(output), *keys]
        rehearsed = json.loads(_everyuser("plan", *given, "--json"))
        planned = json.loads(_everyuser("plan", *given, "--json", "--trial", str(arguments.trial)))
        trial = output.with_name(f"{output.name}.trial")
        trial.rename(trial.with_suffix(".kept"))
        _everyuser("build", *given)
        manifest = json.loads((output / "manifest.json").read_text())
    _print(rehearsed, planned, manifest)


def _everyuser(*arguments: str) -> str:
    done = subprocess.run([sys.executable, "-m", "pipeline.cli", *arguments], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"failed: everyuser {' '.join(arguments)}\n{done.stdout[-2000:]}")
    return done.stdout[done.stdout.find("{") :] if "--json" in arguments else done.stdout


def _print(rehearsed: dict[str, Any], planned: dict[str, Any], manifest: dict[str, Any]) -> None:
    counts, run = manifest["counts"], manifest["runs"][-1]
    rejected = sum(
        n for key, n in counts["rejected"].items() if key.split("/")[0] in ("generate", "validate", "verify")
    )
    truth = {
        "prompt tokens": counts["prompt_tokens"],
        "completion tokens": counts["completion_tokens"],
        "tokens": counts["prompt_tokens"] + counts["completion_tokens"],
        "accepted share": counts["pairs_accepted"] / (counts["pairs_accepted"] + rejected),
        "minutes": run["seconds"] / 60,
    }
    print(f"trial of {planned['basis_pairs']} pairs, build of {counts['pairs_asked']}\n")
    print(
        "| figure | without a trial | by the trial | 95 % interval | build | trial / build |\n|---|---|---|---|---|---|"
    )
    for name, true in truth.items():
        without, by = _range(rehearsed, name), _range(planned, name)
        interval = f"{by['low']:.4g} to {by['high']:.4g}" if by else ""
        ratio = f"{by['value'] / true:.3f}" if by and true else ""
        cells = (f"{cell['value']:.4g}" if cell else "" for cell in (without, by))
        print(f"| {name} | {' | '.join(cells)} | {interval} | {true:.4g} | {ratio} |")


def _range(found: dict[str, Any], name: str) -> dict[str, float] | None:
    key = name.replace(" ", "_")
    if name == "minutes":
        return {bound: 60 * value for bound, value in found["hours"].items()} if found["hours"] else None
    if key in ("tokens", "accepted_share"):
        whole: dict[str, float] | None = found[key]
        return whole
    stages = [stage[key] for stage in found["stages"].values() if key in stage]
    return {bound: sum(stage[bound] for stage in stages) for bound in ("value", "low", "high")}


if __name__ == "__main__":
    main()
