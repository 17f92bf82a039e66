"""Training rows: the preferences of all epochs in order, as one dataset or as a stream.

Personas are drawn for each epoch, so an example has another prompt in each, and a precomputed reference score belongs
to one prompt. All epochs are therefore rows of one dataset, read once from front to back. Reference scores stay with
their rows, and a resumed run has no sampler to restore.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Hashable, Iterable, Iterator, Sequence
from itertools import count, groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import orjson

from everyuser_train import data, personas, prompts, sources
from everyuser_train.config import RowsConfig
from everyuser_train.data import Loaded
from everyuser_train.examples import Example
from everyuser_train.score import encode
from preference_space.space import PreferenceSpace
from schemas.base import UsageError

T = TypeVar("T")

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


class LaidOut(NamedTuple):
    """Rows of a split, as a dataset on disk, and facts for the run's record."""

    rows: Any
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


def places(seed: int, pairs: IntArray) -> Iterator[tuple[int, int]]:
    """Yield epoch and example of each row, epoch after epoch, without end."""
    for epoch in count():
        yield from ((epoch, int(example)) for example in order(seed, epoch, pairs))


def keep_together(rows: Iterable[tuple[Hashable, T | None]]) -> Iterator[T]:
    """Yield the rows of (pair, row) that are not None, two by two, so that a step of even size cuts no pair.

    The rows of a pair are neighbours. A pair with a row that is None is left out whole. A row without a mirror image
    waits for the next such row, the last of an odd number until the end.
    """
    waiting: list[T] = []
    for _, pair in groupby(rows, key=itemgetter(0)):
        whole = [row for _, row in pair]
        kept = [row for row in whole if row is not None]
        if len(kept) < len(whole):
            continue
        if len(kept) % 2:
            kept, waiting = ([], kept) if not waiting else ([*waiting, *kept], [])
        yield from kept
    yield from waiting


def render(
    example: Example, config: RowsConfig, space: PreferenceSpace | None, tokenizer: Any, epoch: int
) -> Row | None:
    """Return an example as a row of an epoch, or None if it does not fit even without persona.

    Without a tokenizer, every row is whole.
    """
    persona = personas.draw_persona(example, config.persona, space, config.seed, epoch)
    replies = (example.chosen, example.rejected)
    if tokenizer is None:
        return prompts.preference(prompts.messages(config.persona.method, example.prompt, persona), *replies)
    prompt = prompts.fit_prompt(
        tokenizer, config.persona.method, example.prompt, persona, replies, config.training.max_length
    )
    return None if prompt is None else prompts.preference(prompt, *replies, prompts.cleaner(tokenizer))


def write_rows(config: RowsConfig, tokenizer: Any, folder: Path) -> Rows:
    """Return the rows of a run. The first call writes them to `folder`; later calls read them.

    A resumed run therefore keeps its rows even if the dataset has changed. Raises `UsageError` for unusable data.
    """
    from datasets import load_from_disk

    if not folder.exists():
        _write(config, tokenizer, folder)
    facts = orjson.loads((folder / _FACTS).read_bytes())
    evaluation = folder / "evaluation"
    return Rows(load_from_disk(folder / "train"), load_from_disk(evaluation) if evaluation.exists() else None, facts)


def stream_rows(config: RowsConfig, tokenizer: Any) -> Rows:
    """Return the training rows as an endless stream in the dataset's order, and the evaluation rows in memory."""
    from datasets import Dataset, IterableDataset

    def rendered(epochs: Iterable[int]) -> Iterator[tuple[Hashable, Row | None]]:
        for epoch in epochs:
            for example in data.stream(config.data, config.data.train_split):
                pair = example.pair_id if config.data.pairs_together else None
                yield (epoch, pair or example.number), render(example, config, space, tokenizer, epoch)

    def generate() -> Iterator[Row]:
        return keep_together(rendered(count()))

    space = sources.read_space(config.data)
    first = next(keep_together(rendered([0])), None)
    if first is None:
        raise UsageError(_nothing_fits(config))
    _check_template(tokenizer, first)
    held_out = _evaluation(config)
    rows = None
    if held_out is not None:
        found = (render(example, config, held_out.space, tokenizer, 0) for example in held_out.examples)
        rows = Dataset.from_list([row for row in found if row is not None])
    return Rows(IterableDataset.from_generator(generate), rows, {"streamed": True})


def _write(config: RowsConfig, tokenizer: Any, folder: Path) -> None:
    loaded = data.load(config.data, config.data.train_split)
    held_out = _evaluation(config)
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    scratch = partial / "scratch"
    scratch.mkdir(parents=True)
    laid_out = {"train": training_rows(config, loaded, tokenizer, scratch / "train")}
    if held_out is not None:
        laid_out["evaluation"] = evaluation_rows(config, held_out, tokenizer, scratch / "evaluation")
    for name, found in laid_out.items():
        found.rows.save_to_disk(partial / name)
    shutil.rmtree(scratch)
    facts = {name: found.facts for name, found in laid_out.items()}
    (partial / _FACTS).write_bytes(orjson.dumps(facts, option=orjson.OPT_INDENT_2))
    partial.rename(folder)


def training_rows(config: RowsConfig, loaded: Loaded, tokenizer: Any, scratch: Path) -> LaidOut:
    """Lay out the rows of all epochs of a split. Raises `UsageError` if none fits."""
    settings, size = config.training, len(loaded.examples)
    # The trainer would start over with fewer rows than its steps need, so rows that do not fit are replaced.
    fill = settings.max_steps > 0
    wanted = settings.max_steps * settings.batch_size if fill else max(round(size * settings.epochs), 1)
    if not config.data.pairs_together:
        loaded = loaded._replace(pairs=np.arange(size))
    return _lay_out(config, loaded, places(config.seed, loaded.pairs), wanted, tokenizer, scratch, fill=fill)


def evaluation_rows(config: RowsConfig, loaded: Loaded, tokenizer: Any, scratch: Path) -> LaidOut:
    """Lay out the rows of a held-out split, in its order. Raises `UsageError` if none fits."""
    size = len(loaded.examples)
    in_order = ((0, example) for example in range(size))
    alone = loaded._replace(pairs=np.arange(size))
    return _lay_out(config, alone, in_order, size, tokenizer, scratch, fill=False)


def _lay_out(
    config: RowsConfig,
    loaded: Loaded,
    chosen: Iterator[tuple[int, int]],
    wanted: int,
    tokenizer: Any,
    scratch: Path,
    *,
    fill: bool,
) -> LaidOut:
    """Render rows.

    Args:
        config: The run.
        loaded: The split; its pairs stay together.
        chosen: Epoch and example of each row.
        wanted: Number of rows to render, and most rows to return.
        tokenizer: Counts tokens; None to leave rows whole.
        scratch: New folder for the rows, which are read from there.
        fill: Render more rows for those that do not fit, until `wanted` are there.
    """
    from datasets import concatenate_datasets

    scratch.mkdir()
    asked: list[tuple[int, int]] = []
    kept: list[int] = []
    parts: list[Any] = []
    missing = wanted
    while missing:
        more = [*islice(chosen, missing)]
        parts.append(_rendered(config, loaded, more, len(asked), tokenizer, scratch / f"{len(parts)}.arrow"))
        asked += more
        row_at = {place: row for row, place in enumerate(concatenate_datasets(parts)["place"])}
        pairs = ((epoch, loaded.pairs[example]) for epoch, example in asked)
        kept = [*keep_together((pair, row_at.get(place)) for place, pair in enumerate(pairs))]
        if not kept and (not fill or len(asked) >= len(loaded.examples)):
            raise UsageError(_nothing_fits(config))
        short = wanted - len(kept) if fill else 0
        # As many as fill the gap if further rows are lost like those before, at most as many as were asked for.
        missing = min(len(asked), short * len(asked) // max(len(kept), 1) + 1) if short > 0 else 0
    rows = concatenate_datasets(parts).select(kept[:wanted]).remove_columns("place")
    if tokenizer is not None:
        _check_template(tokenizer, rows[0])
    digest = hashlib.blake2b(digest_size=16)
    for row in rows:
        digest.update(orjson.dumps(row))
    facts = {
        "examples": len(loaded.examples),
        "rows": len(rows),
        "too_long": len(asked) - len(kept),
        "fingerprint": digest.hexdigest(),
    }
    return LaidOut(rows, facts)


def _rendered(
    config: RowsConfig, loaded: Loaded, chosen: Sequence[tuple[int, int]], start: int, tokenizer: Any, path: Path
) -> Any:
    """Return a dataset, stored at `path`, of the rows of (epoch, example) that fit; `place` counts from `start`."""
    from datasets import Dataset, Features, List, Value

    def rendered(batch: dict[str, list[int]]) -> dict[str, list[Any]]:
        rows = [
            {"place": place, **row}
            for epoch, example, place in zip(batch["epoch"], batch["example"], batch["place"], strict=True)
            if (row := render(loaded.examples[example], config, loaded.space, tokenizer, epoch)) is not None
        ]
        return {name: [row[name] for row in rows] for name in features}

    turns = List({"role": Value("string"), "content": Value("string")})
    features = Features({"place": Value("int64"), "prompt": turns, "chosen": turns, "rejected": turns})
    epochs, examples = zip(*chosen, strict=True)
    index = Dataset.from_dict({"epoch": epochs, "example": examples, "place": range(start, start + len(chosen))})
    return index.map(
        rendered,
        batched=True,
        batch_size=64,
        remove_columns=["epoch", "example"],
        features=features,
        num_proc=config.training.extra.get("dataset_num_proc"),
        cache_file_name=str(path),
        # The default fingerprint would hash the whole dataset through the function's closure.
        new_fingerprint=hashlib.blake2b(os.urandom(8), digest_size=8).hexdigest(),
        desc=f"Writing the {path.parent.stem} rows",
    )


def _evaluation(config: RowsConfig) -> Loaded | None:
    """Return the split for evaluation during training; a single file has none."""
    if config.data.eval_split is None or Path(config.data.path).is_file():
        return None
    return data.load(config.data, config.data.eval_split)


def _check_template(tokenizer: Any, row: Row) -> None:
    """Raise `UserError` if the prompt in training differs from the prompt at generation."""
    encode(tokenizer, [(row["prompt"], row["chosen"][0]["content"])])


def _nothing_fits(config: RowsConfig) -> str:
    return f"no example of {config.data.path} fits training.max_length of {config.training.max_length} tokens"
