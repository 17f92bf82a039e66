"""Log-probabilities of replies under a causal language model, batched by length and cached on disk."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoConfig

from everyuser_train import models
from everyuser_train.generate import padded
from everyuser_train.prompts import cleaner
from schemas.base import UsageError, UserError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Messages = Sequence[Mapping[str, str]]

CACHE_FILE = "scores.sqlite"

_CHUNK = 2**26
"""Most logits converted to float32 at a time (256 MiB)."""


class Scores(NamedTuple):
    """Summed log-probability of each reply in nats, (N,), and its number of tokens, (N,)."""

    logp: FloatArray
    tokens: IntArray


class Encoded(NamedTuple):
    """The tokens of a prompt and its reply, (T,) int32, and the number of the prompt's tokens."""

    ids: npt.NDArray[np.int32]
    prompt: int

    @property
    def reply(self) -> int:
        """Return the number of the reply's tokens, with the end of turn that the template adds."""
        return len(self.ids) - self.prompt


def model_key(name: str, revision: str | None, dtype: str) -> str:
    """Return the cache key of a model: its commit on the Hub or a hash of its files, and its data type.

    Raises `UsageError` for a model that cannot be loaded.
    """
    base = models.adapter_base(name)
    below = "" if base is None else f"{model_key(base.name, base.revision, dtype)} "
    resolved = models.resolve(name)
    if not Path(resolved).is_dir():
        try:
            config = AutoConfig.from_pretrained(resolved, revision=revision, trust_remote_code=False)
        except (OSError, ValueError) as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise UsageError(f"model '{name}' cannot be loaded: {lines[0]}") from None
        return f"{name}@{config._commit_hash or revision} {dtype}"
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(Path(resolved).iterdir()):
        if path.name in ("config.json", "adapter_config.json") or path.suffix in (".safetensors", ".bin"):
            with path.open("rb") as file:
                digest.update(path.name.encode() + hashlib.file_digest(file, "blake2b").digest())
    return f"{below}{digest.hexdigest()} {dtype}"


def encode(tokenizer: Any, pairs: Sequence[tuple[Messages, str]]) -> list[Encoded]:
    """Return the tokens of prompts and replies by the tokenizer's chat template, split as in TRL's DPOTrainer.

    Raises `UserError` if the prompt's tokens are not a prefix of the conversation's: the scored prompt would then
    differ from the prompt at generation.
    """
    if tokenizer.chat_template is None:
        raise UserError(f"the tokenizer of '{tokenizer.name_or_path}' has no chat template; use an instruct model's")
    encoded = []
    clean = cleaner(tokenizer)
    before: Messages | None = None
    prompt: list[int] = []
    for messages, reply in pairs:
        if messages != before:
            prompt = tokenizer.apply_chat_template(list(messages), add_generation_prompt=True)["input_ids"]
            before = messages
        whole = tokenizer.apply_chat_template([*messages, {"role": "assistant", "content": clean(reply)}])["input_ids"]
        if not prompt or whole[: len(prompt)] != prompt:
            raise UserError(
                f"the chat template of '{tokenizer.name_or_path}' does not keep the prompt's tokens in front of a "
                "reply; use a tokenizer whose template does"
            )
        encoded.append(Encoded(np.array(whole, dtype=np.int32), len(prompt)))
    return encoded


def cached_score(
    folder: Path,
    key: str,
    load: Callable[[], Any],
    encoded: Sequence[Encoded],
    batch_tokens: int,
    progress: Callable[[int], None] | None = None,
) -> Scores:
    """Return scores from a cache, which is filled batch by batch. Equal sequences are scored once.

    Args:
        folder: Folder of the cache.
        key: Identifies model, revision and data type, see `model_key`.
        load: Returns the model; called only if a score is missing.
        encoded: Prompts and replies.
        batch_tokens: Most tokens of a batch, see `score_batches`.
        progress: Called with the number of newly finished sequences.

    Raises:
        UserError: The cache cannot be read or written, or a log-probability is not finite.
    """
    names = [_name(key, entry) for entry in encoded]
    first = {name: row for row, name in reversed(list(enumerate(names)))}
    path = folder / CACHE_FILE
    try:
        with closing(_open(path)) as connection:
            known: dict[bytes, float] = {}
            for name in first:
                found = connection.execute("SELECT logp FROM scores WHERE name = ?", (name,)).fetchone()
                if found is not None:
                    known[name] = found[0]
            missing = [name for name in first if name not in known]
            if progress:
                progress(len(first) - len(missing))
            if missing:
                for rows, part in score_batches(load(), [encoded[first[name]] for name in missing], batch_tokens):
                    new = {missing[row]: value for row, value in zip(rows.tolist(), part.tolist(), strict=True)}
                    with connection:
                        connection.executemany("INSERT OR REPLACE INTO scores VALUES (?, ?)", new.items())
                    known |= new
                    if progress:
                        progress(len(rows))
    except sqlite3.Error as error:
        raise UserError(
            f"the cache of scores {path} cannot be used ({error}); delete it, or set `cache` to another folder"
        ) from None
    if progress:
        progress(len(encoded) - len(first))
    return Scores(
        np.array([known[name] for name in names], dtype=np.float64),
        np.array([entry.reply for entry in encoded], dtype=np.int64),
    )


def _open(path: Path) -> sqlite3.Connection:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the cache of scores {path.parent}: {error.strerror or error}") from None
    # Other processes may write at the same time.
    connection = sqlite3.connect(path, timeout=60)
    try:
        connection.execute(
            "CREATE TABLE IF NOT EXISTS scores (name BLOB PRIMARY KEY, logp REAL NOT NULL) WITHOUT ROWID"
        )
    except BaseException:
        connection.close()
        raise
    return connection


def _name(key: str, entry: Encoded) -> bytes:
    digest = hashlib.blake2b(f"{key}\n{entry.prompt}\n".encode(), digest_size=16)
    digest.update(entry.ids.astype("<i4").tobytes())
    return digest.digest()


def score_batches(model: Any, encoded: Sequence[Encoded], batch_tokens: int) -> Iterator[tuple[IntArray, FloatArray]]:
    """Yield the rows of each batch and the summed log-probabilities of its replies.

    The longest come first, so that memory runs out early or never.

    Args:
        model: A causal language model of transformers.
        encoded: Prompts and replies.
        batch_tokens: Most tokens of a batch, with padding. The prompt of several replies counts once. A longer sequence
            is a batch alone.

    Raises:
        UserError: A log-probability is not finite.
    """
    training = model.training
    model.eval()
    try:
        for rows in _batches(encoded, batch_tokens):
            logp = _score_batch(model, [encoded[row] for row in rows])
            if not np.isfinite(logp).all():
                raise UserError(
                    f"the model gives log-probabilities that are not finite in {model.dtype}; use another `dtype`"
                )
            yield rows, logp
    finally:
        model.train(training)


def _batches(encoded: Sequence[Encoded], batch_tokens: int) -> Iterator[IntArray]:
    """Yield the rows of each batch. Rows of one prompt share a batch, and their prompt counts once."""
    prompts = [entry.ids[: entry.prompt].tobytes() for entry in encoded]
    longest: dict[bytes, int] = {}
    for prompt, entry in zip(prompts, encoded, strict=True):
        longest[prompt] = max(longest.get(prompt, 0), len(entry.ids))
    batch: list[int] = []
    for row in sorted(range(len(encoded)), key=lambda row: (-longest[prompts[row]], prompts[row], row)):
        more = [*batch, row]
        contexts = len({prompts[each] for each in more}) * max(encoded[each].prompt for each in more)
        replies = len(more) * max(encoded[each].reply for each in more)
        if batch and contexts + replies > batch_tokens:
            yield np.array(batch, dtype=np.int64)
            more = [row]
        batch = more
    if batch:
        yield np.array(batch, dtype=np.int64)


def _score_batch(model: Any, batch: Sequence[Encoded]) -> FloatArray:
    """Return a batch's log-probabilities. Each distinct prompt runs once; its replies reuse its key-value cache."""
    numbers: dict[bytes, int] = {}
    which = torch.tensor([numbers.setdefault(entry.ids[: entry.prompt].tobytes(), len(numbers)) for entry in batch])
    prompts = [np.frombuffer(prompt, dtype=np.int32) for prompt in numbers]
    contexts, context_mask = map(torch.from_numpy, padded(prompts, left=True))
    answers = [entry.ids[entry.prompt :] for entry in batch]
    replies, reply_mask = map(torch.from_numpy, padded(answers, left=False))
    positions = (context_mask.cumsum(dim=1) - 1).clamp(min=0)
    with torch.inference_mode():
        before = model(
            input_ids=contexts.to(model.device),
            attention_mask=context_mask.to(model.device),
            position_ids=positions.to(model.device),
            use_cache=True,
            logits_to_keep=1,
        )
        # Logits predict the next token: those of the prompt's last token predict the first token of a reply.
        logp = _logp(before.logits[:, -1][which.to(before.logits.device)], replies[:, 0])
        if replies.shape[1] > 1:
            before.past_key_values.reorder_cache(which)
            starts = context_mask.sum(dim=1)[which, None]
            after = model(
                input_ids=replies[:, :-1].to(model.device),
                attention_mask=torch.cat([context_mask[which], reply_mask[:, :-1]], dim=1).to(model.device),
                position_ids=(starts + torch.arange(replies.shape[1] - 1)).to(model.device),
                past_key_values=before.past_key_values,
                use_cache=True,
            )
            rest = reply_mask[:, 1:].bool()
            later = _logp(after.logits[rest.to(after.logits.device)], replies[:, 1:][rest])
            logp += np.bincount(rest.nonzero()[:, 0].numpy(), weights=later, minlength=len(batch))
    return logp


def _logp(logits: torch.Tensor, tokens: torch.Tensor) -> FloatArray:
    """Return the log-probabilities (N,) of tokens (N,) by logits (N, V), converted to float32 in chunks."""
    step = max(1, _CHUNK // logits.shape[-1])
    parts = [
        -torch.nn.functional.cross_entropy(some.float(), these, reduction="none")
        for some, these in zip(logits.split(step), tokens.to(logits.device).split(step), strict=True)
    ]
    logp: FloatArray = torch.cat(parts).double().cpu().numpy()
    return logp
