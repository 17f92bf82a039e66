"""Rewards of replies under a reward model, in batches by length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from everyuser_train.score import Encoded, FloatArray, IntArray
from schemas.base import UserError


def reward_batches(model: Any, encoded: Sequence[Encoded], batch_tokens: int) -> Iterator[tuple[IntArray, FloatArray]]:
    """Yield the rows of each batch and the rewards of its replies, the longest first.

    Padding is on the right, as in TRL's RewardTrainer. The model reads the reward at the last token that is no padding.

    Args:
        model: A reward model of `models.load_reward_model`.
        encoded: Prompts and replies.
        batch_tokens: Most tokens of a batch, with padding. A longer sequence is a batch alone.

    Raises:
        UserError: A reward is not finite.
    """
    padding = model.config.get_text_config().pad_token_id
    left = sorted(range(len(encoded)), key=lambda row: -len(encoded[row].ids))
    while left:
        longest = len(encoded[left[0]].ids)
        size = max(1, batch_tokens // longest)
        rows, left = left[:size], left[size:]
        ids = np.full((len(rows), longest), padding, dtype=np.int64)
        mask = np.zeros_like(ids)
        for place, row in enumerate(rows):
            length = len(encoded[row].ids)
            ids[place, :length], mask[place, :length] = encoded[row].ids, 1
        with torch.inference_mode():
            found = model(
                input_ids=torch.from_numpy(ids).to(model.device),
                attention_mask=torch.from_numpy(mask).to(model.device),
                use_cache=False,
            )
        rewards: FloatArray = found.logits[:, 0].double().cpu().numpy()
        if not np.isfinite(rewards).all():
            raise UserError(f"the model gives rewards that are not finite in {model.dtype}; use another `dtype`")
        yield np.array(rows, dtype=np.int64), rewards
