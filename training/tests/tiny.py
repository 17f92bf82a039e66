"""A chat model of a few thousand weights, made on the spot: one token a byte, two layers of Llama."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from everyuser_train.forward import score_batches
from everyuser_train.masks import takes_own_mask
from everyuser_train.models import load_model
from everyuser_train.score import Encoded, FloatArray, Keep, encode

TEMPLATE = (
    "{% for turn in messages %}<s>{{ turn.role }}\n{{ turn.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)


WORDS = ["the", "cat", "sat", "on a mat", "and", "saw", "no dog", "éß", "猫", "\n\n", "", " ", "<b>", "{x}"]


def tiny_tokenizer(template: str | None = TEMPLATE) -> Any:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate(["<s>", "</s>", *alphabet])}
    inner = Tokenizer(models.BPE(vocabulary, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="</s>", chat_template=template
    )


def tiny_model(seed: int = 0, dropout: float = 0.0) -> Any:
    """Return a model with weights so large that its replies differ in probability."""
    config = LlamaConfig(
        vocab_size=258,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=8192,
        initializer_range=0.3,
        attention_dropout=dropout,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).eval()


def tiny_of(kind: Any, **fields: Any) -> Any:
    """A tiny model of another kind, with weights so large that its replies differ in probability."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = kind(vocab_size=258, num_key_value_heads=2, head_dim=8, initializer_range=0.3, **(sizes | fields))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config).eval()


def save_tiny(folder: Path, seed: int = 0) -> str:
    """Write the model and its tokenizer to a folder; return its path."""
    tiny_model(seed).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


def score(
    model: Any, tokenizer: Any, pairs: Sequence[tuple[Sequence[Mapping[str, str]], str]], batch_tokens: int
) -> FloatArray:
    """Return the log-probabilities of replies, (N,)."""
    return score_encoded(model, encode(tokenizer, pairs), batch_tokens)


def score_encoded(model: Any, encoded: Sequence[Encoded], batch_tokens: int) -> FloatArray:
    """Return the log-probabilities of replies that are tokens already, (N,)."""
    logp = np.full(len(encoded), np.nan)
    for rows, part in score_batches(model, encoded, batch_tokens, share=takes_own_mask(model)):
        logp[rows] = part
    return logp


def make_pairs(count: int, seed: int = 0) -> list[tuple[list[dict[str, str]], str]]:
    """Prompts and replies of very different lengths; every second prompt is that of the pair before."""
    numbers = np.random.default_rng(seed)

    def text(longest: int) -> str:
        return " ".join(numbers.choice(WORDS, int(numbers.integers(0, longest))))

    pairs: list[tuple[list[dict[str, str]], str]] = []
    for number in range(count):
        prompt = [{"role": "system", "content": text(9)}, {"role": "user", "content": text(40)}]
        pairs.append((pairs[-1][0] if number % 2 else prompt, text(30)))
    return pairs


def computed_by(model: Any, batch_tokens: int) -> Callable[[list[Encoded], Keep], None]:
    """Return what scores sequences by the model, for `cached_score`."""

    def compute(encoded: list[Encoded], keep: Keep) -> None:
        for rows, logp in score_batches(model, encoded, batch_tokens, share=takes_own_mask(model)):
            keep(rows, logp)

    return compute


def save_adapters(folder: Path, base: str, *, trained: bool = True) -> str:
    """Write adapters of a saved model to a folder; return its path. Untrained ones change no reply."""
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=not trained)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        get_peft_model(load_model(base, dtype="float32"), config).save_pretrained(folder)
    return str(folder)
