"""Reading of a configuration file, local or in a bucket."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.io import storage
from schemas.base import UsageError
from schemas.config import BuildConfig
from schemas.loader import load_config


def read_config(name: str, overrides: Sequence[str] = ()) -> BuildConfig:
    """Return the configuration at a path or an address, against which its relative paths are resolved."""
    place = storage.parse(name)
    folder = None if storage.is_local(place) else name.rpartition("/")[0]
    try:
        with storage.local_copy(place) as path:
            return load_config(path, overrides, name, folder)
    except FileNotFoundError:
        raise UsageError(f"{name}: no such file") from None
