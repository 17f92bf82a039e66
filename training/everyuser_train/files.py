"""Files that appear whole."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from schemas.base import UserError


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield the path of a scratch file, which replaces `path` when the block ends.

    Raises `UserError` if the file or its folder cannot be written.
    """
    scratch = path.with_name(f"{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield scratch
        scratch.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            scratch.unlink()
        raise UserError(
            f"{path} cannot be written ({error.strerror or error}); free some space, or choose another output"
        ) from None
