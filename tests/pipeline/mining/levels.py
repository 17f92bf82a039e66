"""Plans of mined builds, and shards whose threads have given levels."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.mining.annotate import MinedShard
from pipeline.plan import BuildPlan, ShardSpec
from pipeline.threads.batch import ThreadBatch
from schemas.config import BuildConfig
from schemas.loader import validate
from schemas.records import SeedPost

Levels = Sequence[int]

FINGERPRINT = "0123456789abcdef" * 4
WORDS = [a + b + c for a, b, c in product("bdfgklmnprst", "aeiou", "lmnrst")]


def text_of(numbers: np.random.Generator, words: int = 12) -> str:
    return " ".join(WORDS[k] for k in numbers.integers(0, len(WORDS), words))


def plan_of(folder: Path = Path("unused"), mining: dict[str, Any] | None = None, **keys: Any) -> BuildPlan:
    source = {"kind": "threads", "path": ["unused.jsonl"]}
    config = {"mining": {"source": source, "annotation": {"mode": "given"}} | (mining or {})} | keys
    return BuildPlan(folder, FINGERPRINT, validate(BuildConfig, config, "test"), {"train": 1000})


def shard_of(
    *levels: Sequence[Levels],
    texts: Sequence[Sequence[str]] | None = None,
    known: Sequence[Sequence[bool]] | None = None,
    shares: npt.NDArray[np.float32] | None = None,
    each: int = 1,
    first: int = 0,
    split: str = "train",
) -> MinedShard:
    """Return threads with the levels of their responses; `first` is the number of the first thread in the split."""
    numbers = np.random.default_rng(first)
    made = [[text_of(numbers) for _ in thread] for thread in levels] if texts is None else texts
    flat = np.array([row for thread in levels for row in thread], dtype=np.int8)
    threads = ThreadBatch(
        [
            SeedPost(id=f"p{k}", title=f"Question {k}", text="What now?", topics=("food",))
            for k in range(first, first + len(levels))
        ],
        np.cumsum([0, *(len(thread) for thread in levels)]),
        [f"r{k}" for thread in levels for k in range(len(thread))],
        [text for thread in made for text in thread],
        flat,
        np.stack([flat > 0, flat < 0], axis=-1).astype(np.float32) if shares is None else shares,
        np.array([flag for thread in known for flag in thread]) if known else np.ones(len(flat), dtype=bool),
    )
    return MinedShard(ShardSpec(split, 0, 1, first * each, len(levels) * each, "mined"), threads)
