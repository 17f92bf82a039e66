"""Measurement of a finished build: one pass over its shards by several processes, whose counts are added."""

from __future__ import annotations

import datetime
import multiprocessing
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from pipeline.io.processes import usable_cores
from pipeline.io.storage import AnyPath
from pipeline.report.benchmarks import read_benchmark
from pipeline.report.contamination import BenchmarkRuns, ContaminationTally
from pipeline.report.copies import CopyTally
from pipeline.report.coverage import CoverageTally
from pipeline.report.diversity import ReplySample
from pipeline.report.duplicates import DuplicateTally
from pipeline.report.funnel import FunnelTally, cost_of
from pipeline.report.judging.second_judge import read_figures
from pipeline.report.kinds import KindTally
from pipeline.report.lengths import LengthTally
from pipeline.report.pace import read_pace
from pipeline.report.settings import ReportSettings
from pipeline.report.shown_rows import ShownExamples, ShownRejections
from pipeline.report.source import Build, open_build, read_batches, read_columns
from pipeline.report.support import HistoryTally
from pipeline.report.users import UserTally
from pipeline.report.verification import COLUMNS, REJECTED_COLUMNS
from pipeline.verification.gates import gates_missed_by
from schemas.base import UserError
from schemas.report import REPORT_VERSION, DiversityFigures, Report

Progress = Callable[[str, int, int], None]
"""Callback with the name of the step, the units done, and the units in all."""

_SHARDS_A_TASK = 16
"""Most shards in a task. Many shards keep the returned counts small against the bytes read."""


def measure(folder: AnyPath, settings: ReportSettings, progress: Progress) -> Report:
    """Measure the finished build in `folder`. Equal builds give equal reports except for `created`.

    Args:
        folder: The build's output folder.
        settings: Sizes of samples, benchmarks and prices.
        progress: Receives the steps.

    Raises:
        UsageError: There is no finished build, a shard is missing or damaged, or a benchmark cannot be read.
    """
    build = open_build(folder)
    # BLAS threads spin while they wait for each other, which is slow where other processes use the cores.
    with threadpool_limits(1), tempfile.TemporaryDirectory(prefix="everyuser-report-") as scratch:
        scope = Scope(build, settings, tuple(_read_benchmarks(settings, Path(scratch), progress)))
        tallies = _measure_shards(scope, progress)
        return _make_report(scope, tallies, progress)


@dataclass(frozen=True)
class Scope:
    """Input of every process."""

    build: Build
    settings: ReportSettings
    benchmarks: tuple[BenchmarkRuns, ...]


class Tallies:
    """All tallies, of some shards or of all."""

    def __init__(self, scope: Scope) -> None:
        build, settings = scope.build, scope.settings
        self.coverage = CoverageTally(build.space, build.examples, settings.hashes)
        self.lengths = LengthTally()
        self.duplicates = DuplicateTally(build.splits, build.pairs, settings)
        self.history = HistoryTally()
        self.copies = CopyTally(build.space)
        self.replies = ReplySample(build.pairs, settings)
        self.contamination = [
            ContaminationTally(runs, settings.contamination_words, build.pairs, settings.hashes)
            for runs in scope.benchmarks
        ]
        self.funnel = FunnelTally()
        self.users = UserTally(build, settings.hashes, settings.seed)
        self.kinds = KindTally(build.space, build.verification.drift_margin)
        self.has_pool = True
        """Whether the pool file of every shard exists."""
        self.shown = ShownExamples(build.space, build.splits, settings)
        self.rejections = ShownRejections(settings)

    def add(self, build: Build, shard: int) -> None:
        """Count a shard's rows and its rejected rows."""
        for batch in read_batches(build, shard):
            self.coverage.add(batch)
            self.lengths.add(batch)
            self.duplicates.add(batch)
            self.history.add(batch)
            self.copies.add(batch)
            self.replies.add(batch)
            for tally in self.contamination:
                tally.add(batch)
            self.funnel.add(batch)
            self.users.add(batch)
            self.kinds.add(batch)
            self.shown.add(batch)
        pool = read_columns(build.path(shard, "pool"), ["attempt", *COLUMNS])
        if pool is None:
            self.has_pool = False
        else:
            self.funnel.add_pool(pool)
            self.kinds.add_pool(pool)
        if build.verification.mode != "off":
            rejected = read_columns(build.path(shard, "rejected/pairs"), [*REJECTED_COLUMNS])
            if rejected is not None:
                self.kinds.add_rejected(rejected)
        self.rejections.add(build, shard)

    def merge(self, other: Tallies) -> None:
        """Add the counts of others."""
        self.coverage.merge(other.coverage)
        self.lengths.merge(other.lengths)
        self.duplicates.merge(other.duplicates)
        self.history.merge(other.history)
        self.copies.merge(other.copies)
        self.replies.merge(other.replies)
        for mine, theirs in zip(self.contamination, other.contamination, strict=True):
            mine.merge(theirs)
        self.funnel.merge(other.funnel)
        self.users.merge(other.users)
        self.kinds.merge(other.kinds)
        self.has_pool &= other.has_pool
        self.shown.merge(other.shown)
        self.rejections.merge(other.rejections)


def _make_report(scope: Scope, tallies: Tallies, progress: Progress) -> Report:
    """Return the report. This takes a while: samples are compared, and the shown rows are read."""
    build, settings, manifest = scope.build, scope.settings, scope.build.manifest
    progress("samples", 0, 3)
    duplicates = tallies.duplicates.result(build)
    progress("samples", 1, 3)
    diversity = tallies.replies.result(tallies.coverage.directions.distinct)
    progress("samples", 2, 3)
    report = Report(
        report_version=REPORT_VERSION,
        name=manifest.name,
        schema_version=manifest.schema_version,
        fingerprint=manifest.fingerprint,
        files_digest=build.manifest.files_digest,
        model=tallies.funnel.model,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        examples=build.examples,
        pairs=tallies.duplicates.pairs,
        posts=tallies.duplicates.distinct_posts,
        splits=tallies.duplicates.splits(),
        dimensions=tallies.coverage.dimensions(),
        correlation=tallies.coverage.correlation(),
        active=tallies.coverage.active,
        lengths=tallies.lengths.result(),
        counts=manifest.counts,
        attempts=tallies.funnel.attempts if tallies.has_pool else (),
        duplicates=duplicates,
        history=tallies.history.result(),
        users=tallies.users.result(),
        kinds=tallies.kinds.result(),
        diversity=diversity,
        contamination=tuple(tally.result() for tally in tallies.contamination),
        copies=tallies.copies.result(),
        verification=tallies.kinds.verification() if tallies.has_pool else None,
        second_judge=read_figures(build),
        pace=read_pace(build.folder),
        runs=manifest.runs,
        cost=cost_of(manifest, build.examples, settings),
        shown=tallies.shown.result(build),
        rejections=tallies.rejections.result(build),
        missed_gates=tuple(gates_missed_by(scope.build.manifest)),
        notes=tuple(_notes(scope, tallies, diversity)),
    )
    progress("samples", 3, 3)
    return report


def _notes(scope: Scope, tallies: Tallies, diversity: DiversityFigures) -> Iterator[str]:
    """Yield what could not be measured, and why."""
    if not tallies.has_pool:
        yield "pool/ is missing or incomplete: attempts and findings of a judge are not counted"
    if not tallies.rejections.is_complete:
        yield "rejected/ is missing or incomplete: the shown rejections are a sample of the others"
    share = tallies.duplicates.replies[0].share
    if share < 1:
        yield f"exact duplicates are counted for a sample of {share:.1%} of all texts and scaled up"
    for runs in scope.benchmarks:
        if not runs.number:
            words = scope.settings.contamination_words
            yield f"{runs.name} holds no text of {words} words, so nothing can overlap with it"
    if diversity.self_bleu is None:
        yield "self-BLEU needs two replies with words"
    if diversity.vendi is None:
        yield "the Vendi score needs several replies with words"


def _read_benchmarks(settings: ReportSettings, scratch: Path, progress: Progress) -> Iterator[BenchmarkRuns]:
    """Read the benchmark files. All processes then map the same pages of their runs."""
    for number, path in enumerate(settings.contamination):
        progress("benchmarks", number, len(settings.contamination))
        rows, runs = read_benchmark(path, settings.contamination_words)
        target = scratch / f"{number}.npy"
        np.save(target, runs)
        yield BenchmarkRuns(str(path), rows, len(runs), target)
    if settings.contamination:
        progress("benchmarks", len(settings.contamination), len(settings.contamination))


def _measure_shards(scope: Scope, progress: Progress) -> Tallies:
    """Return the tallies of all shards."""
    shards = len(scope.build.manifest.files)
    workers = min(scope.settings.workers or len(usable_cores()), shards)
    size = max(1, min(_SHARDS_A_TASK, shards // (4 * workers)))
    tasks = [range(start, min(start + size, shards)) for start in range(0, shards, size)]
    total, done = Tallies(scope), 0
    progress("shards", 0, shards)
    for task, tallies in _run_tasks(scope, tasks, workers):
        total.merge(tallies)
        done += len(task)
        progress("shards", done, shards)
    return total


def _run_tasks(scope: Scope, tasks: Sequence[range], workers: int) -> Iterator[tuple[range, Tallies]]:
    """Yield the tallies of each task as it ends."""
    if workers == 1:
        for task in tasks:
            yield task, _count(scope, task)
        return
    # Arrow and BLAS have threads by now, which do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _init_process, (scope,)) as pool:
        try:
            futures = {pool.submit(_count_in_process, task): task for task in tasks}
            for future in as_completed([*futures]):
                yield futures.pop(future), future.result()
        except BrokenProcessPool:
            raise UserError(
                "a process that read shards was killed from outside; free memory, or use --workers 1"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


_scope: list[Scope] = []


def _init_process(scope: Scope) -> None:
    """Set up a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threadpool_limits(1)
    _scope.append(scope)


def _count_in_process(shards: range) -> Tallies:
    return _count(_scope[0], shards)


def _count(scope: Scope, shards: range) -> Tallies:
    tallies = Tallies(scope)
    for shard in shards:
        tallies.add(scope.build, shard)
    return tallies
