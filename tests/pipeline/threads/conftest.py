from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.runtime import progress
from pipeline.threads import gather


@pytest.fixture(autouse=True)
def _no_counters(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """End the threads that share the counts of a build."""
    outputs: set[Path] = set()
    original = progress.counters_for

    def counters_for(output: Path) -> progress.Counters:
        outputs.add(output)
        return original(output)

    monkeypatch.setattr(gather, "counters_for", counters_for)
    yield
    for output in outputs:
        progress.delete_counts(output)
