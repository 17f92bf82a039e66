"""Generation of replies by a causal language model, in batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]


def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[Mapping[str, str]]],
    seeds: Sequence[int],
    *,
    max_new_tokens: int,
    temperature: float,
    batch_tokens: int,
    done: Callable[[int, str], None],
) -> None:
    """Generate a reply to each prompt.

    A reply depends only on the model, its prompt and its seed, not on its batch (but for rounding in half precision).

    Args:
        model: A causal language model of transformers.
        tokenizer: Its tokenizer, with a chat template.
        prompts: Conversations.
        seeds: One for each prompt.
        max_new_tokens: Longest reply.
        temperature: 0 takes the likeliest token.
        batch_tokens: Most tokens of a batch, with padding and room for the replies. A longer prompt is a batch alone.
        done: Called with the number of each prompt and its reply.
    """
    import torch
    from transformers import GenerationConfig

    encoded = [tokenizer.apply_chat_template([*prompt], add_generation_prompt=True)["input_ids"] for prompt in prompts]
    ends = {tokenizer.eos_token_id, *_listed(model.generation_config.eos_token_id)} - {None}
    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    settings = GenerationConfig(
        max_new_tokens=max_new_tokens, do_sample=False, eos_token_id=sorted(ends) or None, pad_token_id=pad
    )
    # The longest first, so that memory runs out early or never.
    order = sorted(range(len(encoded)), key=lambda number: -len(encoded[number]))
    while order:
        rows = max(1, batch_tokens // (len(encoded[order[0]]) + max_new_tokens))
        batch, order = order[:rows], order[rows:]
        ids, mask = padded([encoded[number] for number in batch], left=True)
        with torch.inference_mode():
            replies = model.generate(
                input_ids=torch.from_numpy(ids).to(model.device),
                attention_mask=torch.from_numpy(mask).to(model.device),
                generation_config=settings,
                logits_processor=[_draw([seeds[number] for number in batch], temperature)] if temperature else [],
            )[:, ids.shape[1] :]
        for number, text in zip(batch, tokenizer.batch_decode(replies, skip_special_tokens=True), strict=True):
            done(number, text.strip())


def padded(rows: Sequence[Any], *, left: bool) -> tuple[IntArray, IntArray]:
    """Return tokens and mask, (N, T) each: 1 for a token, 0 for padding. `left` pads before the tokens."""
    shape = len(rows), max(map(len, rows))
    ids, mask = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for number, row in enumerate(rows):
        place = slice(shape[1] - len(row), None) if left else slice(len(row))
        ids[number, place], mask[number, place] = row, 1
    return ids, mask


def _draw(seeds: Sequence[int], temperature: float) -> Callable[[Any, Any], Any]:
    """Return a logits processor after which the likeliest token is a random draw, with a seed for each row.

    It applies the Gumbel-max trick. The sampling of transformers would draw all rows of a batch from one stream.
    """
    import torch

    generators: list[Any] = []

    def noisy(_: Any, logits: Any) -> Any:
        if not generators:
            generators.extend(torch.Generator(logits.device).manual_seed(seed) for seed in seeds)
        noise = [
            torch.empty(logits.shape[-1], device=logits.device).exponential_(generator=generator).log()
            for generator in generators
        ]
        return logits.float() / temperature - torch.stack(noise)

    return noisy


def _listed(value: int | Sequence[int] | None) -> Sequence[int | None]:
    return value if isinstance(value, Sequence) else [value]
