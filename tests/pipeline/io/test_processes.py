from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.io import processes
from pipeline.io.processes import Process
from tests import ROOT
from tests.forks import python


@pytest.fixture
def other() -> Iterator[subprocess.Popen[str]]:
    """A process that lives until it is killed."""
    process = python("input()")
    yield process
    process.kill()
    process.communicate()


def of(number: int) -> Process:
    """Return a process of this machine, as it would describe itself."""
    found = processes._stat(number)
    assert found
    return Process(Process.current().machine, number, found[1])


def test_this_process_and_another_one_live(other: subprocess.Popen[str]) -> None:
    assert Process.current() == of(os.getpid())
    assert Process.current().is_here and not Process.current().is_gone
    assert of(other.pid).is_here and not of(other.pid).is_gone


def test_a_killed_process_is_gone_before_and_after_it_was_waited_for(other: subprocess.Popen[str]) -> None:
    process = of(other.pid)
    other.kill()
    os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)

    assert process.is_gone
    other.wait()
    assert process.is_gone


def test_a_number_that_was_given_anew_is_another_process(other: subprocess.Popen[str]) -> None:
    process = of(other.pid)
    assert process.started

    assert replace(process, started=process.started - 1).is_gone
    # Without start times, only the number identifies a process.
    assert not replace(process, started=None).is_gone


@pytest.mark.parametrize("machine", ["", "another"])
def test_nothing_is_sure_of_a_process_that_cannot_be_seen(machine: str) -> None:
    process = python("")
    process.communicate()

    assert not Process(machine, process.pid, 1).is_gone
    assert not Process(machine, process.pid, 1).is_here


def test_another_namespace_of_numbers_is_another_machine() -> None:
    code = "from pipeline.io.processes import Process; print(Process.current().machine, Process.current().number)"
    command = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", code]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if run.returncode:
        pytest.skip(f"no namespaces here: {run.stderr.strip()}")
    machine, number = run.stdout.split()

    assert number == "1"
    assert machine and machine != Process.current().machine


def test_where_no_system_tells_there_is_one_machine_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    here = processes._machine.__wrapped__
    assert here() == Process.current().machine

    monkeypatch.setattr(sys, "platform", "darwin")
    assert here() == here() != Process.current().machine

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(processes, "Path", lambda name: Path("/nowhere") / name.strip("/"))
    assert here() == ""


def test_cores_are_counted_where_a_system_has_no_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)

    assert processes.usable_cores() == list(range(os.cpu_count() or 1))
