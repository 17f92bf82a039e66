"""Beam's own portable job service with a pool of worker processes, for tests: a cluster on one machine.

`with PortableCluster(folder) as cluster: beam.Pipeline(options=PipelineOptions(cluster.options)) ...`

It is what ships with Beam (`local_job_service_main`, `worker_pool_main`), except that:

- a job has as many workers as the cluster; Beam's service gives it one, whatever its options say;
- a worker that dies fails the job; Beam's service waits for it for ever where a stage hands nothing to a next one;
- it listens on the loopback interface only; the pool would start what anybody asks it to.

Each job starts workers of its own. A bundle is never retried, and a job that is cancelled goes on unseen. A worker that
dies before it has connected is not noticed: only `patience` ends the wait. What workers log (warnings and above) is in
`pool.log`; what they print goes into a pipe that nobody reads.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]
import psutil
from apache_beam.runners.portability import local_job_service
from apache_beam.runners.portability.fn_api_runner import fn_runner, worker_handlers
from apache_beam.runners.worker import worker_pool_main

LOST = "the connection to a worker process was lost"
"""A part of the error of a job whose worker has died."""

_STOP_SECONDS = 5


class PortableCluster:
    """The job service and the pool, each a process of its own, with their log files in `folder`.

    `options` are the command line options of Beam that a pipeline needs to run here. `patience` is for how many seconds
    a client waits for a job, at most: then `wait_until_finish` raises, and the job goes on.
    """

    def __init__(self, folder: Path, workers: int = 2, patience: int = 300) -> None:
        self.options: list[str] = []
        self._folder = folder
        self._workers = workers
        self._patience = patience
        self._processes: dict[str, subprocess.Popen[str]] = {}

    def __enter__(self) -> PortableCluster:
        try:
            for role in ("service", "pool"):
                self._start(role)
            ports = {role: self._port(role) for role in self._processes}
        except BaseException:
            self._stop()
            raise
        self.options = [
            "--runner=PortableRunner",
            f"--job_endpoint=localhost:{ports['service']}",
            "--environment_type=EXTERNAL",
            f"--environment_config=localhost:{ports['pool']}",
            f"--job_server_timeout={self._patience}",
        ]
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def workers(self) -> list[int]:
        """The worker processes at present, oldest first: each job has its own, from its first stage to its end."""
        return [process.pid for process in _running(self._processes["pool"].pid, recursive=False)]

    def log(self, role: str) -> Path:
        """The log file of 'service' or 'pool'."""
        return self._folder / f"{role}.log"

    def _start(self, role: str) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        # The pool starts workers as `python`. They import what a pipeline names, be it of a test's module.
        first = {"PATH": Path(sys.executable).parent, "PYTHONPATH": Path(__file__).parent.parent}
        paths = {name: os.pathsep.join([str(path), *_inherited(name)]) for name, path in first.items()}
        arguments = [role, "--workers", str(self._workers), "--staging", str(self._folder / "staging")]
        with self.log(role).open("w") as log:
            # A session of its own: Ctrl-C, and what ends a build's process group, leave it alone.
            self._processes[role] = subprocess.Popen(
                [sys.executable, "-m", "tests.portable", *arguments],
                env=os.environ | paths,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                text=True,
            )

    def _port(self, role: str) -> int:
        """The port on which the process listens; waits until it does."""
        stdout = self._processes[role].stdout
        assert stdout is not None
        line = stdout.readline()
        if not line:
            raise RuntimeError(f"the {role} did not start: {self.log(role).read_text()}")
        return int(line)

    def _stop(self) -> None:
        # The service first, so that nobody asks the pool for workers any more; these may outlive the pool.
        for process in self._processes.values():
            children = _running(process.pid, recursive=True)
            try:
                # It ends when its input does.
                process.communicate(timeout=_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
            for child in children:
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()
            psutil.wait_procs(children, timeout=_STOP_SECONDS)


def _inherited(name: str) -> list[str]:
    return [os.environ[name]] if os.environ.get(name) else []


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


def _serve(workers: int, staging: str) -> None:
    _give_workers(workers)
    _notice_deaths()
    service = local_job_service.LocalJobServicer(staging)
    print(service.start_grpc_server(), flush=True)  # noqa: T201 - for whoever started this
    sys.stdin.read()
    service.stop()
    # A job that never ends would keep the process alive.
    os._exit(0)


def _pool() -> None:
    address, server = worker_pool_main.BeamFnExternalWorkerPoolServicer.start(use_process=True)
    print(address.rpartition(":")[2], flush=True)  # noqa: T201 - for whoever started this
    sys.stdin.read()
    server.stop(0)


def main() -> None:
    """Be one of the two processes, until standard input ends: it does, too, when whoever started this dies."""
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=["service", "pool"])
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--staging", required=True)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    _stay_local()
    if arguments.role == "service":
        _serve(arguments.workers, arguments.staging)
    else:
        _pool()


if __name__ == "__main__":
    main()
