"""TRL's trainer of a run."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from transformers import BitsAndBytesConfig, PrinterCallback, TrainerCallback
from trl import DPOTrainer, RewardTrainer

from everyuser_train import models
from everyuser_train.config import FitConfig, ModelConfig
from everyuser_train.rows import Rows
from everyuser_train.shared_prompts import sharing_prompts
from schemas.base import UsageError


def make_trainer(config: FitConfig, settings: Any, found: Rows, tokenizer: Any, recorder: TrainerCallback) -> Any:
    """Return the trainer of a run. Raises `UsageError` for a model that it cannot train, or lacks a package for."""
    if found.evaluation is None:
        settings.eval_strategy = "no"
    dpo = config.training.objective == "dpo"
    model, adapters = _model(config)
    try:
        with sharing_prompts() if dpo and config.training.share_prompts else contextlib.nullcontext():
            trainer = (DPOTrainer if dpo else RewardTrainer)(
                model=model,
                args=settings,
                train_dataset=found.train,
                eval_dataset=found.evaluation,
                processing_class=tokenizer,
                peft_config=adapters,
                quantization_config=_quantization(config.model),
                callbacks=[recorder],
            )
    except ImportError as error:
        raise UsageError(f"{' '.join(str(error).split())}; pip install 'everyuser-train[qlora]'") from error
    # Without a progress bar, the trainer prints its logs.
    trainer.remove_callback(PrinterCallback)
    return trainer


def _model(config: FitConfig) -> tuple[Any, Any]:
    """Return the model, or what TRL loads it by, and PEFT's configuration of new adapters, if there are any."""
    model = config.model
    reward = config.training.objective == "reward"
    name, has_adapters = model.name, models.adapter_base(model.name) is not None
    is_reward = models.is_reward_model(name, model.revision)
    if is_reward and not reward:
        raise UsageError(f"model.name: '{name}' is a reward model; set training.objective to reward")
    if not has_adapters:
        if model.adapters == "same":
            raise UsageError(f"model.adapters: '{name}' is not a folder of adapters; remove the key")
        return models.resolve(name), _adapters(config)
    if reward and not is_reward:
        raise UsageError(
            f"model.name: '{name}' has the adapters of a language model; name their base, or a reward model"
        )
    if model.tuning != "lora":
        raise UsageError(f"model.tuning: {model.tuning} cannot train on from adapters ('{name}'); set it to lora")
    head: models.Head = "reward" if reward else "causal"
    if model.adapters == "same":
        return models.load_weights(head, name, None, model.dtype, model.attention, trainable=True), None
    return models.load_merged(head, name, None, model.dtype, model.attention), _adapters(config)


def _adapters(config: FitConfig) -> Any:
    """Return PEFT's configuration, or None to train all weights."""
    model = config.model
    if model.tuning == "full":
        return None
    from peft import LoraConfig

    return LoraConfig(
        r=model.lora_rank,
        lora_alpha=model.lora_alpha,
        lora_dropout=model.lora_dropout,
        target_modules=model.lora_targets if isinstance(model.lora_targets, str) else list(model.lora_targets),
        # With SEQ_CLS, PEFT also trains and saves the head.
        task_type="CAUSAL_LM" if config.training.objective == "dpo" else "SEQ_CLS",
        revision=model.revision,
    )


def _quantization(model: ModelConfig) -> Any:
    if model.tuning != "qlora":
        return None
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, model.dtype),
    )
