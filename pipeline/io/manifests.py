"""Reading and writing of a folder's manifest."""

from __future__ import annotations

from pydantic import ValidationError

from pipeline.io import storage
from pipeline.io.storage import AnyPath
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
        manifest = Manifest.model_validate_json(storage.read_bytes(path))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValidationError:
        raise _damaged(path) from None
    if not manifest.is_sealed:
        raise _damaged(path)
    return manifest


def load_manifest(folder: AnyPath) -> Manifest:
    """Read the manifest of a folder that must hold a build. Raise `UsageError` where there is none."""
    manifest = find_manifest(folder)
    if manifest is None:
        raise UsageError(f"{folder} holds no build ({MANIFEST} is not there); name a build's output folder")
    return manifest


def _damaged(path: AnyPath) -> DamagedManifestError:
    return DamagedManifestError(
        f"{path} is damaged, edited, or of another version; `everyuser build` with the configuration of this build and "
        "this --output writes it again from the finished shards"
    )


def write_manifest(output: AnyPath, manifest: Manifest) -> None:
    """Replace the folder's manifest."""
    storage.write_text(output / MANIFEST, manifest_text(manifest))


def manifest_text(manifest: Manifest) -> str:
    """Return the text of `manifest.json`."""
    return manifest.sealed().model_dump_json(indent=1) + "\n"
