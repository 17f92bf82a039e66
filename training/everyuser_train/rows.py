"""Training rows: the preferences of all epochs in order, as one dataset or as a stream.

Personas are drawn for each epoch, so an example has another prompt in each, and a precomputed reference score belongs
to one prompt. All epochs are therefore rows of one dataset, read once from front to back. Reference scores stay with
their rows, and a resumed run has no sampler to restore.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import orjson

from everyuser_train import data, personas, prompts
from everyuser_train.config import FitConfig
from everyuser_train.data import Loaded
from everyuser_train.examples import Example
from everyuser_train.score import encode
from preference_space.space import PreferenceSpace
from schemas.base import UsageError

IntArray = npt.NDArray[np.int64]
Row = dict[str, list[prompts.Message]]
"""A preference in TRL's conversational format: `prompt`, `chosen`, `rejected`."""

_PURPOSE = int.from_bytes(hashlib.blake2b(b"order", digest_size=8).digest(), "little")
_FACTS = "rows.json"


class Rows(NamedTuple):
    """The datasets that the trainer reads, and facts for the run's record."""

    train: Any
    evaluation: Any | None
    facts: dict[str, Any]


def order(seed: int, epoch: int, pairs: IntArray) -> IntArray:
    """Return the order of N examples in an epoch, (N,): a random permutation that depends on the arguments alone.

    `pairs` (N,) is the number of each example's pair. The two rows of a pair stay side by side.
    """
    bits = np.random.Philox(
        key=np.array([seed, _PURPOSE], dtype=np.uint64), counter=np.array([0, 0, 0, epoch], dtype=np.uint64)
    )
    # Raw bits are stable across versions of numpy.
    drawn = bits.random_raw(len(pairs))
    _, first, pair = np.unique(pairs, return_index=True, return_inverse=True)
    return np.lexsort((drawn, drawn[first][pair]))


def places(seed: int, pairs: IntArray, rows: int) -> Iterator[tuple[int, int]]:
    """Yield epoch and example of each row, epoch after epoch, until there are `rows`."""
    left = rows
    for epoch in count():
        chosen = order(seed, epoch, pairs)[:left]
        yield from ((epoch, int(example)) for example in chosen)
        left -= len(chosen)
        if left == 0:
            return


def render(
    example: Example, config: FitConfig, space: PreferenceSpace | None, tokenizer: Any, epoch: int
) -> Row | None:
    """Return an example as a row of an epoch, or None if it does not fit even without persona."""
    persona = personas.draw_persona(example, config.persona, space, config.seed, epoch)
    replies = (example.chosen, example.rejected)
    prompt = prompts.fit_prompt(
        tokenizer, config.persona.method, example.prompt, persona, replies, config.training.max_length
    )
    return None if prompt is None else prompts.preference(prompt, *replies, prompts.cleaner(tokenizer))


def write_rows(config: FitConfig, tokenizer: Any, folder: Path) -> Rows:
    """Return the rows of a run. The first call writes them to `folder`; later calls read them.

    A resumed run therefore keeps its rows even if the dataset has changed. Raises `UsageError` for unusable data.
    """
    from datasets import load_from_disk

    if not folder.exists():
        _write(config, tokenizer, folder)
    facts = orjson.loads((folder / _FACTS).read_bytes())
    evaluation = folder / "evaluation"
    return Rows(load_from_disk(folder / "train"), load_from_disk(evaluation) if evaluation.exists() else None, facts)


def stream_rows(config: FitConfig, tokenizer: Any) -> Rows:
    """Return the training rows as an endless stream in the dataset's order, and the evaluation rows in memory."""
    from datasets import Dataset, IterableDataset

    def generate() -> Iterator[Row]:
        for epoch in count():
            for example in data.stream(config.data, config.data.train_split):
                row = render(example, config, space, tokenizer, epoch)
                if row is not None:
                    yield row

    space = data.read_space(config.data)
    first = next(generate(), None)
    if first is None:
        raise UsageError(_nothing_fits(config))
    _check_template(tokenizer, first)
    held_out = _evaluation(config)
    rows = None
    if held_out is not None:
        rendered = (render(example, config, held_out.space, tokenizer, 0) for example in held_out.examples)
        rows = Dataset.from_list([row for row in rendered if row is not None])
    return Rows(IterableDataset.from_generator(generate), rows, {"streamed": True})


def _write(config: FitConfig, tokenizer: Any, folder: Path) -> None:
    loaded = data.load(config.data, config.data.train_split)
    held_out = _evaluation(config)
    settings, size = config.training, len(loaded.examples)
    wanted = settings.max_steps * settings.batch_size if settings.max_steps > 0 else round(size * settings.epochs)
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    pairs = loaded.pairs if config.data.pairs_together else np.arange(size)
    chosen = [*places(config.seed, pairs, max(wanted, 1))]
    facts = {"train": _store(config, loaded, chosen, tokenizer, partial / "train")}
    if held_out is not None:
        facts["evaluation"] = _store(
            config, held_out, [(0, k) for k in range(len(held_out.examples))], tokenizer, partial / "evaluation"
        )
    (partial / _FACTS).write_bytes(orjson.dumps(facts, option=orjson.OPT_INDENT_2))
    partial.rename(folder)


def _store(
    config: FitConfig, loaded: Loaded, chosen: Sequence[tuple[int, int]], tokenizer: Any, folder: Path
) -> dict[str, Any]:
    """Render the rows of (epoch, example) `chosen` into `folder`. Return their number, losses and fingerprint."""
    from datasets import Dataset, Features, List, Value

    def rendered(batch: dict[str, list[int]]) -> dict[str, list[Any]]:
        rows = [
            render(loaded.examples[example], config, loaded.space, tokenizer, epoch)
            for epoch, example in zip(batch["epoch"], batch["example"], strict=True)
        ]
        return {name: [row[name] for row in rows if row is not None] for name in ("prompt", "chosen", "rejected")}

    turns = List({"role": Value("string"), "content": Value("string")})
    scratch = folder.with_name(folder.name + ".scratch")
    scratch.mkdir()
    index = Dataset.from_dict({"epoch": [e for e, _ in chosen], "example": [k for _, k in chosen]})
    rows = index.map(
        rendered,
        batched=True,
        batch_size=64,
        remove_columns=["epoch", "example"],
        features=Features({"prompt": turns, "chosen": turns, "rejected": turns}),
        num_proc=config.training.extra.get("dataset_num_proc"),
        cache_file_name=str(scratch / "rows.arrow"),
        # The default fingerprint would hash the whole dataset through the function's closure.
        new_fingerprint=hashlib.blake2b(os.urandom(8), digest_size=8).hexdigest(),
        desc=f"Writing the {folder.name} rows",
    )
    if len(rows) == 0:
        raise UsageError(_nothing_fits(config))
    _check_template(tokenizer, rows[0])
    rows.save_to_disk(folder)
    shutil.rmtree(scratch)
    digest = hashlib.blake2b(digest_size=16)
    for row in rows:
        digest.update(orjson.dumps(row))
    return {
        "examples": len(loaded.examples),
        "rows": len(rows),
        "too_long": len(chosen) - len(rows),
        "fingerprint": digest.hexdigest(),
    }


def _evaluation(config: FitConfig) -> Loaded | None:
    """Return the split for evaluation during training; a single file has none."""
    if config.data.eval_split is None or Path(config.data.path).is_file():
        return None
    return data.load(config.data, config.data.eval_split)


def _check_template(tokenizer: Any, row: Row) -> None:
    """Raise `UserError` if the prompt in training differs from the prompt at generation."""
    encode(tokenizer, [(row["prompt"], row["chosen"][0]["content"])])


def _nothing_fits(config: FitConfig) -> str:
    return f"no example of {config.data.path} fits training.max_length of {config.training.max_length} tokens"
