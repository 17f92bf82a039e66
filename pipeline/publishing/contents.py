"""The files of a build that are published: checked against the manifest, without private data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from pydantic import ValidationError

from pipeline.card.render import UNKNOWN_FOLDER, render_card
from pipeline.driver.check import check_entry, plan_of
from pipeline.driver.finish import count_rows, has_all_shards
from pipeline.io import storage
from pipeline.io.manifests import CARD, MANIFEST, load_manifest, manifest_text
from pipeline.io.shards import read_meta
from pipeline.io.storage import AnyPath
from pipeline.publishing import privacy
from pipeline.runtime.inputs import SPACE, TEMPLATES, read_space, read_templates
from pipeline.verification.gates import gates_missed_by
from schemas.base import UsageError, UserError
from schemas.manifest import FileEntry, Manifest
from schemas.report import Report

_SHARDS = "data/*.parquet"
_REPORT = "report.json"
PUBLISHED = (_SHARDS, CARD, MANIFEST, SPACE, f"{TEMPLATES}/*", "report.html", _REPORT, "figures/*")
"""Patterns of the uploaded files. Other files in the repository that match are of an earlier build and are deleted."""


@dataclass(frozen=True)
class Contents:
    """The wanted content of the repository: shards, which stay on disk, and the bytes of all other files by path."""

    folder: AnyPath
    manifest: Manifest
    others: Mapping[str, bytes]

    @property
    def shards(self) -> tuple[FileEntry, ...]:
        """Return the entries of the shards."""
        return self.manifest.files

    @property
    def paths(self) -> set[str]:
        """Every path that the repository will hold."""
        return {entry.path for entry in self.shards} | self.others.keys()


def is_published_path(path: str) -> bool:
    """Return whether publishing writes this path of the repository, and so may delete it there."""
    return any(fnmatchcase(path, pattern) and path.count("/") == pattern.count("/") for pattern in PUBLISHED)


def read_contents(folder: AnyPath, repo_id: str, force: bool) -> Contents:
    """Return the content to publish for the build in `folder`.

    Args:
        folder: The build's output folder.
        repo_id: The dataset repository; the card names it.
        force: Publish an unfinished build, or one beyond its limits. Card and manifest of an unfinished one then
            describe the finished shards only, and the manifest stays "incomplete".

    Raises:
        UsageError: A file differs from the manifest in hash, rows, schema or fingerprint. Without `force` also where
            shards are missing, more pairs were lost than `limits.max_lost_share` allows, or a gate is missed.
    """
    built = load_manifest(folder)
    try:
        manifest = built if has_all_shards(folder, built) else _partial_manifest(folder, built)
    except UserError as error:
        raise UsageError(str(error)) from None
    strangers = set(_shards(folder)) - {entry.path for entry in manifest.files}
    if strangers:
        raise UsageError(
            f"{folder / min(strangers)} does not belong to this build ({MANIFEST} does not list it); remove it"
        )
    if not force:
        _check_limits(folder, manifest)
        _check_complete(folder, built, manifest)
    if not manifest.files:
        raise UsageError(f"{folder} has no finished shard (no {_SHARDS}), so there is nothing to publish")
    # Both files are published, and the space defines the directions in the rows.
    read_space(folder, manifest.parts["space"])
    read_templates(folder, manifest.parts["templates"])
    storage.map_files(folder, lambda entry: check_entry(folder, entry, manifest.fingerprint), manifest.files)
    return Contents(folder, manifest, _read_other_files(folder, manifest, repo_id, is_complete=manifest is built))


def _shards(folder: AnyPath) -> list[str]:
    return _matching(folder, _SHARDS)


def _matching(folder: AnyPath, pattern: str) -> list[str]:
    """Return the files that match a pattern of at most two parts, relative to the folder."""
    parent, _, name = pattern.rpartition("/")
    prefix = f"{parent}/" if parent else ""
    found = storage.list_names(folder / parent, files_only=True)
    return [f"{prefix}{entry}" for entry in found if fnmatchcase(entry, name) and not entry.startswith(".")]


def _partial_manifest(folder: AnyPath, manifest: Manifest) -> Manifest:
    """Return the manifest of an unfinished build, reduced to its finished shards."""
    plan = plan_of(folder, manifest)
    known = {entry.path: entry for entry in manifest.files}
    update = {
        "status": "incomplete",
        "counts": count_rows(plan),
        "files": tuple(known.get(path) or _entry(folder, path) for path in _shards(folder)),
    }
    return manifest.model_copy(update=update)


def _entry(folder: AnyPath, path: str) -> FileEntry:
    meta = read_meta(folder / path) or {}
    with storage.local_copy(folder / path) as copy:
        size, digest = copy.stat().st_size, storage.content_id(copy)
    return FileEntry(path=path, rows=meta.get("examples", 0), bytes=size, sha256=digest)


def _check_limits(folder: AnyPath, manifest: Manifest) -> None:
    missed = gates_missed_by(manifest)
    if missed:
        raise UsageError(f"{folder}: {'; '.join(missed)}; --force publishes it all the same")


def _check_complete(folder: AnyPath, built: Manifest, found: Manifest) -> None:
    if found is built:
        return
    planned = len(built.files) or len(plan_of(folder, built).shards())
    raise UsageError(
        f"{folder} is not finished: {len(found.files)} of {planned or 'an unknown number of'} shards exist; run "
        "`everyuser build` again, or publish these with --force"
    )


def _read_other_files(folder: AnyPath, manifest: Manifest, repo_id: str, is_complete: bool) -> dict[str, bytes]:
    """Return every file except the shards. Local paths in them, also in card and report, are cut to their last part."""
    found = {
        path: storage.read_bytes(folder / path)
        for pattern in PUBLISHED
        if pattern != _SHARDS
        for path in _matching(folder, pattern)
    }
    public = privacy.public_manifest(manifest)
    report = _read_report(folder, found)
    if is_complete and report is not None:
        if report.files_digest != manifest.files_digest:
            raise UsageError(f"{folder / _REPORT} describes other shards; run `everyuser report` again")
        if list(report.missed_gates) != gates_missed_by(manifest):
            raise UsageError(f"{folder / _REPORT} was judged by other limits; run `everyuser report` again")
    names = privacy.local_paths(manifest, report)
    if not is_complete:
        # A report describes the whole build only.
        found = {path: content for path, content in found.items() if not path.startswith(("report.", "figures/"))}
    if not is_complete or CARD not in found:
        found[CARD] = render_card(public, repo_id).encode()
    # The card in the folder shows how to load the dataset from that folder.
    found[CARD] = found[CARD].replace(json.dumps(UNKNOWN_FOLDER).encode(), json.dumps(repo_id).encode())
    for path in found.keys() & {CARD, "report.html", _REPORT}:
        found[path] = privacy.without_paths(found[path].decode(), names).encode()
    return found | {MANIFEST: manifest_text(public).encode()}


def _read_report(folder: AnyPath, found: Mapping[str, bytes]) -> Report | None:
    try:
        return Report.model_validate_json(found[_REPORT]) if _REPORT in found else None
    except ValidationError:
        raise UsageError(f"{folder / _REPORT} is damaged or of another version; run `everyuser report` again") from None
