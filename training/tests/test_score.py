from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from everyuser_train import models
from everyuser_train import score as score_module
from everyuser_train.score import CACHE_FILE, FloatArray, cached_score, encode, model_key, score_batches
from schemas.base import UserError
from tests.tiny import TEMPLATE, save_adapters, save_tiny, score, score_encoded, tiny_model, tiny_tokenizer

Pair = tuple[list[dict[str, str]], str]

WORDS = ["the", "cat", "sat", "on a mat", "and", "saw", "no dog", "éß", "猫", "\n\n", "", " ", "<b>", "{x}"]


def make_pairs(count: int, seed: int = 0) -> list[Pair]:
    """Prompts and replies of very different lengths; every second prompt is that of the pair before."""
    numbers = np.random.default_rng(seed)

    def text(longest: int) -> str:
        return " ".join(numbers.choice(WORDS, int(numbers.integers(0, longest))))

    pairs: list[Pair] = []
    for number in range(count):
        prompt = [{"role": "system", "content": text(9)}, {"role": "user", "content": text(40)}]
        pairs.append((pairs[-1][0] if number % 2 else prompt, text(30)))
    return pairs


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


def test_batches_are_within_bounds_and_cover_every_reply(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    forward = model.forward
    shapes: list[tuple[int, int]] = []

    def watched(**inputs: Any) -> Any:
        shapes.append(inputs["input_ids"].shape)
        return forward(**inputs)

    monkeypatch.setattr(model, "forward", watched)
    pairs = make_pairs(16)
    encoded = encode(tokenizer, pairs)
    longest = max(len(entry.ids) for entry in encoded)
    done = [len(batch) for batch, _ in score_batches(model, encoded, longest + 20)]

    # Prompts and replies in turn; both together are within bounds, or one reply alone.
    contexts, replies = shapes[::2], shapes[1::2]
    assert done == [rows for rows, _ in replies] and sum(done) == len(pairs)
    for (many, width), (rows, more) in zip(contexts, replies, strict=True):
        assert many * width + rows * (more + 1) <= longest + 20 or rows == 1
    assert max(rows for rows, _ in replies) > 1
    # A prompt is run once for all replies of a batch.
    assert len(pairs) / 2 <= sum(rows for rows, _ in contexts) < len(pairs)


def test_replies_to_one_prompt_share_its_cache(model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = [pair[0] for pair in make_pairs(6)[::2]]
    pairs = [(prompt, reply) for reply in ("yes", "", "no, not that one", "é") for prompt in prompts]
    runs: list[int] = []
    forward = model.forward

    def watched(**inputs: Any) -> Any:
        runs.append(inputs["input_ids"].numel())
        return forward(**inputs)

    expected = plain(model, tokenizer, pairs)
    monkeypatch.setattr(model, "forward", watched)
    np.testing.assert_allclose(score(model, tokenizer, pairs, 10**6), expected, rtol=1e-5)
    assert len(runs) == 2 and runs[0] == 3 * max(entry.prompt for entry in encode(tokenizer, pairs))


def test_logits_are_taken_in_pieces_without_a_difference(
    model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = make_pairs(6)
    whole = score(model, tokenizer, pairs, 10**6)
    monkeypatch.setattr(score_module, "_CHUNK", 258 * 7)
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


def test_the_prompt_is_a_prefix(tokenizer: Any) -> None:
    for entry, (messages, _) in zip(encode(tokenizer, pairs := make_pairs(12)), pairs, strict=True):
        prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
        assert entry.ids[: entry.prompt].tolist() == prompt
        assert entry.reply == len(entry.ids) - len(prompt)


@pytest.mark.parametrize(
    "template",
    [
        TEMPLATE.replace("assistant\n", "assistant\n<think></think>"),  # only where the reply is still to come
        "{% for turn in messages %}{{ turn.content[:9] }}{% endfor %}{{ messages | length }}",
        "{% if messages | length > 2 %}{{ messages[-1].content }}{% endif %}",  # an empty prompt
    ],
)
def test_a_template_that_changes_the_prompt_is_refused(template: str) -> None:
    with pytest.raises(UserError, match=r"chat template of '.*' does not keep the prompt"):
        encode(tiny_tokenizer(template), make_pairs(1))


def test_no_template_is_refused() -> None:
    with pytest.raises(UserError, match="no chat template"):
        encode(tiny_tokenizer(None), make_pairs(1))


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


def no_model() -> Any:
    raise AssertionError("the model was loaded")


def test_the_cache_spares_the_model(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    encoded = encode(tokenizer, make_pairs(10))
    progress: list[int] = []
    first = cached_score(tmp_path / "new", "a", lambda: model, encoded, 900, progress.append)
    np.testing.assert_array_equal(first.logp, score_encoded(model, encoded, 900))
    assert first.tokens.tolist() == [entry.reply for entry in encoded]
    again = cached_score(tmp_path / "new", "a", no_model, encoded[::-1], 1, progress.append)
    np.testing.assert_array_equal(again.logp, first.logp[::-1])
    np.testing.assert_array_equal(again.tokens, first.tokens[::-1])
    assert sum(progress) == 20
    with pytest.raises(AssertionError):
        cached_score(tmp_path / "new", "b", no_model, encoded, 900)


def test_the_cache_scores_what_is_missing_and_nothing_twice(
    model: Any, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = encode(tokenizer, make_pairs(10))
    cached_score(tmp_path, "a", lambda: model, encoded[:4], 900)
    asked: list[int] = []
    batch = score_module._score_batch

    def watched(model: Any, entries: Sequence[Any]) -> FloatArray:
        asked.append(len(entries))
        return batch(model, entries)

    monkeypatch.setattr(score_module, "_score_batch", watched)
    twice = cached_score(tmp_path, "a", lambda: model, [*encoded, *encoded], 900)
    assert sum(asked) == 6
    np.testing.assert_array_equal(twice.logp[:10], twice.logp[10:])
    np.testing.assert_allclose(twice.logp[:10], score_encoded(model, encoded, 900), rtol=1e-5)


def test_where_the_prompt_ends_counts(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    (entry,) = encode(tokenizer, make_pairs(1))
    later = entry._replace(prompt=entry.prompt + 1)
    scores = cached_score(tmp_path, "a", lambda: model, [entry, later], 900)
    assert scores.logp[0] < scores.logp[1]


def test_batches_before_a_crash_are_kept(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    encoded = encode(tokenizer, make_pairs(10))

    def crash(done: int) -> None:
        crashes.append(done)
        if len(crashes) == 4:
            raise KeyboardInterrupt

    crashes: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        cached_score(tmp_path, "a", lambda: model, encoded, 1, crash)
    progress: list[int] = []
    cached_score(tmp_path, "a", lambda: model, encoded, 1, progress.append)
    assert progress[0] == 3


@pytest.mark.parametrize("damage", ["text", "cut"])
def test_a_damaged_cache_is_reported(model: Any, tokenizer: Any, tmp_path: Path, damage: str) -> None:
    encoded = encode(tokenizer, make_pairs(300))
    path = tmp_path / CACHE_FILE
    cached_score(tmp_path, "a", lambda: model, encoded, 10**5)
    path.write_bytes(b"no database " * 1000 if damage == "text" else path.read_bytes()[:5000])
    with pytest.raises(UserError, match=f"{CACHE_FILE} cannot be used .*delete it") as caught:
        cached_score(tmp_path, "a", lambda: model, encoded, 10**5)
    assert "\n" not in str(caught.value)
    path.unlink()
    assert len(cached_score(tmp_path, "a", lambda: model, encoded[:2], 10**5).logp) == 2


def test_a_cache_that_cannot_be_made_is_reported(model: Any, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot make the cache"):
        cached_score(tmp_path / "file" / "below", "a", lambda: model, [], 900)


def test_the_cache_is_a_database_that_others_can_use_meanwhile(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    encoded = encode(tokenizer, make_pairs(8))

    def other(_: int) -> None:
        with sqlite3.connect(tmp_path / CACHE_FILE, timeout=0.1) as connection:
            connection.execute("INSERT OR REPLACE INTO scores VALUES (?, ?)", (b"other", -1.0))

    assert len(cached_score(tmp_path, "a", lambda: model, encoded, 400, other).logp) == 8


def test_a_model_is_known_by_its_contents(tmp_path: Path) -> None:
    name = save_tiny(tmp_path / "one")
    shutil.copytree(name, tmp_path / "copy")
    keys = [
        model_key(name, None, "float32"),
        model_key(save_tiny(tmp_path / "two", seed=1), None, "float32"),
        model_key(name, None, "bfloat16"),
    ]
    assert model_key(str(tmp_path / "copy"), None, "float32") == keys[0]
    (tmp_path / "one" / "notes.txt").write_text("of no importance")
    assert model_key(name, None, "float32") == keys[0]
    assert len(set(keys)) == 3


def test_adapters_have_a_key_of_their_own_and_untrained_ones_change_no_score(tokenizer: Any, tmp_path: Path) -> None:
    bases = [save_tiny(tmp_path / f"base{seed}", seed) for seed in (0, 1)]
    adapters = [save_adapters(tmp_path / f"adapters{k}", base, trained=False) for k, base in enumerate(bases)]
    assert len({model_key(name, None, "float32") for name in (*bases, *adapters)}) == 4
    encoded = encode(tokenizer, make_pairs(6))
    scores = [score_encoded(models.load_model(name, None, "float32"), encoded, 900) for name in (bases[0], adapters[0])]
    np.testing.assert_allclose(scores[0], scores[1], rtol=1e-6)
