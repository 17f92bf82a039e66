"""Reading a configuration: YAML, options and `--set` in, a record or one clear line out."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from everyuser_train.base import UsageError
from everyuser_train.documents import parse_yaml, read_yaml
from everyuser_train.problems import explain

M = TypeVar("M", bound=BaseModel)

_PATHS = ("output", "cache", "data.space", "data.directions")
_NAMES = ("data.path", "model", "model.name", "reference", "annotator.name")
"""Keys that hold a path, and those that hold a path or a name."""


def load_config(model: type[M], path: Path | None, options: Mapping[str, Any], overrides: Sequence[str] = ()) -> M:
    """A configuration: the file at `path`, on top of it `options` by dotted key, then `overrides` (`key.sub=value`).

    An option that is None was not given. Relative paths are resolved against the file's folder, those of the command
    line against the working folder; what may be a Hub id is one if there is no such file or folder. Raises `UsageError`
    that names the file, the key and, for an unknown key, the nearest known one.
    """
    document = {} if path is None else _absolute(_read_yaml(path), path.resolve().parent)
    for key, value in options.items():
        if value is not None:
            _set(document, key, value, f"'{key}'")
    for override in overrides:
        _override(document, override)
    document = _absolute(document, Path.cwd())
    sections = {name for name, field in model.model_fields.items() if _models_in(field.annotation)}
    # A section without keys is its defaults.
    completed = {key: {} if value is None and key in sections else value for key, value in document.items()}
    return validate(model, completed, "the command line" if path is None else str(path))


def validate(model: type[M], document: dict[str, Any], origin: str) -> M:
    """Return `document` as `model`, by JSON's rules, so that lists and integers fit tuples and floats.

    Raises `UsageError` that names `origin`, the wrong keys, what was given, and what is expected.
    """
    try:
        text = json.dumps(document)
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"{origin}: holds something that is neither text, number, list nor map: {error}") from None
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        raise UsageError(f"{origin}: {explain(model, json.loads(text), error)}") from None


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        document = read_yaml(path)
    except ValueError as error:
        raise UsageError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from None
    if not isinstance(document, dict):
        raise UsageError(f"{path}: expected keys and values, found {type(document).__name__}")
    return document


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]


def _override(document: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key.strip():
        raise UsageError(f"--set {override}: expected key=value, such as --set training.beta=0.2")
    try:
        value = parse_yaml(text)
    except ValueError as error:
        reason = re.sub(r"^line \d+(, column \d+)?: ", "", str(error))
        shown = override if len(override) <= 80 else f"{override[:80]}..."
        raise UsageError(
            f"--set {shown}: the value is not valid YAML ({reason}); to have it as a text, put quotes inside the "
            f"shell's: --set '{key.strip()}=\"...\"'"
        ) from None
    _set(document, key.strip(), value, f"--set {override}")


def _set(document: dict[str, Any], key: str, value: object, origin: str) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        inner = document[parent] = {} if document.get(parent) is None else document[parent]
        if not isinstance(inner, dict):
            raise UsageError(f"{origin}: '{parent}' holds a value, not keys")
        document = inner
    document[last] = value


def _absolute(document: dict[str, Any], folder: Path, prefix: str = "") -> dict[str, Any]:
    """The document with its paths resolved against `folder`."""

    def resolved(key: str, value: Any) -> Any:
        if isinstance(value, dict):
            return _absolute(value, folder, f"{key}.")
        if isinstance(value, list):
            return [resolved(key, entry) for entry in value]
        if not isinstance(value, str) or not value:
            return value
        path = folder / Path(value).expanduser()
        here = key in _PATHS or (key in _NAMES and (value.startswith((".", "~")) or path.exists()))
        return os.path.normpath(path) if here else value

    return {key: resolved(f"{prefix}{key}", value) for key, value in document.items()}
