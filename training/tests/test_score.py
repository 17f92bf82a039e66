from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from everyuser_train import models
from everyuser_train.score import CACHE_FILE, Encoded, Keep, cached_score, encode, model_key
from schemas.base import UserError
from tests.tiny import TEMPLATE, computed_by, make_pairs, save_adapters, save_tiny, score_encoded, tiny_tokenizer


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


def no_model(*_: Any) -> Any:
    raise AssertionError("the model was loaded")


def test_the_cache_spares_the_model(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    encoded = encode(tokenizer, make_pairs(10))
    progress: list[int] = []
    first = cached_score(tmp_path / "new", "a", computed_by(model, 900), encoded, progress.append)
    np.testing.assert_array_equal(first.logp, score_encoded(model, encoded, 900))
    assert first.tokens.tolist() == [entry.reply for entry in encoded]
    again = cached_score(tmp_path / "new", "a", no_model, encoded[::-1], progress.append)
    np.testing.assert_array_equal(again.logp, first.logp[::-1])
    np.testing.assert_array_equal(again.tokens, first.tokens[::-1])
    assert sum(progress) == 20
    with pytest.raises(AssertionError):
        cached_score(tmp_path / "new", "b", no_model, encoded)


def test_the_cache_scores_what_is_missing_and_nothing_twice(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    encoded = encode(tokenizer, make_pairs(10))
    cached_score(tmp_path, "a", computed_by(model, 900), encoded[:4])
    asked: list[int] = []

    def watched(these: list[Encoded], keep: Keep) -> None:
        asked.append(len(these))
        computed_by(model, 900)(these, keep)

    twice = cached_score(tmp_path, "a", watched, [*encoded, *encoded])
    assert asked == [6]
    np.testing.assert_array_equal(twice.logp[:10], twice.logp[10:])
    np.testing.assert_allclose(twice.logp[:10], score_encoded(model, encoded, 900), rtol=1e-5)


def test_where_the_prompt_ends_counts(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    (entry,) = encode(tokenizer, make_pairs(1))
    later = entry._replace(prompt=entry.prompt + 1)
    scores = cached_score(tmp_path, "a", computed_by(model, 900), [entry, later])
    assert scores.logp[0] < scores.logp[1]


def test_batches_before_a_crash_are_kept(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    encoded = encode(tokenizer, make_pairs(10))

    def crash(done: int) -> None:
        crashes.append(done)
        if len(crashes) == 4:
            raise KeyboardInterrupt

    crashes: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        cached_score(tmp_path, "a", computed_by(model, 1), encoded, crash)
    progress: list[int] = []
    cached_score(tmp_path, "a", computed_by(model, 1), encoded, progress.append)
    assert progress[0] == 3


@pytest.mark.parametrize("damage", ["text", "cut"])
def test_a_damaged_cache_is_reported(model: Any, tokenizer: Any, tmp_path: Path, damage: str) -> None:
    encoded = encode(tokenizer, make_pairs(300))
    path = tmp_path / CACHE_FILE
    cached_score(tmp_path, "a", computed_by(model, 10**5), encoded)
    path.write_bytes(b"no database " * 1000 if damage == "text" else path.read_bytes()[:5000])
    with pytest.raises(UserError, match=f"{CACHE_FILE} cannot be used .*delete it") as caught:
        cached_score(tmp_path, "a", computed_by(model, 10**5), encoded)
    assert "\n" not in str(caught.value)
    path.unlink()
    assert len(cached_score(tmp_path, "a", computed_by(model, 10**5), encoded[:2]).logp) == 2


def test_a_cache_that_cannot_be_made_is_reported(model: Any, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot make the cache"):
        cached_score(tmp_path / "file" / "below", "a", computed_by(model, 900), [])


def test_the_cache_is_a_database_that_others_can_use_meanwhile(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    encoded = encode(tokenizer, make_pairs(8))

    def other(_: int) -> None:
        with sqlite3.connect(tmp_path / CACHE_FILE, timeout=0.1) as connection:
            connection.execute("INSERT OR REPLACE INTO scores VALUES (?, ?)", (b"other", -1.0))

    assert len(cached_score(tmp_path, "a", computed_by(model, 400), encoded, other).logp) == 8


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
