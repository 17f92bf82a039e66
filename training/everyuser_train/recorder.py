"""The metrics of a run, one line for each log, which continue after a resume."""

from __future__ import annotations

import contextlib
import resource
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import orjson
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState

from everyuser_train.config import FitConfig
from everyuser_train.files import replacing

METRICS = "metrics.jsonl"


class Observer(Protocol):
    """Receiver of a run's progress."""

    def note(self, text: str) -> None:
        """Take a line about what happens now."""

    def step(self, done: int, total: int) -> None:
        """Take the number of optimizer steps done, and their total."""

    def metrics(self, values: Mapping[str, float]) -> None:
        """Take metrics: `step`, `epoch`, and those that TRL logs."""


class Recorder(TrainerCallback):  # type: ignore[misc] # a class of a package without types
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


def kept_metrics(output: Path, last: int | None) -> dict[str, float]:
    """Drop the metrics of steps after `last`, which will be repeated; all if it is None. Return the counters."""
    path = output / METRICS
    kept: list[dict[str, float]] = []
    if last is not None and path.exists():
        for line in path.read_bytes().splitlines():
            # A killed process can leave a partial last line.
            with contextlib.suppress(orjson.JSONDecodeError):
                kept.append(orjson.loads(line))
        kept = [line for line in kept if line["step"] <= last]
    with replacing(path) as partial:
        partial.write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in kept))
    return {name: value for line in kept for name, value in line.items() if name in ("num_tokens", "seconds")}


def _peak_memory() -> int:
    """Return the peak memory of this process in bytes, on its GPU or else in RAM."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    # Linux reports KiB, macOS bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
