from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import constants

from tests.hub_stub import (
    WRITER,
    FakeHub,
)
from tests.pipeline.helpers import run_build


@pytest.fixture(scope="module", autouse=True)
def restored() -> Iterator[None]:
    """Restore logging, which `everyuser build` silences in the whole process of the tests."""
    level, hook = logging.getLogger().level, threading.excepthook
    yield
    logging.getLogger().setLevel(level)
    threading.excepthook = hook


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a finished build of five shards, which no test changes."""
    folder = tmp_path_factory.mktemp("finished") / "out"
    run_build(folder, name="my-set")
    return folder


@pytest.fixture
def built(finished: Path, tmp_path: Path) -> Path:
    """Return a copy of the finished build."""
    return Path(shutil.copytree(finished, tmp_path / "out"))


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return another build, with fewer shards."""
    folder = tmp_path_factory.mktemp("other") / "out"
    run_build(folder, name="my-set", pairs=20, seed=7)
    return folder


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


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the client retry without waiting."""
    monkeypatch.setattr("huggingface_hub.utils._http.time", SimpleNamespace(sleep=lambda seconds: None))
