"""Builds by several worker processes, disturbed: the driver alone says what happened, and nothing is lost."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.runtime.runners import Runner
from pipeline.runtime.worker import watched
from schemas.base import UserError
from tests.forks import Fork, python
from tests.pipeline.helpers import tiny
from tests.pipeline.processes import BY_TWO, finish, openai, shards, sometimes_bad, write_config
from tests.stub import StubServer, delayed
from tests.waiting import wait_until


class Build:
    """A build by two processes, with the output of each stream."""

    def __init__(self, config: Path, output: Path, file_size: int | None = None) -> None:
        command = ["-m", "pipeline.cli", "build", str(config), "--output", str(output), *BY_TWO]
        self.process = Fork(*command, env=os.environ | {"COLUMNS": "300"}, file_size=file_size, new_session=True)

    def workers(self) -> list[int]:
        """The numbers of its worker processes."""
        children = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        numbers = [int(number) for path in children for number in path.read_text().split()]
        return [
            number for number in numbers if b"pipeline.runtime.worker" in Path(f"/proc/{number}/cmdline").read_bytes()
        ]

    def end(self, code: int) -> str:
        """Wait for its end; the one line that it says on the error stream."""
        out, err = self.process.communicate(timeout=400)
        assert self.process.returncode == code, out + err
        assert err.count("\n") == 1, err
        return err


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("workers")


@pytest.fixture(scope="module")
def stub() -> Iterator[StubServer]:
    with StubServer(delayed(0.02, sometimes_bad)) as found:
        yield found


@pytest.fixture(scope="module")
def config(folder: Path, stub: StubServer) -> Path:
    return write_config(folder, openai(stub, in_flight=8), "sampled", pairs=100)


def until_asked(stub: StubServer, more: int, build: Build) -> None:
    """Wait until the workers have asked so much more."""
    asked = len(stub.bodies) + more
    wait_until(lambda: len(stub.bodies) >= asked, build.process)


def test_what_befalls_worker_processes_is_said_in_one_line_each(folder: Path, config: Path, stub: StubServer) -> None:
    output = folder / "out"
    log = output / "logs" / "workers.log"

    build = Build(config, output)
    until_asked(stub, 60, build)
    os.killpg(build.process.pid, signal.SIGINT)
    assert build.end(130) == "stopped: finished work is kept; run the same command again to resume\n"
    assert log.stat().st_mode & 0o777 == 0o600

    # The log is as full as everything else, and hides nothing.
    build = Build(config, output, file_size=10_000)
    line = build.end(1)
    assert line.startswith("error: cannot write ") and "File too large" in line
    assert "File too large" in log.read_text() or log.stat().st_size >= 10_000

    build = Build(config, output)
    until_asked(stub, 30, build)
    os.kill(build.workers()[-1], signal.SIGKILL)
    line = build.end(1)
    assert line.startswith("error: a worker process was killed (SIGKILL); finished work is kept: ")

    finish(config, output, *BY_TWO)
    finish(config, folder / "undisturbed")
    assert shards(output) == shards(folder / "undisturbed")


def test_a_log_takes_what_it_can(tmp_path: Path) -> None:
    code = """
import resource, sys
from pathlib import Path
from pipeline.runtime.worker import Log
resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
log = Log(Path(sys.argv[1]))
for _ in range(5):
    print("123456", file=log, flush=True)
sys.exit(7)
"""
    process = python(code, str(tmp_path / "log"))
    process.communicate()

    assert process.returncode == 7
    assert (tmp_path / "log").read_text() == "123456\n123"


def test_a_runner_says_where_the_log_of_its_workers_is(tmp_path: Path) -> None:
    options = BY_TWO[1:]

    assert Runner(tiny(), tmp_path / "out", options).log == tmp_path / "out" / "logs" / "workers.log"
    assert Runner(tiny(), tmp_path / "out", ()).log is None
    # It belongs to a build, and a folder that is refused stays as it is.
    assert not (tmp_path / "out").exists()


def test_an_error_of_another_thread_is_left_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr(threading, "excepthook", lambda failure: seen.append(str(failure.exc_value)))

    def fail(text: str) -> None:
        thread = threading.Thread(target=lambda: (_ for _ in ()).throw(RuntimeError(text)).__next__())
        thread.start()
        thread.join()

    with watched():
        fail("another thing")
        fail("Worker subprocess exited with return code -2")
        fail("Worker subprocess exited with return code 1")
    # An earlier test of this process may have left another handler.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(UserError, match=r"a worker process was killed \(SIGSEGV\)"), watched():
            fail("Worker subprocess exited with return code -11")
            threading.Event().wait(60)
    finally:
        signal.signal(signal.SIGINT, before)

    assert len(seen) == 3
