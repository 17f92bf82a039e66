"""The progress display of all commands: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from pipeline.console.phases import Measuring, Phase
from schemas.terminal import safe

_REFRESH_SECONDS = 0.25
_LOOK_SECONDS = 1.0
_LINE_SECONDS = 5.0
_MOST_LINE_SECONDS = 60.0
"""Seconds between plain lines, at first and in the end: a log of many hours stays readable."""


class Display:
    """Follows one phase after another, and prints notices above the bar, until it is closed."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._over = threading.Event()
        self._watcher: threading.Thread | None = None
        self._measuring: Measuring | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def notice(self, line: str, head: str = "", style: str = "") -> None:
        """Print a line after a styled `head`. A terminal wraps it between words; in a file it stays one line."""
        text = Text.assemble((safe(head), style), safe(line))
        self._console.print(text, soft_wrap=not self._console.is_terminal)

    def follow(self, phase: Phase) -> None:
        """Show the phase until `stop`."""
        self._over.clear()
        watch = self._draw if self._console.is_terminal else self._print
        self._watcher = threading.Thread(target=watch, args=(phase,), daemon=True)
        self._watcher.start()

    def stop(self) -> None:
        """Show the last state of the phase, and stop following it."""
        self._over.set()
        if self._watcher:
            self._watcher.join()
            self._watcher = None

    def measure(self, name: str, done: int, total: int) -> None:
        """Show that `done` of `total` steps of a stage are done. The stages come one after another."""
        if self._measuring is None or self._measuring.name != name:
            self.stop()
            self._measuring = Measuring(name, total)
            self.follow(self._measuring)
        self._measuring.done = done
        if done == total:
            self.stop()

    def _print(self, phase: Phase) -> None:
        """Print a line when something was counted, when nothing was for a minute, and at the end."""
        pause, seen, since = _LINE_SECONDS, phase.counts(), time.monotonic()
        due = since + pause
        is_over = False
        while not is_over:
            is_over = self._over.wait(min(pause, _LOOK_SECONDS))
            # The phase looks at its counts more often than they are printed, for paces of the last half minute.
            facts, now = phase.facts(), time.monotonic()
            if now < due and not is_over:
                continue
            counts = phase.counts()
            quiet = "" if counts != seen else f", nothing new for {now - since:.0f} s"
            if (is_over and any(counts.values())) or not quiet or now - since >= _MOST_LINE_SECONDS:
                self.notice(f"{phase.name}: {facts}{'' if is_over else quiet}")
            if not quiet:
                seen, since = counts, now
            pause = min(_MOST_LINE_SECONDS, pause * 1.1)
            due = now + pause

    def _draw(self, phase: Phase) -> None:
        """Draw a bar, and below it the facts, which may take more than a line."""
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
        bar = Progress(*columns, console=self._console)
        task = bar.add_task(phase.name, total=phase.total)
        with Live(console=self._console, auto_refresh=False) as live:
            is_over = False
            while not is_over:
                is_over = self._over.wait(_REFRESH_SECONDS)
                bar.update(task, completed=phase.completed())
                live.update(Group(bar, Text(phase.facts())), refresh=True)
