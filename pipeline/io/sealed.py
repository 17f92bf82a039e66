"""JSON files that a build writes for itself, with a digest: what was damaged or edited since is not believed."""

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
    """Write a JSON object with its digest, whole or not at all."""
    storage.write_text(path, json.dumps({**document, _DIGEST: _digest(document)}, indent=1))


def read_sealed(path: AnyPath, way_out: str = "delete it and run again") -> dict[str, Any] | None:
    """Read a JSON object; None where there is no such file.

    Raises:
        UserError: It is not what was written. Names the file and `way_out`.
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
    raise UserError(f"{path} is damaged or was edited; {way_out}")


def _digest(document: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
