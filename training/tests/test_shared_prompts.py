from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import Gemma3TextConfig, LlamaConfig, MistralConfig, Qwen3MoeConfig
from trl.trainer.utils import add_fused_lm_head

from everyuser_train.shared_prompts import IGNORED, share_prompts
from tests.tiny import tiny_of

FIELDS = ("log_probs", "entropy", "log_sum_sq_probs", "mean_logits", "is_top1", "label_mask")


def batch(prompts: list[int], chosen: list[int], rejected: list[int]) -> dict[str, torch.Tensor]:
    """Return a batch as TRL makes it: chosen rows first, padded on the right."""
    generator = torch.Generator().manual_seed(7)
    width = max(p + max(c, r) for p, c, r in zip(prompts, chosen, rejected, strict=True))
    ids = torch.ones(2 * len(prompts), width, dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORED)
    for pair, prompt in enumerate(prompts):
        shared = torch.randint(2, 258, (prompt,), generator=generator)
        for row, reply in ((pair, chosen[pair]), (len(prompts) + pair, rejected[pair])):
            ids[row, :prompt] = shared
            ids[row, prompt : prompt + reply] = torch.randint(2, 258, (reply,), generator=generator)
            mask[row, : prompt + reply] = 1
            labels[row, prompt : prompt + reply] = ids[row, prompt : prompt + reply]
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def model(*, shared: bool, kind: Any = LlamaConfig, **fields: Any) -> Any:
    made = tiny_of(kind, **fields)
    add_fused_lm_head(made, outputs=FIELDS[:-1])
    if shared:
        share_prompts(made)
    return made


@pytest.mark.parametrize(
    ("prompts", "chosen", "rejected"),
    [([5], [3], [3]), ([9, 4], [2, 7], [6, 1]), ([3, 12, 6], [1, 4, 2], [5, 1, 2])],
)
def test_one_pass_over_the_prompt_gives_what_two_give(
    prompts: list[int], chosen: list[int], rejected: list[int]
) -> None:
    inputs = batch(prompts, chosen, rejected)
    apart, together = model(shared=False), model(shared=True)

    expected = apart(**inputs, fused_lm_head=True)
    found = together(**inputs, fused_lm_head=True)

    for name in FIELDS:
        torch.testing.assert_close(found[name].float(), expected[name].float(), rtol=1e-4, atol=1e-4)
    signs = torch.tensor([1.0, -1.0]).repeat_interleave(len(prompts))
    for each, output in ((apart, expected), (together, found)):
        (output.log_probs.sum(1) * signs).sum().backward()
        assert each.model.embed_tokens.weight.grad.abs().sum() > 0
    for one, other in zip(apart.parameters(), together.parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (LlamaConfig, {"attn_implementation": "eager"}),
        (MistralConfig, {"sliding_window": 4}),
        (Gemma3TextConfig, {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]}),
    ],
)
def test_other_attentions_share_too(kind: Any, fields: dict[str, Any]) -> None:
    inputs = batch([9, 4], [2, 7], [6, 1])

    expected = model(shared=False, kind=kind, **fields)(**inputs, fused_lm_head=True)
    found = model(shared=True, kind=kind, **fields)(**inputs, fused_lm_head=True)

    torch.testing.assert_close(found.log_probs, expected.log_probs, rtol=1e-4, atol=1e-4)


def test_the_prompt_runs_once() -> None:
    shared, tokens = model(shared=True), []
    shared.model.register_forward_pre_hook(
        lambda _module, _args, kwargs: tokens.append(kwargs["input_ids"].shape), with_kwargs=True
    )

    shared(**batch([50, 50], [2, 3], [4, 1]), fused_lm_head=True)

    assert tokens == [(2, 56)]


@pytest.mark.parametrize("by_default", [False, True])
def test_a_loss_that_balances_experts_counts_every_token(by_default: bool) -> None:
    sizes = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    fields = {"kind": Qwen3MoeConfig, "output_router_logits": by_default, **sizes}
    inputs = batch([9, 4], [2, 7], [6, 1]) | ({} if by_default else {"output_router_logits": True})

    expected = model(shared=False, **fields)(**inputs, fused_lm_head=True)
    found = model(shared=True, **fields)(**inputs, fused_lm_head=True)

    torch.testing.assert_close(found.aux_loss, expected.aux_loss)
    torch.testing.assert_close(found.log_probs, expected.log_probs)
