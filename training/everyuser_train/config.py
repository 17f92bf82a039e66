"""The data that every command reads, and the configuration of a training run: keys typed, documented, defaulted."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, JsonValue, model_validator

from everyuser_train.base import Record

Part = Literal["ugc", "pair", "demo"]


class DataSource(Record):
    """A dataset, whatever is done with it."""

    path: str = Field(description="A folder, a Hub id, or a JSON or JSONL file of AlignX's shape.")
    revision: str | None = Field(None, description="Revision of a Hub dataset.")
    space: str | None = Field(None, description="A preference_space.yaml, where the dataset brings none.")
    directions: tuple[str, ...] = Field(
        (), description="Files that `everyuser-train infer` wrote: directions of personas, where the dataset has none."
    )
    limit: int | None = Field(None, ge=1, description="Use at most this many examples of a split.")


class DataConfig(DataSource):
    """The dataset of a training run."""

    train_split: str = Field("train", description="Split that is trained on.")
    eval_split: str | None = Field("validation", description="Split that is evaluated during training; null for none.")
    pairs_together: bool = Field(
        True,
        description="Train on both rows of a mirrored pair in one step, so that what they teach whoever the person is "
        "cancels out. A stream keeps the dataset's order, where they are neighbours.",
    )
    streaming: bool = Field(False, description="Read the training split as a stream; `training.max_steps` is needed.")


class EvalData(DataSource):
    """The split that a command other than `fit` reads."""

    split: str = Field("test", description="Its split; a file has only one.")


class PersonaConfig(Record):
    """How a persona becomes a prompt."""

    method: Literal["ica", "pba"] = Field(
        description="`ica`: the prompt carries the persona itself. `pba`: only its direction in words."
    )
    parts: Annotated[tuple[Part, ...], Field(min_length=1)] = Field(
        ("ugc", "pair", "demo"), description="Parts of the persona that are used: `ugc`, `pair`, `demo`."
    )
    items_min: int = Field(0, ge=0, description="Fewest history items of each kind in an example.")
    items_max: int = Field(4, ge=0, description="Most; how many is drawn anew for each example and epoch.")
    direction: Literal["target", "history"] = Field(
        "target", description="`pba`: the direction is the example's own, or what the persona's parts say together."
    )

    @model_validator(mode="after")
    def _range(self) -> PersonaConfig:
        if self.items_min > self.items_max:
            raise ValueError("items_min is larger than items_max")
        return self


class ModelConfig(Record):
    """The model that is trained. The reference is the same model before training."""

    name: str = Field(description="A Hub id, a folder, or `packaged:smollm2-135m-instruct`.")
    revision: str | None = Field(None, description="Revision of a Hub model.")
    dtype: Literal["float32", "bfloat16", "float16"] = Field("bfloat16", description="Numbers that it computes with.")
    tuning: Literal["full", "lora", "qlora"] = Field("lora", description="Train all weights, or adapters.")
    lora_rank: int = Field(16, ge=1, description="Rank of the adapters.")
    lora_alpha: int = Field(32, ge=1, description="Scale of the adapters.")
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="Dropout of the adapters.")
    lora_targets: tuple[str, ...] | Literal["all-linear"] = Field("all-linear", description="Modules with adapters.")
    attention: str | None = Field(None, description="Attention implementation of transformers, such as `sdpa`.")


class TrainingConfig(Record):
    """DPO. What is not named here can be given in `extra`, field by field of TRL's DPOConfig."""

    beta: float = Field(0.1, gt=0, description="Strength of DPO's pull towards the reference.")
    learning_rate: float = Field(5e-7, gt=0, description="Peak learning rate.")
    epochs: float = Field(1.0, gt=0, description="Passes over the data.")
    max_steps: int = Field(-1, ge=-1, description="Optimizer steps; -1: as `epochs` say.")
    batch_size: int = Field(128, ge=1, description="Preferences of an optimizer step, over all devices.")
    device_batch_size: int = Field(1, ge=1, description="Preferences at once on a device; the rest is accumulated.")
    max_length: int = Field(8192, ge=32, description="Tokens of prompt and response; history items go first.")
    warmup_ratio: float = Field(0.1, ge=0, le=1, description="Share of the steps in which the learning rate rises.")
    scheduler: str = Field("cosine", description="Learning rate schedule, as transformers names it.")
    gradient_checkpointing: bool = Field(True, description="Trade time for memory.")
    precompute_reference: bool = Field(True, description="Score the reference once before training.")
    save_steps: int = Field(100, ge=1, description="Steps between checkpoints.")
    save_total: int = Field(2, ge=1, description="Checkpoints kept.")
    log_steps: int = Field(10, ge=1, description="Steps between lines of metrics.")
    eval_steps: int | None = Field(None, ge=1, description="Steps between evaluations; null: at the end only.")
    report_to: tuple[str, ...] = Field((), description="Trackers that transformers knows, such as `wandb`.")
    extra: dict[str, JsonValue] = Field(default_factory=dict, description="Further fields of TRL's DPOConfig.")


class FitConfig(Record):
    """One training run."""

    output: str = Field(description="Folder for checkpoints, metrics and the model.")
    seed: int = Field(0, ge=0, lt=2**31, description="The root of all randomness.")
    data: DataConfig
    persona: PersonaConfig
    model: ModelConfig
    training: TrainingConfig = Field(default_factory=lambda: TrainingConfig())
