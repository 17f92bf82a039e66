"""Readers of configuration files: YAML and `--set` in, a checked record or an error of one line out."""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from schemas.base import UsageError
from schemas.config import PACKAGED, PACKAGED_SPACES, BuildConfig
from schemas.documents import parse_yaml, read_yaml
from schemas.problems import Key, describe_errors, quote_key

M = TypeVar("M", bound=BaseModel)


def load_config(
    path: Path, overrides: Sequence[str] = (), origin: str | None = None, folder: str | None = None
) -> BuildConfig:
    """Return the configuration at `path` with `key.sub=value` overrides applied.

    Args:
        path: The YAML file.
        overrides: Values of `--set`, such as `generation.temperature=0.7`.
        origin: Name of the configuration in messages; None: the path.
        folder: Folder or address against which relative paths are resolved; None: the folder of the file.

    Raises:
        UsageError: Names the configuration, the key, the given value and what is expected.
    """
    origin = origin or str(path)
    document = read_mapping(path, origin)
    overridden = [apply_override(document, override, "generation.temperature=0.7") for override in overrides]

    def where(key: Key) -> tuple[str, str]:
        prefix, name = quote_key(key)
        return prefix, f"{name} (by --set)" if any(key[: len(path)] == path for path in overridden) else name

    config = build_config(document, origin, where)
    return _with_absolute_paths(config, folder or str(path.resolve().parent))


def build_config(
    document: dict[str, Any], origin: str, where: Callable[[Key], tuple[str, str]] = quote_key
) -> BuildConfig:
    """Return the configuration in a document, with relative paths unchanged. Arguments and errors are of `validate`."""
    completed = fill_sections(BuildConfig, document)
    if isinstance(completed.get("engine"), dict):
        # An engine without a kind is vLLM.
        completed["engine"] = {"kind": "vllm"} | completed["engine"]
    return validate(BuildConfig, completed, origin, where)


def read_mapping(path: Path, origin: str | None = None) -> dict[str, Any]:
    """Return the YAML mapping in a file. Raises `UsageError` that names `origin`, or the file, and the fault."""
    name = origin or path
    try:
        document = read_yaml(path)
    except FileNotFoundError:
        raise UsageError(f"{name}: no such file") from None
    except IsADirectoryError:
        raise UsageError(f"{name}: a folder, not a YAML file") from None
    except (ValueError, OSError) as error:
        raise UsageError(f"{name}: not readable as YAML: {' '.join(str(error).split())}") from None
    if document is None:
        raise UsageError(f"{name}: is empty")
    if not isinstance(document, dict):
        raise UsageError(f"{name}: expected keys and values, found {type(document).__name__}")
    return document


def validate(
    model: type[M], document: dict[str, Any], origin: str, where: Callable[[Key], tuple[str, str]] = quote_key
) -> M:
    """Return `document` as `model` by JSON's rules, so that YAML's lists and integers fit tuples and floats.

    Args:
        model: The model.
        document: Keys and values, as read from YAML.
        origin: File or source that messages name.
        where: Returns the words for a place: a prefix and the key.

    Raises:
        UsageError: Names the origin, the wrong keys, the given values and what is expected.
    """
    try:
        text = json.dumps(document)
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"{origin}: holds a value that is no text, number, list or map: {error}") from None
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        raise UsageError(f"{origin}: {describe_errors(model, json.loads(text), error, where)}") from None


def fill_sections(model: type[BaseModel], document: dict[str, Any]) -> dict[str, Any]:
    """Return `document` with an empty map for each section that is null or required, so that its keys take defaults.

    Errors then name the keys that a required section lacks. A section that may be absent keeps its null.
    """
    sections = {
        name
        for name, field in model.model_fields.items()
        if _models_in(field.annotation) and type(None) not in get_args(field.annotation)
    }
    required: dict[str, Any] = {name: {} for name in sorted(sections) if model.model_fields[name].is_required()}
    return required | {key: {} if value is None and key in sections else value for key, value in document.items()}


def apply_override(document: dict[str, Any], override: str, example: str) -> Key:
    """Set a key of `document` by an override, `key.sub=value`, and return the key.

    Args:
        document: Changed in place.
        override: The value of a `--set` option.
        example: A right one, for the message.

    Raises:
        UsageError: The override has no key, its value is not YAML, or a parent key holds a value.
    """
    key, separator, text = override.partition("=")
    if not separator or not key.strip():
        raise UsageError(f"--set {override}: expected key=value, such as --set {example}")
    try:
        value = parse_yaml(text)
    except ValueError as error:
        reason = re.sub(r"^line \d+(, column \d+)?: ", "", str(error))
        shown = override if len(override) <= 80 else f"{override[:80]}..."
        raise UsageError(
            f"--set {shown}: the value is not valid YAML ({reason}); for a text put quotes inside the shell's: "
            f"--set '{key.strip()}=\"...\"'"
        ) from None
    path = tuple(key.strip().split("."))
    set_key(document, path, value, f"--set {override}")
    return path


def set_key(document: dict[str, Any], path: Sequence[str], value: object, origin: str) -> None:
    """Set a nested key of `document` in place, with parents as needed.

    Args:
        document: Keys and values, which are changed.
        path: The key and its parents.
        value: The new value.
        origin: Source of the value that a message names, such as `--set pairs.a=1`.

    Raises:
        UsageError: A parent holds a value instead of keys.
    """
    *parents, last = path
    for parent in parents:
        inner = document[parent] = {} if document.get(parent) is None else document[parent]
        if not isinstance(inner, dict):
            raise UsageError(f"{origin}: '{parent}' holds a value, not keys")
        document = inner
    document[last] = value


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]


def _resolve_against(folder: str, path: str) -> str:
    """Return a relative path, resolved against a folder or an address of a bucket."""
    if "://" not in folder:
        return str(Path(folder) / path)
    protocol, _, place = folder.partition("://")
    return f"{protocol}://{posixpath.normpath(posixpath.join(place, path))}"


def _with_absolute_paths(config: BuildConfig, folder: str) -> BuildConfig:
    def resolve(path: str) -> str:
        if "://" in path or path == PACKAGED or path.startswith("/"):
            return path
        return str(Path(path).expanduser()) if path.startswith("~") else _resolve_against(folder, path)

    changes: dict[str, Any] = {}
    if config.space not in PACKAGED_SPACES:
        changes["space"] = resolve(config.space)
    if config.templates is not None:
        changes["templates"] = resolve(config.templates)
    if config.seeds.path != PACKAGED:
        changes["seeds"] = config.seeds.model_copy(update={"path": resolve(config.seeds.path)})
    for name in ("generation", "verification"):
        section = getattr(config, name)
        if section.model is not None and section.model.startswith((".", "~")):
            changes[name] = section.model_copy(update={"model": resolve(section.model)})
    if config.mining is not None:
        source = config.mining.source
        files = {name: tuple(resolve(path) for path in getattr(source, name)) for name in source.paths}
        changes["mining"] = config.mining.model_copy(update={"source": source.model_copy(update=files)})
    if config.engine.kind == "replay" and config.engine.journal != PACKAGED:
        changes["engine"] = config.engine.model_copy(update={"journal": resolve(config.engine.journal)})
    return config.model_copy(update=changes)
