"""Reads datasets of the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from schemas.base import UsageError


def dataset_commit(path: str, revision: str, key: str) -> str:
    """Return the commit of a dataset at a revision.

    Args:
        path: `hf://owner/name`.
        revision: Branch, tag or commit.
        key: Configuration key of the dataset, for messages.

    Raises:
        UsageError: The dataset is not reachable, or does not exist.
    """
    from huggingface_hub import HfApi

    try:
        info = HfApi().dataset_info(path.removeprefix("hf://"), revision=revision)
    except Exception as error:  # The client passes on errors of its HTTP library.
        raise UsageError(f"{key}: cannot reach {path} at '{revision}': {_first_line(error)}") from None
    return str(info.sha)


def dataset_rows(path: str, config: str | None, split: str, revision: str, key: str) -> Iterator[Mapping[str, Any]]:
    """Stream the rows of a split.

    Args:
        path: `hf://owner/name`.
        config: Configuration of the dataset; None for the default.
        split: Name of the split.
        revision: Branch, tag or commit.
        key: Configuration key of the dataset, for messages.

    Raises:
        UsageError: The dataset cannot be loaded.
    """
    # Imported here, as it is slow and only these sources need it.
    from datasets import load_dataset

    try:
        yield from load_dataset(path.removeprefix("hf://"), config, split=split, revision=revision, streaming=True)
    except Exception as error:  # A dataset's reader may raise anything.
        raise UsageError(f"{key}: cannot load {path}: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
