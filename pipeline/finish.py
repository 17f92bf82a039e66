"""After the last shard: sum up the funnel and hash the files."""

from __future__ import annotations

import hashlib
from collections import Counter

from pipeline.mining.gather import read_index
from pipeline.plan import BuildPlan
from pipeline.shards import read_meta
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
