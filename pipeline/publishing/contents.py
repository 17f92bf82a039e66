"""What of a build is published: its files, checked against the manifest, fit for people who were not there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from pydantic import ValidationError

from pipeline.card.render import card
from pipeline.driver.check import check_entry, load_current_manifest, plan_of
from pipeline.driver.finish import count_rows, is_complete
from pipeline.io import storage
from pipeline.io.manifests import CARD, MANIFEST, manifest_text
from pipeline.io.shards import read_meta
from pipeline.io.storage import AnyPath
from pipeline.publishing import privacy
from pipeline.runtime.inputs import SPACE, TEMPLATES, read_space, read_templates
from schemas.base import UsageError, UserError
from schemas.manifest import FileEntry, Manifest
from schemas.report import Report

_SHARDS = "data/*.parquet"
_REPORT = "report.json"
PUBLISHED = (_SHARDS, CARD, MANIFEST, SPACE, f"{TEMPLATES}/*", "report.html", _REPORT, "figures/*")
"""All that is uploaded. What else the repository has of this belongs to an earlier build, and is deleted there."""


@dataclass(frozen=True)
class Contents:
    """What the repository is to hold: the shards, which stay on disk, and every other file with its bytes, by path."""

    folder: AnyPath
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


def is_published_path(path: str) -> bool:
    """Whether publishing writes, and so may delete, the file of this path in the repository."""
    return any(fnmatchcase(path, pattern) and path.count("/") == pattern.count("/") for pattern in PUBLISHED)


def read_contents(folder: AnyPath, repo_id: str, force: bool) -> Contents:
    """The build in `folder` as it is published at `repo_id`.

    Raises `UsageError` where a file is not what the manifest says (hash, rows, schema, fingerprint); and, without
    `force`, where shards are missing or more pairs were lost than the build allows. With it, what there is becomes a
    dataset that can be loaded: card and manifest speak of these shards alone, and the manifest stays "incomplete".
    """
    built = load_current_manifest(folder)
    try:
        manifest = built if is_complete(folder, built) else _partial_manifest(folder, built)
    except UserError as error:
        raise UsageError(str(error)) from None
    strangers = set(_shards(folder)) - {entry.path for entry in manifest.files}
    if strangers:
        raise UsageError(
            f"{folder / min(strangers)} is no shard of this build ({MANIFEST} does not name it); remove it"
        )
    if not force:
        _check_losses(folder, manifest)
        _check_complete(folder, built, manifest)
    if not manifest.files:
        raise UsageError(f"{folder} has no finished shard (no {_SHARDS} there): there is nothing to publish")
    # Both are published, and the first one says what is in the rows.
    read_space(folder, manifest.parts["space"])
    read_templates(folder, manifest.parts["templates"])
    storage.map_files(folder, lambda entry: check_entry(folder, entry, manifest.fingerprint), manifest.files)
    return Contents(folder, manifest, _read_other_files(folder, manifest, repo_id, is_complete=manifest is built))


def _shards(folder: AnyPath) -> list[str]:
    return _matching(folder, _SHARDS)


def _matching(folder: AnyPath, pattern: str) -> list[str]:
    """The files below a folder that a pattern of at most two parts names, relative to it."""
    parent, _, name = pattern.rpartition("/")
    prefix = f"{parent}/" if parent else ""
    found = storage.list_names(folder / parent, files_only=True)
    return [f"{prefix}{entry}" for entry in found if fnmatchcase(entry, name) and not entry.startswith(".")]


def _partial_manifest(folder: AnyPath, manifest: Manifest) -> Manifest:
    """The manifest of an unfinished build, as if its finished shards were all."""
    plan = plan_of(folder, manifest)
    known = {entry.path: entry for entry in manifest.files}
    update = {
        "status": "incomplete",
        "counts": count_rows(plan),
        "files": tuple(known.get(path) or _entry(folder, path) for path in _shards(folder)),
    }
    return manifest.model_copy(update=update)


def _entry(folder: AnyPath, path: str) -> FileEntry:
    meta = _read_footer(folder / path)
    with storage.local_copy(folder / path) as copy:
        size, digest = copy.stat().st_size, storage.content_id(copy)
    return FileEntry(path=path, rows=meta.get("examples", 0), bytes=size, sha256=digest)


def _check_losses(folder: AnyPath, manifest: Manifest) -> None:
    counts, limit = manifest.counts, manifest.config["limits"]["max_lost_share"]
    if counts.pairs_lost > limit * counts.pairs_asked:
        raise UsageError(
            f"{folder}: {counts.pairs_lost} of {counts.pairs_asked} pairs were lost, more than limits.max_lost_share = "
            f"{limit:g}; rejected/ holds each with its reason; --force publishes what there is"
        )


def _check_complete(folder: AnyPath, built: Manifest, found: Manifest) -> None:
    if found is built:
        return
    planned = len(built.files) or len(plan_of(folder, built).shards())
    raise UsageError(
        f"{folder} is not finished: {len(found.files)} of {planned or 'an unknown number of'} shards are there; run "
        "`everyuser build` again, or publish what there is with --force"
    )


def _read_footer(path: AnyPath) -> dict[str, Any]:
    try:
        return read_meta(path) or {}
    except UserError as error:
        raise UsageError(str(error)) from None


def _read_other_files(folder: AnyPath, manifest: Manifest, repo_id: str, is_complete: bool) -> dict[str, bytes]:
    """Every file but the shards. Local paths, which a card or report may name too, are cut to their last part."""
    found = {
        path: storage.read_bytes(folder / path)
        for pattern in PUBLISHED
        if pattern != _SHARDS
        for path in _matching(folder, pattern)
    }
    public = privacy.public_manifest(manifest)
    report = _read_report(folder, found)
    if is_complete and report is not None and report.files_digest != manifest.files_digest:
        raise UsageError(f"{folder / _REPORT} is about other shards than these; run `everyuser report` again")
    names = privacy.local_paths(manifest, report)
    if not is_complete:
        # A report would be about the whole build.
        found = {path: content for path, content in found.items() if not path.startswith(("report.", "figures/"))}
    if not is_complete or CARD not in found:
        found[CARD] = card(public, repo_id).encode()
    # The card in the folder says how to load it from there.
    found[CARD] = found[CARD].replace(b'"PATH_OF_THIS_FOLDER"', json.dumps(repo_id).encode())
    for path in found.keys() & {CARD, "report.html", _REPORT}:
        found[path] = privacy.without_paths(found[path].decode(), names).encode()
    return found | {MANIFEST: manifest_text(public).encode()}


def _read_report(folder: AnyPath, found: Mapping[str, bytes]) -> Report | None:
    try:
        return Report.model_validate_json(found[_REPORT]) if _REPORT in found else None
    except ValidationError:
        raise UsageError(
            f"{folder / _REPORT} is damaged, or of another version; run `everyuser report` again"
        ) from None
