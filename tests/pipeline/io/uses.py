"""All ways to use a file of a store, and the errors of these."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pipeline.io import storage
from pipeline.io.storage import AnyPath
from schemas.base import UserError

ADVICE = "; fix that and run the same command again, finished work is kept"

Use = Callable[[AnyPath], object]


def write_atomically(path: AnyPath) -> None:
    with storage.atomic(path) as temporary:
        temporary.write_bytes(b"x")


def create(path: AnyPath) -> None:
    assert not storage.is_local(path)
    storage.create(path, b"x")


def read_part(path: AnyPath) -> None:
    with storage.open_binary(path) as file:
        file.read(1)


def copy(path: AnyPath) -> None:
    with storage.local_copy(path):
        pass


def copy_folder(path: AnyPath) -> None:
    with storage.local_folder(path):
        pass


WRITES: list[Use] = [
    lambda path: storage.write_bytes(path, b"x"),
    lambda path: storage.write_text(path, "x"),
    write_atomically,
    create,
]
DELETIONS: list[Use] = [storage.remove, storage.remove_tree]
READS: list[Use] = [
    storage.read_bytes,
    read_part,
    copy,
    copy_folder,
    storage.size,
    storage.content_id,
    storage.list_names,
    storage.is_file,
]


def name_of(use: Use, position: int) -> str:
    return f"{position}-{getattr(use, '__name__', 'use').strip('<>')}"


def error_of(use: Use, path: AnyPath) -> str:
    """Return the error of `use`: one line, without its advice."""
    with pytest.raises(UserError) as caught:
        use(path)
    text = str(caught.value)
    assert "\n" not in text
    assert text.endswith(ADVICE)
    return text.removesuffix(ADVICE)
