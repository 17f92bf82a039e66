"""Progress of a command: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from schemas.terminal import say

ProgressCallback = Callable[[str, int, int], None]
"""Gets the name of a stage, how much of it is done, and how much there is."""

_LINE_SECONDS = 10.0
"""Shortest time between two lines about one stage without a terminal."""

_SHOWN = {
    "loss": "loss",
    "eval_loss": "eval loss",
    **dict.fromkeys(("rewards/accuracies", "accuracy"), "accuracy"),
    **dict.fromkeys(("eval_rewards/accuracies", "eval_accuracy"), "eval accuracy"),
    **dict.fromkeys(("rewards/margins", "margin"), "margin"),
    **dict.fromkeys(("eval_rewards/margins", "eval_margin"), "eval margin"),
    "learning_rate": "lr",
}


class Display:
    """Display of notes, stages and metrics, as a context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._tasks: dict[str, TaskID] = {}
        self._printed_at: dict[str, float] = {}
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> Display:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def note(self, text: str) -> None:
        """Print a line."""
        say(self._console, text)

    def step(self, done: int, total: int) -> None:
        """Show how many optimizer steps are done."""
        self.stage("step", done, total)

    def metrics(self, values: Mapping[str, float]) -> None:
        """Print the main metrics as a line."""
        facts = [f"{name} {values[key]:.4g}" for key, name in _SHOWN.items() if key in values]
        if facts:
            self.note(f"step {values['step']:.0f}: {', '.join(facts)}")

    def stage(self, name: str, done: int, total: int) -> None:
        """Show how much of a stage is done."""
        if self._console.is_terminal:
            # Started late: other libraries draw their bars before.
            self._bars.start()
            if name not in self._tasks:
                self._tasks[name] = self._bars.add_task(name, total=total)
            self._bars.update(self._tasks[name], completed=done, total=total)
        elif name != "step" and (done == total or time.monotonic() - self._printed_at.get(name, 0) >= _LINE_SECONDS):
            self._printed_at[name] = time.monotonic()
            self.note(f"{name}: {done} of {total}")
