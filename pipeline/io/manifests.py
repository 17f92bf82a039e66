"""Reading and writing of a folder's manifest."""

from __future__ import annotations

import json

from pipeline.io import storage
from pipeline.io.sealed import seal, unseal
from pipeline.io.storage import AnyPath
from schemas import SCHEMA_VERSION
from schemas.base import UsageError
from schemas.manifest import Manifest

MANIFEST = "manifest.json"
CARD = "README.md"


class DamagedManifestError(UsageError):
    """A file that is no manifest, or was changed after it was written."""


def find_manifest(output: AnyPath) -> Manifest | None:
    """Read the folder's manifest; None where there is none yet.

    Raises:
        DamagedManifestError: The file is damaged or edited; the same build command writes it again.
    """
    path = output / MANIFEST
    try:
        return read_manifest(storage.read_bytes(path))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError:
        raise DamagedManifestError(
            f"{path} is damaged, edited, or of another version; `everyuser build` with the configuration of this build "
            "and this --output writes it again from the finished shards"
        ) from None


def load_manifest(folder: AnyPath) -> Manifest:
    """Read the manifest of a folder that must hold a build. Raise `UsageError` for none, or one of another version."""
    manifest = find_manifest(folder)
    if manifest is None:
        raise UsageError(f"{folder} holds no build ({MANIFEST} is not there); name a build's output folder")
    if manifest.schema_version != SCHEMA_VERSION:
        raise UsageError(
            f"{folder} was built by another version of everyuser (schema {manifest.schema_version}, here "
            f"{SCHEMA_VERSION}); use that version"
        )
    return manifest


def write_manifest(output: AnyPath, manifest: Manifest) -> None:
    """Replace the folder's manifest."""
    storage.write_text(output / MANIFEST, manifest_text(manifest))


def manifest_text(manifest: Manifest) -> str:
    """Return the text of `manifest.json`."""
    return seal(manifest.model_dump(mode="json"))


def read_manifest(text: bytes) -> Manifest:
    """Return the manifest in a text of `manifest_text`. Raise `ValueError` where it was changed."""
    return Manifest.model_validate_json(json.dumps(unseal(text)))
