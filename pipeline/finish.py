"""After the last shard: sum up, hash the files, and write the card by which `load_dataset` finds the splits."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pipeline.mining.gather import read_index
from pipeline.plan import SPLITS, BuildPlan
from pipeline.shards import read_meta, write_text
from schemas.manifest import Counts, FileEntry


def count_rows(plan: BuildPlan) -> Counts:
    """The funnel of the whole build, from the footers of its shards, whichever run wrote them."""
    rejected: Counter[str] = Counter()
    totals: Counter[str] = Counter()
    for spec in plan.shards():
        for folder in ("pool", "data"):
            meta = read_meta(plan.path(folder, spec)) or {}
            rejected.update(meta.get("rejected", {}))
            for name in ("accepted", "lost", "examples", "prompt_tokens", "completion_tokens"):
                totals[name] += meta.get(name, 0)
        if spec.source == "mined":
            totals["annotated"] += (read_meta(plan.path("annotated", spec)) or {}).get("annotated", 0)
    gathered = read_index(plan) if plan.config.mining else None
    threads = {**gathered.counts, "responses/annotated": totals["annotated"]} if gathered else {}
    return Counts(
        threads=threads,
        pairs_asked=sum(spec.count for spec in plan.shards()),
        pairs_accepted=totals["accepted"],
        pairs_lost=totals["lost"],
        examples=totals["examples"],
        rejected=dict(sorted(rejected.items())),
        prompt_tokens=totals["prompt_tokens"],
        completion_tokens=totals["completion_tokens"],
    )


def file_entries(plan: BuildPlan) -> tuple[FileEntry, ...]:
    """Every data shard, with its rows and hash."""
    entries = []
    for spec in plan.shards():
        path = plan.path("data", spec)
        meta = read_meta(path) or {}
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        entries.append(
            FileEntry(
                path=str(path.relative_to(plan.output)),
                rows=meta["examples"],
                bytes=path.stat().st_size,
                sha256=digest,
            )
        )
    return tuple(entries)


def write_card(plan: BuildPlan, counts: Counts, files: Sequence[FileEntry]) -> None:
    """`README.md`: its header names the files of each split, and their sizes.

    `datasets` keeps what it has loaded under a hash of this header: without the sizes, another build in a folder of
    the same name would be answered with the first one's rows. A split without rows would make all unreadable.
    """
    sizes = {split: [e for e in files if Path(e.path).name.startswith(f"{split}-")] for split in SPLITS}
    rows = {split: sum(entry.rows for entry in entries) for split, entries in sizes.items()}
    size = {split: sum(entry.bytes for entry in entries) for split, entries in sizes.items()}
    present = [split for split in SPLITS if rows[split]]
    header = "\n".join(f"  - split: {split}\n    path: data/{split}-*.parquet" for split in present)
    splits = "\n".join(
        f"  - name: {split}\n    num_bytes: {size[split]}\n    num_examples: {rows[split]}" for split in present
    )
    total = sum(size[split] for split in present)
    reasons = "\n".join(f"| {reason} | {number} |" for reason, number in counts.rejected.items())
    funnel = f"\n| rejected attempts | count |\n|---|---|\n{reasons}\n" if reasons else ""
    mirrored = " Every pair occurs twice, mirrored." if plan.config.mirror else ""
    write_text(
        plan.output / "README.md",
        f"""---
configs:
- config_name: default
  data_files:
{header}
dataset_info:
  config_name: default
  splits:
{splits}
  download_size: {total}
  dataset_size: {total}
tags:
- preference
- personalization
- everyuser
---
# {plan.config.name}

Personalised preference pairs, built with everyuser in the format of AlignX. Each row holds a post (`prompt`), two
replies, the direction of the person who prefers `chosen` (`Preference Direction`, and in words `profile`), and that
person's history and portrait.{mirrored}

{counts.examples} examples from {counts.pairs_accepted} pairs, of {counts.pairs_asked} asked for. Model:
{_model(plan)}. Fingerprint: `{plan.fingerprint[:16]}`; `manifest.json` holds the rest, and
`preference_space.yaml` the dimensions in the order of the direction's numbers.
{funnel}
```python
from datasets import load_dataset

dataset = load_dataset("PATH_OR_ID_OF_THIS_FOLDER")
```
""",
    )


def _model(plan: BuildPlan) -> str:
    """Who wrote or annotated the replies, and the portraits."""
    config = plan.config
    is_given = config.mining is not None and config.mining.annotation.mode == "given" and not config.sampled_pairs
    if is_given and config.portrait == "template":
        return "none (levels were given)"
    return f"`{config.generation.model}`"
