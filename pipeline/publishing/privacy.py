"""Removal of private data from a published manifest: facts about the builder's machine or account.

The sections `engine` and `verification.engine` (addresses, commands, names of environment variables), `workers` (images
and options that name a cloud project) and `publish` are dropped. A local path becomes its last part: a file's name may
say where posts came from, but its folders show who keeps them. The fingerprint identifies the contents anyway.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from pipeline.reading.values import texts_in
from pipeline.runtime.inputs import SPACE
from schemas.manifest import Manifest
from schemas.report import Report

_PRIVATE = ("engine", "workers", "publish")
_PATHS = (
    *("space", "templates", "seeds.path", "generation.model", "generation.extra"),
    "verification.model",
    *("mining.source.path", "mining.source.submissions", "mining.source.comments"),
)


def public_manifest(manifest: Manifest) -> Manifest:
    """Return the manifest without private data: of the same schema, about the same files."""
    names = local_paths(manifest)
    config = {key: value for key, value in manifest.config.items() if key not in _PRIVATE}
    config["verification"] = {key: value for key, value in config["verification"].items() if key not in _PRIVATE}
    return manifest.model_copy(
        update={
            "config": _replace_paths(config, names),
            "parts": _replace_paths(manifest.parts, names),
            # Stored posts are not published, so their hashes would be of no use.
            "inputs": {path: identity for path, identity in manifest.inputs.items() if path == SPACE},
        }
    )


def local_paths(manifest: Manifest, report: Report | None = None) -> dict[str, str]:
    """Return the published name of every local path in the configuration and the report."""
    paths = [path for key in _PATHS for path in texts_in(_get_nested(manifest.config, key))]
    if report is not None:
        paths += [entry.file for entry in report.contamination]
        judged = report.second_judge and report.second_judge.found
        paths += [judged.judge] if judged else []
    return {path: PurePath(path).name for path in paths if _is_local(path)}


def without_paths(text: str, names: Mapping[str, str]) -> str:
    """Return a text with local paths replaced by their names, also as JSON and HTML escape them."""
    for path in sorted(names, key=len, reverse=True):
        for spelt in {path, json.dumps(path)[1:-1], path.replace("&", "&amp;")}:
            text = text.replace(spelt, names[path])
    return text


def _is_local(text: str) -> bool:
    """Return whether a text is a path with folders or an address outside the Hub; `owner/model` is neither."""
    return "\n" not in text and bool(re.match(r"[/~][^/]*/|[A-Za-z]:\\|(?!hf:)[a-z0-9+]+://", text))


def _get_nested(node: Any, key: str) -> Any:
    for part in key.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    return node


def _replace_paths(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _replace_paths(inner, names) for key, inner in value.items()}
    if isinstance(value, list):
        return [_replace_paths(inner, names) for inner in value]
    return names.get(value, value) if isinstance(value, str) else value
