"""What of a build is published: its files, checked against the manifest, fit for people who were not there."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from pydantic import ValidationError

from pipeline.card import CARD, card
from pipeline.finish import count_rows
from pipeline.mining.gather import read_index
from pipeline.plan import BuildPlan
from pipeline.prepare import MANIFEST, read_manifest
from pipeline.publishing import privacy
from pipeline.shards import read_meta
from schemas import SCHEMA_VERSION
from schemas.arrow import arrow_schema
from schemas.base import UsageError, UserError
from schemas.config import BuildConfig
from schemas.manifest import FileEntry, Manifest
from schemas.records import Example
from schemas.report import Report

_SHARDS = "data/*.parquet"
_SPACE = "preference_space.yaml"
_REPORT = "report.json"
PUBLISHED = (_SHARDS, CARD, MANIFEST, _SPACE, "templates/*", "report.html", _REPORT, "figures/*")
"""All that is uploaded. What else the repository has of this belongs to an earlier build, and is deleted there."""


@dataclass(frozen=True)
class Contents:
    """What the repository is to hold: the shards, which stay on disk, and every other file with its bytes, by path."""

    folder: Path
    manifest: Manifest
    others: Mapping[str, bytes]

    @property
    def shards(self) -> tuple[FileEntry, ...]:
        """The files with the rows."""
        return self.manifest.files

    @property
    def paths(self) -> set[str]:
        """Every path in the repository."""
        return {entry.path for entry in self.shards} | self.others.keys()


def is_ours(path: str) -> bool:
    """Whether publishing writes, and so may delete, the file of this path in the repository."""
    return any(fnmatchcase(path, pattern) and path.count("/") == pattern.count("/") for pattern in PUBLISHED)


def read_contents(folder: Path, repo_id: str, force: bool) -> Contents:
    """The build in `folder` as it is published at `repo_id`.

    Raises `UsageError` where a file is not what the manifest says (hash, rows, schema, fingerprint); and, without
    `force`, where shards are missing or more pairs were lost than the build allows. With it, what there is becomes a
    dataset that can be loaded: card and manifest speak of these shards alone, and the manifest stays "incomplete".
    """
    built = _manifest_of(folder)
    manifest = built if _is_whole(folder, built) else _what_there_is(folder, built)
    strangers = set(_shards(folder)) - {entry.path for entry in manifest.files}
    if strangers:
        raise UsageError(
            f"{folder / min(strangers)} is no shard of this build ({MANIFEST} does not name it); remove it"
        )
    if not force:
        _refuse_losses(folder, manifest)
        _refuse_gaps(folder, built, manifest)
    if not manifest.files:
        raise UsageError(f"{folder} has no finished shard (no {_SHARDS} there): there is nothing to publish")
    for entry in manifest.files:
        _check_shard(folder, entry, manifest.fingerprint)
    return Contents(folder, manifest, _others(folder, manifest, repo_id, is_whole=manifest is built))


def _manifest_of(folder: Path) -> Manifest:
    try:
        manifest = read_manifest(folder)
    except UsageError:
        raise UsageError(f"{folder / MANIFEST} is damaged, or of another version of everyuser") from None
    if manifest is None:
        raise UsageError(f"{folder} holds no build (no {MANIFEST} there)")
    if manifest.schema_version != SCHEMA_VERSION:
        raise UsageError(
            f"{folder} was built by another version of everyuser (schema {manifest.schema_version}, here "
            f"{SCHEMA_VERSION}); publish it with that version"
        )
    return manifest


def _shards(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in sorted(folder.glob(_SHARDS))]


def _is_whole(folder: Path, manifest: Manifest) -> bool:
    return manifest.status == "complete" and all((folder / entry.path).is_file() for entry in manifest.files)


def _plan(folder: Path, manifest: Manifest) -> BuildPlan:
    try:
        config = BuildConfig.model_validate_json(json.dumps(manifest.config))
    except ValidationError:
        raise UsageError(f"{folder / MANIFEST} is damaged, or of another version of everyuser") from None
    plan = BuildPlan(folder, manifest.fingerprint, config)
    index = read_index(plan) if config.mining else None
    return dataclasses.replace(plan, threads=index.splits) if index else plan


def _what_there_is(folder: Path, manifest: Manifest) -> Manifest:
    """The manifest of an unfinished build, as if its finished shards were all."""
    plan = _plan(folder, manifest)
    known = {entry.path: entry for entry in manifest.files}
    update = {
        "status": "incomplete",
        "counts": count_rows(plan),
        "files": tuple(known.get(path) or _entry(folder, path) for path in _shards(folder)),
    }
    return manifest.model_copy(update=update)


def _entry(folder: Path, path: str) -> FileEntry:
    meta = _meta(folder / path)
    size = (folder / path).stat().st_size
    return FileEntry(path=path, rows=meta.get("examples", 0), bytes=size, sha256=_sha256(folder / path))


def _refuse_losses(folder: Path, manifest: Manifest) -> None:
    counts, limit = manifest.counts, manifest.config["limits"]["max_rejected"]
    if counts.pairs_lost > limit * counts.pairs_asked:
        raise UsageError(
            f"{folder}: {counts.pairs_lost} of {counts.pairs_asked} pairs were lost, more than limits.max_rejected = "
            f"{limit:g}; rejected/ holds each with its reason; --force publishes what there is"
        )


def _refuse_gaps(folder: Path, built: Manifest, found: Manifest) -> None:
    if found is built:
        return
    planned = len(built.files) or len(_plan(folder, built).shards())
    raise UsageError(
        f"{folder} is not finished: {len(found.files)} of {planned or 'an unknown number of'} shards are there; run "
        "`everyuser build` again, or publish what there is with --force"
    )


def _check_shard(folder: Path, entry: FileEntry, fingerprint: str) -> None:
    path = folder / entry.path
    meta = _meta(path)
    with pq.ParquetFile(path) as file:
        rows, schema = file.metadata.num_rows, file.schema_arrow
    checks = {
        "belongs to another build (its fingerprint differs)": meta.get("fingerprint") == fingerprint,
        "has other columns than this version of everyuser writes": schema.equals(arrow_schema(Example)),
        f"has {rows} rows, not the {entry.rows} of {MANIFEST}": rows == entry.rows,
        f"was changed after it was built (its hash is not that of {MANIFEST})": _sha256(path) == entry.sha256,
    }
    for problem, is_fine in checks.items():
        if not is_fine:
            raise UsageError(f"{path} {problem}; delete it and run `everyuser build` again")


def _meta(path: Path) -> dict[str, Any]:
    try:
        return read_meta(path) or {}
    except UserError as error:
        raise UsageError(str(error)) from None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _others(folder: Path, manifest: Manifest, repo_id: str, is_whole: bool) -> dict[str, bytes]:
    """Every file but the shards. Local paths, which a card or report may name too, are cut to their last part."""
    found = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for pattern in PUBLISHED
        if pattern != _SHARDS
        for path in sorted(folder.glob(pattern))
        if path.is_file() and not path.name.startswith(".")
    }
    public = privacy.public_manifest(manifest)
    report = _report(folder, found)
    if is_whole and report is not None and report.files_digest != manifest.files_digest:
        raise UsageError(f"{folder / _REPORT} is about other shards than these; run `everyuser report` again")
    names = privacy.local_paths(manifest, report)
    if not is_whole:
        # A report would be about the whole build.
        found = {path: content for path, content in found.items() if not path.startswith(("report.", "figures/"))}
    if not is_whole or CARD not in found:
        found[CARD] = card(public, repo_id).encode()
    if _SPACE not in found:
        raise UsageError(f"{folder / _SPACE} is missing, which names what is in the rows; take it from a copy")
    # The card in the folder says how to load it from there.
    found[CARD] = found[CARD].replace(b'"PATH_OF_THIS_FOLDER"', json.dumps(repo_id).encode())
    for path in found.keys() & {CARD, "report.html", _REPORT}:
        found[path] = privacy.without_paths(found[path].decode(), names).encode()
    return found | {MANIFEST: (public.model_dump_json(indent=1) + "\n").encode()}


def _report(folder: Path, found: Mapping[str, bytes]) -> Report | None:
    try:
        return Report.model_validate_json(found[_REPORT]) if _REPORT in found else None
    except ValidationError:
        raise UsageError(
            f"{folder / _REPORT} is damaged, or of another version; run `everyuser report` again"
        ) from None
