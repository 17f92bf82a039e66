"""What every test starts from."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.object_stores import GcsStore, ObjectStore, S3Store, serving

# pytest-xdist sets it, and the console of the command line would read it when it is imported.
os.environ.pop("COLUMNS", None)


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
