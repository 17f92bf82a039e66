"""Configurations of the commands: a YAML file, options of the command line and `--set`, as one checked record."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from pydantic import BaseModel

from schemas.loader import apply_override, fill_sections, read_mapping, set_key, validate
from schemas.problems import Key, quote_key

M = TypeVar("M", bound=BaseModel)

_PATHS = ("output", "cache", "data.space", "data.directions")
"""Keys that hold a path."""
_PATHS_OR_NAMES = ("data.path", "model", "model.name", "reference", "annotator.name")
"""Keys that hold a path or a name."""


def load_config(
    model: type[M],
    path: Path | None,
    options: Mapping[str, Any],
    overrides: Sequence[str] = (),
    defaults: Mapping[str, Any] = MappingProxyType({}),
    names: Mapping[str, str] = MappingProxyType({}),
) -> M:
    """Return a configuration.

    Relative paths of the file are resolved against its folder, those of the command line against the working folder. A
    value that may be a Hub id is one if there is no such file or folder.

    Args:
        model: The record of the command.
        path: The YAML file, or None for the command line alone.
        options: Values by dotted key, which replace the file's. None means that the option was not given.
        overrides: `key.sub=value` each, which replace both.
        defaults: Values by dotted key, which the file and the options replace. None means that there is none.
        names: Options of the command line by dotted key, for messages.

    Raises:
        UsageError: Names the file, the key and, for an unknown key, the nearest known one.
    """
    document = {} if path is None else _resolve(read_mapping(path), path.resolve().parent)
    missing = {key: value for key, value in defaults.items() if _value(document, key) is None}
    for key, value in {**missing, **options}.items():
        if value is not None:
            set_key(document, key.split("."), value, f"'{key}'")
    for override in overrides:
        apply_override(document, override, "training.beta=0.2")
    completed = fill_sections(model, _resolve(document, Path.cwd()))

    def where(key: Key) -> tuple[str, str]:
        prefix, quoted = quote_key(key)
        option = names.get(".".join(map(str, key)))
        return prefix, quoted if option is None else f"{quoted} ({option})"

    return validate(model, completed, "the command line" if path is None else str(path), where)


def _value(document: Any, key: str) -> Any:
    """Return the value of a dotted key, or None if there is none."""
    for name in key.split("."):
        document = document.get(name) if isinstance(document, dict) else None
    return document


def _resolve(document: dict[str, Any], folder: Path, prefix: str = "") -> dict[str, Any]:
    """Return the document with its paths resolved against `folder`."""

    def resolved(key: str, value: Any) -> Any:
        if isinstance(value, dict):
            return _resolve(value, folder, f"{key}.")
        if isinstance(value, list):
            return [resolved(key, entry) for entry in value]
        if not isinstance(value, str) or not value:
            return value
        path = folder / Path(value).expanduser()
        is_path = key in _PATHS or (key in _PATHS_OR_NAMES and (value.startswith((".", "~")) or path.exists()))
        return os.path.normpath(path) if is_path else value

    return {key: resolved(f"{prefix}{key}", value) for key, value in document.items()}
