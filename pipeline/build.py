"""A build from beginning to end: prepare, run the two phases, finish. Resumable at every point."""

from __future__ import annotations

import contextlib
import datetime
import gc
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
from apache_beam.runners import create_runner
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from pipeline import dag, progress
from pipeline.card import write_card
from pipeline.finish import count_rows, file_entries
from pipeline.generation.stage import close_generator
from pipeline.leaks import find_shared_replies
from pipeline.mining import gather
from pipeline.plan import BuildPlan, ShardSpec
from pipeline.prepare import MANIFEST, abandon, locked, prepare, with_threads, write_manifest
from pipeline.publishing.publish import PublishObserver, publish
from pipeline.publishing.repository import check_access
from pipeline.publishing.upload import Batch
from pipeline.shards import read_meta
from schemas.base import UsageError, UserError
from schemas.config import BuildConfig, PublishConfig
from schemas.manifest import Manifest, Run, RunStatus

Phase = Callable[[beam.Pipeline, BuildPlan, Sequence[ShardSpec]], None]


class Observer:
    """Is told how a build goes. The command line draws it; the default says nothing."""

    def prepared(self, plan: BuildPlan, dropped: dict[str, int]) -> None:
        """Everything is checked; work begins."""

    def gathering_begins(self, name: str, plan: BuildPlan, steps: int) -> None:
        """Threads are read or joined, in so many steps."""

    def gathered(self, counts: Mapping[str, int]) -> None:
        """The threads are there; `counts` is their funnel."""

    def phase_begins(self, name: str, plan: BuildPlan, done: Sequence[ShardSpec], todo: Sequence[ShardSpec]) -> None:
        """A phase has `todo` shards to build; `done` were built by earlier runs."""

    def phase_ends(self) -> None:
        """The phase is over, one way or another."""


def build(
    config: BuildConfig,
    output: Path,
    beam_args: Sequence[str] = (),
    observer: Observer | None = None,
    publish_observer: PublishObserver | None = None,
) -> Manifest:
    """Build `config` into `output`, or go on where an earlier run stopped; a finished build is returned as it is.

    With `publish` in the configuration the finished build is then published. Raises `UsageError` for what is wrong
    before any work is done, and `UserError` for what fails later and the user can mend. `KeyboardInterrupt` passes
    through. Nothing finished is lost in any case.
    """
    run = Runner(beam_args)
    with locked(output):
        plan, manifest, dropped = prepare(config, output)
        if manifest.status != "complete" or not all((output / entry.path).is_file() for entry in manifest.files):
            if config.publish is not None:
                check_access(config.publish)
            manifest = _build(plan, manifest, dropped, run, observer or Observer())
        if config.publish is not None:
            publish(output, config.publish, upload_all=partial(_upload, run), observer=publish_observer)
        return manifest


def _build(plan: BuildPlan, manifest: Manifest, dropped: dict[str, int], run: Runner, observer: Observer) -> Manifest:
    output = plan.output
    progress.forget(output)
    observer.prepared(plan, dropped)
    # Beam's half a million objects will live as long as the process: the collector need not look at them again.
    gc.collect()
    gc.freeze()
    started, clock = datetime.datetime.now(datetime.UTC), time.monotonic()
    pace = progress.Pace(output, started.isoformat(timespec="seconds"))
    status: RunStatus = "failed"
    try:
        plan = _with_threads(plan, run, observer)
        _run(dag.build_pairs, "pairs", "pool", plan, run, observer)
        _check_losses(plan)
        find_shared_replies(plan)
        _run(dag.build_examples, "examples", "data", plan, run, observer)
        _check_losses(plan)
        manifest = _finish(plan, manifest)
        status = "complete"
    except KeyboardInterrupt:
        status = "interrupted"
        raise
    finally:
        close_generator(plan)
        summary = _summary(plan, started, time.monotonic() - clock, status)
        pace.close()
        progress.forget(output)
        manifest = manifest.model_copy(update={"runs": (*manifest.runs, summary)})
        # Where the disk is full this fails too, and must not hide the first error. An abandoned build has none.
        with contextlib.suppress(UserError):
            if (output / MANIFEST).exists():
                write_manifest(output, manifest)
    return manifest


class Runner:
    """Beam's runner and options, from the command line's part behind `--`. Raises `UsageError` for what Beam lacks."""

    def __init__(self, beam_args: Sequence[str]) -> None:
        self.options = PipelineOptions([*beam_args])
        known = self.options.get_all_options()
        given = self.options.get_all_options(retain_unknown_options=True)
        unknown = sorted(given.keys() - known.keys())
        if unknown:
            raise UsageError(f"Beam has no option '--{unknown[0]}'; what follows `--` on the command line goes to Beam")
        name = self.options.view_as(StandardOptions).runner
        try:
            # The plain DirectRunner tries to download a binary, and then behaves differently.
            self.runner = create_runner(name) if name else FnApiRunner()
        except (ImportError, ValueError) as error:
            extra = "; for Dataflow install apache-beam[gcp]" if "dataflow" in name.lower() else ""
            raise UsageError(f"--runner={name}: {' '.join(str(error).split())[:200]}{extra}") from None


def _with_threads(plan: BuildPlan, run: Runner, observer: Observer) -> BuildPlan:
    """Gather the threads of a build that mines, unless an earlier run has."""
    if plan.config.mining is None:
        return plan
    index = gather.read_index(plan)
    if index is None:
        try:
            index = _gather(plan, run, observer)
            with_threads(plan, index)
        except UsageError:
            abandon(plan)
            raise
        observer.gathered(index.counts)
    gather.forget_events(plan)
    return with_threads(plan, index)


def _gather(plan: BuildPlan, run: Runner, observer: Observer) -> gather.Index:
    """Read and join the threads, as far as no earlier run has."""
    for name, phase, steps in (
        ("read", dag.partition_threads, gather.slices_to_do),
        ("join", dag.join_threads, gather.parts_to_do),
    ):
        todo: Sequence[Any] = steps(plan)
        observer.gathering_begins(name, plan, len(todo))
        try:
            if todo:
                with _user_errors(), beam.Pipeline(runner=run.runner, options=run.options) as pipeline:
                    phase(pipeline, plan, todo)
        finally:
            observer.phase_ends()
    return gather.index(plan)


def _run(phase: Phase, name: str, folder: str, plan: BuildPlan, run: Runner, observer: Observer) -> None:
    """Run a phase for the shards that have no file yet."""
    shards = plan.shards()
    is_done = {spec: _is_done(plan, folder, spec) for spec in shards}
    done = [spec for spec in shards if is_done[spec]]
    todo = [spec for spec in shards if not is_done[spec]]
    if folder == "pool":
        progress.tally(plan.output).add(progress.BEFORE, sum(spec.count for spec in done))
    observer.phase_begins(name, plan, done, todo)
    try:
        if todo:
            with _user_errors(), beam.Pipeline(runner=run.runner, options=run.options) as pipeline:
                phase(pipeline, plan, todo)
    finally:
        observer.phase_ends()


def _upload(run: Runner, folder: Path, settings: PublishConfig, todo: Sequence[Batch]) -> None:
    """Have the workers upload their shards."""
    with _user_errors(), beam.Pipeline(runner=run.runner, options=run.options) as pipeline:
        dag.upload_shards(pipeline, folder, settings, todo)


def _is_done(plan: BuildPlan, folder: str, spec: ShardSpec) -> bool:
    path = plan.path(folder, spec)
    meta = read_meta(path)
    if meta is not None and meta["fingerprint"] != plan.fingerprint:
        raise UserError(f"{path} belongs to another build; delete it and run again")
    return meta is not None


def _check_losses(plan: BuildPlan) -> None:
    counts = count_rows(plan)
    limit = plan.config.limits.max_rejected
    if counts.pairs_lost > limit * counts.pairs_asked:
        raise UserError(dag.too_many_lost(counts.pairs_lost, counts.pairs_asked, limit))
    if counts.pairs_accepted == 0:
        raise UserError("no pair was accepted; rejected/ holds each row with its reason")


def _finish(plan: BuildPlan, manifest: Manifest) -> Manifest:
    update = {
        "status": "complete",
        "name": plan.config.name,
        "config": plan.config.model_dump(mode="json"),
        "counts": count_rows(plan),
        "files": file_entries(plan),
    }
    finished = manifest.model_copy(update=update)
    write_card(plan.output, finished)
    return finished


def _summary(plan: BuildPlan, started: datetime.datetime, seconds: float, status: RunStatus) -> Run:
    progress.tally(plan.output).flush()
    counts = progress.total(plan.output)
    names = ("requests_sent", "requests_replayed", "prompt_tokens", "completion_tokens", "server_restarts")
    return Run(
        started=started.isoformat(timespec="seconds"),
        seconds=round(seconds, 3),
        status=status,
        **{name: counts[name] for name in names},
    )


@contextlib.contextmanager
def _user_errors() -> Iterator[None]:
    """Find our own error again in what a runner makes of it: a copy with a suffix, or a traceback as text.

    Beam makes a `RuntimeError` of Ctrl-C, too.
    """
    try:
        yield
    except Exception as error:
        if re.match(r"KeyboardInterrupt\b", str(error)):
            raise KeyboardInterrupt from error
        text = f"{type(error).__name__}: {error}" if isinstance(error, UserError) else str(error)
        found = re.findall(r"(User|Usage)Error: (.*)", text)
        if not found:
            raise
        kind, message = found[-1]
        known = UsageError if kind == "Usage" else UserError
        raise known(re.sub(r" \[while running '.*", "", message)) from error
