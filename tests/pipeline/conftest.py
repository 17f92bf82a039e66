from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from pipeline.io import storage
from pipeline.io.storage import AnyPath
from tests.hub_stub import WRITER, FakeHub
from tests.object_stores import ObjectStore


@pytest.fixture(scope="module", autouse=True)
def restored() -> Iterator[None]:
    """Restore logging, which the command line silences in the whole process of the tests."""
    level, hook = logging.getLogger().level, threading.excepthook
    yield
    logging.getLogger().setLevel(level)
    threading.excepthook = hook


@pytest.fixture(params=["memory", "s3", "gs"])
def place(request: pytest.FixtureRequest) -> str:
    """The kind of store that a test uses; `local` is none."""
    return str(request.param)


@pytest.fixture
def store(place: str, request: pytest.FixtureRequest) -> ObjectStore:
    found: ObjectStore = request.getfixturevalue(f"{place}_store")
    return found


@pytest.fixture
def folder(place: str, request: pytest.FixtureRequest, tmp_path: Path) -> AnyPath:
    """A folder that nothing has written to yet."""
    if place == "local":
        return tmp_path / "folder"
    root = "memory:/" if place == "memory" else request.getfixturevalue(f"{place}_store").url
    return storage.parse(f"{root}/{uuid.uuid4().hex}/folder")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    """Return a Hub that this process's clients use. They read the environment at import, so it is patched here."""
    with FakeHub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setenv("HF_TOKEN", WRITER)
        yield hub
        assert not hub.tokens_at_storage
