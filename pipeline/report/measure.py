"""Measures a finished build: one pass over its shards, by several processes, whose counts are added up."""

from __future__ import annotations

import datetime
import multiprocessing
import os
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from pipeline.io.storage import AnyPath
from pipeline.report.benchmarks import read_benchmark
from pipeline.report.contamination import ContaminationTally, Runs
from pipeline.report.copies import CopyTally
from pipeline.report.coverage import CoverageTally
from pipeline.report.diversity import ReplySample
from pipeline.report.duplicates import DuplicateTally
from pipeline.report.funnel import FunnelTally, cost_of
from pipeline.report.lengths import LengthTally
from pipeline.report.pace import read_pace
from pipeline.report.settings import ReportSettings
from pipeline.report.shown import ShownExamples, ShownRejections
from pipeline.report.source import Build, open_build, read_batches
from pipeline.report.support import HistoryTally
from schemas.base import UserError
from schemas.report import REPORT_VERSION, DiversityFigures, Report

Progress = Callable[[str, int, int], None]
"""Is told what is being done, and how much of how much is done."""

_SHARDS_A_TASK = 16
"""Shards that a process measures in one go, at most: what it hands over is then small against what it has read."""


def measure(folder: AnyPath, settings: ReportSettings, progress: Progress) -> Report:
    """The report of the finished build in `folder`; the same for the same build, but for `created`.

    Raises `UsageError` where there is no such build, where a shard is missing or damaged, and for a benchmark that
    cannot be read.
    """
    build = open_build(folder)
    # The threads of a matrix product wait for each other in a loop, which is slow where others use the processors too.
    with threadpool_limits(1), tempfile.TemporaryDirectory(prefix="everyuser-report-") as scratch:
        scope = Scope(build, settings, tuple(_benchmarks(settings, Path(scratch), progress)))
        figures = _measured(scope, progress)
        return _report(scope, figures, progress)


@dataclass(frozen=True)
class Scope:
    """What every process must know."""

    build: Build
    settings: ReportSettings
    benchmarks: tuple[Runs, ...]


class Figures:
    """All that is counted, of some shards or of all."""

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
        self.shown = ShownExamples(build.space, build.splits, settings)
        self.rejections = ShownRejections(settings)

    def add(self, build: Build, shard: int) -> None:
        """Count a shard's rows, and those that were rejected on the way to them."""
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
            self.shown.add(batch)
        self.funnel.add_pool(build, shard)
        self.rejections.add(build, shard)

    def merge(self, other: Figures) -> None:
        """Add what another has counted."""
        self.coverage.merge(other.coverage)
        self.lengths.merge(other.lengths)
        self.duplicates.merge(other.duplicates)
        self.history.merge(other.history)
        self.copies.merge(other.copies)
        self.replies.merge(other.replies)
        for mine, theirs in zip(self.contamination, other.contamination, strict=True):
            mine.merge(theirs)
        self.funnel.merge(other.funnel)
        self.shown.merge(other.shown)
        self.rejections.merge(other.rejections)


def _report(scope: Scope, figures: Figures, progress: Progress) -> Report:
    """What the counts come to. Part of it takes a while: samples are compared, and rows fetched to be shown."""
    build, settings, manifest = scope.build, scope.settings, scope.build.manifest
    progress("samples", 0, 3)
    duplicates = figures.duplicates.result(build)
    progress("samples", 1, 3)
    diversity = figures.replies.result(figures.coverage.directions.distinct)
    progress("samples", 2, 3)
    report = Report(
        report_version=REPORT_VERSION,
        name=manifest.name,
        schema_version=manifest.schema_version,
        fingerprint=manifest.fingerprint,
        files_digest=build.manifest.files_digest,
        model=figures.funnel.model,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        examples=build.examples,
        pairs=figures.duplicates.pairs,
        posts=figures.duplicates.distinct_posts,
        splits=figures.duplicates.splits(),
        dimensions=figures.coverage.dimensions(),
        correlation=figures.coverage.correlation(),
        active=figures.coverage.active,
        lengths=figures.lengths.result(),
        counts=manifest.counts,
        attempts=figures.funnel.attempts,
        duplicates=duplicates,
        history=figures.history.result(),
        diversity=diversity,
        contamination=tuple(tally.result() for tally in figures.contamination),
        copies=figures.copies.result(),
        pace=read_pace(build.folder),
        runs=manifest.runs,
        cost=cost_of(manifest, build.examples, settings),
        shown=figures.shown.result(build),
        rejections=figures.rejections.result(build),
        notes=tuple(_notes(scope, figures, diversity)),
    )
    progress("samples", 3, 3)
    return report


def _notes(scope: Scope, figures: Figures, diversity: DiversityFigures) -> Iterator[str]:
    """What could not be measured, and why."""
    if not figures.funnel.has_pool:
        yield "pool/ is not there, or not all of it: attempts are not counted"
    if not figures.rejections.is_complete:
        yield "rejected/ is not there, or not all of it: the rejected rows that are shown are not drawn from all"
    share = figures.duplicates.replies[0].share
    if share < 1:
        yield f"exact duplicates are counted for {share:.1%} of all texts, drawn by their hashes, and scaled up"
    for runs in scope.benchmarks:
        if not runs.number:
            words = scope.settings.contamination_words
            yield f"{runs.name} holds no text of {words} words: nothing can overlap with it"
    if diversity.self_bleu is None:
        yield "self-BLEU needs two replies with words"
    if diversity.vendi is None:
        yield "the Vendi score needs several replies with words"


def _benchmarks(settings: ReportSettings, scratch: Path, progress: Progress) -> Iterator[Runs]:
    """Read the files that the user names; all processes then map the same pages of what they hold."""
    for number, path in enumerate(settings.contamination):
        progress("benchmarks", number, len(settings.contamination))
        rows, runs = read_benchmark(path, settings.contamination_words)
        target = scratch / f"{number}.npy"
        np.save(target, runs)
        yield Runs(str(path), rows, len(runs), target)
    if settings.contamination:
        progress("benchmarks", len(settings.contamination), len(settings.contamination))


def _measured(scope: Scope, progress: Progress) -> Figures:
    """The figures of all shards."""
    shards = len(scope.build.shards)
    workers = min(scope.settings.workers or _processors(), shards)
    size = max(1, min(_SHARDS_A_TASK, shards // (4 * workers)))
    tasks = [range(start, min(start + size, shards)) for start in range(0, shards, size)]
    total, done = Figures(scope), 0
    progress("shards", 0, shards)
    for task, figures in _each(scope, tasks, workers):
        total.merge(figures)
        done += len(task)
        progress("shards", done, shards)
    return total


def _each(scope: Scope, tasks: Sequence[range], workers: int) -> Iterator[tuple[range, Figures]]:
    """The figures of each task, in the order in which they are done."""
    if workers == 1:
        for task in tasks:
            yield task, _count(scope, task)
        return
    # Neither Arrow nor BLAS, of which both have threads by now, survives a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _begin, (scope,)) as pool:
        try:
            futures = {pool.submit(_task, task): task for task in tasks}
            for future in as_completed([*futures]):
                yield futures.pop(future), future.result()
        except BrokenProcessPool:
            raise UserError(
                "a process that read shards was ended from outside; free memory, or use one worker"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


_scope: list[Scope] = []


def _begin(scope: Scope) -> None:
    """Prepare a process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threadpool_limits(1)
    _scope.append(scope)


def _task(shards: range) -> Figures:
    return _count(_scope[0], shards)


def _count(scope: Scope, shards: range) -> Figures:
    figures = Figures(scope)
    for shard in shards:
        figures.add(scope.build, shard)
    return figures


def _processors() -> int:
    # A container may be given fewer than the machine has.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
