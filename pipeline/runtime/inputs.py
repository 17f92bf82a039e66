"""Inputs of a build in its own folder: space, templates and posts. They are written at its start and checked later.

The configuration determines their content: a missing file is written again, and a changed one is refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from pipeline.io import storage
from pipeline.io.shards import read_meta
from pipeline.io.storage import AnyPath
from pipeline.plan import BuildPlan
from preference_space.space import PreferenceSpace, load_space
from prompts.renderer import Template, load_templates
from schemas.base import UsageError

SPACE = "preference_space.yaml"
TEMPLATES = "templates"
SEEDS = "seeds"


def write_inputs(output: AnyPath, space: PreferenceSpace, templates: Mapping[str, Template]) -> None:
    """Write the missing files of space and templates. Raise `UsageError` for a file that differs."""
    if not storage.is_file(output / SPACE):
        storage.write_text(output / SPACE, space.to_yaml())
    there = set(storage.list_names(output / TEMPLATES))
    for name, template in templates.items():
        if f"{name}.j2" not in there:
            storage.write_text(output / TEMPLATES / f"{name}.j2", template.source)
    read_space(output, space.fingerprint)
    read_templates(output, {name: template.fingerprint for name, template in templates.items()})


def delete_inputs(output: AnyPath) -> None:
    """Delete the files of a run that was killed while it wrote them: its configuration may be another one."""
    storage.remove(output / SPACE)
    for folder in (TEMPLATES, SEEDS):
        storage.remove_tree(output / folder)


def read_space(output: AnyPath, fingerprint: str) -> PreferenceSpace:
    """Load a build's space. Raise `UsageError` where it is missing or has another fingerprint."""
    path = output / SPACE
    if not storage.is_file(path):
        raise missing_input(path)
    with storage.local_copy(path) as copy:
        space = load_space(copy)
    if space.fingerprint != fingerprint:
        raise _changed(path)
    return space


def read_templates(output: AnyPath, fingerprints: Mapping[str, str]) -> dict[str, Template]:
    """Load a build's templates. Raise `UsageError` where one is missing or has another fingerprint."""
    folder = output / TEMPLATES
    there = set(storage.list_names(folder, files_only=True))
    for file in (f"{name}.j2" for name in fingerprints):
        if file not in there:
            raise missing_input(folder / file)
    with storage.local_folder(folder) as copy:
        templates = load_templates(copy)
    for name, template in templates.items():
        if template.fingerprint != fingerprints.get(name):
            raise _changed(folder / f"{name}.j2")
    return templates


def impersonal(split: str) -> str:
    """Return the name of a split's posts for restraint pairs. Its other posts have the name of the split."""
    return f"{split}-impersonal"


def seed_paths(plan: BuildPlan) -> dict[str, AnyPath]:
    """Return the files of posts by their names."""
    names = list(plan.config.people)
    if plan.config.kinds.restraint:
        names += [impersonal(split) for split in names]
    return {name: plan.output / SEEDS / f"{name}.parquet" for name in names}


def space_hash(output: AnyPath) -> dict[str, str]:
    """Return the hash of the space's file, by path. Readers of a published dataset can check it without our code."""
    return {SPACE: hashlib.sha256(storage.read_bytes(output / SPACE)).hexdigest()}


def check_seeds(plan: BuildPlan, recorded: Mapping[str, str]) -> dict[str, str]:
    """Check the posts' files against their recorded identities; return the identity of each, by path."""
    found = {}
    for path in seed_paths(plan).values():
        if read_meta(path, plan.fingerprint) is None:
            raise missing_input(path)
        key = f"{SEEDS}/{path.name}"
        found[key] = storage.content_id(path)
        if not storage.is_same(recorded.get(key, found[key]), found[key]):
            raise _changed(path)
    return found


def missing_input(path: AnyPath) -> UsageError:
    """Return the error for an input that is no longer in the build's folder."""
    return UsageError(f"{path} is missing; run the same build command again, which restores it")


def _changed(path: AnyPath) -> UsageError:
    return UsageError(
        f"{path} has changed since the build began; delete it and run the same build command again, which restores it, "
        "or choose another folder"
    )
