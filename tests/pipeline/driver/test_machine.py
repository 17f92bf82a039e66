from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.driver.machine import Machine
from schemas.config import VllmEngine


def test_this_machine_has_sizes_in_gib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "not" / "yet"))

    machine = Machine.current(VllmEngine(device="cpu"))

    assert 0.2 < machine.memory < 100_000
    assert 0 < machine.free_disk < 10_000_000
    assert machine.device.is_cpu and machine.dtype in ("bfloat16", "float32")
    assert not machine.has_large
