"""Beam's own portable job service with a pool of worker processes, for tests: a cluster on one machine.

`with PortableCluster(folder) as cluster: beam.Pipeline(options=PipelineOptions(cluster.options)) ...`

It is what ships with Beam (`local_job_service_main`, `worker_pool_main`), except that:

- a job has as many workers as the cluster; Beam's service gives it one, whatever its options say;
- a worker that dies fails the job; Beam's service waits for it for ever where a stage hands nothing to a next one;
- it listens on the loopback interface only; the pool would start what anybody asks it to.

Each job starts workers of its own, as forks (`tests.forks`). A bundle is never retried, and a job that is cancelled
continues unseen. A worker that dies before it has connected is not noticed: only `patience` ends the wait. What workers
log (warnings and above) is in `cluster.log`; what they print goes into files that nobody reads.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc  # type: ignore[import-untyped]
import psutil
from apache_beam.runners.portability import local_job_service
from apache_beam.runners.portability.fn_api_runner import fn_runner, worker_handlers
from apache_beam.runners.worker import worker_pool_main

from tests import ROOT
from tests.forks import Fork, fork_from_here

LOST = "the connection to a worker process was lost"
"""A part of the error of a job whose worker has died."""

_STOP_SECONDS = 5


class PortableCluster:
    """The job service and the pool: one process, with its log file in `folder`.

    `options` are the command line options of Beam that a pipeline needs to run here. `patience` is for how many seconds
    a client waits for a job, at most: then `wait_until_finish` raises, and the job continues. `one_core`: everything
    that the cluster starts shares a core.
    """

    def __init__(self, folder: Path, workers: int = 2, patience: int = 300, one_core: bool = False) -> None:
        self.options: list[str] = []
        self._folder = folder
        self._workers = workers
        self._patience = patience
        self._one_core = one_core

    def __enter__(self) -> PortableCluster:
        self._folder.mkdir(parents=True, exist_ok=True)
        # Workers import what a pipeline names, be it of a test's module.
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        arguments = ["--workers", str(self._workers), "--staging", str(self._folder / "staging")]
        if self._one_core:
            arguments.append("--one-core")
        log = self._folder / "cluster.log"
        with log.open("w") as file:
            # A session of its own: Ctrl-C, and what ends a build's process group, leave it alone.
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.portable", *arguments],
                env=os.environ | {"PYTHONPATH": path},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                start_new_session=True,
                text=True,
            )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._stop()
            raise RuntimeError(f"the cluster did not start: {log.read_text()}")
        service, pool = line.split()
        self.options = [
            "--runner=PortableRunner",
            f"--job_endpoint=localhost:{service}",
            "--environment_type=EXTERNAL",
            f"--environment_config=localhost:{pool}",
            f"--job_server_timeout={self._patience}",
        ]
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def workers(self) -> list[int]:
        """The worker processes at present, oldest first: each job has its own, from its first stage to its end."""
        found = [self._process.pid]
        # The server of forks, the parents of the forks, and the forks.
        for _ in range(3):
            found = [child.pid for process in found for child in _running(process, recursive=False)]
        return found

    def _stop(self) -> None:
        # Workers may outlive the process that started them.
        children = _running(self._process.pid, recursive=True)
        try:
            # It ends when its input does.
            self._process.communicate(timeout=_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        psutil.wait_procs(children, timeout=_STOP_SECONDS)


def _running(parent: int, recursive: bool) -> list[psutil.Process]:
    """The children that run: the pool does not wait for those that have ended."""
    running: list[psutil.Process] = []
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(parent).children(recursive=recursive):
            with contextlib.suppress(psutil.NoSuchProcess):
                if child.status() != psutil.STATUS_ZOMBIE:
                    running.append(child)
    return running


def _stay_local() -> None:
    """Have Beam's servers, all but the job service, listen on the loopback interface instead of every one."""
    start = grpc.server

    def server(*arguments: Any, **options: Any) -> Any:
        made = start(*arguments, **options)
        add_port = made.add_insecure_port
        made.add_insecure_port = lambda address: add_port(address.replace("[::]", "localhost"))
        return made

    grpc.server = server
    worker_handlers.ExternalWorkerHandler.host_from_worker = lambda _: "localhost"


def _give_workers(count: int) -> None:
    """Give every job so many. `direct_num_workers` is read by `run_pipeline` only, which the job service passes by."""
    start = fn_runner.FnApiRunner.__init__

    def initialise(runner: Any, *arguments: Any, **options: Any) -> None:
        start(runner, *arguments, **options)
        runner._num_workers = count

    fn_runner.FnApiRunner.__init__ = initialise


def _notice_deaths() -> None:
    """Have what waits for an answer of a worker fail when its connection breaks."""
    connection = worker_handlers.ControlConnection
    read, push = connection._read, connection.push

    def read_to_the_end(control: Any) -> None:
        # It breaks with an error or without one, as chance has it.
        with contextlib.suppress(grpc.RpcError):
            read(control)
        control.is_over = True
        for future in [*control._futures_by_id.values()]:
            future.abort(RuntimeError(LOST))

    def push_to_the_living(control: Any, request: Any) -> Any:
        future = push(control, request)
        if control.is_over and future is not None:
            future.abort(RuntimeError(LOST))
        return future

    connection.is_over = False
    connection._read, connection.push = read_to_the_end, push_to_the_living


class _Worker(Fork):
    """A worker as the pool starts it: `command` is that of a Python process."""

    def __init__(self, command: list[str], **_: Any) -> None:
        super().__init__(*command[1:], stderr=sys.stderr.fileno())


def main() -> None:
    """Be the cluster until standard input ends. It ends, too, when the process that started this one dies."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--staging", required=True)
    parser.add_argument("--one-core", action="store_true")
    arguments = parser.parse_args()
    if arguments.one_core:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    fork_from_here()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    _stay_local()
    _give_workers(arguments.workers)
    _notice_deaths()
    names = {"Popen": _Worker, "PIPE": None, "TimeoutExpired": subprocess.TimeoutExpired}
    worker_pool_main.subprocess = SimpleNamespace(**names)
    service = local_job_service.LocalJobServicer(arguments.staging)
    address, pool = worker_pool_main.BeamFnExternalWorkerPoolServicer.start(use_process=True)
    print(service.start_grpc_server(), address.rpartition(":")[2], flush=True)  # noqa: T201 - read by `PortableCluster`
    sys.stdin.read()
    service.stop()
    pool.stop(0)
    # A job that never ends would keep the process alive.
    os._exit(0)


if __name__ == "__main__":
    main()
