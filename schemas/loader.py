"""Reading a build configuration: YAML and `--set` in, a `BuildConfig` or one clear line out."""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from schemas.base import UsageError
from schemas.config import BuildConfig
from schemas.documents import parse_yaml
from schemas.documents import read_yaml as read_document
from schemas.problems import Key, explain, quoted

M = TypeVar("M", bound=BaseModel)


def load_config(path: Path, overrides: Sequence[str] = (), address: str | None = None) -> BuildConfig:
    """Read the configuration at `path`, with `key.sub=value` overrides applied on top.

    Relative paths inside the file are resolved against the file's folder; `address` says where it really is, if `path`
    is but a copy. Raises `UsageError` that names the file, the
    key and, for an unknown key, the nearest known one.
    """
    document = read_yaml(path)
    overridden = [_override(document, override) for override in overrides]

    def where(key: Key) -> tuple[str, str]:
        prefix, name = quoted(key)
        return prefix, f"{name} (by --set)" if any(key[: len(path)] == path for path in overridden) else name

    config = validate(BuildConfig, _completed(document), address or str(path), where)
    return _absolute(config, address.rpartition("/")[0] if address else str(path.resolve().parent))


def _completed(document: dict[str, Any]) -> dict[str, Any]:
    """A section without keys is its defaults, and an engine without a kind is vLLM."""
    # A section that may be absent is absent where it says null; of any other, null is its defaults.
    sections = {
        name
        for name, field in BuildConfig.model_fields.items()
        if _models_in(field.annotation) and type(None) not in get_args(field.annotation)
    }
    completed = {key: {} if value is None and key in sections else value for key, value in document.items()}
    if isinstance(completed.get("engine"), dict):
        completed["engine"] = {"kind": "vllm"} | completed["engine"]
    return completed


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping from a file, or `UsageError`."""
    try:
        document = read_document(path)
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise UsageError(f"{path}: a folder, not a YAML file") from None
    except (ValueError, OSError) as error:
        raise UsageError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
    if document is None:
        raise UsageError(f"{path}: is empty")
    if not isinstance(document, dict):
        raise UsageError(f"{path}: expected keys and values, found {type(document).__name__}")
    return document


def validate(
    model: type[M], document: dict[str, Any], origin: str, where: Callable[[Key], tuple[str, str]] = quoted
) -> M:
    """Return `document` as `model`, by JSON's rules, so that YAML's lists and integers fit tuples and floats.

    Raises `UsageError` that names `origin`, the wrong keys in the words of `where`, what was given, what is expected.
    """
    try:
        text = json.dumps(document)
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"{origin}: holds something that is neither text, number, list nor map: {error}") from None
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        raise UsageError(f"{origin}: {explain(model, json.loads(text), error, where)}") from None


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]


def _override(document: dict[str, Any], override: str) -> Key:
    """Set what an override says, and return its key."""
    key, separator, text = override.partition("=")
    if not separator or not key.strip():
        raise UsageError(f"--set {override}: expected key=value, such as --set generation.temperature=0.7")
    path = tuple(key.strip().split("."))
    *parents, last = path
    node = document
    for parent in parents:
        inner = node[parent] = {} if node.get(parent) is None else node[parent]
        if not isinstance(inner, dict):
            raise UsageError(f"--set {override}: '{parent}' holds a value, not keys")
        node = inner
    try:
        node[last] = parse_yaml(text)
    except ValueError as error:
        reason = re.sub(r"^line \d+(, column \d+)?: ", "", str(error))
        shown = override if len(override) <= 80 else f"{override[:80]}..."
        raise UsageError(
            f"--set {shown}: the value is not valid YAML ({reason}); to have it as a text, put quotes inside the "
            f"shell's: --set '{key.strip()}=\"...\"'"
        ) from None
    return path


def _joined(folder: str, path: str) -> str:
    """A relative path, seen from a folder or from a place in a bucket."""
    if "://" not in folder:
        return str(Path(folder) / path)
    protocol, _, place = folder.partition("://")
    return f"{protocol}://{posixpath.normpath(posixpath.join(place, path))}"


def _absolute(config: BuildConfig, folder: str) -> BuildConfig:
    def resolve(path: str) -> str:
        if "://" in path or path == "packaged" or path.startswith("/"):
            return path
        return str(Path(path).expanduser()) if path.startswith("~") else _joined(folder, path)

    changes: dict[str, Any] = {}
    if config.space != "alignx":
        changes["space"] = resolve(config.space)
    if config.templates is not None:
        changes["templates"] = resolve(config.templates)
    if config.seeds.path != "packaged":
        changes["seeds"] = config.seeds.model_copy(update={"path": resolve(config.seeds.path)})
    if config.generation.model.startswith((".", "~")):
        changes["generation"] = config.generation.model_copy(update={"model": resolve(config.generation.model)})
    if config.mining is not None:
        source = config.mining.source
        files = {name: tuple(resolve(path) for path in getattr(source, name)) for name in source.paths}
        changes["mining"] = config.mining.model_copy(update={"source": source.model_copy(update=files)})
    if config.engine.kind == "replay":
        changes["engine"] = config.engine.model_copy(update={"journal": resolve(config.engine.journal)})
    return config.model_copy(update=changes)
