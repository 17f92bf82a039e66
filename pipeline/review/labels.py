"""Files of labels. They come from other people, so nothing in them is believed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from schemas.base import UsageError
from schemas.loader import validate
from schemas.review import Labels

_MOST_BYTES = 16 << 20


def read_labels(path: Path) -> Labels:
    """Read a file of labels; a reviewer without a name takes the file's.

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
    labels = validate(Labels, document, str(path))
    return labels if labels.reviewer.strip() else labels.model_copy(update={"reviewer": path.stem})


def read_all_labels(paths: Sequence[Path]) -> dict[str, Labels]:
    """Return the labels of files by name. Raise `UsageError` where two answer the same question for one reviewer."""
    read: dict[str, Labels] = {}
    origins: dict[tuple[str, str, str], Path] = {}
    for path in paths:
        labels = read_labels(path)
        for pair, answers in labels.answers.items():
            for slug in answers:
                other = origins.setdefault((labels.reviewer, pair, slug), path)
                if other is not path:
                    raise UsageError(
                        f"{other} and {path} both have answers of '{labels.reviewer}' to the same question; give each "
                        "reviewer another 'reviewer', or name one file"
                    )
        read[str(path)] = labels
    return read
