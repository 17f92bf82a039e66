"""Rows of a run for another trainer: JSON lines in a folder that `datasets.load_dataset` reads, too."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson
import yaml

from everyuser_train import data
from everyuser_train.config import RenderConfig
from everyuser_train.data import Loaded
from everyuser_train.files import locked
from everyuser_train.formats import FORMATS
from everyuser_train.models import load_tokenizer
from everyuser_train.rows import LaidOut, evaluation_rows, training_rows
from everyuser_train.sources import is_file
from everyuser_train.versions import versions
from schemas.base import UsageError, UserError

SHARD = 20_000
"""Rows of a file."""

_COMPLETE, _SCRATCH = "complete", "scratch"
_PACKAGES = ("everyuser-train", "numpy", "transformers")


def render(config: RenderConfig) -> Mapping[str, Any]:
    """Write the rows of each split. Return the facts of each split by its name.

    The folder appears when it is complete:

        train/train-00000-of-00002.jsonl    rows, in the order of `fit`
        README.md                           the splits, for `load_dataset`
        render.json                         configuration, versions, numbers and fingerprint of the rows
        dataset_info.json, axolotl.yaml     what some trainers need

    Rows stay on disk while they are rendered, in a folder `NAME.partial` beside the output. A run that is killed leaves
    that folder, and the next run of the same command starts in it from the beginning.

    Raises:
        UsageError: The folder holds other files or is in use, or the data or the model cannot be used.
        UserError: The folder cannot be written.
    """
    output = Path(config.output)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UsageError(f"{output} holds other files; set `output` to a new or empty folder")
    if config.data.streaming:
        raise UsageError("data.streaming: rows of a stream cannot be rendered; set it to false")
    tokenizer = None if config.model is None else load_tokenizer(config.model.name, config.model.revision)
    loaded = {split: data.load(config.data, split) for split in _splits(config)}
    try:
        with _partial(output) as partial:
            facts = _write(config, loaded, tokenizer, partial)
            (partial / _COMPLETE).rename(output)
    except OSError as error:
        raise UserError(
            f"{output} cannot be written ({error.strerror or error}); free some space, or choose another output"
        ) from None
    return facts


@contextlib.contextmanager
def _partial(output: Path) -> Iterator[Path]:
    """Yield a folder beside the output, without what a killed run left in it."""
    partial = output.with_name(f"{output.name}.partial")
    with locked(partial):
        try:
            for name in (_COMPLETE, _SCRATCH):
                shutil.rmtree(partial / name, ignore_errors=True)
            yield partial
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _splits(config: RenderConfig) -> tuple[str, ...]:
    has_one = is_file(config.data.path)
    if config.splits is not None:
        if has_one and len({*config.splits}) > 1:
            raise UsageError(
                f"splits: {config.data.path} is a file, and all its rows are one split; name one, not "
                f"{', '.join(config.splits)}"
            )
        return config.splits
    evaluated = () if config.data.eval_split is None or has_one else (config.data.eval_split,)
    return config.data.train_split, *evaluated


def _write(config: RenderConfig, loaded: Mapping[str, Loaded], tokenizer: Any, partial: Path) -> dict[str, Any]:
    folder = partial / _COMPLETE
    folder.mkdir()
    facts = {}
    for split, examples in loaded.items():
        lay_out = training_rows if split == config.data.train_split else evaluation_rows
        found = lay_out(config, examples, tokenizer, partial / _SCRATCH)
        _write_split(config, found, folder / split)
        shutil.rmtree(partial / _SCRATCH)
        facts[split] = found.facts
    _write_files(config, facts, folder)
    return facts


def _write_split(config: RenderConfig, found: LaidOut, folder: Path) -> None:
    folder.mkdir()
    form, method = FORMATS[config.format].row, config.persona.method
    starts = range(0, len(found.rows), SHARD)
    for shard, start in enumerate(starts):
        with (folder / f"{folder.name}-{shard:05}-of-{len(starts):05}.jsonl").open("wb") as file:
            for row in found.rows.select(range(start, min(start + SHARD, len(found.rows)))):
                file.write(orjson.dumps(form(row, method)) + b"\n")


def _write_files(config: RenderConfig, facts: Mapping[str, Any], folder: Path) -> None:
    record = {
        "config": config.model_dump(mode="json", exclude={"output"}),
        "splits": facts,
        "versions": versions(_PACKAGES),
    }
    splits = [{"split": split, "path": f"{split}/*.jsonl"} for split in facts]
    header = yaml.safe_dump({"configs": [{"config_name": "default", "data_files": splits}]}, sort_keys=False)
    card = f"---\n{header}---\nPreferences for {config.format}, written by `everyuser-train render`.\n"
    files = {
        "README.md": card.encode(),
        "render.json": orjson.dumps(record, option=orjson.OPT_INDENT_2) + b"\n",
        **FORMATS[config.format].files(Path(config.output).name, [*facts], config.data),
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
