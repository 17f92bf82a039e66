"""Configuration of datasets, of a training run and of an evaluation: each key typed, documented and defaulted."""

from __future__ import annotations

import urllib.parse
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, JsonValue, field_validator, model_validator

from everyuser_train.models import resolve_dtype
from schemas.base import Record
from schemas.config.fields import KeyVariable
from schemas.packaged_models import SMALL
from schemas.problems import Fits
from schemas.records import Kind as PairKind

Part = Literal["ugc", "pair", "demo"]
Parts = Annotated[tuple[Part, ...], Field(min_length=1)]
Dtype = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"],
    AfterValidator(resolve_dtype),
    Field(
        validate_default=True,
        description="Data type of the computation. `auto`: bfloat16 where the GPU or CPU computes in it, else float32.",
    ),
]
"""A data type. In a checked record it is never `auto`: reports and keys of caches hold what was computed with."""
Method = Literal["ica", "pba"]
Objective = Literal["dpo", "reward"]
Trainer = Literal["trl", "reward", "openrlhf", "axolotl", "llamafactory"]
SplitName = Annotated[str, Field(pattern=r"^\w+(\.\w+)*$"), Fits("the name of a split, such as 'train'")]
Source = Literal["target", "history", "user"]
"""Origin of PBA's direction, see `PersonaConfig.direction`."""


class DataSource(Record):
    """A dataset, for any command."""

    path: str = Field(description="A folder, a Hub id, or a JSON or JSONL file of AlignX's shape.")
    revision: str | None = Field(None, description="Revision of a Hub dataset.")
    space: str | None = Field(None, description="A preference_space.yaml, if the dataset has none.")
    directions: tuple[str, ...] = Field(
        (), description="Files written by `everyuser-train infer`: directions of personas, if the dataset has none."
    )
    kinds: Annotated[tuple[PairKind, ...], Field(min_length=1)] | None = Field(
        None, description="Use pairs of these kinds alone: `opposite`, `near`, `restraint`, `mined`; null: all."
    )
    limit: int | None = Field(None, ge=1, description="Use at most this many examples of a split.")


class DataConfig(DataSource):
    """The dataset of a training run."""

    train_split: str = Field("train", description="Split that is trained on.")
    eval_split: str | None = Field("validation", description="Split that is evaluated during training; null for none.")
    pairs_together: bool = Field(
        True,
        description="Train on both rows of a mirrored pair in one step, so that whatever they teach regardless of the "
        "persona cancels out; an odd `training.batch_size` cuts pairs. A stream keeps the dataset's order, in which "
        "they are neighbours.",
    )
    streaming: bool = Field(False, description="Read the training split as a stream; requires `training.max_steps`.")


class EvalData(DataSource):
    """One split of a dataset, for commands other than `fit`."""

    split: str = Field("test", description="Split of the dataset; a file has only one.")


class PersonaConfig(Record):
    """Rendering of a persona into a prompt."""

    method: Method = Field(
        description="`ica`: the prompt holds the persona itself. `pba`: only its direction in words."
    )
    parts: Parts = Field(
        ("ugc", "pair", "demo"), description="Parts of the persona that are used: `ugc`, `pair`, `demo`."
    )
    items_min: int = Field(0, ge=0, description="Fewest history items of each kind in an example.")
    items_max: int = Field(4, ge=0, description="Most history items; the number is drawn for each example and epoch.")
    direction: Source = Field(
        "target",
        description="`pba`: the example's own direction (`target`), the aggregate of the persona's parts (`history`), "
        "or all that is true of the example's `user`.",
    )

    @model_validator(mode="after")
    def _range(self) -> PersonaConfig:
        if self.items_min > self.items_max:
            raise ValueError("items_min is larger than items_max")
        return self


class ModelConfig(Record):
    """The model to train. The reference is the same model before training."""

    name: str = Field(
        description=f"A Hub id, a folder (of a model, or of adapters that `fit` wrote), or a packaged model such as "
        f"`{SMALL}`."
    )
    revision: str | None = Field(None, description="Revision of a Hub model.")
    dtype: Dtype = "auto"
    tuning: Literal["full", "lora", "qlora"] = Field("lora", description="Train all weights, or adapters.")
    adapters: Literal["fresh", "same"] = Field(
        "fresh",
        description="If `name` is a folder of adapters: merge these into their base and train fresh ones on top, or "
        "train the `same` ones further, which keep their rank, scale and targets.",
    )
    lora_rank: int = Field(16, ge=1, description="Rank of the adapters.")
    lora_alpha: int = Field(32, ge=1, description="Scale of the adapters.")
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="Dropout of the adapters.")
    lora_targets: tuple[str, ...] | Literal["all-linear"] = Field("all-linear", description="Modules with adapters.")
    attention: str | None = Field(None, description="Attention implementation of transformers, such as `sdpa`.")


class TrainingConfig(Record):
    """DPO, or a reward model. `extra` takes further fields of TRL's DPOConfig or RewardConfig."""

    objective: Objective = Field(
        "dpo",
        description="`dpo`: a model that writes the preferred replies. `reward`: a model that scores a reply for a "
        "persona, by TRL's RewardTrainer.",
    )
    beta: float = Field(0.1, gt=0, description="`dpo`: strength of the pull towards the reference.")
    learning_rate: float = Field(5e-7, gt=0, description="Peak learning rate.")
    epochs: float = Field(1.0, gt=0, description="Passes over the data.")
    max_steps: int = Field(-1, ge=-1, description="Optimizer steps; -1: by `epochs`.")
    batch_size: int = Field(128, ge=1, description="Preferences per optimizer step, over all devices.")
    device_batch_size: int = Field(1, ge=1, description="Preferences per device and pass; the rest is accumulated.")
    max_length: int = Field(8192, ge=32, description="Most tokens of prompt and reply; history items are cut first.")
    warmup_ratio: float = Field(0.1, ge=0, lt=1, description="Share of the steps with a rising learning rate, below 1.")
    scheduler: str = Field("cosine", description="Learning rate schedule, by its name in transformers.")
    gradient_checkpointing: bool = Field(True, description="Save memory at the cost of time.")
    share_prompts: bool = Field(
        True,
        description="`dpo`: compute a prompt once for both replies, with attention `sdpa` or `eager`; same losses "
        "up to rounding.",
    )
    precompute_reference: bool = Field(True, description="`dpo`: score the reference once before training.")
    save_steps: int = Field(100, ge=1, description="Steps between checkpoints.")
    save_total: int = Field(2, ge=1, description="Checkpoints kept.")
    log_steps: int = Field(10, ge=1, description="Steps between rows of metrics.")
    eval_steps: int | None = Field(None, ge=1, description="Steps between evaluations; null: at the end only.")
    report_to: tuple[str, ...] = Field((), description="Trackers of transformers, such as `wandb`.")
    extra: dict[str, JsonValue] = Field(default_factory=dict, description="Further fields of TRL's configuration.")


class RowsConfig(Record):
    """The rows of a training run."""

    seed: int = Field(0, ge=0, lt=2**31, description="Seed of all randomness.")
    data: DataConfig
    persona: PersonaConfig
    model: ModelConfig | None
    training: TrainingConfig = Field(default_factory=lambda: TrainingConfig())


class FitConfig(RowsConfig):
    """One training run."""

    output: str = Field(description="Folder for checkpoints, metrics and the model.")
    model: ModelConfig


class RenderConfig(RowsConfig):
    """The rows of a training run, for another trainer: the keys of `fit`, and those below."""

    output: str = Field(description="New or empty folder for the rows.")
    format: Trainer = Field(description="The trainer: `trl`, `reward`, `openrlhf`, `axolotl` or `llamafactory`.")
    splits: Annotated[tuple[SplitName, ...], Field(min_length=1)] | None = Field(
        None,
        description="Splits to render; null: `data.train_split` and `data.eval_split`. `data.train_split` is laid out "
        "as `fit` trains on it, all others as `fit` evaluates them.",
    )
    model: ModelConfig | None = Field(
        None, description="The model to train, whose tokenizer cuts prompts to `training.max_length`; null: no cuts."
    )


class Endpoint(Record):
    """An OpenAI-compatible endpoint and the settings of calls to it."""

    base_url: str = Field(description="Address up to and including the version, such as http://127.0.0.1:8000/v1.")
    model: str = Field(min_length=1, description="The model's name there.")
    api_key_env: KeyVariable | None = Field(
        None, description="Environment variable, in capital letters, that holds the key; the only way to give it."
    )
    in_flight: int = Field(16, ge=1, le=1024, description="Most calls at the same time.")
    timeout_seconds: float = Field(120.0, gt=0, description="Longest wait for an answer.")
    retries: int = Field(6, ge=0, description="Retries after 408, 409, 429, 5xx, timeouts and lost connections.")

    extra: dict[str, JsonValue] = Field(
        default_factory=dict, description="Further fields of a call's body; null removes one of ours."
    )

    def body(self, **fields: object) -> dict[str, Any]:
        """Return the body of a call: the model, `fields`, and `extra` on top."""
        return {
            name: value for name, value in {"model": self.model, **fields, **self.extra}.items() if value is not None
        }

    @field_validator("base_url")
    @classmethod
    def _check_base_url(cls, value: str) -> str:
        url = urllib.parse.urlsplit(value)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise ValueError("must begin with http:// or https:// and a host")
        if "@" in url.netloc or url.query or url.fragment:
            # Errors and reports show the address, so it must not hold a secret.
            raise ValueError("must hold no user, password, query or fragment; name the key's variable in api_key_env")
        return value.rstrip("/")


class LocalScorer(Record):
    """Scoring on this machine, by transformers."""

    kind: Literal["transformers"] = "transformers"


class EndpointScorer(Record):
    """Scoring by vLLM's server, with `prompt_logprobs`. Tokens are those of the policy's tokenizer here."""

    kind: Literal["endpoint"]
    policy: Endpoint = Field(description="The policy; adapters have a name of their own on the server.")
    reference: Endpoint = Field(description="The reference: the base model's name, often on the same server.")


class EvaluateConfig(Record):
    """One evaluation of a model against a reference, or of a reward model, which has none."""

    model: str = Field(description="The policy: a Hub id, a folder (of a model or of adapters), or a packaged model.")
    model_revision: str | None = Field(None, description="Revision of a Hub model.")
    reference: str | None = Field(
        None, description="The reference; null: the model that the adapters were trained from."
    )
    reference_revision: str | None = Field(None, description="Revision of a Hub reference.")
    data: EvalData
    method: Method = Field(description="`ica` or `pba`, as the model was trained.")
    directions: Annotated[tuple[Source, ...], Field(min_length=1)] = Field(
        ("target",), description="`pba`: any of `target`, `history` and `user`, as in `PersonaConfig.direction`."
    )
    parts: Annotated[tuple[Parts, ...], Field(min_length=1)] = Field(
        (("ugc", "pair", "demo"), ("ugc",), ("pair",), ("demo",)),
        description="Sets of persona parts; controls and dimensions use the first.",
    )
    cases: int | None = Field(None, ge=1, description="Examples to evaluate, chosen by the seed; null: all.")
    items: int = Field(4, ge=0, description="History items of each kind.")
    lengths: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        (0, 2, 4, 8, 16),
        description="History lengths to compare, in items of each kind, without the portrait.",
    )
    known: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        (0, 1, 2, 4, 8),
        description="Datasets with users: numbers of known items of the user's history to compare, of both kinds "
        "together, without the portrait; the whole history is added.",
    )
    shuffled: bool = Field(True, description="Control: the persona of an example with another post.")
    baseline: bool = Field(True, description="Control: no persona.")
    flip: bool = Field(True, description="Reverse the history pairs and the target pair.")
    dimensions: bool = Field(True, description="Report each dimension and pole.")
    max_length: int = Field(8192, ge=32, description="Most tokens of prompt and reply; history items are cut first.")
    scorer: Annotated[LocalScorer | EndpointScorer, Field(discriminator="kind")] = Field(
        default_factory=LocalScorer,
        description="`{kind: transformers}`, or `{kind: endpoint, policy: {base_url: ..., model: ...}, "
        "reference: {...}}`, which ignores the next three keys.",
    )
    batch_tokens: int = Field(
        8192, ge=1, description="Most tokens of a batch, padding included; a prefix that sequences share counts once."
    )
    dtype: Dtype = Field(
        "float32", description="Data type of the computation. bfloat16 is off by some 0.05 nats a token."
    )
    attention: str | None = Field(
        None,
        description="Attention implementation of transformers; prefixes are shared with `sdpa`, the usual default, and "
        "`eager` only.",
    )
    cache: str | None = Field(None, description="Folder of the scores; null: `everyuser/scores` in the user's cache.")
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of all randomness.")
