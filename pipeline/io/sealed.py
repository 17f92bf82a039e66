"""JSON files of a build with a digest, by which damage and edits are detected."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pipeline.io import storage
from pipeline.io.storage import AnyPath
from schemas.base import UserError

_DIGEST = "digest"


def write_sealed(path: AnyPath, document: Mapping[str, Any]) -> None:
    """Write a JSON object with its digest, atomically."""
    storage.write_text(path, seal(document))


def read_sealed(path: AnyPath) -> dict[str, Any] | None:
    """Read a JSON object; None where there is no such file. Raise `UserError` where it is damaged or was edited."""
    try:
        return unseal(storage.read_bytes(path))
    except FileNotFoundError:
        return None
    except ValueError:
        raise UserError(f"{path} is damaged or was edited; delete it and run again") from None


def seal(document: Mapping[str, Any]) -> str:
    """Return a JSON object with its digest, as text."""
    return json.dumps({**document, _DIGEST: _digest(document)}, indent=1) + "\n"


def unseal(content: bytes) -> dict[str, Any]:
    """Return the object in a text of `seal`. Raise `ValueError` where the text was changed."""
    document = json.loads(content)
    if not isinstance(document, dict) or document.pop(_DIGEST, None) != _digest(document):
        raise ValueError("the digest is not that of the content")
    return document


def _digest(document: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
