"""The settings of a run as TRL's own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from trl import DPOConfig, RewardConfig

from everyuser_train.config import FitConfig, TrainingConfig
from everyuser_train.models import best_device
from schemas.base import UsageError
from schemas.problems import suggest_name

_OURS = {
    "output_dir": "output",
    "seed": "seed",
    "beta": "training.beta",
    "learning_rate": "training.learning_rate",
    "num_train_epochs": "training.epochs",
    "max_steps": "training.max_steps",
    "per_device_train_batch_size": "training.device_batch_size",
    "gradient_accumulation_steps": "training.batch_size",
    "max_length": "training.max_length",
    "warmup_steps": "training.warmup_ratio",
    "lr_scheduler_type": "training.scheduler",
    "gradient_checkpointing": "training.gradient_checkpointing",
    "precompute_ref_log_probs": "training.precompute_reference",
    "save_steps": "training.save_steps",
    "save_total_limit": "training.save_total",
    "logging_steps": "training.log_steps",
    "eval_steps": "training.eval_steps",
    "report_to": "training.report_to",
    "bf16": "model.dtype",
    "fp16": "model.dtype",
    "model_init_kwargs": "model",
}
"""Fields of TRL that a key of ours sets."""


def trl_arguments(config: FitConfig) -> Any:
    """Return TRL's settings. Raises `UsageError` for contradictions, and for fields that TRL does not have."""
    training, model = config.training, config.model
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if processes == 1 and torch.cuda.device_count() > 1:
        raise UsageError(
            f"one process sees {torch.cuda.device_count()} GPUs; start it by `accelerate launch`, or set "
            "CUDA_VISIBLE_DEVICES=0"
        )
    accumulation, rest = divmod(training.batch_size, training.device_batch_size * processes)
    if rest:
        raise UsageError(
            f"training.batch_size: {training.batch_size} is not a multiple of training.device_batch_size x processes "
            f"({training.device_batch_size} x {processes})"
        )
    if config.data.streaming and training.max_steps < 1:
        raise UsageError("data.streaming: a stream has no length; set training.max_steps")
    dpo = training.objective == "dpo"
    if config.data.streaming and dpo and training.precompute_reference:
        raise UsageError(
            "data.streaming: rows of a stream are not known in advance; set training.precompute_reference to false"
        )
    fields = {
        "output_dir": config.output,
        "seed": config.seed,
        "learning_rate": training.learning_rate,
        # The dataset holds the rows of all epochs, in order.
        "num_train_epochs": 1,
        "max_steps": training.max_steps,
        "train_sampling_strategy": "sequential",
        "per_device_train_batch_size": training.device_batch_size,
        "per_device_eval_batch_size": training.device_batch_size,
        "gradient_accumulation_steps": accumulation,
        # Rows are cut to length when they are rendered.
        "max_length": None,
        "warmup_steps": training.warmup_ratio,
        "lr_scheduler_type": training.scheduler,
        "gradient_checkpointing": training.gradient_checkpointing,
        # TRL disables all dropout, also that of adapters.
        "disable_dropout": model.lora_dropout == 0,
        "save_steps": training.save_steps,
        "save_total_limit": training.save_total,
        "logging_steps": training.log_steps,
        "eval_strategy": "steps",
        # The last step is always evaluated.
        "eval_steps": training.eval_steps or 2**31 - 1,
        "report_to": list(training.report_to) or "none",
        # Without this, half precision on a CPU is an error.
        "use_cpu": best_device() == "cpu",
        "bf16": model.dtype == "bfloat16",
        "fp16": model.dtype == "float16",
        "model_init_kwargs": _model_arguments(config),
        "disable_tqdm": True,
        # One process writes the rows while the others wait.
        "ddp_timeout": 6 * 3600,
    }
    if dpo:
        fields |= {"beta": training.beta, "precompute_ref_log_probs": training.precompute_reference}
    settings = DPOConfig if dpo else RewardConfig
    _check_extra(settings, training, fields)
    try:
        return settings(**(fields | training.extra))
    except (TypeError, ValueError, ImportError) as error:
        raise UsageError(f"training: TRL refuses these settings: {' '.join(str(error).split())}") from error


def _check_extra(settings: Any, training: TrainingConfig, fields: Mapping[str, Any]) -> None:
    """Raise `UsageError` for an extra field that TRL does not have, or that is one of our `fields`."""
    known = list(settings.__dataclass_fields__)
    for name in training.extra:
        if name not in known:
            raise UsageError(f"training.extra: TRL's {settings.__name__} has no '{name}'; {suggest_name(name, known)}")
        if name in _OURS:
            raise UsageError(f"training.extra: '{name}' is set by the key '{_OURS[name]}'")
        if name in fields:
            raise UsageError(f"training.extra: '{name}' is fixed, since a run relies on it; remove it")


def _model_arguments(config: FitConfig) -> dict[str, Any]:
    """Return the arguments for loading the model."""
    model = config.model
    arguments: dict[str, Any] = {
        # Updates of 5e-7 vanish in bfloat16, so fully trained weights are kept in float32.
        "dtype": "float32" if model.tuning == "full" else model.dtype,
        "device_map": None,
    }
    if model.tuning == "qlora":
        if not torch.cuda.is_available():
            raise UsageError("model.tuning: 'qlora' needs a CUDA GPU; use 'lora'")
        arguments["device_map"] = {"": int(os.environ.get("LOCAL_RANK", "0"))}
    if model.revision is not None:
        arguments["revision"] = model.revision
    if model.attention is not None:
        arguments["attn_implementation"] = model.attention
    return arguments
