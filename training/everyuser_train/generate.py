"""Replies of a causal language model to conversations, in batches."""

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
    """Give `done` the number of each prompt and the reply to it.

    A reply depends on the model, its prompt and its seed alone, whatever shares its batch (but for rounding in half
    precision); temperature 0 takes the likeliest token. A batch holds at most `batch_tokens` tokens, padding and room
    for the replies included, or one prompt that is longer.
    """
    import torch
    from transformers import GenerationConfig

    encoded = [tokenizer.apply_chat_template([*prompt], add_generation_prompt=True)["input_ids"] for prompt in prompts]
    ends = {tokenizer.eos_token_id, *_listed(model.generation_config.eos_token_id)} - {None}
    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    settings = GenerationConfig(
        max_new_tokens=max_new_tokens, do_sample=False, eos_token_id=sorted(ends) or None, pad_token_id=pad
    )
    # The longest first: memory fails early.
    order = sorted(range(len(encoded)), key=lambda number: -len(encoded[number]))
    while order:
        rows = max(1, batch_tokens // (len(encoded[order[0]]) + max_new_tokens))
        batch, order = order[:rows], order[rows:]
        ids, mask = left_padded([encoded[number] for number in batch])
        with torch.inference_mode():
            replies = model.generate(
                input_ids=torch.from_numpy(ids).to(model.device),
                attention_mask=torch.from_numpy(mask).to(model.device),
                generation_config=settings,
                logits_processor=[_draw([seeds[number] for number in batch], temperature)] if temperature else [],
            )[:, ids.shape[1] :]
        for number, text in zip(batch, tokenizer.batch_decode(replies, skip_special_tokens=True), strict=True):
            done(number, text.strip())


def left_padded(rows: Sequence[Sequence[int]]) -> tuple[IntArray, IntArray]:
    """Tokens and mask, (N, T) each; padding is on the left, so that the last column is every row's last token."""
    width = max(map(len, rows))
    ids, mask = np.zeros((len(rows), width), dtype=np.int64), np.zeros((len(rows), width), dtype=np.int64)
    for number, row in enumerate(rows):
        ids[number, width - len(row) :] = row
        mask[number, width - len(row) :] = 1
    return ids, mask


def _draw(seeds: Sequence[int], temperature: float) -> Callable[[Any, Any], Any]:
    """A logits processor after which the likeliest token is a draw from the distribution, row by row with its own seed.

    That is the Gumbel-max trick; transformers itself would draw all rows of a batch from one stream.
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
