from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.generation.journal import open_journal, read_journal
from pipeline.generation.requests import Completion, Failure, Outcome
from schemas.base import UserError

GOOD = Completion('Rye, wrapped in linen.\n\n"Always" \u2013 \u00fcber alles \U0001f35e', "stop", 120, 31)
BAD = Failure("http_400", "HTTP 400: this prompt is too long\x00")


def write(path: Path, outcomes: dict[str, Outcome]) -> None:
    writer = open_journal(path)
    for key, outcome in outcomes.items():
        writer.append(key, outcome)
    writer.close()


def test_completions_and_failures_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "journal" / "pairs.jsonl"

    write(path, {"a1": GOOD, "b2": BAD, "c3": Completion("", "unknown", 0, 0)})

    assert read_journal(path) == {"a1": GOOD, "b2": BAD, "c3": Completion("", "unknown", 0, 0)}


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
from pipeline.generation.requests import Completion
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
