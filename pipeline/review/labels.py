"""Files of labels. They come from other people, so nothing in them is believed."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from schemas.base import UsageError
from schemas.loader import validate
from schemas.review import Labels

_MOST_BYTES = 16 << 20
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")
"""Half of a UTF-16 pair, which JSON can write and which is no text: it cannot be printed."""


def read_labels(path: Path) -> Labels:
    """Read a file of labels.

    Raises:
        UsageError: The file cannot be read, is no JSON, or holds something else than labels.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise UsageError(f"{path}: has more than {_MOST_BYTES >> 20} MiB, which no file of labels has")
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}; name a file that the page exported") from None
    except (ValueError, RecursionError):
        raise UsageError(f"{path}: is not JSON; name a file that the page exported") from None
    if not isinstance(document, dict):
        raise UsageError(f"{path}: holds no labels; name a file that the page exported")
    if _HALF_CHARACTER.search(json.dumps(document, ensure_ascii=False)):
        raise UsageError(f"{path}: holds half a character (a lone surrogate); export the labels again")
    return validate(Labels, document, str(path))


def read_all_labels(paths: Sequence[Path]) -> dict[str, Labels]:
    """Return the labels of files by name; a file that two paths name counts once."""
    files = {path.resolve(): path for path in paths}
    return {str(path): read_labels(path) for path in files.values()}
