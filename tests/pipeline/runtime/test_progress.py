"""Counts of many processes; how they become a build's pace is in `report.test_pace`."""

from __future__ import annotations

import socket
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from upath import UPath

from pipeline.io import storage
from pipeline.io.storage import AnyPath
from pipeline.runtime import progress
from pipeline.runtime.progress import FOLDER, PACE, Counters, Pace, counters_for, delete_counts, flush_counters, total
from schemas.base import UserError
from tests.forks import python
from tests.waiting import wait_until

COUNT = """
import sys
from pipeline.runtime.progress import counters_for
from pipeline.io.storage import parse
counts = counters_for(parse(sys.argv[1]))
counts.add("settled", int(sys.argv[2]))
counts.add(sys.argv[3], 1)
counts.set_gauge("in_flight", 5)
counts.flush()
"""


@pytest.fixture(params=["local", "memory", "s3"])
def output(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[AnyPath]:
    """A build's folder whose counts are deleted after the test."""
    if request.param == "local":
        found: AnyPath = tmp_path
    else:
        root = "memory:/" if request.param == "memory" else request.getfixturevalue("s3_store").url
        found = storage.parse(f"{root}/{uuid.uuid4().hex}/build")
    yield found
    delete_counts(found)


in_memory = pytest.mark.parametrize("output", ["memory"], indirect=True)


@pytest.fixture
def calm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written unless a test says so."""
    monkeypatch.setattr(progress, "_SECONDS", 60)
    monkeypatch.setattr(progress, "_REMOTE_SECONDS", 60)


def count_elsewhere(output: AnyPath, settled: int, name: str) -> None:
    """A process that counts, and ends."""
    process = python(COUNT, str(output), str(settled), name)
    assert process.communicate() == ("", "")


def until(output: AnyPath, name: str, value: int) -> None:
    wait_until(lambda: total(output, fresh=True)[name] == value)


@pytest.mark.parametrize("output", ["local", "s3"], indirect=True)
def test_counts_of_several_processes_are_summed(output: AnyPath) -> None:
    count_elsewhere(output, 3, "ann")
    count_elsewhere(output, 4, "bob")
    mine = counters_for(output)
    mine.add("settled", 100)
    mine.flush()

    assert total(output, fresh=True) == Counter(settled=107, ann=1, bob=1, in_flight=10)


def test_a_process_has_one_set_of_counters_for_each_build(output: AnyPath) -> None:
    assert counters_for(output) is counters_for(output)
    assert counters_for(output) is counters_for(storage.parse(str(output)))
    other = counters_for(output / "other")

    assert other is not counters_for(output)
    delete_counts(output / "other")


def test_counts_are_shared_without_being_told_to(output: AnyPath, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_SECONDS", 0.02)
    monkeypatch.setattr(progress, "_REMOTE_SECONDS", 0.02)
    counters_for(output).add("settled", 3)
    until(output, "settled", 3)
    counters_for(output).add("settled", 4)
    until(output, "settled", 7)


@pytest.mark.usefixtures("calm")
def test_gauges_of_two_services_add_up(output: AnyPath) -> None:
    for service, in_flight in (("generation", 3), ("verification", 4)):
        counters_for(output, service).set_gauge("in_flight", in_flight)
    flush_counters(output)

    assert total(output, fresh=True) == Counter(in_flight=7)
    delete_counts(output)
    assert total(output, fresh=True) == Counter()


@pytest.mark.usefixtures("calm")
def test_counts_are_sums_and_gauges_the_last_value(output: AnyPath) -> None:
    counts = counters_for(output)
    for value in (1, 2, 3):
        counts.add("settled", value)
        counts.set_gauge("in_flight", 10 * value)
        counts.flush()

        assert counts.get("in_flight") == 10 * value

    assert total(output, fresh=True) == Counter(settled=6, in_flight=30)
    assert counts.get("settled") == 6
    assert counts.get("unknown") == 0


@pytest.mark.usefixtures("calm")
def test_files_of_other_hosts_do_not_collide(output: AnyPath, monkeypatch: pytest.MonkeyPatch) -> None:
    # In containers all processes may have one number, and even one host; here they are this process.
    found = []
    for host in ("one", "another", "another"):
        monkeypatch.setattr(socket, "gethostname", lambda host=host: host)
        found.append(Counters(output))
    for counts in found:
        counts.add("settled", 1)
        counts.flush()
        counts.close()

    assert total(output, fresh=True) == Counter(settled=3)
    assert len(storage.list_names(output / FOLDER)) == 3


@pytest.mark.usefixtures("calm")
def test_counts_that_have_not_changed_are_not_written_again(output: AnyPath, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    write = Counters._write

    def noted(counts: Counters, content: bytes) -> None:
        written.append(orjson.loads(content))
        write(counts, content)

    monkeypatch.setattr(Counters, "_write", noted)
    counts = counters_for(output)
    counts.flush()
    counts.add("settled", 1)
    for _ in range(3):
        counts.flush()
    counts.set_gauge("in_flight", 1)
    counts.flush()

    assert written == [{"settled": 1}, {"settled": 1, "in_flight": 1}]


@pytest.mark.usefixtures("calm")
def test_a_write_that_fails_is_made_up_for(output: AnyPath, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = counters_for(output)
    counts.add("settled", 1)
    for error in (UserError("cannot write"), OSError(28, "No space left on device")):
        with monkeypatch.context() as patch:

            def failing(counts: Counters, content: bytes, error: Exception = error) -> None:
                raise error

            patch.setattr(Counters, "_write", failing)
            counts.flush()

        assert total(output, fresh=True) == Counter()

    counts.flush()

    assert total(output, fresh=True) == Counter(settled=1)


@pytest.mark.usefixtures("calm")
def test_what_is_no_count_is_left_out(output: AnyPath) -> None:
    counters_for(output).add("settled", 1)
    counters_for(output).flush()
    storage.write_bytes(output / FOLDER / "half.json", b'{"settled": 1')
    storage.write_bytes(output / FOLDER / "host-7-aa.tmp", b'{"settled": 1}')

    assert total(output, fresh=True) == Counter(settled=1)


def test_a_build_that_nobody_works_on_has_no_counts(output: AnyPath) -> None:
    assert total(output) == Counter()
    assert total(output, fresh=True) == Counter()


@pytest.mark.usefixtures("calm")
@pytest.mark.parametrize("output", ["memory", "s3"], indirect=True)
def test_elsewhere_counts_are_read_at_most_every_few_seconds(output: UPath, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []
    names = storage.list_names

    def noted(folder: AnyPath) -> list[str]:
        reads.append(folder)
        return names(folder)

    monkeypatch.setattr(storage, "list_names", noted)
    counts = counters_for(output)
    for number in range(1, 4):
        counts.add("settled", 1)
        counts.flush()

        assert total(output) == Counter(settled=1)
        assert len(reads) == 1, number

    assert total(output, fresh=True) == Counter(settled=3)
    assert total(output) == Counter(settled=3)
    assert len(reads) == 2

    counts.add("settled", 1)
    counts.flush()
    monkeypatch.setattr(progress, "_REMOTE_SECONDS", 0.1)
    time.sleep(0.06)

    assert total(output) == Counter(settled=4)


@pytest.mark.usefixtures("calm")
@pytest.mark.parametrize("output", ["local"], indirect=True)
def test_on_this_machine_counts_are_read_anew_each_time(output: Path) -> None:
    for number in range(1, 4):
        counters_for(output).add("settled", 1)
        counters_for(output).flush()

        assert total(output) == Counter(settled=number)


@pytest.mark.usefixtures("calm")
@in_memory
def test_where_counts_cannot_be_read_the_last_ones_stay(output: UPath, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(folder: AnyPath) -> list[str]:
        raise UserError("cannot read")

    with monkeypatch.context() as patch:
        patch.setattr(storage, "list_names", failing)

        assert total(output, fresh=True) == Counter()

    counters_for(output).add("settled", 1)
    counters_for(output).flush()
    total(output, fresh=True)
    monkeypatch.setattr(storage, "list_names", failing)

    assert total(output, fresh=True) == Counter(settled=1)
    monkeypatch.undo()


@pytest.mark.usefixtures("calm")
def test_forgotten_counts_are_deleted_those_of_killed_processes_too(output: AnyPath) -> None:
    counters_for(output).add("settled", 1)
    counters_for(output).flush()
    storage.write_bytes(output / FOLDER / "killed-7-aa.json", b'{"settled": 5}')
    assert total(output, fresh=True)["settled"] == 6

    delete_counts(output)

    assert storage.list_names(output / FOLDER) == []
    assert total(output) == Counter()
    counters_for(output).add("settled", 2)
    counters_for(output).flush()
    assert total(output, fresh=True) == Counter(settled=2)


def test_nothing_is_written_after_counts_were_forgotten(output: AnyPath, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_SECONDS", 0.02)
    monkeypatch.setattr(progress, "_REMOTE_SECONDS", 0.02)
    counts = counters_for(output)
    counts.add("settled", 1)
    until(output, "settled", 1)
    delete_counts(output)
    counts.add("settled", 1)
    time.sleep(0.1)

    assert storage.list_names(output / FOLDER) == []


@pytest.mark.usefixtures("calm")
def test_the_pace_of_runs_is_one_file(output: AnyPath) -> None:
    for run, settled in (("first", 3), ("second", 4)):
        pace = Pace(output, run)
        counters_for(output).add("settled", settled)
        counters_for(output).add("completion_tokens", 10)
        counters_for(output).flush()
        total(output, fresh=True)
        pace.close()
        delete_counts(output)

    notes = [orjson.loads(line) for line in storage.read_bytes(output / PACE).splitlines()]
    assert [(note["run"], note["pairs"], note["completion_tokens"]) for note in notes] == [
        ("first", 3, 10),
        ("second", 4, 10),
    ]


def test_a_run_that_has_done_nothing_notes_nothing(output: AnyPath) -> None:
    Pace(output, "run").close()

    assert not storage.is_file(output / PACE)


@pytest.mark.usefixtures("calm")
@in_memory
def test_a_note_that_fails_is_made_up_for_by_the_next(output: UPath, monkeypatch: pytest.MonkeyPatch) -> None:
    pace = Pace(output, "run")
    counters_for(output).add("settled", 1)
    counters_for(output).flush()
    total(output, fresh=True)

    def failing(path: AnyPath, content: bytes) -> None:
        raise UserError("cannot write")

    with monkeypatch.context() as patch:
        patch.setattr(storage, "write_bytes", failing)
        with pytest.raises(UserError):
            pace._record(total(output))
    pace.close()

    assert len(storage.read_bytes(output / PACE).splitlines()) == 2
