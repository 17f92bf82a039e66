from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from upath import UPath

from pipeline.generation import journal
from pipeline.generation.completions import Completion, Failure, Outcome
from pipeline.generation.journal import open_journal, read_journal
from pipeline.io import storage
from pipeline.io.storage import AnyPath
from schemas.base import UserError
from tests.forks import python
from tests.object_stores import in_a_bucket
from tests.waiting import wait_until

GOOD = Completion('Rye, wrapped in linen.\n\n"Always" \u2013 \u00fcber alles \U0001f35e', "stop", 120, 31)
BAD = Failure("http_400", "HTTP 400: this prompt is too long\x00", may_pass=False)


def write(path: AnyPath, outcomes: dict[str, Outcome]) -> None:
    writer = open_journal(path)
    for key, outcome in outcomes.items():
        writer.append(key, outcome)
    writer.close()


def test_completions_and_failures_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "journal" / "pairs.jsonl"

    thought = Completion("Rye.", "stop", 1, 9, "Which bread?", 7)
    write(path, {"a1": GOOD, "b2": BAD, "c3": Completion("", "unknown", 0, 0), "d4": thought})

    assert read_journal(path) == {"a1": GOOD, "b2": BAD, "c3": Completion("", "unknown", 0, 0), "d4": thought}
    assert [b"reasoning" in line for line in path.read_bytes().splitlines()] == [False, False, False, True]


def test_an_outcome_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"

    write(path, {"a1": GOOD, "b2": BAD})

    assert path.read_bytes().count(b"\n") == 2


def test_a_missing_file_is_an_empty_journal(tmp_path: Path) -> None:
    assert read_journal(tmp_path / "nothing.jsonl") == {}


def test_a_second_writer_goes_on_where_the_first_stopped(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"

    write(path, {"a1": GOOD})
    write(path, {"b2": BAD})

    assert read_journal(path) == {"a1": GOOD, "b2": BAD}


def test_of_two_outcomes_with_one_key_the_last_counts(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"

    write(path, {"a1": BAD})
    write(path, {"a1": GOOD})

    assert read_journal(path) == {"a1": GOOD}


@pytest.mark.parametrize("cut", [1, 2, 30])
def test_a_last_line_that_a_kill_cut_off_is_not_read(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "pairs.jsonl"
    write(path, {"a1": GOOD, "b2": BAD})

    path.write_bytes(path.read_bytes()[:-cut])

    assert read_journal(path) == {"a1": GOOD}


@pytest.mark.parametrize("cut", [1, 2, 30])
def test_an_append_first_removes_the_line_that_a_kill_cut_off(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "pairs.jsonl"
    write(path, {"a1": GOOD, "b2": BAD})
    path.write_bytes(path.read_bytes()[:-cut])

    write(path, {"c3": BAD})

    assert read_journal(path) == {"a1": GOOD, "c3": BAD}


def test_a_cut_line_is_removed_also_where_it_is_all_there_is_and_longer_than_one_read(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(b'{"key":"a1","text":"' + b"x" * 200_000)

    write(path, {"b2": GOOD})

    assert read_journal(path) == {"b2": GOOD}


def test_a_long_cut_line_takes_no_whole_line_with_it(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    write(path, {"a1": GOOD})
    with path.open("ab") as file:
        file.write(b'{"key":"b2","text":"' + b"x" * 200_000)

    write(path, {"c3": BAD})

    assert read_journal(path) == {"a1": GOOD, "c3": BAD}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_told_with_the_name_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.symlink_to("/dev/full")
    writer = open_journal(path)

    with pytest.raises(UserError) as caught:
        writer.append("a1", GOOD)
    writer.close()

    assert str(path) in str(caught.value)
    assert "No space left on device" in str(caught.value)


def test_a_folder_that_cannot_be_made_is_told_with_the_name_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "journal").write_text("a file where the folder should be")

    with pytest.raises(UserError, match=r"journal/pairs\.jsonl"):
        open_journal(tmp_path / "journal" / "pairs.jsonl")


FILL_THE_DISK = """
import resource, signal, sys
from pathlib import Path
from pipeline.generation.journal import open_journal
from pipeline.generation.completions import Completion
from schemas.base import UserError

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
writer = open_journal(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
try:
    for k in range(100):
        writer.append(f"before-{k}", Completion("some text", "stop", 1, 1))
        print(f"before-{k}")
except UserError as error:
    print(error, file=sys.stderr)
if sys.argv[2] == "room again":
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    for k in range(3):
        writer.append(f"after-{k}", Completion("some text", "stop", 1, 1))
        print(f"after-{k}")
"""


def fill_the_disk(path: Path, then: str) -> tuple[list[str], str]:
    """The keys that a process could store before (and after) the disk was full, and its error."""
    done = subprocess.run(
        [sys.executable, "-c", FILL_THE_DISK, str(path), then], capture_output=True, text=True, check=True
    )
    return done.stdout.split(), done.stderr.strip()


def test_what_was_stored_before_the_disk_was_full_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"

    stored, error = fill_the_disk(path, "stop")

    assert f"cannot write {path}" in error
    assert "\n" not in error
    assert len(stored) >= 5
    assert list(read_journal(path)) == stored


def test_a_resumed_build_goes_on_after_the_line_that_a_full_disk_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    stored, _ = fill_the_disk(path, "stop")

    write(path, {"c3": GOOD})

    assert list(read_journal(path)) == [*stored, "c3"]


def test_outcomes_that_arrive_when_the_disk_has_room_again_can_be_read(tmp_path: Path) -> None:
    # A build's half-written shard is deleted when the disk is full, which makes room while requests are in flight.
    path = tmp_path / "pairs.jsonl"

    stored, _ = fill_the_disk(path, "room again")

    assert stored[-1] == "after-2"
    assert list(read_journal(path)) == stored


def test_what_arrives_after_the_end_is_dropped(tmp_path: Path) -> None:
    writer = open_journal(tmp_path / "pairs.jsonl")
    writer.append("a1", GOOD)
    writer.close()
    # The file's number may be another's by now.
    with (tmp_path / "another").open("w") as another:
        writer.append("b2", GOOD)

        assert another.tell() == 0

    assert read_journal(tmp_path / "pairs.jsonl") == {"a1": GOOD}
    assert (tmp_path / "another").read_bytes() == b""


def test_a_journal_that_is_not_kept_leaves_nothing(tmp_path: Path) -> None:
    writer = open_journal(tmp_path / "journal" / "pairs.jsonl", is_kept=False)
    writer.append("a1", GOOD)
    writer.close()
    writer.append("b2", GOOD)

    assert list(tmp_path.iterdir()) == []


# In an object store


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts are written every few milliseconds."""
    monkeypatch.setattr(journal, "_PART_SECONDS", 0.05)
    monkeypatch.setattr(journal, "_flusher", journal._Flusher())


def collecting(path: AnyPath) -> journal._PartsWriter:
    """A writer that writes a part when `flush` is called."""
    writer = open_journal(path)
    assert isinstance(writer, journal._PartsWriter)
    return writer


def parts(folder: UPath) -> list[str]:
    return storage.list_names(folder / "pairs.parts")


def test_in_a_store_outcomes_come_back_as_they_were(folder: UPath) -> None:
    outcomes: dict[str, Outcome] = {"a1": GOOD, "b2": BAD, "c3": Completion("", "unknown", 0, 0)}

    write(folder / "pairs.jsonl", outcomes)

    assert read_journal(folder / "pairs.jsonl") == outcomes
    assert storage.list_names(folder) == ["pairs.jsonl"]


def test_in_a_store_a_missing_file_is_an_empty_journal(folder: UPath) -> None:
    assert read_journal(folder / "nothing.jsonl") == {}


def test_in_a_store_the_journal_holds_what_a_local_one_would(folder: UPath, tmp_path: Path) -> None:
    for path in (folder / "pairs.jsonl", tmp_path / "pairs.jsonl"):
        writer = open_journal(path)
        for k in range(10):
            writer.append(f"a{k}", GOOD)
            if isinstance(writer, journal._PartsWriter) and k in (2, 3, 7):
                writer.flush()
        writer.close()
        write(path, {"a1": BAD, "b2": BAD})

    assert storage.read_bytes(folder / "pairs.jsonl") == (tmp_path / "pairs.jsonl").read_bytes()


@pytest.mark.usefixtures("quick")
def test_what_has_arrived_is_soon_a_part(folder: UPath) -> None:
    path = folder / "pairs.jsonl"
    writer, another = open_journal(path), open_journal(folder / "other.jsonl")
    writer.append("a1", GOOD)
    another.append("o1", BAD)
    wait_until(lambda: read_journal(path) == {"a1": GOOD} and read_journal(folder / "other.jsonl") == {"o1": BAD})
    writer.append("b2", BAD)
    writer.append("c3", GOOD)
    wait_until(lambda: read_journal(path) == {"a1": GOOD, "b2": BAD, "c3": GOOD})
    time.sleep(0.2)

    assert 2 <= len(parts(folder)) <= 3
    assert not storage.is_file(path)

    writer.close()
    another.close()

    assert storage.list_names(folder) == ["other.jsonl", "pairs.jsonl"]


def test_a_part_holds_what_is_new_and_nothing_else(folder: UPath) -> None:
    writer = collecting(folder / "pairs.jsonl")
    writer.flush()
    assert parts(folder) == []
    outcomes: dict[str, Outcome] = {"a1": GOOD, "b2": BAD}
    for key, outcome in outcomes.items():
        writer.append(key, outcome)
        writer.flush()
        writer.flush()

    texts = [storage.read_bytes(folder / "pairs.parts" / name) for name in parts(folder)]
    writer.close()

    assert len(texts) == 2
    assert all(text.count(b"\n") == 1 for text in texts)
    assert b"".join(texts) == storage.read_bytes(folder / "pairs.jsonl")


WRITE_AND_WAIT = """
import sys, time
from pipeline.generation import journal
from pipeline.generation.completions import Completion
from pipeline.io.storage import parse

journal._PART_SECONDS = 0.05
writer = journal.open_journal(parse(sys.argv[1]))
for key in sys.argv[2:]:
    writer.append(key, Completion(f"text of {key}", "stop", 1, 1))
while writer._written < len(sys.argv) - 2:
    time.sleep(0.01)
print("stored", flush=True)
time.sleep(600)
"""


def killed_writer(path: UPath, *keys: str) -> None:
    """A process that stores completions, and is killed before it has finished the shard."""
    process = python(WRITE_AND_WAIT, str(path), *keys)
    assert process.stdout is not None
    line = process.stdout.readline()
    process.kill()
    process.communicate()
    assert (line, process.returncode) == ("stored\n", -signal.SIGKILL)


@in_a_bucket
def test_what_a_killed_writer_has_stored_is_read_and_kept(folder: UPath) -> None:
    path = folder / "pairs.jsonl"
    write(path, {"a0": GOOD})
    killed_writer(path, "a1", "b2")
    killed_writer(path, "c3")

    assert read_journal(path).keys() == {"a0", "a1", "b2", "c3"}

    writer = collecting(path)
    writer.append("d4", GOOD)
    writer.flush()

    assert read_journal(path).keys() == {"a0", "a1", "b2", "c3", "d4"}
    assert len(parts(folder)) >= 3

    writer.close()

    assert storage.list_names(folder) == ["pairs.jsonl"]
    found = read_journal(path)
    assert found.keys() == {"a0", "a1", "b2", "c3", "d4"}
    assert found["b2"] == Completion("text of b2", "stop", 1, 1)
    assert storage.read_bytes(path).count(b"\n") == 5


def test_a_kill_between_the_journal_and_the_removal_of_its_parts_does_no_harm(
    folder: UPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / "pairs.jsonl"
    writer = collecting(path)
    writer.append("a1", GOOD)
    writer.flush()
    with monkeypatch.context() as patch:
        patch.setattr(storage, "remove_tree", lambda _: None)
        writer.close()

    assert parts(folder) and storage.is_file(path)
    assert read_journal(path) == {"a1": GOOD}

    write(path, {"b2": BAD})

    assert read_journal(path) == {"a1": GOOD, "b2": BAD}
    assert storage.list_names(folder) == ["pairs.jsonl"]


def test_the_parts_of_other_shards_are_left_alone(folder: UPath) -> None:
    writers = {name: collecting(folder / f"{name}.jsonl") for name in ("pairs", "pairs2", "pair")}
    for name, writer in writers.items():
        writer.append(name, GOOD)
        writer.flush()

    writers["pairs"].close()

    assert storage.list_names(folder) == ["pair.parts", "pairs.jsonl", "pairs2.parts"]
    assert read_journal(folder / "pairs2.jsonl") == {"pairs2": GOOD}


def test_in_a_store_of_two_outcomes_with_one_key_the_last_counts(folder: UPath) -> None:
    path = folder / "pairs.jsonl"
    runs: list[dict[str, Outcome]] = [{"a0": GOOD, "a1": BAD}, {"a1": GOOD}]
    for outcomes in runs:
        # Killed: it is never closed.
        writer = collecting(path)
        for key, outcome in outcomes.items():
            writer.append(key, outcome)
            writer.flush()

    assert read_journal(path) == {"a0": GOOD, "a1": GOOD}

    write(path, {})

    assert read_journal(path) == {"a0": GOOD, "a1": GOOD}


def test_a_line_that_a_kill_cut_off_before_the_folder_was_copied_to_a_store_is_dropped(
    folder: UPath, tmp_path: Path
) -> None:
    path = tmp_path / "pairs.jsonl"
    write(path, {"a1": GOOD, "b2": BAD})
    storage.write_bytes(folder / "pairs.jsonl", path.read_bytes()[:-2])
    assert read_journal(folder / "pairs.jsonl") == {"a1": GOOD}

    writer = collecting(folder / "pairs.jsonl")
    writer.append("c3", GOOD)
    writer.flush()
    assert read_journal(folder / "pairs.jsonl") == {"a1": GOOD, "c3": GOOD}
    writer.close()

    assert read_journal(folder / "pairs.jsonl") == {"a1": GOOD, "c3": GOOD}


def test_in_a_store_a_journal_that_is_not_kept_leaves_nothing(folder: UPath) -> None:
    writer = open_journal(folder / "pairs.jsonl", is_kept=False)
    writer.append("a1", GOOD)
    writer.close()
    writer.append("b2", GOOD)

    assert storage.list_names(folder) == []


@pytest.mark.usefixtures("quick")
def test_in_a_store_what_arrives_after_the_end_is_dropped(folder: UPath) -> None:
    path = folder / "pairs.jsonl"
    writer = open_journal(path)
    writer.append("a1", GOOD)
    writer.close()
    writer.append("b2", GOOD)
    time.sleep(0.2)

    assert read_journal(path) == {"a1": GOOD}
    assert storage.list_names(folder) == ["pairs.jsonl"]


def test_a_part_that_was_due_when_the_shard_was_finished_is_not_written(folder: UPath) -> None:
    # The thread that writes parts may have taken its list of journals a moment before.
    writer = collecting(folder / "pairs.jsonl")
    writer.append("a1", GOOD)
    writer.close()
    writer.append("b2", GOOD)

    writer.flush()

    assert storage.list_names(folder) == ["pairs.jsonl"]


@in_a_bucket
def test_a_part_that_cannot_be_written_is_told_by_the_next_append(place: str, folder: UPath) -> None:
    path = storage.parse(f"{place}://no-such-bucket/journal/pairs.jsonl")
    writer = collecting(path)
    writer.append("a1", GOOD)
    writer.flush()

    with pytest.raises(UserError, match=rf"^cannot write {place}://no-such-bucket/journal/pairs\.parts/"):
        writer.append("b2", GOOD)
    with pytest.raises(UserError, match=rf"^cannot write {place}://no-such-bucket/journal/pairs\.jsonl: "):
        writer.close()


@pytest.mark.usefixtures("quick")
def test_a_fault_of_the_thread_that_writes_parts_is_told_and_loses_nothing(
    folder: UPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / "pairs.jsonl"
    writer = collecting(path)

    def failing(path: AnyPath, content: bytes) -> Any:
        raise UserError(f"cannot write {path}: no way there")

    with monkeypatch.context() as patch:
        patch.setattr(storage, "write_bytes", failing)
        writer.append("a1", GOOD)
        wait_until(lambda: writer._error is not None)
        with pytest.raises(UserError, match="no way there"):
            writer.append("b2", GOOD)

    writer.close()

    assert read_journal(path) == {"a1": GOOD}
    assert storage.list_names(folder) == ["pairs.jsonl"]


@in_a_bucket
def test_a_store_that_lets_nobody_in_is_told_before_anything_is_asked(
    place: str, folder: UPath, request: pytest.FixtureRequest
) -> None:
    private = storage.parse(request.getfixturevalue(f"{place}_store").private_url)

    with pytest.raises(UserError, match=r"^cannot read .*pairs\.jsonl: "):
        open_journal(private / "journal" / "pairs.jsonl")
    with pytest.raises(UserError, match=r"^cannot read .*pairs\.jsonl: "):
        read_journal(private / "journal" / "pairs.jsonl")


def test_in_a_store_a_damaged_line_is_told(folder: UPath) -> None:
    storage.write_bytes(folder / "pairs.jsonl", b'{"key":"a1"}\n')

    with pytest.raises(UserError, match=r"pairs\.jsonl: line 1 is damaged; delete that line and run again$"):
        read_journal(folder / "pairs.jsonl")
