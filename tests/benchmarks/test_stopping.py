from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from benchmarks.machine import free_port

ENDS_BY_ITSELF = """
import sys, time
try:
    print("child runs", file=sys.stderr, flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    sys.exit({code!r})
"""
RUNS = "import sys; from benchmarks.runs import run; run('x', [sys.executable, '-c', {child!r}])"
"""A benchmark that runs a command."""


def stopped(command: list[str], mark: str) -> tuple[int, list[str]]:
    """Run a command until it prints `mark`, press Ctrl-C, and return its exit code and its further lines of errors."""
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell that runs the tests in the background ignores the signal, which processes inherit.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    stream = process.stderr if mark == "child runs" else process.stdout
    assert stream is not None
    assert mark in stream.readline()
    # A terminal sends the signal to the whole group.
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    return process.returncode, said.splitlines()


def test_ctrl_c_ends_a_benchmark_in_one_line() -> None:
    command = [sys.executable, "-m", "benchmarks.engine_stub", str(free_port()), "--rate", "1"]

    code, (line,) = stopped(command, "listening")

    assert code == 130
    assert line.startswith("stopped: run the same command again")


@pytest.mark.parametrize(
    ("code", "line"),
    [(130, None), (1, "stopped: run the same command again; it starts from the beginning unless")],
)
def test_a_command_that_a_benchmark_runs_ends_by_itself_and_says_how_to_resume(code: int, line: str | None) -> None:
    child = ENDS_BY_ITSELF.format(code=code)

    found, lines = stopped([sys.executable, "-c", RUNS.format(child=child)], "child runs")

    assert found == 130
    assert len(lines) == (line is not None)
    assert all(one.startswith(line or "") for one in lines)


def test_other_errors_keep_their_traceback() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import benchmarks; 1 / 0"], capture_output=True, text=True, check=False
    )

    assert done.returncode == 1
    assert "Traceback" in done.stderr and "ZeroDivisionError" in done.stderr
