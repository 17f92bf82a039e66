"""Training by DPO with TRL: rows in a fixed order, resumable checkpoints, and metrics that continue after a resume."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.metadata
import os
import resource
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import orjson
import torch
from transformers import BitsAndBytesConfig, TrainerCallback, TrainerControl, TrainerState
from trl import DPOConfig, DPOTrainer

from everyuser_train import rows as layout
from everyuser_train.config import FitConfig, TrainingConfig
from everyuser_train.files import replacing
from everyuser_train.models import best_device, load_tokenizer, resolve
from schemas.base import UsageError, UserError
from schemas.problems import suggest_name

MODEL = "model"
ROWS = "rows"
METRICS = "metrics.jsonl"
RUN = "run.json"

_BEGINNINGS = (".lock", ROWS, f"{ROWS}.partial", f"{RUN}.partial")
"""Files that a run may have written before its data and its model are known to be usable."""

_MAY_CHANGE = (
    "output",
    "training.eval_steps",
    "training.log_steps",
    "training.report_to",
    "training.save_steps",
    "training.save_total",
)
"""Keys without influence on the model: a run may resume with other values."""

_OURS = {
    "output_dir": "output",
    "seed": "seed",
    "beta": "training.beta",
    "learning_rate": "training.learning_rate",
    "num_train_epochs": "training.epochs",
    "max_steps": "training.max_steps",
    "per_device_train_batch_size": "training.device_batch_size",
    "gradient_accumulation_steps": "training.batch_size",
    "max_length": "training.max_length",
    "warmup_steps": "training.warmup_ratio",
    "lr_scheduler_type": "training.scheduler",
    "gradient_checkpointing": "training.gradient_checkpointing",
    "precompute_ref_log_probs": "training.precompute_reference",
    "save_steps": "training.save_steps",
    "save_total_limit": "training.save_total",
    "logging_steps": "training.log_steps",
    "eval_steps": "training.eval_steps",
    "report_to": "training.report_to",
    "bf16": "model.dtype",
    "fp16": "model.dtype",
    "model_init_kwargs": "model",
}
"""Fields of DPOConfig that a key of ours sets."""

_PACKAGES = ("everyuser-train", "accelerate", "datasets", "numpy", "peft", "torch", "transformers", "trl")


class Observer(Protocol):
    """Receiver of a run's progress."""

    def note(self, text: str) -> None:
        """Take a line about what happens now."""

    def step(self, done: int, total: int) -> None:
        """Take the number of optimizer steps done, and their total."""

    def metrics(self, values: Mapping[str, float]) -> None:
        """Take metrics: `step`, `epoch`, and those that TRL logs."""


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
    settings = _arguments(config)
    main = settings.process_index == 0
    with _locked(output) if main else contextlib.nullcontext():
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
        recorder = _Recorder(config, observer, _kept_metrics(output, checkpoint) if main else {})
        trainer = _trainer(config, settings, found, tokenizer, recorder)
        facts: dict[str, Any] = {"dataset": found.facts, "parameters": _parameters(trainer.model)}
        observer.note(f"resuming from {checkpoint.name}" if checkpoint else "training")
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        _finish(trainer, output, config, facts)
    return output / MODEL


def _arguments(config: FitConfig) -> Any:
    """Return TRL's settings. Raises `UsageError` for contradictions, and for fields that TRL does not have."""
    training, model = config.training, config.model
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if processes == 1 and torch.cuda.device_count() > 1:
        raise UsageError(
            f"one process sees {torch.cuda.device_count()} GPUs; start it by `accelerate launch`, or set "
            "CUDA_VISIBLE_DEVICES=0"
        )
    accumulation, rest = divmod(training.batch_size, training.device_batch_size * processes)
    if rest:
        raise UsageError(
            f"training.batch_size: {training.batch_size} is not a multiple of training.device_batch_size x processes "
            f"({training.device_batch_size} x {processes})"
        )
    if config.data.streaming and training.max_steps < 1:
        raise UsageError("data.streaming: a stream has no length; set training.max_steps")
    if config.data.streaming and training.precompute_reference:
        raise UsageError(
            "data.streaming: rows of a stream are not known in advance; set training.precompute_reference to false"
        )
    fields = {
        "output_dir": config.output,
        "seed": config.seed,
        "beta": training.beta,
        "learning_rate": training.learning_rate,
        # The dataset holds the rows of all epochs, in order.
        "num_train_epochs": 1,
        "max_steps": training.max_steps,
        "train_sampling_strategy": "sequential",
        "per_device_train_batch_size": training.device_batch_size,
        "per_device_eval_batch_size": training.device_batch_size,
        "gradient_accumulation_steps": accumulation,
        # Rows are cut to length when they are rendered.
        "max_length": None,
        "warmup_steps": training.warmup_ratio,
        "lr_scheduler_type": training.scheduler,
        "gradient_checkpointing": training.gradient_checkpointing,
        "precompute_ref_log_probs": training.precompute_reference,
        # TRL disables all dropout, also that of adapters.
        "disable_dropout": model.lora_dropout == 0,
        "save_steps": training.save_steps,
        "save_total_limit": training.save_total,
        "logging_steps": training.log_steps,
        "eval_strategy": "steps",
        # The last step is always evaluated.
        "eval_steps": training.eval_steps or 2**31 - 1,
        "report_to": list(training.report_to) or "none",
        # Without this, half precision on a CPU is an error.
        "use_cpu": best_device() == "cpu",
        "bf16": model.dtype == "bfloat16",
        "fp16": model.dtype == "float16",
        "model_init_kwargs": _model_arguments(config),
        "disable_tqdm": True,
        # One process writes the rows while the others wait.
        "ddp_timeout": 6 * 3600,
    }
    _check_extra(training)
    try:
        return DPOConfig(**(fields | training.extra))
    except (TypeError, ValueError, ImportError) as error:
        raise UsageError(f"training: TRL refuses these settings: {' '.join(str(error).split())}") from error


def _check_extra(training: TrainingConfig) -> None:
    known = list(DPOConfig.__dataclass_fields__)
    for name in training.extra:
        if name not in known:
            raise UsageError(f"training.extra: TRL's DPOConfig has no '{name}'; {suggest_name(name, known)}")
        if name in _OURS:
            raise UsageError(f"training.extra: '{name}' is set by the key '{_OURS[name]}'")


def _model_arguments(config: FitConfig) -> dict[str, Any]:
    """Return the arguments for loading the model."""
    model = config.model
    arguments: dict[str, Any] = {
        # Updates of 5e-7 vanish in bfloat16, so fully trained weights are kept in float32.
        "dtype": "float32" if model.tuning == "full" else model.dtype,
        "device_map": None,
    }
    if model.tuning == "qlora":
        if not torch.cuda.is_available():
            raise UsageError("model.tuning: 'qlora' needs a CUDA GPU; use 'lora'")
        arguments["device_map"] = {"": int(os.environ.get("LOCAL_RANK", "0"))}
    if model.revision is not None:
        arguments["revision"] = model.revision
    if model.attention is not None:
        arguments["attn_implementation"] = model.attention
    return arguments


def _trainer(config: FitConfig, settings: Any, found: layout.Rows, tokenizer: Any, recorder: TrainerCallback) -> Any:
    model = config.model
    if found.evaluation is None:
        settings.eval_strategy = "no"
    adapters, quantization = None, None
    if model.tuning != "full":
        from peft import LoraConfig

        adapters = LoraConfig(
            r=model.lora_rank,
            lora_alpha=model.lora_alpha,
            lora_dropout=model.lora_dropout,
            target_modules=model.lora_targets if isinstance(model.lora_targets, str) else list(model.lora_targets),
            task_type="CAUSAL_LM",
            revision=model.revision,
        )
    if model.tuning == "qlora":
        quantization = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=getattr(torch, model.dtype),
        )
    try:
        trainer = DPOTrainer(
            model=resolve(model.name),
            args=settings,
            train_dataset=found.train,
            eval_dataset=found.evaluation,
            processing_class=tokenizer,
            peft_config=adapters,
            quantization_config=quantization,
            callbacks=[recorder],
        )
    except ImportError as error:
        raise UsageError(f"{' '.join(str(error).split())}; pip install 'everyuser-train[qlora]'") from error
    # Without a progress bar, the trainer prints its logs.
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    return trainer


class _Recorder(TrainerCallback):  # type: ignore[misc] # a class of a package without types
    """Writer of metrics. Averages restart at every checkpoint, so that a resumed run logs the same."""

    def __init__(self, config: FitConfig, observer: Observer, last: Mapping[str, float]) -> None:
        self._path = Path(config.output) / METRICS
        self._observer = observer
        self._epochs = config.training.epochs if config.training.max_steps < 1 else None
        self._tokens, self._seconds = last.get("num_tokens", 0), last.get("seconds", 0.0)
        self._started = time.monotonic()

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Start the clock."""
        self._started = time.monotonic()

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Log before each checkpoint and at the end."""
        self._observer.step(state.global_step, state.max_steps)
        if state.global_step % args.save_steps == 0 or state.global_step >= state.max_steps:
            control.should_log = True

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, logs: dict[str, float], **_: Any) -> None:
        """Append a line of metrics."""
        if not state.is_world_process_zero or "train_runtime" in logs:
            return
        line: dict[str, float] = {"step": state.global_step} | logs
        line.pop("epoch", None)
        if self._epochs is not None:
            line["epoch"] = round((state.epoch or 0) * self._epochs, 6)
        for name in ("num_tokens", "eval_num_tokens"):
            if name in line:
                line[name] += self._tokens
        line["seconds"] = round(self._seconds + time.monotonic() - self._started, 3)
        line["peak_memory"] = _peak_memory()
        with self._path.open("ab") as file:
            file.write(orjson.dumps(line) + b"\n")
        self._observer.metrics(line)


def _parameters(model: Any) -> dict[str, int]:
    """Return the number of weights, adapters included, and of trained weights."""
    if hasattr(model, "get_nb_trainable_parameters"):
        trained, whole = model.get_nb_trainable_parameters()
    else:
        trained, whole = model.num_parameters(only_trainable=True), model.num_parameters()
    return {"all": whole, "trained": trained}


def _peak_memory() -> int:
    """Return the peak memory of this process in bytes, on its GPU or else in RAM."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    # Linux reports KiB, macOS bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


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
        partial.rename(output / MODEL)
    trainer.accelerator.wait_for_everyone()


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
    versions = {}
    for name in _PACKAGES:
        # Our package has no metadata when it runs from its source folder.
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {"config": config.model_dump(mode="json"), "versions": versions}


def _require_same_run(output: Path, before: dict[str, Any], config: FitConfig) -> None:
    old, new = _flat(before), _flat(config.model_dump(mode="json"))
    for key in sorted(old.keys() | new.keys()):
        if key not in _MAY_CHANGE and old.get(key) != new.get(key):
            raise UsageError(
                f"{output} holds a run with {key} {old.get(key)!r}, but now it is {new.get(key)!r}; set another "
                "`output`, or use the same configuration"
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


def _kept_metrics(output: Path, checkpoint: Path | None) -> dict[str, float]:
    """Drop the metrics of steps after the checkpoint, which will be repeated. Return the last counters kept."""
    path = output / METRICS
    lines = path.read_bytes().splitlines() if path.exists() and checkpoint is not None else []
    kept: list[dict[str, float]] = []
    for line in lines:
        # A killed process can leave a partial last line.
        with contextlib.suppress(orjson.JSONDecodeError):
            kept.append(orjson.loads(line))
    if checkpoint is not None:
        kept = [line for line in kept if line["step"] <= _step(checkpoint)]
    with replacing(path) as partial:
        partial.write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in kept))
    return {name: value for line in kept for name, value in line.items() if name in ("num_tokens", "seconds")}


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


@contextlib.contextmanager
def _locked(output: Path) -> Iterator[None]:
    """Lock the folder against a second run."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        file = (output / ".lock").open("a")
    except OSError as error:
        raise UserError(f"{output}: {error.strerror or error}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"{output}: in use by another run; wait for it, or set another `output`") from None
        yield
