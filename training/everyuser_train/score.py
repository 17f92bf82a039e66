"""Sequences to score, as tokens, and their log-probabilities, cached on disk."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from transformers import AutoConfig

from everyuser_train import models
from everyuser_train.prompts import cleaner
from schemas.base import UsageError, UserError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Messages = Sequence[Mapping[str, str]]

CACHE_FILE = "scores.sqlite"

Keep = Callable[[IntArray, FloatArray], None]
"""Receives the numbers of sequences and the scores of their replies, (N,) each."""


class Scores(NamedTuple):
    """Summed log-probability of each reply in nats, or its reward, (N,), and its number of tokens, (N,)."""

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


def model_key(name: str, revision: str | None, computation: str) -> str:
    """Return the cache key of a model: its commit on the Hub or a hash of its files, and how it computes.

    Args:
        name: The model.
        revision: Revision of a Hub model.
        computation: Its data type, or the endpoint that serves it.

    Raises:
        UsageError: The model cannot be loaded.
    """
    base = models.adapter_base(name)
    below = "" if base is None else f"{model_key(base.name, base.revision, computation)} "
    resolved = models.resolve(name)
    if not Path(resolved).is_dir():
        try:
            config = AutoConfig.from_pretrained(resolved, revision=revision, trust_remote_code=False)
        except (OSError, ValueError) as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise UsageError(f"model '{name}' cannot be loaded: {lines[0]}") from None
        return f"{name}@{config._commit_hash or revision} {computation}"
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(Path(resolved).iterdir()):
        if path.name in ("config.json", "adapter_config.json") or path.suffix in (".safetensors", ".bin"):
            with path.open("rb") as file:
                digest.update(path.name.encode() + hashlib.file_digest(file, "blake2b").digest())
    return f"{below}{digest.hexdigest()} {computation}"


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
    compute: Callable[[list[Encoded], Keep], None],
    encoded: Sequence[Encoded],
    progress: Callable[[int], None] | None = None,
) -> Scores:
    """Return scores from a cache, which is filled as they arrive. Equal sequences are scored once.

    Args:
        folder: Folder of the cache.
        key: Identifies the model, see `model_key`.
        compute: Scores the missing sequences; not called if there are none.
        encoded: Prompts and replies.
        progress: Called with the number of newly finished sequences.

    Raises:
        UserError: The cache cannot be read or written.
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

            def keep(rows: IntArray, logp: FloatArray) -> None:
                new = {missing[row]: value for row, value in zip(rows.tolist(), logp.tolist(), strict=True)}
                with connection:
                    connection.executemany("INSERT OR REPLACE INTO scores VALUES (?, ?)", new.items())
                known.update(new)
                if progress:
                    progress(len(rows))

            if missing:
                compute([encoded[first[name]] for name in missing], keep)
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
