from __future__ import annotations

import resource
from pathlib import Path

import pytest

from everyuser_train.journal import Journal, key_of
from schemas.base import UserError


def test_answers_are_there_again(tmp_path: Path) -> None:
    path = tmp_path / "new" / "journal.jsonl"
    answers = {"a": "text\r\n\u2028", "b": None, "c": {"x": [1, 2.5]}}
    with Journal(path) as journal:
        for key, answer in answers.items():
            assert key not in journal
            journal.add(key, answer)
            assert journal[key] == answer
    with Journal(path) as journal:
        assert {key: journal[key] for key in answers} == answers


def test_what_a_kill_left_of_a_line_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        journal.add("a", 1)
        journal.add("b", 2)
    whole = path.read_bytes()
    for end in range(whole.index(b"\n") + 1, len(whole)):
        path.write_bytes(whole[:end])
        with Journal(path) as journal:
            assert "a" in journal and "b" not in journal
            journal.add("b", 2)
        assert path.read_bytes() == whole


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text('{"key": "a", "answer": 1}\nnonsense\n')
    with pytest.raises(UserError, match="line 2 is damaged"):
        Journal(path)


def test_one_run_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path), pytest.raises(UserError, match="in use by another run"):
        Journal(path)
    with Journal(path):
        pass


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        Journal(tmp_path / "file" / "journal.jsonl")


@pytest.mark.parametrize("room", [0, 5])
def test_a_full_disk_is_reported_and_leaves_no_partial_line(tmp_path: Path, room: int) -> None:
    path = tmp_path / "journal.jsonl"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Journal(path) as journal:
        journal.add("a", 1)
        size = path.stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + room, hard))
        try:
            with pytest.raises(UserError, match="run again"):
                journal.add("b", 2)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert "b" not in journal and path.stat().st_size == size
        journal.add("b", 2)
    with Journal(path) as journal:
        assert (journal["a"], journal["b"]) == (1, 2)


def test_keys_are_of_the_content() -> None:
    assert key_of("a", {"x": 1, "y": 2}) == key_of("a", {"y": 2, "x": 1})
    assert len({key_of("a", "b"), key_of("ab"), key_of("b", "a"), key_of(["a", "b"]), key_of("a", "b", 1)}) == 5
