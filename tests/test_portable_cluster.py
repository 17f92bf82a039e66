"""The cluster that other tests run a build on: two processes take part, and a death is noticed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import psutil
import pytest
from apache_beam.metrics import Metrics
from apache_beam.options.pipeline_options import PipelineOptions

from tests.portable import LOST, PortableCluster
from tests.waiting import wait_until

ELEMENTS = 6


def work(element: int, folder: Path, seconds: float) -> int:
    """Take some time, and leave a trace of it."""
    if element < 0:
        raise ValueError(f"{element} is no number of a shard")
    (folder / f"{element}-{os.getpid()}").touch()
    time.sleep(seconds)
    Metrics.counter("cluster", "worked").inc()
    return element


def start(cluster: PortableCluster, folder: Path, seconds: float = 0.0, first: int = 0, handed_on: bool = False) -> Any:
    pipeline = beam.Pipeline(options=PipelineOptions(cluster.options))
    worked = pipeline | beam.Create(range(first, first + ELEMENTS)) | "Work" >> beam.Map(work, folder, seconds)
    if handed_on:
        worked | beam.Reshuffle() | "Next stage" >> beam.Map(str)
    return pipeline.run()


def traces(folder: Path) -> list[tuple[int, int]]:
    """Elements in order, each with the process that it was in."""
    names = [path.name.split("-") for path in folder.iterdir()]
    return sorted((int(element), int(pid)) for element, pid in names)


def wait_until_both_work(folder: Path) -> None:
    wait_until(lambda: len({pid for _, pid in traces(folder)}) >= 2)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PortableCluster]:
    with PortableCluster(tmp_path_factory.mktemp("cluster"), patience=60) as running:
        yield running


def test_both_worker_processes_take_part(cluster: PortableCluster, tmp_path: Path) -> None:
    result = start(cluster, tmp_path)

    assert result.wait_until_finish() == "DONE"
    assert [element for element, _ in traces(tmp_path)] == [*range(ELEMENTS)]
    pids = {pid for _, pid in traces(tmp_path)}
    assert len(pids) == 2
    assert os.getpid() not in pids
    assert [counter.committed for counter in result.metrics().query()["counters"]] == [ELEMENTS]


@pytest.mark.parametrize("handed_on", [False, True])
def test_job_fails_when_a_worker_is_killed_and_the_next_one_works(
    cluster: PortableCluster, tmp_path: Path, handed_on: bool
) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    before.mkdir()
    after.mkdir()
    result = start(cluster, before, seconds=0.5, handed_on=handed_on)
    wait_until_both_work(before)
    workers = cluster.workers()
    assert set(workers) == {pid for _, pid in traces(before)}

    os.kill(workers[0], signal.SIGKILL)

    with pytest.raises(RuntimeError, match=f"(?s)in state FAILED.*({LOST}|Channel closed prematurely)"):
        result.wait_until_finish()
    assert start(cluster, after).wait_until_finish() == "DONE"
    assert not {pid for _, pid in traces(after)} & set(workers)


def test_what_a_worker_raises_reaches_the_client(cluster: PortableCluster, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"ValueError: -1 is no number of a shard \[while running 'Work'\]"):
        start(cluster, tmp_path, first=-1).wait_until_finish()


def test_all_processes_end_with_the_cluster_even_if_a_job_runs(tmp_path: Path) -> None:
    ours = set(psutil.Process().children(recursive=True))
    folder = tmp_path / "traces"
    folder.mkdir()
    with PortableCluster(tmp_path / "cluster") as cluster:
        start(cluster, folder, seconds=60)
        wait_until_both_work(folder)
        processes = set(psutil.Process().children(recursive=True)) - ours
        # The cluster, its server of forks, and two workers, each with a parent.
        assert len(processes) == 6

    assert not psutil.wait_procs(processes, timeout=10)[1]
