"""Check of every file of a build against its manifest: the command `everyuser check`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

from pydantic import ValidationError

from pipeline.assembly.leaks import read_pool_state
from pipeline.generation.journal import read_journal
from pipeline.io import storage
from pipeline.io.manifests import CARD, MANIFEST, load_manifest
from pipeline.io.shards import open_shard
from pipeline.io.storage import AnyPath
from pipeline.plan import BuildPlan
from pipeline.runtime import inputs
from pipeline.threads.index import check_threads, read_index
from schemas.base import UsageError, UserError
from schemas.config import BuildConfig
from schemas.manifest import FileEntry, Manifest

_STATES = {
    "incomplete": "not finished",
    "missed_gate": "finished, but misses a gate of its limits",
    "complete": "finished",
}


class CheckResult(NamedTuple):
    """Result of a check."""

    checks: int
    problems: tuple[str, ...]
    """One line each, with the file and what to do."""
    state: str
    """Whether the build is finished."""


def check_build(folder: AnyPath) -> CheckResult:
    """Check every byte of a build's shards and every line of its journals; the build may be unfinished.

    Raises `UsageError` where the folder holds no build of this version, or its manifest is damaged.
    """
    manifest = load_manifest(folder)
    plan = plan_of(folder, manifest)
    checks = [*_checks(plan, manifest)]
    # Several checks may report the same missing file.
    problems = dict.fromkeys(problem for problem in storage.map_files(folder, _problem_in, checks) if problem)
    return CheckResult(len(checks), tuple(problems), _STATES[manifest.status])


def plan_of(folder: AnyPath, manifest: Manifest) -> BuildPlan:
    """Return the plan in a manifest. Raise `UsageError` where its configuration is of another version."""
    try:
        config = BuildConfig.model_validate_json(json.dumps(manifest.config))
    except ValidationError:
        raise UsageError(f"{folder / MANIFEST} is damaged, or of another version of everyuser") from None
    plan = BuildPlan(folder, manifest.fingerprint, config)
    index = read_index(plan) if config.mining else None
    return dataclasses.replace(plan, threads=index.splits) if index else plan


def check_entry(folder: AnyPath, entry: FileEntry, fingerprint: str) -> None:
    """Raise `UsageError` for a shard that differs from its entry in the manifest.

    In an object store only the size is compared. Publishing compares the hash once it has fetched the bytes.

    Args:
        folder: The build's output folder.
        entry: The shard's entry in the manifest.
        fingerprint: Fingerprint that the shard's footer must have.
    """
    path = folder / entry.path
    try:
        with open_shard(path, fingerprint=fingerprint):
            pass
    except FileNotFoundError:
        raise UsageError(f"{path} is missing; run `everyuser build` again") from None
    is_local = storage.is_local(path)
    if storage.content_id(path) != entry.sha256 if is_local else storage.size(path) != entry.bytes:
        raise hash_mismatch(path)


def hash_mismatch(path: AnyPath) -> UsageError:
    """Return the error for a shard whose bytes are not those of the build."""
    return UsageError(
        f"{path} was changed after it was built (its hash is not that of {MANIFEST}); delete it and run "
        "`everyuser build` again"
    )


def _checks(plan: BuildPlan, manifest: Manifest) -> Iterator[Callable[[], object]]:
    folder, parts = plan.output, manifest.parts
    is_built = manifest.is_built
    # A whole build is not built again for files that its rows do not need.
    beside = _check_derived if is_built else _check_required
    yield partial(inputs.read_space, folder, parts["space"])
    yield partial(inputs.read_templates, folder, parts["templates"])
    if plan.config.sampled_pairs:
        yield partial(inputs.check_seeds, plan, manifest.inputs)
    if plan.config.mining and (is_built or plan.threads):
        yield partial(beside, folder / "threads", partial(check_threads, plan))
    for entry in manifest.files:
        yield partial(check_entry, folder, entry, plan.fingerprint)
    if is_built:
        yield partial(_require, folder / CARD, "`everyuser report` writes it again")
        yield partial(beside, folder / "pool", partial(read_pool_state, plan))
        for spec in plan.shards():
            others = ("annotated",) if spec.source == "mined" else ()
            for place in ("pool", "rejected/pairs", "rejected/examples", *others):
                path = plan.path(place, spec)
                yield partial(beside, path, partial(_require, path))
    hashed = {entry.path for entry in manifest.files}
    for place in ("seeds", "threads", "annotated", "pool", "data", "rejected/pairs", "rejected/examples"):
        for name in storage.list_names(folder / place):
            path = folder / place / name
            # The hashes of these files were compared above.
            is_read = storage.is_local(folder) and f"{place}/{name}" in hashed
            if name.endswith(".parquet") and not is_read:
                read = partial(_read_whole, path, plan.fingerprint)
                yield read if place in ("seeds", "data") else partial(beside, path, read)
    for name in storage.list_names(folder / "journal"):
        if name.endswith(".jsonl"):
            yield partial(read_journal, folder / "journal" / name)


def _check_required(path: AnyPath, check: Callable[[], object]) -> None:
    check()


def _check_derived(path: AnyPath, check: Callable[[], object]) -> None:
    try:
        check()
    except (UserError, FileNotFoundError):
        raise UserError(
            f"{path} is missing or was changed; the rows do not need it, but reports and --retry-lost do; restore it "
            "from a copy"
        ) from None


def _require(path: AnyPath, way_out: str = "run the same build command again") -> None:
    if not storage.is_file(path):
        raise UserError(f"{path} is missing; {way_out}")


def _read_whole(path: AnyPath, fingerprint: str) -> None:
    """Read every page of a shard, which verifies its checksums."""
    with open_shard(path, whole=True, fingerprint=fingerprint) as file:
        for group in range(file.metadata.num_row_groups):
            file.read_row_group(group)


def _problem_in(check: Callable[[], object]) -> str | None:
    try:
        check()
    except UserError as error:
        return str(error)
    except FileNotFoundError as error:
        return f"{error.filename or error} is missing; run `everyuser build` again"
    return None
