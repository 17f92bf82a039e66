"""Share of attempts that real models get accepted: `python -m benchmarks.acceptance OUT --model ... --model ...`.

Builds the same configuration with each model, one after the other, and prints for each: accepted attempts, the reasons
of the others, what cleaning removed, tokens/s from the first reply to the last, and minutes with the server's start.
`OUT/MODEL.md` lists every accepted reply for reading. A reply counts as begun by a lead-in if its first line ends in a
colon or speaks of a reply: a check of its own, cruder than the one that cleaning does.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmarks.machine import describe, measure
from pipeline.generation.completions import Completion
from pipeline.generation.journal import read_journal
from schemas.packaged_models import LARGE, SMALL

_LEAD_IN = re.compile(r"[^\n]*:\s*$|\W*(?:sure|certainly|of course|here(?:'s| is| are)|reply|response|answer)\b", re.I)


def main() -> None:
    """Build with each model and print the figures side by side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", action="append", help=f"default: {LARGE}, then {SMALL}")
    parser.add_argument("--config", default="configs/quickstart.yaml")
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--set", action="append", default=[], help="passed on to `everyuser build`")
    arguments = parser.parse_args()
    print(describe(), flush=True)
    for model in arguments.model or [LARGE, SMALL]:
        folder = arguments.out / re.sub(r"\W+", "-", model).strip("-")
        sets = [f"generation.model={model}", f"pairs={arguments.pairs}", "limits.max_lost_share=1", *arguments.set]
        seconds = _build(arguments.config, folder, sets)
        print("\n".join(figures(folder, model, seconds)), flush=True)


def _build(config: str, folder: Path, sets: Sequence[str]) -> float:
    """Build into a new folder; return the seconds it took."""
    if folder.exists():
        sys.exit(f"{folder} exists; name a new folder")
    options = [part for key in sets for part in ("--set", key)]
    command = [sys.executable, "-m", "pipeline.cli", "build", config, "--output", str(folder), *options]
    return measure(command).seconds


def figures(folder: Path, model: str, seconds: float) -> list[str]:
    """Return a finished build's figures as lines, and write its accepted replies to a file beside it."""
    manifest = json.loads((folder / "manifest.json").read_text())
    counts = manifest["counts"]
    rejected = Counter({r: n for r, n in counts["rejected"].items() if not r.startswith("assemble/")})
    accepted = counts["pairs_accepted"]
    attempts = accepted + rejected.total()
    outcomes = [o for path in (folder / "journal").iterdir() for o in read_journal(path).values()]
    tokens = [o.completion_tokens for o in outcomes if isinstance(o, Completion)]
    pairs = [row for path in sorted((folder / "pool").glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
    begun = [text for row in pairs for text in (row["chosen"], row["rejected"]) if _LEAD_IN.match(text.split("\n")[0])]
    reading = folder.with_suffix(".md")
    reading.write_text("\n".join(_shown(row) for row in pairs), encoding="utf-8")
    reasons = ", ".join(f"{reason} {number}" for reason, number in rejected.most_common())
    return [
        "",
        f"{model}: {accepted} of {attempts} attempts accepted ({accepted / attempts:.1%}), "
        f"{counts['pairs_lost']} of {counts['pairs_asked']} pairs lost, {counts['examples']} examples",
        f"  rejected: {reasons or 'none'}",
        f"  {len(begun)} accepted replies may begin with a lead-in{': ' + repr(begun[:3]) if begun else ''}",
        f"  {sum(tokens) / len(tokens):.0f} tokens a reply, {_pace(folder):.1f} tokens/s, {seconds / 60:.1f} minutes",
        f"  all accepted replies: {reading}",
    ]


def _pace(folder: Path) -> float:
    """Return completion tokens a second, from the first record with tokens to the last that has more."""
    records = [json.loads(line) for line in (folder / "logs" / "pace.jsonl").read_text().splitlines()]
    found = [(r["seconds"], r["completion_tokens"]) for r in records if r["completion_tokens"]]
    (begin, before), (end, after) = found[0], next(f for f in found if f[1] == found[-1][1])
    return (after - before) / (end - begin) if end > begin else float("nan")


def _shown(row: dict[str, Any]) -> str:
    return f"# {row['pair_id']}\n{row['prompt']}\n\nCHOSEN: {row['chosen']}\n\nREJECTED: {row['rejected']}\n"


if __name__ == "__main__":
    main()
