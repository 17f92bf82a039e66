from __future__ import annotations

import gzip
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from pipeline.reading.formats import detect_format, read_rows, row_location
from pipeline.reading.values import UnreadableError
from schemas.base import UsageError

BOM = b"\xef\xbb\xbf"
ROWS = [{"id": "a", "text": "Größe,\n\"quoted\" 'x'"}, {"id": "b", "text": "\u2028 line \u0085"}]


def write(path: Path, content: bytes | str) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def rows(path: Path, **keys: int) -> list[Any]:
    """Return the rows of a file; reasons in place of unreadable rows."""
    return [str(row) if isinstance(row, UnreadableError) else row for _, row in read_rows(path, **keys)]


def refused(path: Path) -> str:
    with pytest.raises(UsageError) as caught:
        rows(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def zst(content: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(content)


JSON_LINES = b"".join(json.dumps(row).encode() + b"\n" for row in ROWS)
CSV = '"id","text"\r\n"a","Größe,\n""quoted"" \'x\'"\r\nb,"\u2028 line \u0085"\r\n'.encode()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.jsonl", JSON_LINES),
        ("x.JSONL", JSON_LINES),
        ("x.ndjson", BOM + JSON_LINES),
        ("x.jsonl.gz", gzip.compress(JSON_LINES)),
        ("x.gz", gzip.compress(JSON_LINES[:40]) + gzip.compress(JSON_LINES[40:])),
        ("RC_2024-01.zst", zst(JSON_LINES)),
        ("x.ndjson.zst", zst(JSON_LINES)),
        ("x.json", JSON_LINES),
        ("x.json", json.dumps(ROWS)),
        ("x.json", BOM + b" \n" + json.dumps(ROWS, indent=1).encode()),
        ("x.json", json.dumps({"version": 1, "data": ROWS})),
        ("x.json", json.dumps({"posts": ROWS}, indent=1)),
        ("x.json", json.dumps({row["id"]: {"text": row["text"]} for row in ROWS})),
        ("x.json", json.dumps({name: {str(k): row[name] for k, row in enumerate(ROWS)} for name in ("id", "text")})),
        ("x.json", json.dumps({name: [row[name] for row in ROWS] for name in ("id", "text")})),
        ("x.csv", CSV.decode().encode("utf-16")),
        ("x.json.gz", gzip.compress(json.dumps(ROWS).encode())),
        ("x.json.zst", zst(json.dumps(ROWS).encode())),
        ("x.csv", CSV),
        ("x.csv", BOM + CSV),
        ("x.csv.gz", gzip.compress(CSV)),
        ("x.csv.zst", zst(CSV)),
        ("x.csv", CSV.replace(b'"id","text"', b"id;text").replace(b'"a",', b"a;").replace(b"b,", b"b;")),
        ("x.csv", CSV.replace(b'"id","text"', b"id|text").replace(b'"a",', b"a|").replace(b"b,", b"b|")),
        ("x.tsv", CSV.replace(b'"id","text"', b"id\ttext").replace(b'"a",', b"a\t").replace(b"b,", b"b\t")),
    ],
    # What gzip writes holds the time, and a test's name must be the same for every process.
    ids=lambda value: value if isinstance(value, str) and len(value) < 20 else "",
)
def test_same_rows_come_out_of_every_format(tmp_path: Path, name: str, content: bytes | str) -> None:
    assert rows(write(tmp_path / name, content)) == ROWS


def test_rows_of_parquet(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS * 300), tmp_path / "x.parquet")

    assert rows(tmp_path / "x.parquet") == ROWS * 300


def test_document_with_one_row_is_that_row(tmp_path: Path) -> None:
    assert rows(write(tmp_path / "x.json", json.dumps(ROWS[0]))) == ROWS[:1]
    assert rows(write(tmp_path / "x.json", json.dumps(ROWS[0], indent=1))) == ROWS[:1]


@pytest.mark.parametrize("name", ["x.jsonl", "x.json", "x.csv", "x.zst", "x.gz"])
def test_empty_file_holds_no_row(tmp_path: Path, name: str) -> None:
    content = {"x.zst": zst(b""), "x.gz": gzip.compress(b""), "x.json": b"[]"}.get(name, b"")

    assert rows(write(tmp_path / name, content)) == []


@pytest.mark.parametrize("name", ["x.txt", "x", "x.parquet.gz", "x.zip"])
def test_other_names_are_of_no_format(name: str) -> None:
    assert detect_format(Path(name)) is None


# Rows that cannot be read


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"id": "cut o', "not JSON: "),
        (b"{not json}", "not JSON: "),
        (b'{"id": "\xff"}', "not UTF-8"),
        (b'{"id": "\\ud800"}', "not Unicode"),
        (b'["id"]', "a JSON list, where a row is an object; name the file .json"),
        (b"[", "not JSON: Expecting value at column 2; name the file .json"),
        (b"null", "not a JSON object"),
        (b"7", "not a JSON object"),
        (b"{} {}", "not JSON: "),
        (b'{"a": ' * 100_000, "not JSON: "),
        (b'{"a": ' + b"1" * 5000 + b"}", "not JSON: "),
        (b"\x00\x00", "not JSON: "),
    ],
)
@pytest.mark.parametrize("pack", [bytes, gzip.compress, zst])
def test_line_that_cannot_be_read_costs_no_other(
    tmp_path: Path, pack: Callable[[bytes], bytes], line: bytes, reason: str
) -> None:
    name = {bytes: "x.jsonl", gzip.compress: "x.gz", zst: "x.zst"}[pack]
    path = write(tmp_path / name, pack(b'{"id": 1}\n\n' + line + b'\n{"id": 2}'))

    (_, first), (number, error), (_, last) = read_rows(path)

    assert (first, last) == ({"id": 1}, {"id": 2})
    assert isinstance(error, UnreadableError)
    assert str(error).startswith(reason)
    assert row_location(path, number) == f"{path}: line 3"


def test_lines_are_counted_from_the_beginning_of_the_file_in_every_slice(tmp_path: Path) -> None:
    content = BOM + b"\n" + b"".join(b'{"id": %d}\r\n' % k for k in range(12)) + b"broken"
    path = write(tmp_path / "x.jsonl", content)
    expected = [(f"{path}: line {k + 2}", str(k)) for k in range(12)] + [(f"{path}: line 14", "broken")]

    for size in range(1, len(content) + 1):
        found = [
            (row_location(path, number, start), "broken" if isinstance(row, UnreadableError) else str(row["id"]))
            for start in range(0, len(content), size)
            for number, row in read_rows(path, start, min(len(content), start + size))
        ]
        assert found == expected


@pytest.mark.parametrize("text", ['{"n": 18446744073709551616}', '{"n": 1237940039285380274899124225}', '{"n": -1}'])
@pytest.mark.parametrize("name", ["x.jsonl", "x.json"])
def test_integers_keep_all_their_digits(tmp_path: Path, name: str, text: str) -> None:
    found = rows(write(tmp_path / name, text))

    assert found == [json.loads(text)]
    assert isinstance(found[0]["n"], int)


def test_nan_as_python_writes_it_is_a_value(tmp_path: Path) -> None:
    found = rows(write(tmp_path / "x.jsonl", '{"id": "a", "score": NaN}\n{"id": "b", "score": -Infinity}\n'))

    assert [row["id"] for row in found] == ["a", "b"]
    assert math.isnan(found[0]["score"])


def test_elements_of_a_list_that_are_no_rows_cost_no_other(tmp_path: Path) -> None:
    path = write(tmp_path / "x.json", b'[{"id": 1}, 5, {"id": "\\ud800"}, {"id": "\xff"}, {"id": 2}]')

    found = rows(path)

    assert [found[0], found[-1]] == [{"id": 1}, {"id": 2}]
    assert [reason.split(":")[0] for reason in found[1:-1]] == ["not a JSON object", "not Unicode", "not Unicode"]


def test_text_of_parquet_that_is_not_utf_8_costs_no_other_row(tmp_path: Path) -> None:
    texts = pa.array([b"one", b"tw\xff", b"three"]).view(pa.string())
    pq.write_table(pa.table({"text": texts}), tmp_path / "x.parquet")

    one, two, three = rows(tmp_path / "x.parquet")

    assert (one, three) == ({"text": "one"}, {"text": "three"})
    assert two.startswith("not UTF-8")


# Files that cannot be read


@pytest.mark.parametrize("cut", [3, 12, -1])
@pytest.mark.parametrize("name", ["x.zst", "x.gz", "x.csv.gz"])
def test_compressed_file_that_is_cut_off_is_refused_with_its_last_line(tmp_path: Path, name: str, cut: int) -> None:
    pack = zst if name == "x.zst" else gzip.compress
    content = b"id\n1\n2\n" if "csv" in name else b'{"id": 1}\n{"id": 2}\n{"id": 3}\n'

    message = refused(write(tmp_path / name, pack(content) + pack(content)[:cut]))

    assert message.startswith(f"{tmp_path / name}: not readable as .")
    if name == "x.zst":
        assert "after line 3: the file is cut off" in message


@pytest.mark.parametrize("name", ["x.zst", "x.gz", "x.json", "x.parquet"])
def test_file_that_is_not_what_its_name_says_is_refused(tmp_path: Path, name: str) -> None:
    assert refused(write(tmp_path / name, "post,text\n")).startswith(f"{tmp_path / name}: not readable as .")


def test_parquet_with_damaged_pages_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"text": [f"text {k}" for k in range(5000)]}), path)
    content = bytearray(path.read_bytes())
    content[200:4000] = b"\x55" * 3800

    assert refused(write(path, bytes(content))).startswith(f"{path}: not readable as .parquet: ")


def test_list_that_is_cut_off_is_refused_with_its_last_row(tmp_path: Path) -> None:
    path = write(tmp_path / "x.json", json.dumps(ROWS)[:-10])

    assert refused(path).startswith(f"{path}: not readable as .json, after row 1: ")


@pytest.mark.parametrize(
    "content",
    [
        "\n".join(json.dumps([row], indent=1) for row in ROWS),
        f"{json.dumps(ROWS[:1])}{json.dumps(ROWS[1:])} ",
        BOM + json.dumps(ROWS[:1]).encode() + b"\r\n" + BOM + json.dumps(ROWS[1:]).encode(),
        "\n".join(json.dumps({"data": [row]}) for row in ROWS),
    ],
)
def test_documents_of_one_file_are_read_one_after_another(tmp_path: Path, content: bytes | str) -> None:
    assert rows(write(tmp_path / "x.json", content)) == ROWS


@pytest.mark.parametrize("tail", [',{"id": "c', "}", "null", '\n{"id": "c"}', "[", "[{"])
def test_list_with_a_damaged_tail_is_refused_with_its_last_row(tmp_path: Path, tail: str) -> None:
    path = write(tmp_path / "x.json", json.dumps(ROWS) + tail)

    assert refused(path).startswith(f"{path}: not readable as .json, after row 2: ")


def test_object_with_a_damaged_tail_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "x.json", json.dumps({"data": ROWS}) + '\n{"data": [{"id"')

    assert refused(path).startswith(f"{path}: not readable as .json, after row 2: ")


@pytest.mark.parametrize("content", ["null", "1.5\n", "true", '"abc"', "NaN"])
def test_document_that_holds_no_rows_is_refused(tmp_path: Path, content: str) -> None:
    path = write(tmp_path / "x.json", content)

    assert refused(path).endswith(f"found {content.strip()}, expected a list of rows or an object")


@pytest.mark.parametrize("depth", [990, 1020, 100_000])
@pytest.mark.parametrize("name", ["x.jsonl", "x.json"])
def test_a_value_too_deep_for_any_reader_is_an_unreadable_row_or_an_error_in_words(
    tmp_path: Path, name: str, depth: int
) -> None:
    deep = '{"text": ' + "[" * depth + "]" * depth + "}\n"
    path = write(tmp_path / name, deep + '{"text": "x"}\n')

    if name == "x.jsonl":
        bad, good = rows(path)
        assert "deep" in bad or "recursion" in bad
        assert good == {"text": "x"}
    else:
        assert str(path) in refused(path)
