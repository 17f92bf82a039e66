"""Configuration of datasets and of a training run: each key typed, documented and defaulted."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, JsonValue, model_validator

from schemas.base import Record
from schemas.packaged_models import SMALL

Part = Literal["ugc", "pair", "demo"]
Dtype = Literal["float32", "bfloat16", "float16"]


class DataSource(Record):
    """A dataset, for any command."""

    path: str = Field(description="A folder, a Hub id, or a JSON or JSONL file of AlignX's shape.")
    revision: str | None = Field(None, description="Revision of a Hub dataset.")
    space: str | None = Field(None, description="A preference_space.yaml, if the dataset has none.")
    directions: tuple[str, ...] = Field(
        (), description="Files written by `everyuser-train infer`: directions of personas, if the dataset has none."
    )
    limit: int | None = Field(None, ge=1, description="Use at most this many examples of a split.")


class DataConfig(DataSource):
    """The dataset of a training run."""

    train_split: str = Field("train", description="Split that is trained on.")
    eval_split: str | None = Field("validation", description="Split that is evaluated during training; null for none.")
    pairs_together: bool = Field(
        True,
        description="Train on both rows of a mirrored pair in one step, so that whatever they teach regardless of the "
        "persona cancels out. A stream keeps the dataset's order, in which they are neighbours.",
    )
    streaming: bool = Field(False, description="Read the training split as a stream; requires `training.max_steps`.")


class EvalData(DataSource):
    """One split of a dataset, for commands other than `fit`."""

    split: str = Field("test", description="Split of the dataset; a file has only one.")


class PersonaConfig(Record):
    """Rendering of a persona into a prompt."""

    method: Literal["ica", "pba"] = Field(
        description="`ica`: the prompt holds the persona itself. `pba`: only its direction in words."
    )
    parts: Annotated[tuple[Part, ...], Field(min_length=1)] = Field(
        ("ugc", "pair", "demo"), description="Parts of the persona that are used: `ugc`, `pair`, `demo`."
    )
    items_min: int = Field(0, ge=0, description="Fewest history items of each kind in an example.")
    items_max: int = Field(4, ge=0, description="Most history items; the number is drawn for each example and epoch.")
    direction: Literal["target", "history"] = Field(
        "target", description="`pba`: the example's own direction, or the aggregate of the persona's parts."
    )

    @model_validator(mode="after")
    def _range(self) -> PersonaConfig:
        if self.items_min > self.items_max:
            raise ValueError("items_min is larger than items_max")
        return self


class ModelConfig(Record):
    """The model to train. The reference is the same model before training."""

    name: str = Field(description=f"A Hub id, a folder, or a packaged model such as `{SMALL}`.")
    revision: str | None = Field(None, description="Revision of a Hub model.")
    dtype: Dtype = Field("bfloat16", description="Data type of the computation.")
    tuning: Literal["full", "lora", "qlora"] = Field("lora", description="Train all weights, or adapters.")
    lora_rank: int = Field(16, ge=1, description="Rank of the adapters.")
    lora_alpha: int = Field(32, ge=1, description="Scale of the adapters.")
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="Dropout of the adapters.")
    lora_targets: tuple[str, ...] | Literal["all-linear"] = Field("all-linear", description="Modules with adapters.")
    attention: str | None = Field(None, description="Attention implementation of transformers, such as `sdpa`.")


class TrainingConfig(Record):
    """DPO. `extra` takes further fields of TRL's DPOConfig."""

    beta: float = Field(0.1, gt=0, description="Beta of DPO: strength of the pull towards the reference.")
    learning_rate: float = Field(5e-7, gt=0, description="Peak learning rate.")
    epochs: float = Field(1.0, gt=0, description="Passes over the data.")
    max_steps: int = Field(-1, ge=-1, description="Optimizer steps; -1: by `epochs`.")
    batch_size: int = Field(128, ge=1, description="Preferences per optimizer step, over all devices.")
    device_batch_size: int = Field(1, ge=1, description="Preferences per device and pass; the rest is accumulated.")
    max_length: int = Field(8192, ge=32, description="Most tokens of prompt and reply; history items are cut first.")
    warmup_ratio: float = Field(0.1, ge=0, le=1, description="Share of the steps with a rising learning rate.")
    scheduler: str = Field("cosine", description="Learning rate schedule, by its name in transformers.")
    gradient_checkpointing: bool = Field(True, description="Save memory at the cost of time.")
    precompute_reference: bool = Field(True, description="Score the reference once before training.")
    save_steps: int = Field(100, ge=1, description="Steps between checkpoints.")
    save_total: int = Field(2, ge=1, description="Checkpoints kept.")
    log_steps: int = Field(10, ge=1, description="Steps between rows of metrics.")
    eval_steps: int | None = Field(None, ge=1, description="Steps between evaluations; null: at the end only.")
    report_to: tuple[str, ...] = Field((), description="Trackers of transformers, such as `wandb`.")
    extra: dict[str, JsonValue] = Field(default_factory=dict, description="Further fields of TRL's DPOConfig.")


class FitConfig(Record):
    """One training run."""

    output: str = Field(description="Folder for checkpoints, metrics and the model.")
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of all randomness.")
    data: DataConfig
    persona: PersonaConfig
    model: ModelConfig
    training: TrainingConfig = Field(default_factory=lambda: TrainingConfig())
