"""Datasets of the Hub as input: their commit, and their rows as a stream."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from schemas.base import UsageError


def dataset_commit(path: str, revision: str, key: str) -> str:
    """The commit that `hf://owner/name` has at a revision; `key` is the configuration's, for errors."""
    from huggingface_hub import HfApi

    try:
        info = HfApi().dataset_info(path.removeprefix("hf://"), revision=revision)
    except Exception as error:  # The Hub's client lets errors of its HTTP library through, whichever that is.
        raise UsageError(f"{key}: cannot reach {path} at '{revision}': {_first_line(error)}") from None
    return str(info.sha)


def dataset_rows(path: str, config: str | None, split: str, revision: str, key: str) -> Iterator[Mapping[str, Any]]:
    """Every row of a split, streamed."""
    # A heavy import that only these sources need.
    from datasets import load_dataset

    try:
        yield from load_dataset(path.removeprefix("hf://"), config, split=split, revision=revision, streaming=True)
    except Exception as error:  # As above; and a dataset's own reader may raise anything.
        raise UsageError(f"{key}: cannot load {path}: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
