"""A build from beginning to end: prepare, gather, run both phases, finish, publish. It can always be resumed.

Beam takes a second or more to import: what runs a pipeline imports it, after the checks and the first trial request.
What publishes imports the Hub's client.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from pipeline.driver.diagnosis import Diagnosis
from pipeline.driver.finish import close_pool, complete_manifest, count_rows, has_all_shards, judge_again
from pipeline.driver.prepare import Prepared, check_output, find_intact_manifest, prepare, reset_folder, with_threads
from pipeline.driver.rehearsal import adopt_trial
from pipeline.driver.resume import Work, can_finish, count_open, find_work
from pipeline.driver.spent import budget_message, cost_of, engine_times, spent_by, with_unrecorded_runs
from pipeline.generation.packaged import check_model, model_path
from pipeline.generation.recording import check_replay
from pipeline.generation.roles import managed_servers, naming_keys
from pipeline.generation.server import require_vllm
from pipeline.generation.service import close_generation_services, generation_service
from pipeline.io import storage
from pipeline.io.locks import locked
from pipeline.io.manifests import MANIFEST, write_manifest
from pipeline.io.outages import is_reachable, waiting_for_stores
from pipeline.io.storage import AnyPath
from pipeline.plan import BuildPlan, ShardSpec
from pipeline.runtime import progress
from pipeline.runtime.results import TOKEN_COUNTS
from pipeline.runtime.runners import Runner
from pipeline.sampling.pairs import PairShard
from pipeline.threads import gather
from pipeline.threads.index import Index, build_index, check_threads, read_index
from pipeline.verification.gates import check_gates
from schemas.base import BudgetError, UsageError, UserError
from schemas.config import BuildConfig, PublishConfig, ReplayEngine
from schemas.manifest import Manifest, Run, RunStatus

if TYPE_CHECKING:
    from pipeline.publishing.publish import PublishObserver
    from pipeline.publishing.upload import Batch

logger = logging.getLogger(__name__)


class Observer:
    """Receiver of a build's progress. The command line draws it; this default shows nothing."""

    def prepared(self, plan: BuildPlan, dropped: Mapping[str, int], is_recovered: bool) -> None:
        """Everything is checked, and work begins.

        Args:
            plan: The build.
            dropped: Posts left out, by reason.
            is_recovered: The manifest was lost and has been written again.
        """

    def gathering_begins(self, name: str, plan: BuildPlan, steps: int) -> None:
        """Threads are about to be read or joined, in `steps` slices or parts."""

    def gathered(self, counts: Mapping[str, int], first_unreadable: str) -> None:
        """All threads are gathered; `counts` is their funnel. `first_unreadable` may quote a row: do not log it."""

    def notice(self, line: str) -> None:
        """Show a line about something that lasts, such as a bucket that does not answer, or an engine that is slow.

        Several threads call it. By default the line is logged.
        """
        logger.warning(line)

    def phase_begins(self, name: str, plan: BuildPlan, work: Work) -> None:
        """A phase begins; `work` lists the shards to build and those of earlier runs."""

    def phase_ends(self) -> None:
        """The phase has ended, or failed."""


def build(
    config: BuildConfig,
    output: AnyPath,
    beam_args: Sequence[str] = (),
    observer: Observer | None = None,
    publish_observer: PublishObserver | None = None,
    retry_lost: bool = False,
) -> Manifest:
    """Build a dataset, or resume where an earlier run stopped. Finished shards are kept whatever happens.

    Args:
        config: What to build. With `publish` in it, the finished build is published too.
        output: The build's folder. A finished build of the same configuration is returned; other `limits` judge it
            again.
        beam_args: Options for Beam, as on its command line.
        observer: Receives the progress.
        publish_observer: Receives the progress of publishing.
        retry_lost: Ask again for the rows that timeouts and server errors cost a finished build.

    Returns:
        The manifest of the finished build.

    Raises:
        UsageError: Something is wrong before any work: a key, a file, a folder.
        UserError: The run failed, or the build misses a gate of its limits; the message says how to continue.
        KeyboardInterrupt: Ctrl-C.
    """
    runner = Runner(config, output, beam_args)
    observer = observer or Observer()
    with waiting_for_stores(config.requests.outage_seconds, observer.notice), _locked(output, config, runner):
        prepared = prepare(config, output)
        plan = prepared.plan
        manifest = judge_again(plan, prepared.manifest)
        if retry_lost:
            manifest = _reopen(plan, manifest, observer)
        if not has_all_shards(output, manifest):
            if config.publish is not None:
                from pipeline.publishing.repository import check_access

                check_access(config.publish)
            manifest = _build(runner.adapted(plan), prepared._replace(manifest=manifest), runner, observer, retry_lost)
        check_gates(output, manifest)
        if config.publish is not None:
            from pipeline.publishing.publish import publish

            publish(output, config.publish, upload_all=partial(_upload, runner), observer=publish_observer)
        return manifest


class Submission(NamedTuple):
    """Result of a detached submission. `job` is the runner's id; `is_new` is false for a build that was finished."""

    job: str | None
    is_new: bool


def submit(config: BuildConfig, output: AnyPath, beam_args: Sequence[str] = (), retry_lost: bool = False) -> Submission:
    """Check a configuration, prepare its folder, and submit the build as one detached job.

    Shards of earlier runs are kept. The arguments are those of `build`.

    Raises:
        UsageError: Something is wrong before any work; or the build needs a driver that waits, which publishing and
            gathering threads do.
    """
    runner = Runner(config, output, beam_args)
    if config.publish is not None:
        raise UsageError("publish: a detached job cannot publish; run `everyuser publish` when it is done")
    with waiting_for_stores(config.requests.outage_seconds, Observer().notice), _locked(output, config, runner):
        plan, manifest, *_ = prepare(config, output)
        manifest = judge_again(plan, manifest)
        if retry_lost:
            manifest = _reopen(plan, manifest, Observer())
        if has_all_shards(output, manifest):
            check_gates(output, manifest)
            return Submission(None, is_new=False)
        if config.mining is not None:
            index = read_index(plan)
            if index is None:
                raise UsageError(
                    "mining: a detached job cannot gather threads; run `everyuser build` with the same --output until "
                    "it begins with pairs, stop it there, then use --detach"
                )
            plan = with_threads(plan, index)
        plan = _with_retries(plan, retry_lost)
        manifest = with_unrecorded_runs(output, plan.config, manifest)
        write_manifest(output, manifest)
        progress.delete_counts(output)
        began = datetime.datetime.now(datetime.UTC)
        progress.note_run(output, began.isoformat(timespec="seconds"))
        plan = dataclasses.replace(plan, spent=spent_by(manifest.runs, began.timestamp()))
        from pipeline import dag

        return Submission(runner.submit(dag.build_all, runner.adapted(plan)), is_new=True)


@contextlib.contextmanager
def _locked(output: AnyPath, config: BuildConfig, runner: Runner) -> Iterator[None]:
    """Lock a folder that is a build's, or new. Raise `UsageError` for another one, or if vLLM cannot start here."""
    check_output(output)
    found = find_intact_manifest(output)
    if found is None or not found.is_built:
        check_replay(config)
        for role, engine, model in managed_servers(config) if runner.is_local else ():
            with naming_keys(role, config):
                require_vllm(engine)
                check_model(model)
    with locked(output):
        yield


def _reopen(plan: BuildPlan, manifest: Manifest, observer: Observer) -> Manifest:
    """Mark a finished build that has rows to ask again as incomplete, since its files will change.

    Raises `UsageError` for an engine that cannot be asked again.
    """
    if isinstance(plan.config.engine, ReplayEngine):
        raise UsageError("--retry-lost: engine replay has no model to ask again; configure the engine of the build")
    if not has_all_shards(plan.output, manifest):
        return manifest
    index = read_index(plan) if plan.config.mining else None
    if count_open(with_threads(plan, index) if index else plan) == 0:
        observer.notice("nothing to ask again: no row of this build was lost to timeouts or server errors")
        return manifest
    manifest = manifest.model_copy(update={"status": "incomplete", "files": ()})
    write_manifest(plan.output, manifest)
    return manifest


def _with_retries(plan: BuildPlan, retry_lost: bool) -> BuildPlan:
    """Return the plan that asks again for the rows of open shards, unless only the end of the build is missing.

    A build whose retry failed is thus finished by the same command without `--retry-lost`.
    """
    can_ask = not isinstance(plan.config.engine, ReplayEngine)
    return dataclasses.replace(plan, reopens_shards=can_ask and (retry_lost or not can_finish(plan)))


@contextlib.contextmanager
def _retry_errors(plan: BuildPlan, retry_lost: bool) -> Iterator[None]:
    """Add to the error of a failed retry how to restore the finished build."""
    was_finished = retry_lost and can_finish(plan)
    try:
        yield
    except UserError as error:
        if not was_finished or isinstance(error, BudgetError):
            raise
        raise UserError(
            f"{error}; without --retry-lost the same command finishes the build from the shards that exist"
        ) from error


def _build(plan: BuildPlan, prepared: Prepared, runner: Runner, observer: Observer, retry_lost: bool) -> Manifest:
    output = plan.output
    manifest = with_unrecorded_runs(output, plan.config, prepared.manifest)
    if manifest != prepared.manifest:
        write_manifest(output, manifest)
    progress.delete_counts(output)
    if adopted := adopt_trial(plan):
        observer.notice(f"the replies of a trial (everyuser plan --trial) are taken over: {adopted} journals")
    observer.prepared(plan, prepared.dropped, prepared.is_recovered)
    started, clock = datetime.datetime.now(datetime.UTC), time.monotonic()
    plan = dataclasses.replace(plan, spent=spent_by(manifest.runs, started.timestamp()))
    mining = plan.config.mining
    writes = not plan.config.verification.is_on and (mining is None or mining.annotator != "choice")
    diagnosis = Diagnosis(observer.notice, writes)
    pace = progress.Pace(output, started.isoformat(timespec="seconds"), diagnosis.update)
    status: RunStatus = "failed"
    try:
        # Here, as Ctrl-C reaches this thread alone, and not in a worker when it needs a model.
        for role, _, model in managed_servers(plan.config) if runner.is_local else ():
            with naming_keys(role, plan.config):
                model_path(model, observer.notice)
        plan = _with_retries(_gather_threads(plan, runner, observer), retry_lost)
        with _retry_errors(plan, retry_lost):
            _run_phase("pairs", "pool", plan, runner, observer)
            close_pool(plan)
            _run_phase("examples", "data", plan, runner, observer)
            manifest = complete_manifest(plan, manifest)
        status = "complete"
    except KeyboardInterrupt:
        status = "interrupted"
        raise
    except BudgetError as error:
        status = "budget"
        # A budget that is spent from the start stops a run before its counts were ever written.
        progress.flush_counters(output)
        counts = progress.total(output, fresh=True)
        summary = _summary(plan, runner, started, time.monotonic() - clock, status)
        raise BudgetError(budget_message(plan, str(error), (*manifest.runs, summary), counts)) from error
    finally:
        # A store that does not answer would hold up each of these calls; the process ends without them.
        if status == "complete" or is_reachable(output):
            close_generation_services(plan)
            summary = _summary(plan, runner, started, time.monotonic() - clock, status)
            pace.close()
            progress.delete_counts(output)
            manifest = manifest.model_copy(update={"runs": (*manifest.runs, summary)})
            # Neither a damaged shard nor a full disk may hide the first error. Alone, they are errors.
            if status in ("failed", "budget"):
                with contextlib.suppress(UserError):
                    manifest = manifest.model_copy(update={"counts": count_rows(plan)})
            with contextlib.suppress(*([] if status == "complete" else [UserError])):
                # A build whose threads could not be read has no manifest.
                if status == "complete" or storage.is_file(output / MANIFEST):
                    write_manifest(output, manifest)
    return manifest


def _gather_threads(plan: BuildPlan, runner: Runner, observer: Observer) -> BuildPlan:
    """Gather the threads of a build that mines, unless an earlier run has. Return the plan with their number."""
    if plan.config.mining is None:
        return plan
    index = read_index(plan)
    if index is None:
        try:
            index = _run_gathering(plan, runner, observer)
            plan = with_threads(plan, index)
        except UsageError:
            # Slices that were read stay: a fault of one file is no reason to read the others again.
            if not gather.is_partly_partitioned(plan):
                reset_folder(plan)
            raise
        observer.gathered(index.counts, index.first_unreadable)
    else:
        check_threads(plan)
        plan = with_threads(plan, index)
    gather.delete_spills(plan)
    return plan


def _run_gathering(plan: BuildPlan, runner: Runner, observer: Observer) -> Index:
    """Read the slices and join the parts that no earlier run has."""
    from pipeline import dag

    for name, phase, steps in (
        ("read", dag.partition_threads, gather.pending_slices),
        ("join", dag.join_threads, gather.pending_parts),
    ):
        todo: Sequence[Any] = steps(plan)
        observer.gathering_begins(name, plan, len(todo))
        try:
            if todo:
                runner.run(phase, plan, todo)
        finally:
            observer.phase_ends()
    return build_index(plan)


def _run_phase(name: str, folder: str, plan: BuildPlan, runner: Runner, observer: Observer) -> None:
    """Run a phase for the shards that still have to be built."""
    work = find_work(plan, folder)
    if folder == "pool":
        progress.counters_for(plan.output).add(progress.EARLIER_PAIRS, sum(spec.count for spec in work.done))
    observer.phase_begins(name, plan, work)
    try:
        if work.todo:
            if name == "pairs" and runner.is_in_process and _asks_model(plan, work.todo):
                # Its trial requests, or the start of its server, take their time while Beam is imported.
                generation_service(plan).connect()
            from pipeline import dag

            runner.run(dag.build_pairs if name == "pairs" else dag.build_examples, plan, work.todo)
    finally:
        observer.phase_ends()


def _asks_model(plan: BuildPlan, shards: Sequence[ShardSpec]) -> bool:
    """Return whether some shards of phase one need the model for certain: sampled ones without a journal."""
    journals = storage.list_names(plan.output / "journal")
    return not all(spec.source == "mined" or f"{PairShard(spec, ()).journal}.jsonl" in journals for spec in shards)


def _upload(runner: Runner, folder: AnyPath, settings: PublishConfig, todo: Sequence[Batch]) -> None:
    """Upload shards from the workers."""
    from pipeline import dag

    runner.run(dag.upload_shards, folder, settings, todo)


def _summary(plan: BuildPlan, runner: Runner, started: datetime.datetime, seconds: float, status: RunStatus) -> Run:
    """Return what a run did: from Beam's metrics if all pipelines ended, else from the processes' last counts."""
    progress.flush_counters(plan.output)
    measured = runner.measured
    counts = measured.counts if status == "complete" else progress.total(plan.output, fresh=True)
    names = ("requests_sent", "requests_replayed", *TOKEN_COUNTS, "server_restarts")
    return Run(
        started=started.isoformat(timespec="seconds"),
        seconds=round(seconds, 3),
        status=status,
        in_flight=round(measured.mean("in_flight"), 1),
        queue_seconds=round(measured.mean("queue_milliseconds") / 1000, 3),
        request_seconds=round(measured.mean("request_milliseconds") / 1000, 3),
        cost=cost_of(plan.config, counts, seconds),
        time=engine_times(progress.total(plan.output, fresh=True)),
        **{name: counts[name] for name in names},
    )
