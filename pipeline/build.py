"""A build from beginning to end: prepare, run the two phases, finish. Resumable at every point."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import apache_beam as beam

from pipeline import dag
from pipeline.driver.finish import complete_manifest, count_rows, is_complete
from pipeline.driver.plumbing import close_pool
from pipeline.driver.prepare import Prepared, check_output, find_intact_manifest, prepare, reset_folder, with_threads
from pipeline.driver.resume import Work, can_finish, count_open, find_work
from pipeline.generation.server import require_vllm
from pipeline.generation.service import close_generation_service
from pipeline.io import storage
from pipeline.io.locks import locked
from pipeline.io.manifests import MANIFEST, write_manifest
from pipeline.io.outages import is_reachable, waiting_for_stores
from pipeline.io.storage import AnyPath
from pipeline.plan import BuildPlan, ShardSpec
from pipeline.publishing.publish import PublishObserver, publish
from pipeline.publishing.repository import check_access
from pipeline.publishing.upload import Batch
from pipeline.runtime import progress
from pipeline.runtime.runners import Runner
from pipeline.threads import gather
from pipeline.threads.index import Index, build_index, check_threads, read_index
from schemas.base import UsageError, UserError
from schemas.config import BuildConfig, PublishConfig, ReplayEngine, VllmEngine
from schemas.manifest import Manifest, Run, RunStatus

logger = logging.getLogger(__name__)

Phase = Callable[[beam.Pipeline, BuildPlan, Sequence[ShardSpec]], None]


class Observer:
    """Is told how a build goes. The command line draws it; the default shows nothing."""

    def prepared(self, plan: BuildPlan, dropped: Mapping[str, int], is_recovered: bool) -> None:
        """Everything is checked; work begins. `dropped` counts posts, `is_recovered` says that a manifest was lost."""

    def gathering_begins(self, name: str, plan: BuildPlan, steps: int) -> None:
        """Threads are read or joined, in so many steps."""

    def gathered(self, counts: Mapping[str, int]) -> None:
        """The threads are there; `counts` is their funnel."""

    def notice(self, line: str) -> None:
        """Show a person something while it lasts, such as a bucket that does not answer. By default it is logged."""
        logger.warning(line)

    def phase_begins(self, name: str, plan: BuildPlan, work: Work) -> None:
        """A phase has shards to build; others were built by earlier runs."""

    def phase_ends(self) -> None:
        """The phase is over, one way or another."""


def build(
    config: BuildConfig,
    output: AnyPath,
    beam_args: Sequence[str] = (),
    observer: Observer | None = None,
    publish_observer: PublishObserver | None = None,
    retry_lost: bool = False,
) -> Manifest:
    """Build `config` into `output`, or go on where an earlier run stopped; a finished build is returned as it is.

    With `retry_lost` a finished build asks again for the rows that circumstances cost it. It is then what it would have
    been without these losses. With `publish` in the configuration the finished build is then published. Raises
    `UsageError` for what is wrong before any work is done, and `UserError` for what fails later and the user can mend.
    `KeyboardInterrupt` passes through. Nothing finished is lost in any case.
    """
    run = Runner(config, output, beam_args)
    observer = observer or Observer()
    with waiting_for_stores(config.requests.outage_seconds, observer.notice), _held(output, config, run):
        prepared = prepare(config, output)
        plan, manifest = prepared.plan, prepared.manifest
        if retry_lost:
            manifest = _reopened(plan, manifest, observer)
        if not is_complete(output, manifest):
            if config.publish is not None:
                check_access(config.publish)
            manifest = _build(run.adapted(plan), prepared._replace(manifest=manifest), run, observer, retry_lost)
        if config.publish is not None:
            publish(output, config.publish, upload_all=partial(_upload, run), observer=publish_observer)
        return manifest


class HandedOver(NamedTuple):
    """What became of a build that was handed over: the job's id, where its runner tells one; or it was finished."""

    job: str | None
    is_new: bool


def submit(config: BuildConfig, output: AnyPath, beam_args: Sequence[str] = (), retry_lost: bool = False) -> HandedOver:
    """Check `config`, lay out its folder, and hand the whole build over as one job, for which nobody waits.

    What is already there is not done again. Raises `UsageError` for what is wrong, and for what needs a driver that
    stays: publishing, and gathering threads.
    """
    run = Runner(config, output, beam_args)
    if config.publish is not None:
        raise UsageError("publish: a job that nobody waits for cannot publish; run `everyuser publish` when it is done")
    with waiting_for_stores(config.requests.outage_seconds, Observer().notice), _held(output, config, run):
        plan, manifest, *_ = prepare(config, output)
        if retry_lost:
            manifest = _reopened(plan, manifest, Observer())
        if is_complete(output, manifest):
            return HandedOver(None, is_new=False)
        if config.mining is not None:
            index = read_index(plan)
            if index is None:
                raise UsageError(
                    "mining: threads are gathered by a driver that stays; run `everyuser build` with the same --output "
                    "until it begins with pairs, stop it there, and then hand it over"
                )
            plan = with_threads(plan, index)
        plan = _opened(plan, retry_lost)
        progress.delete_counts(output)
        return HandedOver(run.submit(dag.build_all, run.adapted(plan)), is_new=True)


@contextlib.contextmanager
def _held(output: AnyPath, config: BuildConfig, run: Runner) -> Iterator[None]:
    """Hold a folder that is ours, or that nobody has used yet. A model server that cannot start here is refused."""
    check_output(output)
    if run.is_local and isinstance(config.engine, VllmEngine) and config.asks_a_model:
        found = find_intact_manifest(output)
        if found is None or found.status != "complete":
            require_vllm(config.engine)
    with locked(output):
        yield


def _reopened(plan: BuildPlan, manifest: Manifest, observer: Observer) -> Manifest:
    """The manifest of a build that may be finished and is to ask again; unfinished from here on, as its files change.

    Raises `UsageError` for an engine that cannot be asked again.
    """
    if isinstance(plan.config.engine, ReplayEngine):
        raise UsageError("--retry-lost: engine replay has no model to ask again; configure the engine of the build")
    if not is_complete(plan.output, manifest):
        return manifest
    index = read_index(plan) if plan.config.mining else None
    if count_open(with_threads(plan, index) if index else plan) == 0:
        observer.notice("nothing to ask again: circumstances cost this build no row")
        return manifest
    manifest = manifest.model_copy(update={"status": "incomplete", "files": ()})
    write_manifest(plan.output, manifest)
    return manifest


def _opened(plan: BuildPlan, retry_lost: bool) -> BuildPlan:
    """The plan, asking again for what circumstances cost, unless nothing but the end is missing.

    So a build whose retry failed is finished by the same command without `--retry-lost`.
    """
    can_ask = not isinstance(plan.config.engine, ReplayEngine)
    return dataclasses.replace(plan, reopens_shards=can_ask and (retry_lost or not can_finish(plan)))


@contextlib.contextmanager
def _way_out(plan: BuildPlan, retry_lost: bool) -> Iterator[None]:
    """A retry that fails says how to have the finished build back."""
    was_finished = retry_lost and can_finish(plan)
    try:
        yield
    except UserError as error:
        if not was_finished:
            raise
        raise UserError(
            f"{error}; without --retry-lost the same command finishes the build with what there is"
        ) from error


def _build(plan: BuildPlan, prepared: Prepared, run: Runner, observer: Observer, retry_lost: bool) -> Manifest:
    output, manifest = plan.output, prepared.manifest
    progress.delete_counts(output)
    observer.prepared(plan, prepared.dropped, prepared.is_recovered)
    started, clock = datetime.datetime.now(datetime.UTC), time.monotonic()
    pace = progress.Pace(output, started.isoformat(timespec="seconds"))
    status: RunStatus = "failed"
    try:
        plan = _opened(_with_threads(plan, run, observer), retry_lost)
        with _way_out(plan, retry_lost):
            _run(dag.build_pairs, "pairs", "pool", plan, run, observer)
            close_pool(plan)
            _run(dag.build_examples, "examples", "data", plan, run, observer)
            manifest = complete_manifest(plan, manifest)
        status = "complete"
    except KeyboardInterrupt:
        status = "interrupted"
        raise
    finally:
        # A store that is gone is not waited for at each of these: the end of the process takes its threads along.
        if status == "complete" or is_reachable(output):
            close_generation_service(plan)
            summary = _summary(plan, run, started, time.monotonic() - clock, status)
            pace.close()
            progress.delete_counts(output)
            manifest = manifest.model_copy(update={"runs": (*manifest.runs, summary)})
            # Where the disk is full this fails too, and must not hide the first error; if there is none, it is one.
            with contextlib.suppress(*([] if status == "complete" else [UserError])):
                if status == "failed":
                    manifest = manifest.model_copy(update={"counts": count_rows(plan)})
                # An abandoned build has none.
                if status == "complete" or storage.is_file(output / MANIFEST):
                    manifest = manifest.sealed()
                    write_manifest(output, manifest)
    return manifest


def _with_threads(plan: BuildPlan, run: Runner, observer: Observer) -> BuildPlan:
    """Gather the threads of a build that mines, unless an earlier run has."""
    if plan.config.mining is None:
        return plan
    index = read_index(plan)
    if index is None:
        try:
            index = _gather(plan, run, observer)
            with_threads(plan, index)
        except UsageError:
            # What one file lacks is no reason to read the others again.
            if not gather.is_partly_partitioned(plan):
                reset_folder(plan)
            raise
        observer.gathered(index.counts)
        if index.first_unreadable:
            observer.notice(f"left out, the first row that cannot be read: {index.first_unreadable}")
    else:
        check_threads(plan)
    gather.delete_spills(plan)
    return with_threads(plan, index)


def _gather(plan: BuildPlan, run: Runner, observer: Observer) -> Index:
    """Read and join the threads, as far as no earlier run has."""
    for name, phase, steps in (
        ("read", dag.partition_threads, gather.pending_slices),
        ("join", dag.join_threads, gather.pending_parts),
    ):
        todo: Sequence[Any] = steps(plan)
        observer.gathering_begins(name, plan, len(todo))
        try:
            if todo:
                run.run(phase, plan, todo)
        finally:
            observer.phase_ends()
    return build_index(plan)


def _run(phase: Phase, name: str, folder: str, plan: BuildPlan, run: Runner, observer: Observer) -> None:
    """Run a phase for the shards that are left to do."""
    work = find_work(plan, folder)
    if folder == "pool":
        progress.counters_for(plan.output).add(progress.BEFORE, sum(spec.count for spec in work.done))
    observer.phase_begins(name, plan, work)
    try:
        if work.todo:
            run.run(phase, plan, work.todo)
    finally:
        observer.phase_ends()


def _upload(run: Runner, folder: AnyPath, settings: PublishConfig, todo: Sequence[Batch]) -> None:
    """Have the workers upload their shards."""
    run.run(dag.upload_shards, folder, settings, todo)


def _summary(plan: BuildPlan, run: Runner, started: datetime.datetime, seconds: float, status: RunStatus) -> Run:
    """What a run did: by Beam's metrics where its pipelines have ended, else by what the processes told last."""
    progress.counters_for(plan.output).flush()
    measured = run.measured
    counts = measured.counts if status == "complete" else progress.total(plan.output, fresh=True)
    names = ("requests_sent", "requests_replayed", "prompt_tokens", "completion_tokens", "server_restarts")
    return Run(
        started=started.isoformat(timespec="seconds"),
        seconds=round(seconds, 3),
        status=status,
        in_flight=round(measured.mean("in_flight"), 1),
        queue_seconds=round(measured.mean("queue_milliseconds") / 1000, 3),
        request_seconds=round(measured.mean("request_milliseconds") / 1000, 3),
        **{name: counts[name] for name in names},
    )
