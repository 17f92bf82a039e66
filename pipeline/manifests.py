"""The manifest of a build's folder, read and written."""

from __future__ import annotations

from pydantic import ValidationError

from pipeline import storage
from pipeline.storage import AnyPath
from schemas.base import UsageError
from schemas.manifest import Manifest

MANIFEST = "manifest.json"


def read_manifest(output: AnyPath) -> Manifest | None:
    """The folder's manifest; None where there is none yet."""
    path = output / MANIFEST
    try:
        return Manifest.model_validate_json(storage.read_bytes(path))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValidationError:
        raise UsageError(f"{path} is damaged or of another version; choose another --output") from None


def write_manifest(output: AnyPath, manifest: Manifest) -> None:
    """Replace the folder's manifest."""
    storage.write_text(output / MANIFEST, manifest.model_dump_json(indent=1) + "\n")
