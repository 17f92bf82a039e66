"""Versions of installed packages, for the records of runs."""

from __future__ import annotations

import contextlib
import importlib.metadata
from collections.abc import Sequence


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Return the versions of those packages that are installed."""
    found = {}
    for name in packages:
        # Our package has no metadata when it runs from its source folder.
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
