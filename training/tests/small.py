"""A small dataset and a training configuration on the tiny model, for tests that train."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from everyuser_train.config import FitConfig
from everyuser_train.loader import load_config
from tests.tiny import save_tiny

_WORDS = ("tea", "dog", "rain", "book", "walk", "train", "music", "paint", "bread", "river")


class Silent:
    """An observer that keeps what it receives."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.lines: list[Mapping[str, float]] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def step(self, done: int, total: int) -> None:
        pass

    def metrics(self, values: Mapping[str, float]) -> None:
        self.lines.append(values)


def row(seed: int) -> dict[str, Any]:
    chance = random.Random(seed)

    def text(words: int) -> str:
        return " ".join(chance.choice(_WORDS) for _ in range(words))

    return {
        "id": f"row-{seed}",
        "prompt": text(5),
        "chosen": f"yes {text(3)}",
        "rejected": f"no {text(3)}",
        "profile": f"Likes {text(1)}",
        "Demographic Information": f"Likes {text(2)}.",
        "User-Generated Content": [{"prompt": text(2), "comment": text(2)} for _ in range(3)],
        "Pair-wise Comparative Feedback": [
            {"prompt": text(2), "chosen": text(2), "rejected": text(2)} for _ in range(3)
        ],
    }


def prepare(folder: Path, rows: int = 16) -> Path:
    """Write the tiny model, the data and `run.yaml` to a folder; return the path of the YAML file."""
    save_tiny(folder / "model")
    (folder / "data.json").write_bytes(orjson.dumps([row(seed) for seed in range(rows)]))
    path = folder / "run.yaml"
    path.write_text(
        """
output: out
data: {path: data.json}
persona: {method: ica}
model: {name: ./model, dtype: float32, lora_rank: 4}
training:
  learning_rate: 1e-3
  epochs: 1.5
  batch_size: 4
  device_batch_size: 2
  max_length: 1024
  gradient_checkpointing: false
  save_steps: 2
  log_steps: 1
"""
    )
    return path


def small_config(folder: Path, *overrides: str, rows: int = 16) -> FitConfig:
    return load_config(FitConfig, prepare(folder, rows), {}, overrides)


def with_splits(config: FitConfig, folder: Path) -> FitConfig:
    """Return the configuration with its data as a folder with two splits, the second of four rows."""
    from datasets import load_dataset

    rows = load_dataset("json", data_files=config.data.path, split="train", cache_dir=str(folder / "cache"))
    rows.to_parquet(folder / "splits" / "data" / "train-00000-of-00001.parquet")
    rows.select(range(4)).to_parquet(folder / "splits" / "data" / "validation-00000-of-00001.parquet")
    return config.model_copy(update={"data": config.data.model_copy(update={"path": str(folder / "splits")})})
