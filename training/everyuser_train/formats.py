"""Formats of other trainers: for each, a function from our row to its row, and the files that it needs beside."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import orjson
import yaml

from everyuser_train.config import DataConfig, Method, Trainer
from everyuser_train.rows import Row


class Format(NamedTuple):
    """A trainer's form of a row, and its further files by name, from the names of the folder and of its splits.

    The data say which of the splits is for training.
    """

    row: Callable[[Row, Method], dict[str, Any]]
    files: Callable[[str, Sequence[str], DataConfig], dict[str, bytes]] = lambda folder, splits, data: {}


def _same(row: Row, method: Method) -> dict[str, Any]:
    return dict(row)


def _openrlhf(row: Row, method: Method) -> dict[str, Any]:
    # The scripts of AlignX choose the method by the name of the prompt's column.
    return {f"{method}_prompt": row["prompt"], "chosen": row["chosen"], "rejected": row["rejected"]}


def _axolotl(row: Row, method: Method) -> dict[str, Any]:
    # Axolotl searches the reply in the rendered conversation, and cuts it to a letter if the template has stripped it.
    chosen, rejected = ({**row[name][0], "content": row[name][0]["content"].strip()} for name in ("chosen", "rejected"))
    return {"messages": row["prompt"], "chosen": chosen, "rejected": rejected}


def _llamafactory(row: Row, method: Method) -> dict[str, Any]:
    return {"messages": row["prompt"], "chosen": row["chosen"][0], "rejected": row["rejected"][0]}


def _axolotl_files(folder: str, splits: Sequence[str], data: DataConfig) -> dict[str, bytes]:
    """Return a part of a configuration, which trains and evaluates on the splits of `fit`, where they were rendered."""
    roles = {"datasets": data.train_split, "test_datasets": data.eval_split}
    # A path without a name, such as `.`, is refused by `load_dataset`.
    used = {
        role: [{"path": folder, "split": split, "type": "chat_template.default"}]
        for role, split in roles.items()
        if split in splits
    }
    part = yaml.safe_dump({"rl": "dpo", **used}, sort_keys=False)
    note = "# Part of a configuration. `path` is this folder, as seen from the folder above.\n"
    return {"axolotl.yaml": (note + part).encode()}


def _llamafactory_files(folder: str, splits: Sequence[str], data: DataConfig) -> dict[str, bytes]:
    """Return the description of each split as a dataset of the split's name."""
    described = {
        "formatting": "sharegpt",
        "ranking": True,
        "columns": {"messages": "messages", "chosen": "chosen", "rejected": "rejected"},
        "tags": {
            "role_tag": "role",
            "content_tag": "content",
            "user_tag": "user",
            "assistant_tag": "assistant",
            "system_tag": "system",
        },
    }
    described_splits = {split: {"file_name": split, **described} for split in splits}
    return {"dataset_info.json": orjson.dumps(described_splits, option=orjson.OPT_INDENT_2) + b"\n"}


FORMATS: Mapping[Trainer, Format] = {
    "trl": Format(_same),
    "reward": Format(_same),
    "openrlhf": Format(_openrlhf),
    "axolotl": Format(_axolotl, _axolotl_files),
    "llamafactory": Format(_llamafactory, _llamafactory_files),
}
"""The formats by name."""
