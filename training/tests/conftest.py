"""Disables the telemetry and the progress bars of the libraries, and holds fixtures of several files."""

from __future__ import annotations

import os
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TQDM_DISABLE", "1")


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the client of an endpoint wait no second before it asks again."""
    import openai

    monkeypatch.setattr(openai._base_client, "INITIAL_RETRY_DELAY", 0.001)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from tests.tiny import tiny_tokenizer

    return tiny_tokenizer()


@pytest.fixture(scope="module")
def model() -> Any:
    from tests.tiny import tiny_model

    return tiny_model()
