"""Log-probabilities of replies under a causal language model, batched by length and kept in a cache on disk."""

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
from everyuser_train.base import UsageError, UserError
from everyuser_train.prompts import cleaner

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Messages = Sequence[Mapping[str, str]]

CACHE_FILE = "scores.sqlite"

_CHUNK = 2**26
"""Logits that are turned to float32 at once (256 MiB)."""


class Scores(NamedTuple):
    """Of each reply the log-probability, summed over its tokens (N,), in nats, and the number of those tokens (N,)."""

    logp: FloatArray
    tokens: IntArray


class Encoded(NamedTuple):
    """The tokens of a prompt and its reply, (T,) int32, and how many of them are the prompt's."""

    ids: npt.NDArray[np.int32]
    prompt: int

    @property
    def reply(self) -> int:
        """Tokens of the reply, with the end of turn that the template adds."""
        return len(self.ids) - self.prompt


def model_key(name: str, revision: str | None, dtype: str) -> str:
    """What tells a model's scores from another's: its commit on the Hub or its files' contents, and its numbers.

    Raises `UsageError` for a name that leads to no model.
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
    """Tokens of prompts and replies by the tokenizer's chat template, as TRL's DPOTrainer splits them.

    Raises `UserError` where the prompt's tokens are no prefix of those of prompt and reply: what is scored would then
    not be what the model sees when it replies.
    """
    if tokenizer.chat_template is None:
        raise UserError(f"the tokenizer of '{tokenizer.name_or_path}' has no chat template; use a chat model's")
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


def score(
    model: Any,
    tokenizer: Any,
    pairs: Sequence[tuple[Messages, str]],
    batch_tokens: int,
    progress: Callable[[int], None] | None = None,
) -> Scores:
    """Scores of N pairs of a prompt and a reply; `batch_tokens` and `progress` as for `score_encoded`."""
    encoded = encode(tokenizer, pairs)
    return Scores(score_encoded(model, encoded, batch_tokens, progress), _reply_tokens(encoded))


def score_encoded(
    model: Any, encoded: Sequence[Encoded], batch_tokens: int, progress: Callable[[int], None] | None = None
) -> FloatArray:
    """Summed log-probabilities (N,) of the replies.

    A batch holds at most `batch_tokens` tokens, padding included and a prompt of several replies counted once, or one
    sequence that is longer. `progress` is told how many more are done. Raises `UserError` if the model gives something
    that is no number.
    """
    logp = np.empty(len(encoded), dtype=np.float64)
    for rows, part in _scored(model, encoded, batch_tokens):
        logp[rows] = part
        if progress:
            progress(len(rows))
    return logp


def cached_score(
    folder: Path,
    key: str,
    load: Callable[[], Any],
    encoded: Sequence[Encoded],
    batch_tokens: int,
    progress: Callable[[int], None] | None = None,
) -> Scores:
    """Scores, each distinct sequence scored once and kept in `folder` for the next time.

    `key` tells one model, revision and dtype from another; `load` gives the model, and is called only if a score is
    missing. Each batch is committed as it is done. Raises `UserError` if the cache cannot be read or written.
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
                for rows, part in _scored(load(), [encoded[first[name]] for name in missing], batch_tokens):
                    new = {missing[row]: value for row, value in zip(rows.tolist(), part.tolist(), strict=True)}
                    with connection:
                        connection.executemany("INSERT OR REPLACE INTO scores VALUES (?, ?)", new.items())
                    known |= new
                    if progress:
                        progress(len(rows))
    except sqlite3.Error as error:
        raise UserError(
            f"the cache of scores {path} cannot be used ({error}); delete it, or give another folder"
        ) from None
    if progress:
        progress(len(encoded) - len(first))
    return Scores(np.array([known[name] for name in names], dtype=np.float64), _reply_tokens(encoded))


def _open(path: Path) -> sqlite3.Connection:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the cache of scores {path.parent}: {error.strerror or error}") from None
    # Others may write to it at the same time.
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


def _reply_tokens(encoded: Sequence[Encoded]) -> IntArray:
    return np.array([entry.reply for entry in encoded], dtype=np.int64)


def _scored(model: Any, encoded: Sequence[Encoded], batch_tokens: int) -> Iterator[tuple[IntArray, FloatArray]]:
    """Rows of a batch and their log-probabilities, batch after batch, the longest first: memory fails early."""
    training = model.training
    model.eval()
    try:
        for rows in _batches(encoded, batch_tokens):
            logp = _score_batch(model, [encoded[row] for row in rows])
            if not np.isfinite(logp).all():
                raise UserError(f"the model gives log-probabilities that are no numbers in {model.dtype}; use another")
            yield rows, logp
    finally:
        model.train(training)


def _batches(encoded: Sequence[Encoded], batch_tokens: int) -> Iterator[IntArray]:
    """Rows that are scored together: those of one prompt side by side, whose prompt counts once."""
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
    """Each distinct prompt is run once; its replies go on from the keys and values that it leaves."""
    numbers: dict[bytes, int] = {}
    which = torch.tensor([numbers.setdefault(entry.ids[: entry.prompt].tobytes(), len(numbers)) for entry in batch])
    prompts = [np.frombuffer(prompt, dtype=np.int32) for prompt in numbers]
    contexts, context_mask = _padded(prompts, left=True)
    replies, reply_mask = _padded([entry.ids[entry.prompt :] for entry in batch], left=False)
    positions = (context_mask.cumsum(dim=1) - 1).clamp(min=0)
    with torch.inference_mode():
        before = model(
            input_ids=contexts.to(model.device),
            attention_mask=context_mask.to(model.device),
            position_ids=positions.to(model.device),
            use_cache=True,
            logits_to_keep=1,
        )
        # The logits at a place are about the token after it: the prompt's last ones are about the first of a reply.
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


def _padded(sequences: Sequence[npt.NDArray[np.int32]], *, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and mask, (N, T) int64 each: 1 for a token, 0 for padding."""
    shape = len(sequences), max(map(len, sequences))
    ids, mask = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for row, sequence in enumerate(sequences):
        place = slice(shape[1] - len(sequence), None) if left else slice(len(sequence))
        ids[row, place], mask[row, place] = sequence, 1
    return torch.from_numpy(ids), torch.from_numpy(mask)


def _logp(logits: torch.Tensor, tokens: torch.Tensor) -> FloatArray:
    """Log-probabilities (N,) of tokens (N,) by logits (N, V), in float32, a piece at a time."""
    step = max(1, _CHUNK // logits.shape[-1])
    parts = [
        -torch.nn.functional.cross_entropy(some.float(), these, reduction="none")
        for some, these in zip(logits.split(step), tokens.to(logits.device).split(step), strict=True)
    ]
    logp: FloatArray = torch.cat(parts).double().cpu().numpy()
    return logp
