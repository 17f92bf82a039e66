"""What every test starts from."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.object_stores import GcsStore, ObjectStore, S3Store, serving

# pytest-xdist sets it, and the console of the command line would read it when it is imported.
os.environ.pop("COLUMNS", None)
# Without bytecode on disk each process of a test compiles its imports again: 2 s of a processor for Beam alone.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


LONG = (
    *("test_vllm", "test_resume", "test_object_builds", "test_portable_builds", "test_worker"),
    *("test_retry", "test_dag", "test_mined_builds", "test_check", "test_portable_cluster", "test_locks"),
    *("test_publish", "test_server", "test_object_stores", "test_planted", "test_cli", "test_logs"),
    *("test_dataflow", "test_journal", "test_failures", "test_contents", "test_launch", "test_packaged"),
    *("test_browser", "test_everyuser", "test_tour", "test_operations", "test_gather", "test_pairing"),
    *("test_measure", "test_trial", "test_verdicts", "test_index", "test_paper_builds", "test_service"),
    "test_review_browser",
)
"""Files of tests that start processes or run many whole builds, the longest first: begun last, they delay the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the long files and run them first; the order within a file stays."""
    places = {name: place for place, name in enumerate(LONG)}
    for item in items:
        if item.path.stem in places:
            item.add_marker("long")
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


@pytest.fixture(scope="session", autouse=True)
def no_fsync() -> Iterator[None]:
    """Let files of this process wait for no disk. No test looks at what is left after a power cut."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


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
