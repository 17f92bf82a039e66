"""Where a dataset is: a folder, the Hub, or a JSON file; its manifest and its preference space."""

from __future__ import annotations

import glob
import hashlib
import re
from pathlib import Path
from typing import Any

import orjson

from everyuser_train.config import DataSource
from preference_space.space import PreferenceSpace, load_space
from schemas import SCHEMA_VERSION
from schemas.base import UsageError

_MANIFEST = "manifest.json"
_SPACE = "preference_space.yaml"
_FILES = (".json", ".jsonl")
_HUB_ID = re.compile(r"[\w.-]+(?:/[\w.-]+)?")


def read_space(source: DataSource) -> PreferenceSpace | None:
    """Return the preference space that `source` names, else the dataset's own, else None.

    Raises `UsageError` for a missing dataset, an unknown schema, or a space that cannot be read.
    """
    own = None if is_file(source.path) else _dataset_space(source.path, source.revision)
    path = own if source.space is None else Path(source.space)
    return None if path is None else load_space(path)


def is_file(path: str) -> bool:
    """Return True for a JSON file. Raises `UsageError` for one that does not exist."""
    if not path.endswith(_FILES) or Path(path).is_dir():
        return False
    if not Path(path).is_file():
        raise UsageError(f"{path}: no such file")
    return True


def _dataset_space(path: str, revision: str | None) -> Path | None:
    """Return the space file of a folder or a Hub dataset, after a check of the manifest."""
    manifest = _metadata_file(path, _MANIFEST, revision)
    digest = _check_manifest(path, manifest) if manifest is not None else None
    space = _metadata_file(path, _SPACE, revision)
    if space is not None and digest is not None and hashlib.sha256(space.read_bytes()).hexdigest() != digest:
        raise UsageError(f"{path}: its {_SPACE} is not the file that the dataset was built with; restore that file")
    return space


def _metadata_file(path: str, name: str, revision: str | None) -> Path | None:
    """Return the path of a file of the dataset, or None if there is no such file."""
    if Path(path).is_dir():
        return Path(path, name) if Path(path, name).is_file() else None
    if not _HUB_ID.fullmatch(path):
        raise UsageError(f"{path}: no such folder; give a folder, a Hub id or a file that ends in .json or .jsonl")
    from huggingface_hub import _CACHED_NO_EXIST, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import LocalEntryNotFoundError, RemoteEntryNotFoundError

    try:
        return Path(hf_hub_download(path, name, repo_type="dataset", revision=revision))
    except RemoteEntryNotFoundError:
        return None
    except LocalEntryNotFoundError:
        # Offline. The Hub's cache also records which files a dataset lacks.
        known = try_to_load_from_cache(path, name, revision=revision, repo_type="dataset")
        if known is _CACHED_NO_EXIST:
            return None
        raise UsageError(f"{path}: no such folder, and the Hub cannot be reached") from None
    except Exception as error:  # The Hub's client does not wrap the errors of its HTTP library.
        raise UsageError(f"{path}: neither a folder nor readable from the Hub: {first_line(error)}") from None


def _check_manifest(origin: str, path: Path) -> str | None:
    """Return the hash of the dataset's space, if the manifest names one.

    Raises `UsageError` for an unknown schema or an unfinished build.
    """
    try:
        manifest = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        raise UsageError(f"{origin}: its {_MANIFEST} cannot be read: {error}") from None
    # Another tool's manifest has no schema version of ours.
    if not isinstance(manifest, dict) or "schema_version" not in manifest:
        return None
    version = manifest["schema_version"]
    if version != SCHEMA_VERSION:
        raise UsageError(
            f"{origin}: has schema version {version!r}, but this everyuser reads {SCHEMA_VERSION!r}; install the "
            "version that built it"
        )
    status = manifest.get("status", "complete")
    if status == "missed_gate":
        raise UsageError(f"{origin}: the build misses a gate of its limits; run `everyuser build` with other limits")
    if status != "complete":
        raise UsageError(f"{origin}: the build has status '{status}'; finish it with `everyuser build`")
    inputs = manifest.get("inputs")
    return inputs.get(_SPACE) if isinstance(inputs, dict) else None


def open_dataset(source: DataSource, split: str, *, streaming: bool) -> Any:
    """Return a split of a folder or a Hub dataset. Raises `UsageError` if it cannot be loaded."""
    # A slow import that JSON files do not need.
    from datasets import load_dataset

    # The pipeline's files are named here, since `datasets` takes brackets in the path of a folder for a pattern.
    files: dict[str, Any] = {"path": source.path, "revision": source.revision}
    folder, pattern = Path(source.path, "data").absolute(), f"{glob.escape(split)}-*.parquet"
    if any(folder.glob(pattern)):
        files = {"path": "parquet", "data_files": {split: f"{glob.escape(str(folder))}/{pattern}"}}
    try:
        return load_dataset(**files, split=split, streaming=streaming)
    except Exception as error:  # The Hub's client raises anything, and so does a dataset's reader.
        detail = first_line(error.__cause__ or error)
        raise UsageError(f"{source.path}: cannot load split '{split}': {detail}") from None


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
