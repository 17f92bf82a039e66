"""Locks: of folders of this machine, and leases in object stores."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from upath import UPath

from pipeline.io import locks, storage
from pipeline.io.locks import LOCK, locked
from pipeline.io.processes import Process
from schemas.base import UsageError, UserError
from tests.forks import python
from tests.object_stores import in_a_bucket
from tests.waiting import wait_until

HERE = socket.gethostname()
ELSEWHERE = "another-host"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "_HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr(locks, "_EXPIRY_SECONDS", 60.0)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a lease that is not renewed expire at once."""
    monkeypatch.setattr(locks, "_EXPIRY_SECONDS", 0.3)


def lease(folder: UPath, number: int = 1, **changes: Any) -> dict[str, Any]:
    """A lease as another run has left it, unless `changes` say otherwise."""
    me = {"host": ELSEWHERE, "process": 17, "machine": "another", "started": 4}
    holder = me | {"run": uuid.uuid4().hex, "heartbeats": 3, "released": False} | changes
    storage.write_text(folder / LOCK / f"{number:08d}.json", json.dumps(holder))
    return holder


def leases(folder: UPath) -> dict[int, dict[str, Any]]:
    """Return the leases in the folder, by number."""
    return {
        int(name.removesuffix(".json")): json.loads(storage.read_bytes(folder / LOCK / name).decode())
        for name in storage.list_names(folder / LOCK)
    }


def gone_process() -> dict[str, Any]:
    """A process of this machine that has ended, as a lease has it."""
    process = python("")
    process.communicate()
    return {"host": HERE, "machine": Process.current().machine, "process": process.pid}


@contextlib.contextmanager
def beating(folder: UPath, holder: dict[str, Any], seconds: float) -> Iterator[None]:
    """Renew a lease every so many seconds, on a thread."""
    over = threading.Event()

    def beat() -> None:
        for beats in range(4, 10_000):
            if over.wait(seconds):
                return
            lease(folder, **holder | {"heartbeats": beats})

    with ThreadPoolExecutor(1) as pool:
        pool.submit(beat)
        try:
            yield
        finally:
            over.set()


HOLD = """
import signal, sys, time
from pipeline.io import locks
from pipeline.io.storage import parse
from schemas.base import UserError
url, seconds, ignores = sys.argv[1:]
signal.signal(signal.SIGINT, signal.SIG_IGN if ignores == "True" else signal.default_int_handler)
locks._HEARTBEAT_SECONDS = 0.05
try:
    with locks.locked(parse(url)):
        print("held", flush=True)
        time.sleep(float(seconds))
        print("worked to the end")
except UserError as error:
    print(f"{type(error).__name__}: {error}")
"""


@contextlib.contextmanager
def held_by_another_process(
    folder: UPath, seconds: float = 60, ignores_interrupts: bool = False
) -> Iterator[subprocess.Popen[str]]:
    holder = python(HOLD, str(folder), str(seconds), str(ignores_interrupts))
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        yield holder
    finally:
        holder.kill()
        holder.communicate()


def test_a_second_run_is_refused_while_the_first_lives(folder: UPath) -> None:
    with locked(folder), pytest.raises(UsageError) as caught, locked(folder):
        pytest.fail("both hold it")

    assert str(caught.value) == (
        f"{folder}: another build is at work there (process {os.getpid()} on {HERE}); "
        "wait for it, or choose another --output"
    )


def test_a_refused_run_leaves_the_lease_alone(folder: UPath) -> None:
    with locked(folder):
        before = leases(folder)
        with pytest.raises(UsageError), locked(folder):
            pass
        after = leases(folder)

        assert [*before] == [*after] == [1]
        assert {key: value for key, value in after[1].items() if key != "heartbeats"} == {
            key: value for key, value in before[1].items() if key != "heartbeats"
        }


on_the_machine_and_in_a_bucket = pytest.mark.parametrize("place", ["local", "s3", "gs"], indirect=True)


@on_the_machine_and_in_a_bucket
def test_a_run_of_another_process_is_respected(folder: UPath) -> None:
    with (
        held_by_another_process(folder) as holder,
        pytest.raises(UsageError, match=rf"process {holder.pid} on {HERE}"),
        locked(folder),
    ):
        pytest.fail("both hold it")


def test_folders_are_locked_one_by_one(folder: UPath) -> None:
    with locked(folder), locked(folder.parent / "build2"):
        pass


def test_a_lease_says_who_holds_it_and_that_it_lives(folder: UPath) -> None:
    with locked(folder):
        first = leases(folder)[1]
        wait_until(lambda: leases(folder)[1]["heartbeats"] > first["heartbeats"] + 2)

        assert (first["host"], first["process"], first["released"]) == (HERE, os.getpid(), False)


def test_a_lease_holds_no_secrets(folder: UPath, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with locked(folder):
        text = storage.read_bytes(folder / LOCK / "00000001.json").decode()

    assert json.loads(text).keys() == {"host", "process", "machine", "started", "run", "heartbeats", "released"}
    assert "hf_secret" not in text


def test_a_released_lease_is_taken_at_once_and_the_old_one_deleted(
    folder: UPath, caplog: pytest.LogCaptureFixture
) -> None:
    for number in (1, 2, 3):
        started = time.monotonic()
        with locked(folder):
            assert time.monotonic() - started < 30
            assert leases(folder).keys() == {number}
        assert leases(folder)[number]["released"]
    assert [record.message for record in caplog.records if record.name.startswith("pipeline")] == []


@pytest.mark.parametrize("place", ["local", "memory", "s3", "gs"], indirect=True)
def test_a_lease_is_released_after_an_error(folder: UPath) -> None:
    with pytest.raises(KeyError), locked(folder):
        raise KeyError("stop")

    started = time.monotonic()
    with locked(folder):
        assert time.monotonic() - started < 30


def test_no_beat_comes_after_the_release(folder: UPath) -> None:
    with locked(folder):
        time.sleep(0.1)
    before = leases(folder)
    time.sleep(0.2)

    assert leases(folder) == before


def test_the_lease_of_a_process_of_this_host_that_is_gone_is_taken_at_once(
    folder: UPath, caplog: pytest.LogCaptureFixture
) -> None:
    lease(folder, number=4, **gone_process())

    started = time.monotonic()
    with locked(folder):
        assert time.monotonic() - started < 30
        assert leases(folder).keys() == {5}
    assert [record.levelname for record in caplog.records if "took over" in record.getMessage()] == ["WARNING"]


@on_the_machine_and_in_a_bucket
def test_the_lease_of_a_killed_process_is_taken_at_once(folder: UPath) -> None:
    with held_by_another_process(folder) as holder:
        holder.kill()
        holder.wait()
        started = time.monotonic()
        with locked(folder):
            assert time.monotonic() - started < 30


def test_the_lease_of_a_gone_process_with_the_number_of_this_one_is_taken_at_once(folder: UPath) -> None:
    # In a container every run may be process 1, of the same host.
    me = Process.current()
    assert me.started
    for number, started in ((1, me.started), (2, me.started - 1), (3, None)):
        lease(folder, number, host=HERE, machine=me.machine, process=me.number, started=started)

        clock = time.monotonic()
        with locked(folder):
            assert time.monotonic() - clock < 30
        storage.remove_tree(folder / LOCK)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("number", ["gone", "mine"])
def test_a_live_lease_of_another_container_with_the_same_host_name_is_respected(folder: UPath, number: str) -> None:
    # Process numbers of another machine mean nothing here: its process 1 is not ours.
    process = os.getpid() if number == "mine" else gone_process()["process"]
    holder = lease(folder, host=HERE, process=process)

    with (
        beating(folder, holder, 0.05),
        pytest.raises(UsageError, match="another build is at work there"),
        locked(folder),
    ):
        pytest.fail("both hold it")


@pytest.mark.parametrize("place", ["memory"], indirect=True)
def test_a_number_that_another_process_was_given_is_known(folder: UPath) -> None:
    with python("input()") as other:
        lease(folder, **gone_process() | {"process": other.pid, "started": 1})
        clock = time.monotonic()
        with locked(folder):
            assert time.monotonic() - clock < 30
        assert other.stdin is not None
        other.stdin.close()


@pytest.mark.usefixtures("impatient")
def test_the_time_in_which_a_store_is_away_does_not_count(folder: UPath, monkeypatch: pytest.MonkeyPatch) -> None:
    holder, reads, read = lease(folder), [0], storage.read_bytes

    def slow(path: UPath) -> bytes:
        reads[0] += 1
        if reads[0] == 2:
            time.sleep(0.5)
        if reads[0] == 3:
            lease(folder, **holder | {"heartbeats": 4})
        return read(path)

    monkeypatch.setattr(storage, "read_bytes", slow)
    with pytest.raises(UsageError, match="another build is at work there"), locked(folder):
        pytest.fail("both hold it")


@pytest.mark.usefixtures("impatient")
def test_a_slow_store_frees_a_lease_too(folder: UPath, monkeypatch: pytest.MonkeyPatch) -> None:
    lease(folder)
    reads, read = [0], storage.read_bytes

    def slow(path: UPath) -> bytes:
        reads[0] += 1
        if reads[0] > 300:
            pytest.fail("the lease is watched without end")
        time.sleep(0.1)
        return read(path)

    monkeypatch.setattr(storage, "read_bytes", slow)
    with locked(folder):
        assert leases(folder).keys() == {2}


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    "holder", [{}, {"host": HERE, "machine": "", "process": 1}], ids=["another host", "nothing says where"]
)
def test_a_lease_that_stands_still_is_taken_after_a_while(folder: UPath, holder: dict[str, Any]) -> None:
    lease(folder, number=7, **holder)

    started = time.monotonic()
    with locked(folder):
        assert time.monotonic() - started >= 0.3
        assert leases(folder).keys() == {8}


def test_a_lease_of_another_host_that_moves_is_respected(folder: UPath) -> None:
    holder = lease(folder)

    with (
        beating(folder, holder, 0.3),
        pytest.raises(UsageError, match=rf"\(process 17 on {ELSEWHERE}\)"),
        locked(folder),
    ):
        pytest.fail("both hold it")

    assert leases(folder).keys() == {1}


def test_a_lease_that_is_released_while_it_is_watched_is_taken(folder: UPath) -> None:
    holder = lease(folder)
    release = threading.Timer(0.2, lambda: lease(folder, **holder | {"released": True}))
    release.start()
    started = time.monotonic()
    with locked(folder):
        assert 0.2 <= time.monotonic() - started < 30
        assert leases(folder).keys() == {2}
    release.join()


def test_the_highest_number_holds(folder: UPath) -> None:
    lease(folder, number=9, released=True)
    lease(folder, number=10, **gone_process())
    for number in (2, 99):
        lease(folder.parent / "build2", number=number)

    with locked(folder):
        assert leases(folder).keys() == {11}
    assert leases(folder.parent / "build2").keys() == {2, 99}


@pytest.mark.parametrize("is_there", [False, True], ids=["new folder", "dead lease"])
def test_of_several_that_take_a_lease_at_once_one_wins(
    folder: UPath, place: str, monkeypatch: pytest.MonkeyPatch, is_there: bool
) -> None:
    if is_there:
        lease(folder, released=True)
    count, create = 4, storage.create
    meeting, over = threading.Barrier(count), threading.Barrier(count)
    # A dictionary in memory knows no conditional writing; the servers do.
    one_by_one: Any = threading.Lock() if place == "memory" else contextlib.nullcontext()

    def create_together(path: UPath, content: bytes) -> None:
        meeting.wait(60)
        with one_by_one:
            create(path, content)

    def take() -> str:
        try:
            with locked(folder):
                over.wait(60)
                return "held"
        except UsageError as error:
            over.wait(60)
            return str(error)

    monkeypatch.setattr(storage, "create", create_together)
    with ThreadPoolExecutor(count) as pool:
        found = [taken.result() for taken in [pool.submit(take) for _ in range(count)]]

    assert found.count("held") == 1
    refused = f"{folder}: another build is at work there (a run that began at the same moment); "
    assert sum(text.startswith(refused) for text in found) == count - 1
    assert leases(folder).keys() == {2 if is_there else 1}


def test_a_creation_that_was_sent_twice_is_still_our_own(folder: UPath, monkeypatch: pytest.MonkeyPatch) -> None:
    create = storage.create

    def create_twice(path: UPath, content: bytes) -> None:
        create(path, content)
        create(path, content)

    monkeypatch.setattr(storage, "create", create_twice)

    with locked(folder):
        assert leases(folder).keys() == {1}


def test_who_was_too_slow_to_take_a_dead_lease_is_refused(folder: UPath, monkeypatch: pytest.MonkeyPatch) -> None:
    # Between its look and its creation one run came and went, and another is at work.
    monkeypatch.setattr(locks, "_HEARTBEAT_SECONDS", 60)
    lease(folder, number=1, released=True)
    create = storage.create

    def create_late(path: UPath, content: bytes) -> None:
        storage.remove(folder / LOCK / "00000001.json")
        lease(folder, number=3)
        create(path, content)

    monkeypatch.setattr(storage, "create", create_late)

    with pytest.raises(UsageError, match="another build is at work there"), locked(folder):
        pass
    assert leases(folder)[3]["host"] == ELSEWHERE


@in_a_bucket
def test_a_holder_that_was_overtaken_is_stopped_and_told(folder: UPath) -> None:
    with held_by_another_process(folder) as holder:
        other = lease(folder, number=2)
        text = holder.communicate(timeout=60)[0]

    assert text.startswith(f"UserError: {folder}: process 17 on {ELSEWHERE} has taken over")
    assert leases(folder)[2] == other
    assert not leases(folder)[1]["released"]


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("is_over", [False, True], ids=["the next run is at work", "the next run is over"])
@pytest.mark.parametrize("place", ["s3"], indirect=True)
def test_a_run_that_was_asleep_is_overtaken_and_told_when_it_wakes(folder: UPath, is_over: bool) -> None:
    with held_by_another_process(folder) as holder:
        holder.send_signal(signal.SIGSTOP)
        with contextlib.ExitStack() as stack:
            stack.enter_context(locked(folder))
            assert leases(folder).keys() == {2}
            if is_over:
                stack.close()
            holder.send_signal(signal.SIGCONT)
            text = holder.communicate(timeout=60)[0]

    assert f"UserError: {folder}: process {os.getpid()} on {HERE} has taken over" in text
    assert leases(folder).keys() == {2}
    assert leases(folder)[2]["released"]


@pytest.mark.parametrize("place", ["s3"], indirect=True)
def test_a_holder_that_ignores_interrupts_is_stopped_all_the_same(folder: UPath) -> None:
    # A shell script starts what it puts into the background so.
    with held_by_another_process(folder, seconds=5, ignores_interrupts=True) as holder:
        lease(folder, number=2)
        text = holder.communicate(timeout=60)[0]

    assert "has taken over" in text
    assert "worked to the end" not in text


@pytest.mark.usefixtures("impatient")
def test_a_store_that_fails_for_a_moment_costs_nothing(folder: UPath, monkeypatch: pytest.MonkeyPatch) -> None:
    failures = []

    def failing(*_: object) -> None:
        failures.append(1)
        raise UserError("cannot write: no way there")

    with locked(folder):
        with monkeypatch.context() as patch:
            patch.setattr(storage, "write_text", failing)
            wait_until(lambda: len(failures) > 2)
        before = leases(folder)[1]["heartbeats"]
        wait_until(lambda: leases(folder)[1]["heartbeats"] > before)

    assert leases(folder)[1]["released"]


def test_a_release_that_fails_hides_no_other_error(folder: UPath, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object) -> None:
        raise UserError("cannot write: no way there")

    with pytest.raises(KeyError), locked(folder):
        monkeypatch.setattr(storage, "write_text", failing)
        raise KeyError("the first")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"host": "x"}', '{"another": 1}'])
def test_a_damaged_lease_is_told(folder: UPath, text: str) -> None:
    path = folder / LOCK / "00000003.json"
    storage.write_text(path, text)

    with pytest.raises(UsageError) as caught, locked(folder):
        pass

    assert str(caught.value).startswith(f"{path} is damaged; delete it")
    storage.remove(path)
    with locked(folder):
        pass


@pytest.mark.parametrize("place", ["memory"], indirect=True)
@pytest.mark.parametrize("name", [".tmp-00000001.json-17", "notes.txt"])
def test_what_is_no_lease_keeps_nobody_out(folder: UPath, name: str) -> None:
    # The first is what a file system that renames shows while a lease is being written, or after a kill.
    storage.write_text(folder / LOCK / name, "no lease")

    with locked(folder):
        time.sleep(0.2)

    assert storage.is_file(folder / LOCK / "00000001.json")


@in_a_bucket
def test_the_lock_file_of_a_folder_that_was_copied_from_a_machine_is_no_lease(folder: UPath) -> None:
    storage.write_text(folder / LOCK, "17")

    with locked(folder):
        assert leases(folder).keys() == {1}
    with locked(folder):
        assert leases(folder).keys() == {2}


@in_a_bucket
def test_a_bucket_that_is_not_there_is_told(place: str, folder: UPath) -> None:
    nowhere = storage.parse(f"{place}://no-such-bucket/build")

    with pytest.raises(UserError, match=rf"^cannot write {place}://no-such-bucket/build/{LOCK}/"), locked(nowhere):
        pass


@in_a_bucket
def test_a_bucket_that_lets_nobody_in_is_told(place: str, request: pytest.FixtureRequest) -> None:
    private = request.getfixturevalue(f"{place}_store").private_url

    with (
        pytest.raises(UserError, match=rf"^cannot read {private}/build/{LOCK}: "),
        locked(storage.parse(f"{private}/build")),
    ):
        pass


def test_a_folder_that_cannot_be_made_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(UserError, match="cannot write"), locked(tmp_path / "file" / "build"):
        pass


def test_a_locked_folder_names_no_process_that_it_does_not_know(tmp_path: Path) -> None:
    with locked(tmp_path):
        os.truncate(tmp_path / ".lock", 0)
        with pytest.raises(UsageError, match=r"\(process unknown\)"), locked(tmp_path):
            pass
