from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    MptConfig,
    Qwen3NextConfig,
    RecurrentGemmaConfig,
)

from everyuser_train import forward as module
from everyuser_train.forward import score_batches, shares_prefixes
from everyuser_train.masks import takes_own_mask
from everyuser_train.score import FloatArray, encode
from everyuser_train.trees import group
from schemas.base import UserError
from tests.tiny import make_pairs, score, score_encoded, tiny_model, tiny_of

Pair = tuple[list[dict[str, str]], str]


def plain(model: Any, tokenizer: Any, pairs: Sequence[Pair]) -> FloatArray:
    """One sequence at a time, in float32, all logits."""
    sums = []
    for messages, reply in pairs:
        prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt")["input_ids"]
        turns = [*messages, {"role": "assistant", "content": reply}]
        ids = tokenizer.apply_chat_template(turns, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            logp = torch.log_softmax(model(ids).logits.float(), dim=-1)[0]
        sums.append(sum(float(logp[place - 1, ids[0, place]]) for place in range(prompt.shape[1], ids.shape[1])))
    return np.array(sums)


def test_scores_agree_with_plain_transformers(model: Any, tokenizer: Any) -> None:
    pairs = make_pairs(20)
    scores = score(model, tokenizer, pairs, 2000)
    np.testing.assert_allclose(scores, plain(model, tokenizer, pairs), rtol=1e-5)
    # A byte is a token; the template ends a turn with </s> and a line break.
    assert [entry.reply for entry in encode(tokenizer, pairs)] == [len(reply.encode()) + 2 for _, reply in pairs]


@pytest.mark.parametrize("batch_tokens", [1, 500, 3000, 10**6])
def test_batches_and_padding_change_nothing(model: Any, tokenizer: Any, batch_tokens: int) -> None:
    pairs = make_pairs(16)
    alone = np.array([score(model, tokenizer, [pair], 10**6)[0] for pair in pairs])
    np.testing.assert_allclose(score(model, tokenizer, pairs, batch_tokens), alone, rtol=1e-5)


def test_order_changes_nothing(model: Any, tokenizer: Any) -> None:
    pairs = make_pairs(16)
    order = np.random.default_rng(1).permutation(len(pairs))
    scores, mixed = (score(model, tokenizer, some, 1500) for some in (pairs, [pairs[k] for k in order]))
    np.testing.assert_allclose(mixed, scores[order], rtol=1e-5)


def watch(model: Any, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The shapes of the batches that the model gets from now on."""
    shapes: list[tuple[int, int]] = []
    forward = model.forward

    def watched(**inputs: Any) -> Any:
        shapes.append(tuple(inputs["input_ids"].shape))
        return forward(**inputs)

    monkeypatch.setattr(model, "forward", watched)
    return shapes


def test_batches_are_within_bounds_and_cover_every_reply(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    shapes = watch(model, monkeypatch)
    encoded = encode(tokenizer, make_pairs(16))
    longest = max(len(entry.ids) for entry in encoded)
    done = [len(batch) for batch, _ in score_batches(model, encoded, longest + 20, share=True)]

    assert sum(done) == len(encoded)
    assert all(rows * width <= longest + 20 for rows, width in shapes)
    assert max(rows for rows, _ in shapes) > 1


def test_at_most_a_quarter_of_a_batch_is_padding(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    shapes = watch(model, monkeypatch)
    encoded = encode(tokenizer, make_pairs(40))
    assert len([*score_batches(model, encoded, 10**6, share=True)]) == len(shapes)
    tokens = sum(each.size for each in group(encoded, 4096, 6 * model.config.hidden_size))
    assert sum(rows * width for rows, width in shapes) <= tokens / 0.75
    assert max(rows for rows, _ in shapes) > 2


def test_a_longer_sequence_is_a_batch_alone(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    shapes = watch(model, monkeypatch)
    encoded = encode(tokenizer, make_pairs(4))
    assert len([*score_batches(model, encoded, 1, share=True)]) == 4
    assert sorted(shapes) == sorted((1, len(entry.ids) - 1) for entry in encoded)


def test_replies_to_one_prompt_run_it_once(model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt, *_ = make_pairs(1)[0]
    pairs = [(prompt, reply) for reply in ("yes", "", "no, not that one", "é")]
    expected = plain(model, tokenizer, pairs)
    shapes = watch(model, monkeypatch)
    np.testing.assert_allclose(score(model, tokenizer, pairs, 10**6), expected, rtol=1e-5)
    encoded = encode(tokenizer, pairs)
    # The last token of a reply predicts nothing. That of the empty reply, </s>, begins no other.
    assert shapes == [(1, encoded[0].prompt + sum(entry.reply - 1 for entry in encoded))]


@pytest.mark.parametrize(
    ("kind", "fields", "shares"),
    [
        (LlamaConfig, {"attn_implementation": "eager"}, True),
        (MistralConfig, {"sliding_window": 16}, True),
        (Gemma3TextConfig, {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]}, True),
        (MptConfig, {}, False),
        (MixtralConfig, {}, True),
        (Qwen3NextConfig, {"layer_types": ["linear_attention", "full_attention"]}, False),
        (RecurrentGemmaConfig, {"num_hidden_layers": 3, "attention_window_size": 64, "lru_width": 32}, False),
    ],
)
def test_models_of_other_kinds(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch, kind: Any, fields: dict[str, Any], shares: bool
) -> None:
    model = tiny_of(kind, **fields)
    assert shares_prefixes(model) == shares
    pairs = make_pairs(8)
    expected = plain(model, tokenizer, pairs)
    shapes = watch(model, monkeypatch)
    np.testing.assert_allclose(score(model, tokenizer, pairs, 10**6), expected, rtol=1e-4)
    assert (sum(rows for rows, _ in shapes) < len(pairs)) == shares


def test_models_with_adapters_share_too(model: Any) -> None:
    assert takes_own_mask(get_peft_model(copy.deepcopy(model), LoraConfig(target_modules="all-linear")))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_that_sees_more_than_the_mask_shows_shares_no_prefix(tokenizer: Any, dtype: torch.dtype) -> None:
    model = tiny_model().to(dtype)
    assert shares_prefixes(model)

    def mixed(_module: Any, _inputs: Any, states: torch.Tensor) -> torch.Tensor:
        """A convolution over two columns, which nothing in the model's configuration tells of."""
        return torch.cat([states[:, :1], states[:, 1:] + 0.1 * states[:, :-1]], dim=1)

    model.get_input_embeddings().register_forward_hook(mixed)
    assert takes_own_mask(model)
    assert not shares_prefixes(model)
    if dtype == torch.float32:
        encoded = encode(tokenizer, make_pairs(4))
        trees, alone = (
            np.concatenate([logp[np.argsort(rows)] for rows, logp in score_batches(model, encoded, 10**6, share=share)])
            for share in (True, False)
        )
        assert np.abs(np.sort(trees) - np.sort(alone)).max() > 0.01


def test_a_model_that_fails_under_a_mask_of_trees_shares_no_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()

    def failing(**_: Any) -> Any:
        raise RuntimeError("the size of tensor a must match the size of tensor b")

    monkeypatch.setattr(model, "forward", failing)

    assert not shares_prefixes(model)


def test_logits_are_taken_in_pieces_without_a_difference(
    model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = make_pairs(6)
    whole = score(model, tokenizer, pairs, 10**6)
    monkeypatch.setattr(module, "_CHUNK", 258 * 7)
    np.testing.assert_allclose(score(model, tokenizer, pairs, 10**6), whole, rtol=1e-6)


def test_dropout_is_off_and_the_mode_comes_back(model: Any, tokenizer: Any) -> None:
    dropping = tiny_model(dropout=0.5).train()
    pairs = make_pairs(4)
    np.testing.assert_array_equal(score(dropping, tokenizer, pairs, 1000), score(model, tokenizer, pairs, 1000))
    assert dropping.training
    assert not model.training


def test_half_precision_is_close(model: Any, tokenizer: Any) -> None:
    pairs = make_pairs(6)
    half = score(tiny_model().to(torch.bfloat16), tokenizer, pairs, 1000)
    np.testing.assert_allclose(half, score(model, tokenizer, pairs, 1000), rtol=0.05)


def test_a_log_probability_that_is_not_finite_is_reported(tokenizer: Any) -> None:
    broken = tiny_model()
    torch.nn.init.constant_(broken.lm_head.weight, torch.nan)
    with pytest.raises(UserError, match="not finite in torch"):
        score(broken, tokenizer, make_pairs(2), 1000)


def test_tokens_and_scores_are_those_of_dpo_trainer(tokenizer: Any, tmp_path: Path) -> None:
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    prompts = [messages for messages, _ in make_pairs(8)[::2]]
    replies = [(f"yes {k}", f"certainly not {k} " * (k + 1)) for k in range(len(prompts))]
    rows = [
        {
            "prompt": prompt,
            "chosen": [{"role": "assistant", "content": chosen}],
            "rejected": [{"role": "assistant", "content": rejected}],
        }
        for prompt, (chosen, rejected) in zip(prompts, replies, strict=True)
    ]
    config = DPOConfig(
        output_dir=str(tmp_path),
        use_cpu=True,
        bf16=False,
        max_length=None,
        report_to=[],
        precompute_ref_log_probs=True,
        per_device_train_batch_size=2,
    )
    trainer = DPOTrainer(
        model=tiny_model(), args=config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer
    )
    for side, column in enumerate(("chosen", "rejected")):
        pairs = [(prompt, reply[side]) for prompt, reply in zip(prompts, replies, strict=True)]
        entries = encode(tokenizer, pairs)
        for entry, row in zip(entries, trainer.train_dataset, strict=True):
            assert entry.ids[: entry.prompt].tolist() == row["prompt_ids"]
            assert entry.ids[entry.prompt :].tolist() == row[f"{column}_ids"]
        theirs = [row[f"ref_{column}_logps"] for row in trainer.train_dataset]
        np.testing.assert_allclose(score_encoded(tiny_model(), entries, 1000), theirs, rtol=1e-4)
