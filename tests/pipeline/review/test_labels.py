from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.review.labels import read_all_labels, read_labels
from schemas.base import UsageError

GOOD: dict[str, Any] = {
    "review_version": 1,
    "fingerprint": "f" * 64,
    "digest": "d" * 16,
    "settings": {"pairs": 30, "seed": 0, "before": 0.5},
    "reviewer": "ann",
    "exported": 1_700_000_000_000,
    "answers": {"0123": {"tone": "first", "length": "cannot tell"}},
}


def write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_labels_are_read(tmp_path: Path) -> None:
    labels = read_labels(write(tmp_path / "labels.json", GOOD))
    assert labels.answers == {"0123": {"tone": "first", "length": "cannot tell"}}


def test_a_file_that_two_paths_name_counts_once(tmp_path: Path) -> None:
    path = write(tmp_path / "labels.json", GOOD)
    assert len(read_all_labels([path, tmp_path / ".." / tmp_path.name / path.name])) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "holds no labels"),
        ('{"review_version": 1}', "'fingerprint' is required"),
        (GOOD | {"review_version": 2}, "'review_version' is 2; expected '1'"),
        (GOOD | {"answers": {"0123": {"tone": "both"}}}, "'answers.0123.tone' is the text \"both\"; expected 'first'"),
        (GOOD | {"answers": []}, "'answers' is an empty list; expected keys and values"),
        (
            GOOD | {"settings": {"pairs": 10**9}},
            "'settings.pairs' is 1000000000; expected a whole number from 1 to 5000",
        ),
        (GOOD | {"reviewer": "x" * 101}, "'reviewer' is the text"),
        (GOOD | {"reviewer": " "}, "'reviewer' is "),
        (GOOD | {"reviewer": "\ud83d"}, "holds half a character (a lone surrogate); export the labels again"),
        (GOOD | {"answers": {"0123": {"\ude00": "first"}}}, "holds half a character"),
        (GOOD | {"script": "alert(1)"}, "unknown key 'script'"),
        (json.dumps(GOOD).replace("0.5", "NaN"), "labels.json: "),
    ],
)
def test_other_files_are_an_error_of_one_line(tmp_path: Path, content: Any, message: str) -> None:
    path = write(tmp_path / "labels.json", content)
    with pytest.raises(UsageError) as refused:
        read_labels(path)
    assert message in str(refused.value)
    assert str(refused.value).startswith(str(path))
    assert "\n" not in str(refused.value)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"absent\.json: cannot be read: No such file"):
        read_labels(tmp_path / "absent.json")
    with pytest.raises(UsageError, match="cannot be read: Is a directory"):
        read_labels(tmp_path)


def test_a_file_beyond_all_bounds_is_not_parsed(tmp_path: Path) -> None:
    path = tmp_path / "labels.json"
    with path.open("wb") as file:
        file.truncate((16 << 20) + 1)
    with pytest.raises(UsageError, match="has more than 16 MiB"):
        read_labels(path)
