"""Differences between a build and the one that its folder holds, in words."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from schemas.config import BuildConfig

_LONGEST_VALUE = 60
"""Most characters of a value that a message repeats."""


def describe_differences(config: BuildConfig, before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Return a clause for each part of the fingerprint of `config` that differs.

    Args:
        config: The configuration of this run.
        before: Parts of the fingerprint in the folder's manifest.
        after: Parts of this run's fingerprint.
    """
    return _differences(before, after, _changes(config))


def _changes(config: BuildConfig) -> dict[str, str]:
    """Return the words for the parts that hash the contents of files."""
    paths = {"seeds.content": ("posts", "seeds.path", [config.seeds.path])}
    if config.mining is not None:
        source = config.mining.source
        found = [path for key in source.paths for path in getattr(source, key)]
        paths["mining.content"] = ("threads", "mining.source", found)
    return {
        part: f"the {what} of {key} have changed since the build began ({', '.join(found[:3])}"
        f"{' and more' if len(found) > 3 else ''})"
        for part, (what, key, found) in paths.items()
    }


def _differences(
    before: dict[str, Any], after: dict[str, Any], changes: Mapping[str, str], prefix: str = ""
) -> list[str]:
    result = []
    for key in sorted(before.keys() | after.keys()):
        old, new = before.get(key), after.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            result.extend(_differences(old, new, changes, f"{prefix}{key}."))
        elif old != new and f"{prefix}{key}" in changes:
            result.append(changes[f"{prefix}{key}"])
        elif old != new:
            was, is_now = (_short(json.dumps(side[key])) if key in side else "not given" for side in (before, after))
            result.append(f"{prefix}{key} was {was} and is now {is_now}")
    return result


def _short(text: str) -> str:
    """Return JSON, cut where it is long, with an open quote closed."""
    if len(text) <= _LONGEST_VALUE:
        return text
    cut = text[:_LONGEST_VALUE].rstrip("\\") + "..."
    return cut + '"' * (len(re.findall(r'(?<!\\)"', cut)) % 2)
