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
    storage.write_text(path, json.dumps({**document, _DIGEST: _digest(document)}, indent=1))


def read_sealed(path: AnyPath, advice: str = "delete it and run again") -> dict[str, Any] | None:
    """Read a JSON object; None where there is no such file.

    Raises:
        UserError: The file is damaged or was edited. Names the file and `advice`.
    """
    try:
        document = json.loads(storage.read_bytes(path))
        digest = document.pop(_DIGEST)
        if digest == _digest(document):
            return dict(document)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise UserError(f"{path} is damaged or was edited; {advice}")


def _digest(document: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
