from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from everyuser_train.generate import generate, padded

PROMPTS = [[{"role": "user", "content": "word " * length}] for length in (3, 9, 1, 14, 3)]


def replies(
    model: Any,
    tokenizer: Any,
    numbers: list[int],
    seeds: list[int],
    temperature: float,
    batch_tokens: int,
    tokens: int = 12,
) -> list[str]:
    found: dict[int, str] = {}
    prompts = [PROMPTS[number] for number in numbers]
    generate(
        model,
        tokenizer,
        prompts,
        seeds,
        max_new_tokens=tokens,
        temperature=temperature,
        batch_tokens=batch_tokens,
        done=lambda number, text: found.update({number: text}),
    )
    assert sorted(found) == [*range(len(numbers))]
    return [found[number] for number in range(len(numbers))]


def test_temperature_zero_takes_the_likeliest(model: Any, tokenizer: Any) -> None:
    for number, reply in enumerate(replies(model, tokenizer, [0, 1, 2, 3, 4], [0] * 5, 0.0, 10**6)):
        ids = tokenizer.apply_chat_template(PROMPTS[number], add_generation_prompt=True)["input_ids"]
        start = len(ids)
        while len(ids) < start + 12 and ids[-1] != tokenizer.eos_token_id:
            with torch.no_grad():
                ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        assert reply == tokenizer.decode(ids[start:], skip_special_tokens=True).strip()


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_reply_does_not_depend_on_its_batch(model: Any, tokenizer: Any, temperature: float) -> None:
    seeds = [5, 6, 7, 8, 9]
    together = replies(model, tokenizer, [0, 1, 2, 3, 4], seeds, temperature, 10**6)
    assert replies(model, tokenizer, [0, 1, 2, 3, 4], seeds, temperature, 1) == together
    assert replies(model, tokenizer, [0, 1, 2, 3, 4], seeds, temperature, 300) == together
    assert replies(model, tokenizer, [4, 1, 2], [9, 6, 7], temperature, 10**6) == [
        together[4],
        together[1],
        together[2],
    ]
    # The same prompt twice: only the seed makes a difference.
    assert (together[0] == together[4]) == (temperature == 0)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_distribution(model: Any, tokenizer: Any, temperature: float) -> None:
    count = 3000
    ids = tokenizer.apply_chat_template(PROMPTS[2], add_generation_prompt=True)["input_ids"]
    with torch.no_grad():
        wanted = (model(torch.tensor([ids])).logits[0, -1].double() / temperature).softmax(-1).numpy()
    drawn: list[Any] = []

    class Spy:
        """A tokenizer that keeps the tokens that it is to decode."""

        def __getattr__(self, name: str) -> Any:
            return getattr(tokenizer, name)

        def batch_decode(self, rows: Any, **options: Any) -> list[str]:
            drawn.extend(rows[:, 0].tolist())
            return [""] * len(rows)

    generate(
        model,
        Spy(),
        [PROMPTS[2]] * count,
        range(count),
        max_new_tokens=1,
        temperature=temperature,
        batch_tokens=20000,
        done=lambda number, text: None,
    )
    seen = np.bincount(drawn, minlength=len(wanted))
    often = wanted * count >= 5
    observed = np.append(seen[often], seen[~often].sum())
    expected = np.append(wanted[often], wanted[~often].sum()) * count
    # Chi-square, five standard deviations above its mean.
    freedom = len(expected) - 1
    assert ((observed - expected) ** 2 / expected).sum() < freedom + 5 * np.sqrt(2 * freedom)


def test_padding_is_on_the_asked_side() -> None:
    ids, mask = padded([[1, 2, 3], [4]], left=True)
    assert ids.tolist() == [[1, 2, 3], [0, 0, 4]] and mask.tolist() == [[1, 1, 1], [0, 0, 1]]
    ids, mask = padded([[1, 2, 3], [4]], left=False)
    assert ids.tolist() == [[1, 2, 3], [4, 0, 0]] and mask.tolist() == [[1, 1, 1], [1, 0, 0]]
