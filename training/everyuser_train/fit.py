"""Training with TRL: rows in a fixed order, resumable checkpoints, and metrics that continue after a resume."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from everyuser_train import rows as layout
from everyuser_train.arguments import trl_arguments
from everyuser_train.config import FitConfig, ModelConfig
from everyuser_train.files import locked, replacing
from everyuser_train.models import EARLIER, adapter_base, load_tokenizer, resolve
from everyuser_train.recorder import Observer, Recorder, kept_metrics
from everyuser_train.trainer import make_trainer
from everyuser_train.versions import versions
from schemas.base import UsageError

MODEL = "model"
ROWS = "rows"
RUN = "run.json"

_BEGINNINGS = (".lock", ROWS, f"{ROWS}.partial", f"{RUN}.partial")
"""Files that a run may have written before its data and its model are known to be usable."""

_STATE = ("checkpoint-*", "optimizer*", "scheduler*", "rng_state*", "trainer_state.json", "training_args.bin")
"""Files beside a checkpoint's adapters that only its own run needs."""

_MAY_CHANGE = (
    "output",
    "training.eval_steps",
    "training.log_steps",
    "training.report_to",
    "training.save_steps",
    "training.save_total",
)
"""Keys without influence on the model: a run may resume with other values."""

_PACKAGES = ("everyuser-train", "accelerate", "datasets", "numpy", "peft", "torch", "transformers", "trl")


def fit(config: FitConfig, observer: Observer) -> Path:
    """Train, or resume from the last complete checkpoint of the output folder.

    In a distributed launch all processes call this function.

    Returns:
        The folder of the model or its adapters, with the tokenizer and `run.json`.

    Raises:
        UsageError: The output folder holds another run, settings contradict each other, or the data or the model cannot
            be used.
    """
    output = Path(config.output)
    settings = trl_arguments(config)
    main = settings.process_index == 0
    with locked(output) if main else contextlib.nullcontext():
        with settings.main_process_first(local=False):
            if main:
                _prepare_output(output, config)
        if (output / MODEL).is_dir():
            observer.note("this run is finished: nothing to do")
            return output / MODEL
        tokenizer = load_tokenizer(config.model.name, config.model.revision)
        with settings.main_process_first(local=False):
            if config.data.streaming:
                found = layout.stream_rows(config, tokenizer)
            else:
                found = layout.write_rows(config, tokenizer, output / ROWS)
        if main and not (output / RUN).is_file():
            _write_json(output / RUN, _run_record(config))
        observer.note(_summary(found.facts))
        checkpoint = _last_checkpoint(output)
        last = None if checkpoint is None else _step(checkpoint)
        recorder = Recorder(config, observer, kept_metrics(output, last) if main else {})
        trainer = make_trainer(config, settings, found, tokenizer, recorder)
        facts: dict[str, Any] = {"dataset": found.facts, "parameters": _parameters(trainer.model)}
        observer.note(f"resuming from {checkpoint.name}" if checkpoint else "training")
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        _finish(trainer, output, config, facts)
    return output / MODEL


def _parameters(model: Any) -> dict[str, int]:
    """Return the number of weights, adapters included, and of trained weights."""
    if hasattr(model, "get_nb_trainable_parameters"):
        trained, whole = model.get_nb_trainable_parameters()
    else:
        trained, whole = model.num_parameters(only_trainable=True), model.num_parameters()
    return {"all": whole, "trained": trained}


def _finish(trainer: Any, output: Path, config: FitConfig, facts: dict[str, Any]) -> None:
    """Write the model under a temporary name and rename it, so that a folder `model` is always complete."""
    partial = output / f"{MODEL}.partial"
    if trainer.is_fsdp_enabled:
        trainer.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
    trainer.save_model(str(partial))
    if trainer.is_world_process_zero():
        record = _run_record(config) | facts | {"steps": trainer.state.global_step}
        _write_json(output / RUN, record)
        _write_json(partial / RUN, record)
        (partial / "training_args.bin").unlink(missing_ok=True)
        if adapter_base(config.model.name) is not None:
            _add_earlier(partial, config.model)
        partial.rename(output / MODEL)
    trainer.accelerator.wait_for_everyone()


def _add_earlier(folder: Path, model: ModelConfig) -> None:
    """Copy the adapters that the training began with beside the new ones, which then need no other folder."""
    # TRL's own copy of the same adapters, without their tokenizer and record.
    shutil.rmtree(folder / "ref", ignore_errors=True)
    shutil.copytree(resolve(model.name), folder / EARLIER, ignore=shutil.ignore_patterns(*_STATE))
    path = folder / "adapter_config.json"
    config = orjson.loads(path.read_bytes())
    if model.adapters == "fresh":
        base, revision = EARLIER, None
    else:
        # The same adapters stay on the base that they had, which may be beside them.
        before = orjson.loads((folder / EARLIER / path.name).read_bytes())
        base, revision = before["base_model_name_or_path"], before.get("revision")
        beside = Path(EARLIER, base)
        base = str(beside) if (folder / beside).is_dir() else base
    _write_json(path, config | {"base_model_name_or_path": base, "revision": revision})


def _prepare_output(output: Path, config: FitConfig) -> None:
    """Check that the folder is empty or holds this run, and delete incomplete checkpoints and models."""
    record = output / RUN
    if record.is_file():
        _require_same_run(output, orjson.loads(record.read_bytes())["config"], config)
    elif any(path.name not in _BEGINNINGS for path in output.iterdir()):
        raise UsageError(f"{output} holds other files, but no {RUN}; set `output` to a new or empty folder")
    else:
        shutil.rmtree(output / ROWS, ignore_errors=True)
    for path in output.glob("checkpoint-*"):
        if not _is_complete(path):
            shutil.rmtree(path)
    shutil.rmtree(output / f"{MODEL}.partial", ignore_errors=True)


def _run_record(config: FitConfig) -> dict[str, Any]:
    record = {"config": config.model_dump(mode="json"), "versions": versions(_PACKAGES)}
    earlier = Path(config.model.name) / RUN
    return record | {"earlier": orjson.loads(earlier.read_bytes())} if earlier.is_file() else record


def _require_same_run(output: Path, before: dict[str, Any], config: FitConfig) -> None:
    old, new = _flat(before), _flat(config.model_dump(mode="json"))
    for key in sorted(old.keys() | new.keys()):
        if key not in _MAY_CHANGE and old.get(key) != new.get(key):
            raise UsageError(
                f"{output} holds a run with {key} {old.get(key)!r}, but now it is {new.get(key)!r}; set another "
                f"`output`, or resume by --set '{key}={orjson.dumps(old.get(key)).decode()}'"
            )


def _flat(document: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of all levels by dotted key."""
    flat: dict[str, Any] = {}
    for key, value in document.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def _is_complete(checkpoint: Path) -> bool:
    """Return True if the checkpoint has a readable state, which the trainer writes last."""
    try:
        orjson.loads((checkpoint / "trainer_state.json").read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return False
    return True


def _last_checkpoint(output: Path) -> Path | None:
    return max(output.glob("checkpoint-*"), key=_step, default=None)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _summary(facts: Mapping[str, Any]) -> str:
    if "train" not in facts:
        return "reading the training rows as a stream"
    lost = sum(part["too_long"] for part in facts.values())
    sizes = ", ".join(f"{part['rows']} rows for {name}" for name, part in facts.items())
    return sizes.replace("train,", "training,") + (
        f"; {lost} left out, too long for training.max_length" if lost else ""
    )


def _write_json(path: Path, value: object) -> None:
    with replacing(path) as partial:
        partial.write_bytes(orjson.dumps(value, option=orjson.OPT_INDENT_2) + b"\n")
