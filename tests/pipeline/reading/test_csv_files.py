from __future__ import annotations

import io
from typing import Any

import pytest

from pipeline.reading.csv_files import read_csv
from pipeline.reading.values import UnreadableError


def table(text: str, delimiter: str | None = None) -> list[tuple[int, Any]]:
    """Return the rows of a table with their first lines; reasons in place of unreadable rows."""
    found = read_csv(io.StringIO(text, newline=""), delimiter)
    return [(number, str(row) if isinstance(row, UnreadableError) else row) for number, row in found]


def test_rows_are_numbered_by_the_lines_that_they_begin_in() -> None:
    assert table('text,n\n"a\nb",1\n\nc,2\n') == [(2, {"text": "a\nb", "n": "1"}), (5, {"text": "c", "n": "2"})]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_delimiter_is_the_one_that_the_header_has_most_of(delimiter: str) -> None:
    text = delimiter.join(["id", '"a,b;c|"', "text"]) + "\n" + delimiter.join(["1", '"x, y; z"', "w"]) + "\n"

    assert table(text) == [(2, {"id": "1", "a,b;c|": "x, y; z", "text": "w"})]


def test_delimiter_may_be_given_in_a_separate_line() -> None:
    assert table("sep=|\r\ntext|n\r\na, b; c, d|1\r\n") == [(3, {"text": "a, b; c, d", "n": "1"})]


def test_columns_of_the_same_name_are_distinguished() -> None:
    assert table("n,text,text\n1,a,b\n") == [(2, {"n": "1", "text (1)": "a", "text (2)": "b"})]


def test_one_column_needs_no_delimiter() -> None:
    assert table("text\nWhat now?\n") == [(2, {"text": "What now?"})]


@pytest.mark.parametrize(
    "rest",
    [
        "2,fine\n3,fine\n",
        '2,"quoted"\n3,"quoted, ""twice"""\n',
        '2,"over\ntwo lines"\n3,fine\n',
    ],
)
def test_quotation_mark_that_is_not_closed_costs_one_row(rest: str) -> None:
    around = table(f"n,text\n{rest}")

    (number, reason), *found = table(f'n,text\n1,"open\n{rest}')

    assert number == 2
    assert reason.startswith("not CSV: ")
    assert "quotation mark" in reason
    assert found == [(line + 1, row) for line, row in around]


def test_quotation_marks_that_are_never_closed_cost_their_rows_alone() -> None:
    found = table('n,text\n1,a\n2,"b\n3,c\n4,"d\n5,e\n')

    assert [number for number, row in found if isinstance(row, str)] == [3, 5]
    assert [row["n"] for _, row in found if not isinstance(row, str)] == ["1", "3", "5"]


def test_header_that_is_repeated_is_no_row() -> None:
    assert table("id,title,text\n1,t,a\n\ufeffid, title,text\n2,text,b\n") == [
        (2, {"id": "1", "title": "t", "text": "a"}),
        (3, "repeats the header; was another file added here?"),
        (4, {"id": "2", "title": "text", "text": "b"}),
    ]


def test_surplus_cells_are_named_with_the_columns() -> None:
    assert table("n,text\n1,a, and b\n2,c\n3,d,,\n") == [
        (2, "has 3 cells for 2 columns (n, text); quote cells that contain the delimiter"),
        (3, {"n": "2", "text": "c"}),
        (4, {"n": "3", "text": "d"}),
    ]


def test_missing_cells_are_missing_values() -> None:
    assert table("n,text,topics\n1,a\n") == [(2, {"n": "1", "text": "a", "topics": None})]


def test_bytes_that_are_not_utf_8_cost_one_row() -> None:
    assert table("text\na\nGr\udcf6\udcdfe\nb\n") == [
        (2, {"text": "a"}),
        (3, "not UTF-8; save the file as UTF-8"),
        (4, {"text": "b"}),
    ]


def test_header_that_is_not_closed_is_refused() -> None:
    with pytest.raises(ValueError, match="header"):
        table('n,"text\n1,a\n')
