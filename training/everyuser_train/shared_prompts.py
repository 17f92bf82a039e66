"""One pass over the prompt for both replies of a preference.

TRL runs each preference as two sequences, prompt and chosen, prompt and rejected. A prompt that holds a persona is many
times as long as a reply, so nearly all of the work is done twice. Here both replies follow one prompt in one sequence,
and a mask hides them from each other ("Accelerating Direct Preference Optimization with Prefix Sharing", Wang and
Hegde, 2024). Hidden states, and so all losses of TRL, are the same up to rounding. The language model's head sees the
replies' positions alone; TRL's own cut to them needs Triton.
"""

from __future__ import annotations

import contextlib
import inspect
import types
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from trl.trainer import dpo_trainer

from everyuser_train.masks import own_mask, takes_own_mask

IGNORED = -100
"""Label of a token that is not scored, by the convention of transformers."""


class Packed(NamedTuple):
    """Preferences as one sequence each, of the prompt, the chosen and the rejected reply.

    Attributes:
        source: Row of the two-sequence batch that each token comes from, and its column, both (B, L).
        positions: Position of each token in its own conversation, (B, L).
        visible: True where a token (second axis) sees another (third axis), (B, L, L).
        before: Packed column whose hidden state predicts each token of a reply, (2B, R); 0 after its end.
        labels: Those tokens, (2B, R); `IGNORED` after the reply's end.
        columns: Their columns in the two-sequence batch, less one, as predictions are counted; (2B, R).
    """

    source: tuple[Tensor, Tensor]
    positions: Tensor
    visible: Tensor
    before: Tensor
    labels: Tensor
    columns: Tensor


def pack(lengths: Tensor, labels: Tensor) -> Packed:
    """Lay out a batch of TRL's, all chosen rows first, with both replies after one prompt.

    Args:
        lengths: Tokens of each conversation, (2B,).
        labels: The replies' tokens and `IGNORED` elsewhere, (2B, T). The rows k and B + k have the same prompt.
    """
    device, size = labels.device, len(labels) // 2
    scored = labels != IGNORED
    prompts = torch.where(scored.any(1), scored.int().argmax(1), lengths)
    replies = lengths - prompts
    prompt, (chosen, rejected) = prompts[:size, None], replies.view(2, size, 1)
    width = int((prompt + chosen + rejected).max())
    at = torch.arange(width, device=device).expand(size, width)
    second = at >= prompt + chosen
    # Padding sees itself alone: a softmax of nothing is no number.
    inside = at < prompt + chosen + rejected
    positions = torch.where(inside, at - second * chosen, 0)
    rows = torch.arange(size, device=device)[:, None] + size * second
    first = (at >= prompt) & ~second
    hidden = (second[:, :, None] & first[:, None, :]) | ~inside[:, None, :] | ~inside[:, :, None]
    itself = torch.eye(width, dtype=torch.bool, device=device)
    visible = (torch.ones(width, width, dtype=torch.bool, device=device).tril() & ~hidden) | itself

    step = torch.arange(int(replies.max()), device=device)
    exists = step < replies[:, None]
    columns = torch.where(exists, prompts[:, None] + step - 1, 0)
    # The prompt's last token predicts the first of a reply, whose own tokens predict the rest.
    shift = torch.cat([torch.zeros_like(chosen), chosen])
    before = torch.where(exists, columns + torch.where(step > 0, shift, 0), 0)
    found = torch.where(exists, labels.gather(1, columns + 1), IGNORED)
    return Packed((rows, positions), positions, visible, before, found, columns)


@contextlib.contextmanager
def sharing_prompts() -> Iterator[None]:
    """Make every model that TRL's DPOTrainer prepares in this context compute each prompt once, where it can.

    The trainer scores the reference while it is made, so its models must share prompts from the start.
    """
    prepare = dpo_trainer.add_fused_lm_head

    def prepare_shared(model: Any, **kwargs: Any) -> None:
        prepare(model, **kwargs)
        if takes_own_mask(model):
            share_prompts(model)

    dpo_trainer.add_fused_lm_head = prepare_shared
    try:
        yield
    finally:
        dpo_trainer.add_fused_lm_head = prepare


def share_prompts(model: Any) -> None:
    """Make TRL's fused head of `model` compute each prompt once. The model is the one below the adapters."""
    fused = model.forward
    balances = getattr(model.config.get_text_config(), "output_router_logits", False)

    def forward(self: Any, *args: Any, fused_lm_head: bool = False, **kwargs: Any) -> Any:
        # The loss that balances a mixture of experts counts every token, those of both prompts too, by the usual mask.
        if not fused_lm_head or kwargs.get("output_router_logits", balances):
            return fused(*args, fused_lm_head=fused_lm_head, **kwargs)
        ids, labels = kwargs.pop("input_ids"), kwargs.pop("labels")
        packed = pack(kwargs.pop("attention_mask").sum(1), labels)
        size = len(ids) // 2

        def unpack(_module: Any, _args: Any, output: Any) -> Any:
            states = output.last_hidden_state
            index = packed.before[:, :, None].expand(-1, -1, states.shape[-1])
            output.last_hidden_state = torch.cat([states.gather(1, index[:size]), states.gather(1, index[size:])])
            return output

        handle = self.base_model.register_forward_hook(unpack)
        try:
            found = fused(
                input_ids=ids[packed.source],
                attention_mask=own_mask(self, packed.visible, packed.positions),
                position_ids=packed.positions,
                shift_labels=packed.labels,
                fused_lm_head=True,
                **kwargs,
            )
        finally:
            handle.remove()
        return _spread(found, packed, labels.shape[1] - 1)

    # The signature stays: generation and the trainer look at it.
    forward.__signature__ = inspect.signature(fused)  # type: ignore[attr-defined]
    model.forward = types.MethodType(forward, model)


def _spread(found: Any, packed: Packed, width: int) -> Any:
    """Return the head's output with its fields by prediction, (2B, R), at their columns, (2B, `width`)."""
    scored = packed.labels != IGNORED
    rows = torch.arange(len(scored), device=scored.device)[:, None].expand_as(scored)
    place = rows[scored], packed.columns[scored]

    def spread(value: Any) -> Any:
        if not isinstance(value, Tensor) or value.shape != scored.shape:
            return value
        return value.new_zeros(len(scored), width).index_put(place, value[scored])

    for name, value in list(found.items()):
        found[name] = spread(value)
    return found
