"""Reading and writing of a folder's manifest."""

from __future__ import annotations

from pipeline.io import storage
from pipeline.io.sealed import seal, unseal
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
        content = storage.read_bytes(path)
        unseal(content)
        return Manifest.model_validate_json(content)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError:
        raise DamagedManifestError(
            f"{path} is damaged, edited, or of another version; `everyuser build` with the configuration of this build "
            "and this --output writes it again from the finished shards"
        ) from None


def load_manifest(folder: AnyPath) -> Manifest:
    """Read the manifest of a folder that must hold a build. Raise `UsageError` where there is none."""
    manifest = find_manifest(folder)
    if manifest is None:
        raise UsageError(f"{folder} holds no build ({MANIFEST} is not there); name a build's output folder")
    return manifest


def write_manifest(output: AnyPath, manifest: Manifest) -> Manifest:
    """Replace the folder's manifest. Return it with its digest."""
    text = manifest_text(manifest)
    storage.write_text(output / MANIFEST, text)
    return Manifest.model_validate_json(text)


def manifest_text(manifest: Manifest) -> str:
    """Return the text of `manifest.json`."""
    return seal(manifest.model_dump(mode="json", exclude={"digest"}))
