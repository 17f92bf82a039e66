from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.pipeline.helpers import run_build


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
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the client retry without waiting."""
    monkeypatch.setattr("huggingface_hub.utils._http.time", SimpleNamespace(sleep=lambda seconds: None))
