"""Attention masks of our own, by which sequences that begin alike share the computation of their beginning."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor


def takes_own_mask(model: Any) -> bool:
    """Return whether attention takes a mask of tokens by tokens, and positions come from `position_ids` alone."""
    config = model.config.get_text_config()
    layers = set(getattr(config, "layer_types", None) or ["full_attention"])
    below = model.get_base_model() if hasattr(model, "get_base_model") else model
    return (
        config._attn_implementation in ("sdpa", "eager")
        and layers <= {"full_attention", "sliding_attention"}
        # MPT and BLOOM count columns; Falcon can.
        and "position_ids" in inspect.signature(type(below).forward).parameters
        and not getattr(config, "alibi", False)
        and not model._is_stateful
    )


def own_mask(model: Any, visible: Tensor, positions: Tensor) -> Any:
    """Return a mask for `model`: additive, (B, 1, W, W); where its kinds of layers differ, one for each.

    Args:
        model: The model; its sliding window is respected.
        visible: True where a token (second axis) may see another (third axis), (B, W, W). Each must see one at least.
        positions: Position of each token in its sequence, (B, W).
    """

    def additive(visible: Tensor) -> Tensor:
        mask = torch.zeros(visible.shape, dtype=model.dtype, device=visible.device)
        return mask.masked_fill_(~visible, torch.finfo(model.dtype).min)[:, None]

    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    layers = set(getattr(config, "layer_types", None) or [])
    if not window or layers == {"full_attention"}:
        return additive(visible)
    near = additive(visible & (positions[:, :, None] - positions[:, None, :] < window))
    return near if len(layers) < 2 else {"full_attention": additive(visible), "sliding_attention": near}
