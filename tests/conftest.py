"""What every test starts from."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.object_stores import GcsStore, ObjectStore, S3Store, serving

# pytest-xdist sets it, and the console of the command line would read it when it is imported.
os.environ.pop("COLUMNS", None)


_LONGEST_FIRST = (
    *("test_vllm", "test_portable_builds", "test_resume", "test_object_builds", "test_server", "test_worker"),
    "test_locks",
)
"""Files of few tests that take minutes: begun last, they would be waited for."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest files first; the order within a file stays."""
    places = {name: place for place, name in enumerate(_LONGEST_FIRST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


@pytest.fixture(scope="module")
def s3_store() -> Iterator[ObjectStore]:
    """An S3 that this process uses, and those that it starts."""
    with serving(S3Store) as store:
        yield store


@pytest.fixture(scope="module")
def gs_store() -> Iterator[ObjectStore]:
    """A Google Cloud Storage that this process uses, and those that it starts."""
    with serving(GcsStore) as store:
        yield store
