"""What a build looks like while it runs: a bar on a terminal, plain lines elsewhere; and its last words."""

from __future__ import annotations

import shlex
import threading
import time
from collections.abc import Mapping, Sequence
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from pipeline.build import Observer
from pipeline.console.phases import Gathering, Phase, Steps
from pipeline.driver.losses import remedy_for, summarise_rejections
from pipeline.driver.resume import Work
from pipeline.io.storage import AnyPath, is_local
from pipeline.plan import BuildPlan
from schemas.manifest import Counts, Manifest, Run

_LINE_SECONDS = 5.0
_MOST_LINE_SECONDS = 60.0
"""How often there is a plain line, at first and in the end: a log of many hours stays readable."""


class Display(Observer):
    """Follows the tallies of all processes and shows them until it is closed."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._over = threading.Event()
        self._watcher: threading.Thread | None = None

    def __enter__(self) -> Display:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.phase_ends()

    def _say(self, text: str) -> None:
        """Print a line of markup. Terminals break words, so there it is wrapped; in a file it stays one line."""
        self._console.print(text, soft_wrap=not self._console.is_terminal)

    def prepared(self, plan: BuildPlan, dropped: Mapping[str, int], is_recovered: bool) -> None:
        """Say what was dropped and what will be built."""
        if is_recovered:
            self._say("manifest.json was missing or damaged: written again; the list of earlier runs is lost")
        for reason, number in sorted(dropped.items()):
            self._say(f"seeds: {number} posts dropped ({escape(reason)})")
        self._say(f"building into {escape(str(plan.output))}")

    def told(self, line: str) -> None:
        """Say it, above the bar where there is one."""
        self._say(escape(line))

    def gathering_begins(self, name: str, plan: BuildPlan, steps: int) -> None:
        """Begin to follow the reading or the joining of threads."""
        if steps:
            self._follow(Gathering(name, plan, steps))

    def gathered(self, counts: Mapping[str, int]) -> None:
        """Say what is left of the threads, and what was dropped."""
        self._say(
            f"threads: {counts.get('threads/used', 0)} used, of {counts.get('posts/read', 0)} posts and "
            f"{counts.get('responses/read', 0)} responses read"
        )
        for reason, number in sorted(counts.items(), key=lambda entry: -entry[1]):
            if "/" in reason and reason.split("/")[1] not in ("read", "used"):
                self._say(f"  dropped {number:>7}  {reason}")

    def phase_begins(self, name: str, plan: BuildPlan, work: Work) -> None:
        """Begin to follow the phase."""
        done, todo, lost = work
        if lost:
            self._say(f"{name}: asking again for {lost} rows that circumstances cost")
        if done:
            self._say(f"{name}: {len(done)} of {len(done) + len(todo)} shards are there already")
        pairs = sum(spec.count for spec in (*done, *todo))
        if name == "pairs":
            width = f"; stage width: up to {len(todo)} at once" if todo else ""
            self._say(f"pairs: {pairs} to build in {len(done) + len(todo)} shards{width}")
        if todo:
            self._follow(Phase(name, plan, todo))

    def _follow(self, steps: Steps) -> None:
        self._over.clear()
        watch = self._draw if self._console.is_terminal else self._print
        self._watcher = threading.Thread(target=watch, args=(steps,), daemon=True)
        self._watcher.start()

    def phase_ends(self) -> None:
        """Stop following."""
        self._over.set()
        if self._watcher:
            self._watcher.join()
            self._watcher = None

    def _print(self, steps: Steps) -> None:
        """Plain lines, seldom: one is printed when something has been counted, or when long nothing was."""
        pause, seen, since = _LINE_SECONDS, steps.counts(), time.monotonic()
        is_over = False
        while not is_over:
            is_over = self._over.wait(pause)
            counts, now = steps.counts(), time.monotonic()
            quiet = "" if counts != seen else f", nothing new for {now - since:.0f} s"
            if is_over or not quiet or now - since >= _MOST_LINE_SECONDS:
                self._say(escape(f"{steps.name}: {steps.facts()}{'' if is_over else quiet}"))
            if not quiet:
                seen, since = counts, now
            pause = min(_MOST_LINE_SECONDS, pause * 1.1)

    def _draw(self, steps: Steps) -> None:
        """A bar, and below it the facts, which may take more than a line."""
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
        bar = Progress(*columns, console=self._console)
        task = bar.add_task(steps.name, total=steps.total)
        with Live(console=self._console, auto_refresh=False) as live:
            is_over = False
            while not is_over:
                is_over = self._over.wait(0.25)
                bar.update(task, completed=steps.completed())
                live.update(Group(bar, Text(steps.facts())), refresh=True)

    def summary(self, manifest: Manifest, folder: AnyPath, config: str) -> None:
        """What was built by this configuration, where, and how to load it."""
        counts = manifest.counts
        attempts = counts.pairs_accepted + sum(
            number
            for reason, number in counts.rejected.items()
            if not reason.startswith(("annotate", "assemble", "portrait"))
        )
        splits: dict[str, int] = {}
        for entry in manifest.files:
            split = entry.path.rpartition("/")[2].split("-")[0]
            splits[split] = splits.get(split, 0) + entry.rows
        asked = (2 if manifest.config["mirror"] else 1) * counts.pairs_asked
        shortfall = asked - counts.examples
        self._say(
            f"[bold green]built[/] {counts.examples} examples "
            f"({', '.join(f'{split} {rows}' for split, rows in splits.items())}) "
            f"from {counts.pairs_accepted} pairs; {counts.pairs_accepted} of {attempts} attempts accepted"
        )
        if shortfall:
            why = f"{summarise_rejections(folder, counts.rejected)}; {remedy_for(counts.rejected)}"
            self._say(f"[yellow]short[/] of {asked} asked for by {shortfall}: {escape(why)}")
        for reason, number in sorted(counts.rejected.items(), key=lambda entry: -entry[1]):
            self._say(f"  rejected {number:>6}  {reason}")
        if unanswered := _unanswered(counts):
            command = f"everyuser build {shlex.quote(config)} -o {shlex.quote(str(folder))} --retry-lost"
            self._say(f"[yellow]open[/]  circumstances cost {unanswered}; to ask again: {escape(command)}")
        seconds = sum(run.seconds for run in manifest.runs)
        spent = f"{counts.prompt_tokens} prompt and {counts.completion_tokens} completion tokens"
        self._say(f"  {spent} in all attempts, {seconds:.0f} s")
        if manifest.runs:
            self._engine(manifest.runs[-1])
        # To be copied, and so never wrapped.
        for line in (
            f"in    {escape(str(folder))}",
            f"look  everyuser inspect {escape(str(folder))}",
            f"load  {_loading(folder, [split for split, rows in splits.items() if rows])}",
        ):
            self._console.print(line, soft_wrap=True)

    def _engine(self, run: Run) -> None:
        """What the last run asked of the model, by Beam's metrics."""
        if run.requests_sent:
            self._say(
                f"  last run: {run.requests_sent} requests sent, {run.in_flight:g} in flight on average, "
                f"{run.queue_seconds:g} s in the queue and {run.request_seconds:g} s at the model each; "
                f"{run.server_restarts} server restarts"
            )


def _unanswered(counts: Counts) -> str:
    """What circumstances have cost, in words."""
    numbers = {"pairs": counts.pairs_unanswered, "responses": counts.threads.get("responses/unanswered", 0)}
    return " and ".join(f"{number} {name}" for name, number in numbers.items() if number)


def _loading(folder: AnyPath, splits: Sequence[str]) -> str:
    """The call that loads a build's splits. Of an object store it gets the files, as it reads no card there.

    Splits without a row are left out, which it could not open.
    """
    if is_local(folder):
        return f'datasets.load_dataset("{escape(str(folder))}")'
    files = ", ".join(f'"{split}": "{escape(str(folder))}/data/{split}-*.parquet"' for split in splits)
    return f'datasets.load_dataset("parquet", data_files={{{files}}})'
