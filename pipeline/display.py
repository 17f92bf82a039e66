"""What a build looks like while it runs: a bar on a terminal, plain lines elsewhere; and its last words."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from pipeline import progress
from pipeline.build import Observer
from pipeline.plan import BuildPlan, ShardSpec
from pipeline.resume import Work
from pipeline.storage import AnyPath, is_local
from schemas.manifest import Manifest, Run

_LINE_SECONDS = 5.0


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

    def prepared(self, plan: BuildPlan, dropped: dict[str, int]) -> None:
        """Say what was dropped and what will be built."""
        for reason, number in sorted(dropped.items()):
            self._console.print(f"seeds: {number} posts dropped ({escape(reason)})", soft_wrap=True)
        self._console.print(f"building into {escape(str(plan.output))}", soft_wrap=True)

    def told(self, line: str) -> None:
        """Say it, above the bar where there is one."""
        self._console.print(escape(line), soft_wrap=True)

    def gathering_begins(self, name: str, plan: BuildPlan, steps: int) -> None:
        """Begin to follow the reading or the joining of threads."""
        if steps:
            self._follow(_Gathering(name, plan, steps))

    def gathered(self, counts: Mapping[str, int]) -> None:
        """Say what is left of the threads, and what was dropped."""
        self._console.print(
            f"threads: {counts.get('threads/used', 0)} used, of {counts.get('posts/read', 0)} posts and "
            f"{counts.get('responses/read', 0)} responses read"
        )
        for reason, number in sorted(counts.items(), key=lambda entry: -entry[1]):
            if "/" in reason and reason.split("/")[1] not in ("read", "used"):
                self._console.print(f"  dropped {number:>7}  {reason}")

    def phase_begins(self, name: str, plan: BuildPlan, work: Work) -> None:
        """Begin to follow the phase."""
        done, todo, lost = work
        if lost:
            self._console.print(f"{name}: asking again for {lost} rows that circumstances cost")
        if done:
            self._console.print(f"{name}: {len(done)} of {len(done) + len(todo)} shards are there already")
        pairs = sum(spec.count for spec in (*done, *todo))
        if name == "pairs":
            width = f"; stage width: up to {len(todo)} at once" if todo else ""
            self._console.print(f"pairs: {pairs} to build in {len(done) + len(todo)} shards{width}")
        if todo:
            self._follow(_Phase(name, plan, todo))

    def _follow(self, phase: _Steps) -> None:
        self._over.clear()
        self._watcher = threading.Thread(target=self._watch, args=(phase,), daemon=True)
        self._watcher.start()

    def phase_ends(self) -> None:
        """Stop following."""
        self._over.set()
        if self._watcher:
            self._watcher.join()
            self._watcher = None

    def _watch(self, phase: _Steps) -> None:
        if not self._console.is_terminal:
            while not self._over.wait(_LINE_SECONDS):
                self._console.print(phase.line(), soft_wrap=True)
            self._console.print(phase.line(), soft_wrap=True)
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[facts]}"),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self._console) as bar:
            task: TaskID = bar.add_task(phase.name, total=phase.steps(), facts="")
            while True:
                over = self._over.wait(0.25)
                bar.update(task, completed=phase.completed(), total=phase.steps(), facts=phase.facts())
                if over:
                    return

    def summary(self, manifest: Manifest, folder: AnyPath) -> None:
        """What was built, where, and how to load it."""
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
        say = self._console.print
        config = manifest.config
        asked = (2 if config["mirror"] else 1) * counts.pairs_asked
        shortfall = asked - counts.examples
        say(
            f"[bold green]built[/] {counts.examples} examples "
            f"({', '.join(f'{split} {rows}' for split, rows in splits.items())}) "
            f"from {counts.pairs_accepted} pairs; {counts.pairs_accepted} of {attempts} attempts accepted",
            soft_wrap=True,
        )
        if shortfall:
            say(
                f"[yellow]short[/] of {asked} asked for by {shortfall}; rejected/ holds each with its "
                "reason: more attempts help against bad replies, more pairs (or a lower history.min_support) against "
                "missing histories",
                soft_wrap=True,
            )
        for reason, number in sorted(counts.rejected.items(), key=lambda entry: -entry[1]):
            say(f"  rejected {number:>6}  {reason}")
        seconds = sum(run.seconds for run in manifest.runs)
        spent = f"{counts.prompt_tokens} prompt and {counts.completion_tokens} completion tokens"
        say(f"  {spent} in all attempts, {seconds:.0f} s")
        if manifest.runs:
            self._engine(manifest.runs[-1])
        say(f"in    {escape(str(folder))}", soft_wrap=True)
        say(f"look  everyuser inspect {escape(str(folder))}", soft_wrap=True)
        say(f"load  {_loading(folder, splits)}", soft_wrap=True)

    def _engine(self, run: Run) -> None:
        """What the last run asked of the model, by Beam's metrics."""
        if run.requests_sent:
            self._console.print(
                f"  last run: {run.requests_sent} requests sent, {run.in_flight:g} in flight on average, "
                f"{run.queue_seconds:g} s in the queue and {run.request_seconds:g} s at the model each; "
                f"{run.server_restarts} server restarts",
                soft_wrap=True,
            )


def _loading(folder: AnyPath, splits: Mapping[str, int]) -> str:
    """The call that loads a build. Of an object store `datasets` is given the files, as it reads no card there."""
    if is_local(folder):
        return f'datasets.load_dataset("{escape(str(folder))}")'
    files = ", ".join(f'"{split}": "{escape(str(folder))}/data/{split}-*.parquet"' for split in splits)
    return f'datasets.load_dataset("parquet", data_files={{{files}}})'


class _Steps(ABC):
    """The figures of something under way, from the tallies since it began."""

    def __init__(self, name: str, plan: BuildPlan) -> None:
        self.name = name
        self._output = plan.output
        self._before = progress.total(plan.output)
        self._started = time.monotonic()

    def _counts(self) -> dict[str, int]:
        now = progress.total(self._output)
        return {name: now[name] - self._before[name] for name in now}

    @abstractmethod
    def steps(self) -> int:
        """How many there are."""

    @abstractmethod
    def completed(self) -> int:
        """How many are done."""

    @abstractmethod
    def facts(self) -> str:
        """What else there is to say."""

    def line(self) -> str:
        """The facts as a plain line."""
        return f"{self.name}: {self.facts()}"


class _Gathering(_Steps):
    """Threads being read or joined."""

    def __init__(self, name: str, plan: BuildPlan, steps: int) -> None:
        super().__init__(name, plan)
        self._of = steps

    def steps(self) -> int:
        """Slices of the input, or parts of its posts."""
        return self._of

    def completed(self) -> int:
        """Those that are done."""
        return self._counts().get("threads/slices" if self.name == "read" else "threads/parts", 0)

    def facts(self) -> str:
        """One line: slices or parts, posts and responses."""
        if self.name == "join":
            return f"{self.completed()}/{self._of} parts"
        events = self._counts().get("threads/events", 0)
        return f"{self.completed()}/{self._of} slices, {events} posts and responses"


class _Phase(_Steps):
    """The figures of one phase."""

    def __init__(self, name: str, plan: BuildPlan, todo: Sequence[ShardSpec]) -> None:
        super().__init__(name, plan)
        self._shards = len(todo)
        asks = any(spec.source == "sampled" for spec in todo) or (
            plan.config.mining is not None and plan.config.mining.annotation.mode != "given"
        )
        self._starts_a_server = plan.config.engine.kind == "vllm" and (
            asks if name == "pairs" else plan.config.portrait != "template"
        )
        self._pairs = sum(spec.count for spec in todo)

    def steps(self) -> int:
        """Pairs of the phase."""
        return self._pairs

    def completed(self) -> int:
        """Pairs that are settled, one way or another."""
        return self._counts().get("settled" if self.name == "pairs" else "examples/asked", 0)

    def facts(self) -> str:
        """One line: shards, examples, acceptance, tokens, time left."""
        counts = self._counts()
        seconds = time.monotonic() - self._started
        parts = [f"{counts.get('shards', 0)}/{self._shards} shards"]
        if self.name == "pairs":
            tried = counts.get("accepted", 0) + counts.get("rejected", 0)
            parts.append(f"{counts.get('accepted', 0)}/{self._pairs} pairs")
            if tried:
                parts.append(f"{counts.get('accepted', 0) / tried:.0%} accepted")
        else:
            parts.append(f"{counts.get('examples/examples', 0)} examples")
        in_flight = progress.total(self._output)["in_flight"]
        if in_flight:
            parts.append(f"{in_flight} in flight")
        questions = counts.get("questions", 0)
        if questions:
            parts.append(f"{counts.get('answers', 0)}/{questions} answers")
        tokens = counts.get("completion_tokens", 0)
        if tokens:
            parts.append(f"{tokens / max(seconds, 1e-9):.0f} tokens/s")
        if counts.get("server_restarts"):
            parts.append(f"{counts['server_restarts']} server restarts")
        done = self.completed()
        if 0 < done < self._pairs:
            parts.append(f"{seconds / done * (self._pairs - done):.0f} s left")
        elif self._starts_a_server and not counts.get("requests_sent"):
            parts.append("starting the model")
        return ", ".join(parts)
