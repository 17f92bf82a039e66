"""End of a build: count the funnel, list the files, write the card, and judge by the limits what was built."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from pipeline.assembly.leaks import find_shared_replies
from pipeline.card.render import write_card
from pipeline.driver.losses import losses_message, remedy_for, summarise_rejections
from pipeline.driver.spent import with_unrecorded_runs
from pipeline.io import storage
from pipeline.io.manifests import find_manifest, write_manifest
from pipeline.io.shards import read_metas
from pipeline.io.storage import AnyPath
from pipeline.plan import BuildPlan, ShardSpec
from pipeline.runtime import progress
from pipeline.runtime.results import TOKEN_COUNTS
from pipeline.threads.index import read_index
from pipeline.verification.gates import check_gates, gates_missed_by
from schemas.base import UserError
from schemas.manifest import Counts, FileEntry, Manifest, VerificationCounts


def count_rows(plan: BuildPlan, folders: Sequence[str] = ("pool", "data")) -> Counts:
    """Return the funnel of the whole build, from the footers of the shards of all runs."""
    rejected: Counter[str] = Counter()
    cleaned: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    verification: defaultdict[str, Counter[str]] = defaultdict(Counter)
    totals: Counter[str] = Counter()
    shards = plan.shards()
    for folder in folders:
        for meta in read_footers(plan, folder, shards):
            rejected.update((meta or {}).get("rejected", {}))
            cleaned.update((meta or {}).get("cleaned", {}))
            kinds.update((meta or {}).get("kinds", {}))
            for kind, found in (meta or {}).get("verification_by_kind", {}).items():
                verification[kind].update(found)
            for name in ("accepted", "lost", "unanswered", "examples", *TOKEN_COUNTS):
                totals[name] += (meta or {}).get(name, 0)
    for meta in read_footers(plan, "annotated", [spec for spec in shards if spec.source == "mined"]):
        for name in ("annotated", "unanswered"):
            totals[f"responses/{name}"] += (meta or {}).get(name, 0)
    gathered = read_index(plan) if plan.config.mining else None
    threads = {**gathered.counts, "responses/annotated": totals["responses/annotated"]} if gathered else {}
    if totals["responses/unanswered"]:
        threads["responses/unanswered"] = totals["responses/unanswered"]
    return Counts(
        threads=threads,
        pairs_asked=sum(spec.count for spec in shards),
        pairs_accepted=totals["accepted"],
        pairs_lost=totals["lost"],
        pairs_unanswered=totals["unanswered"],
        examples=totals["examples"],
        rejected=dict(sorted(rejected.items())),
        cleaned=dict(sorted(cleaned.items())),
        verification=VerificationCounts(**sum(verification.values(), Counter())),
        kinds=dict(sorted(kinds.items())),
        verification_by_kind={kind: VerificationCounts(**found) for kind, found in sorted(verification.items())},
        prompt_tokens=totals["prompt_tokens"],
        completion_tokens=totals["completion_tokens"],
        reasoning_tokens=totals["reasoning_tokens"],
    )


def read_footers(plan: BuildPlan, folder: str, shards: Sequence[ShardSpec]) -> list[dict[str, Any] | None]:
    """Return the metadata in the shards' footers.

    Args:
        plan: The build's plan.
        folder: Folder of the build, such as `pool`, `data` or `rejected/pairs`.
        shards: The shards to read.

    Returns:
        One mapping for each shard, or None where the folder has no file of the shard.

    Raises:
        UserError: A shard is damaged, or belongs to another build.
    """
    return read_metas(plan.output / folder, [plan.path(folder, spec).name for spec in shards], plan.fingerprint)


def check_losses(plan: BuildPlan, counts: Counts) -> None:
    """Raise `UserError` where more pairs were lost than `limits.max_lost_share` allows, or no example is left."""
    limits = plan.config.limits
    if not limits.allows(counts.pairs_lost, counts.pairs_asked):
        raise UserError(losses_message(plan.output, counts, limits))
    if counts.pairs_accepted == 0 or (counts.examples == 0 and counts.pairs_lost == counts.pairs_asked):
        why = summarise_rejections(plan.output, counts.rejected)
        raise UserError(f"no example is left of {counts.pairs_asked} pairs: {why}; {remedy_for(counts.rejected)}")


def close_pool(plan: BuildPlan) -> None:
    """Check the losses of phase one, and find the replies that splits share. Runs once, between the phases."""
    # Examples that an earlier run has left may be of another pool.
    check_losses(plan, count_rows(plan, ["pool"]))
    find_shared_replies(plan)


def file_entries(plan: BuildPlan) -> tuple[FileEntry, ...]:
    """Return the entries of all data shards.

    A shard's size and hash are in its file of rejections, which is written just before it.
    """
    shards = plan.shards()
    metas = read_footers(plan, "rejected/examples", shards)
    entries = []
    for spec, meta in zip(shards, metas, strict=True):
        if meta is None or "data" not in meta:
            raise UserError(
                f"{plan.path('rejected/examples', spec)} is missing or was changed; delete "
                f"{plan.path('data', spec)} and run the same command again"
            )
        facts = meta["data"]
        path = f"data/{spec.name}.parquet"
        entries.append(FileEntry(path=path, rows=meta["examples"], bytes=facts["bytes"], sha256=facts["sha256"]))
    return tuple(entries)


def has_all_shards(output: AnyPath, manifest: Manifest) -> bool:
    """Return whether a build was built to the end and all its shards exist.

    This quick check reads sizes and footers only; `everyuser check` reads every byte. Raises `UserError` for a shard
    that is damaged or belongs to another build.
    """
    if not manifest.is_built:
        return False
    files = [entry.path.removeprefix("data/") for entry in manifest.files]
    if not all(read_metas(output / "data", files, manifest.fingerprint)):
        return False

    def check(entry: FileEntry) -> None:
        path = output / entry.path
        size = storage.size(path)
        if size != entry.bytes:
            raise UserError(
                f"{path} has {size} bytes instead of {entry.bytes}; delete it and run `everyuser build` again"
            )

    storage.map_files(output, check, manifest.files)
    return True


def complete_manifest(plan: BuildPlan, manifest: Manifest) -> Manifest:
    """Write the card of a build whose shards all exist, and return its manifest, which says if a gate is missed."""
    counts = count_rows(plan)
    check_losses(plan, counts)
    update = {
        "name": plan.config.name,
        "config": plan.config.model_dump(mode="json"),
        "counts": counts,
        "files": file_entries(plan),
    }
    finished = _judged(manifest.model_copy(update=update))
    write_card(plan.output, finished)
    return finished


def judge_again(plan: BuildPlan, manifest: Manifest) -> Manifest:
    """Return the manifest of a build judged by the limits of this run. Store it, and write the card, if they differ."""
    if not manifest.is_built:
        return manifest
    config = manifest.config | {"limits": plan.config.limits.model_dump(mode="json")}
    judged = _judged(manifest.model_copy(update={"config": config}))
    if judged != manifest:
        # The card names missed gates. A report's figures return to it with the next report, which these limits need.
        write_card(plan.output, judged)
        write_manifest(plan.output, judged)
    return judged


def _judged(manifest: Manifest) -> Manifest:
    """Return the manifest of a build with all rows, with the status that its limits give it."""
    return manifest.model_copy(update={"status": "missed_gate" if gates_missed_by(manifest) else "complete"})


def finish_build(plan: BuildPlan) -> None:
    """Finish a detached build, which no driver waits for."""
    manifest = find_manifest(plan.output)
    if manifest is None or manifest.fingerprint != plan.fingerprint:
        raise UserError(f"{plan.output} has lost its manifest; run the same command again")
    manifest = with_unrecorded_runs(plan.output, plan.config, complete_manifest(plan, manifest), "complete")
    write_manifest(plan.output, manifest)
    progress.delete_counts(plan.output)
    check_gates(plan.output, manifest)
