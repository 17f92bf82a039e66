"""Whole builds of mined pairs against a stub server."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from preference_space.space import load_space
from tests.pipeline.helpers import Built, mining, run_build, write_threads
from tests.stub import good

SPACE = load_space("alignx")
SOME = ("age_group", "gender", "neuroticism", "extraversion", "openness", "agreeableness")
"""Dimensions that cost few questions."""


def mine(
    folder: Path, *threads: Path, answer: Any = good, annotation: Mapping[str, Any] | None = None, **keys: Any
) -> Built:
    """Return a build of mined pairs only; `mining` has further keys of that section."""
    section = mining(*threads, annotation=annotation, **keys.pop("mining", {}))
    return Built(folder, *run_build(folder, answer, **{"pairs": None, "mining": section} | keys))


def few(folder: Path, threads: int = 30, **keys: Any) -> Built:
    """Build with few dimensions."""
    folder.mkdir(exist_ok=True)
    path = write_threads(folder / "threads.jsonl", threads)
    annotation = {"dimensions": SOME} | keys.pop("annotation", {})
    return mine(folder / "out", path, annotation=annotation, **{"limits": {"max_lost_share": 1}} | keys)
