from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.reading import json_files
from pipeline.report import benchmarks
from pipeline.report.benchmarks import read_benchmark
from pipeline.report.contamination import BenchmarkRuns, ContaminationTally
from pipeline.report.texts import Hashes, words_of
from schemas.base import UsageError
from schemas.report import ContaminationFigures
from tests.pipeline.report.builds import Row, merged, pair

TEST = "Should I tell my neighbour that his dog has eaten all of the roses that grew along our fence?"
OTHER = "my neighbour that his dog has eaten"
ALIGNX = [
    {
        "prompt": "A post.",
        "chosen": TEST,
        "Preference Direction": [0.5, 1.0],
        "User-Generated Content": [{"prompt": "Another.", "comment": "one two three four five six", "p": [0.5]}],
        "Demographic Information": None,
    },
    {"prompt": "seven eight nine ten eleven twelve", "chosen": "x"},
]


def runs(*texts: str, size: int = 5) -> Hashes:
    return np.unique(words_of(pa.array(texts, pa.string())).grams(size).hashes)


def expected(size: int = 5) -> Hashes:
    return runs(TEST, "one two three four five six", "seven eight nine ten eleven twelve", size=size)


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("indent", [None, 1])
def test_every_text_of_an_alignx_list_counts(tmp_path: Path, indent: int | None) -> None:
    found = read_benchmark(write(tmp_path / "test.json", json.dumps(ALIGNX, indent=indent)), 5)

    assert found.rows == 2
    assert found.runs.tolist() == expected().tolist()


def test_every_text_of_json_lines_counts(tmp_path: Path) -> None:
    lines = "".join(json.dumps(row) + "\n\n" for row in ALIGNX)
    found = read_benchmark(write(tmp_path / "test.jsonl", "\ufeff" + lines), 5)

    assert found.rows == 2
    assert found.runs.tolist() == expected().tolist()


def test_every_text_of_parquet_counts(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ALIGNX), tmp_path / "test.parquet")
    found = read_benchmark(tmp_path / "test.parquet", 5)

    assert found.rows == 2
    assert found.runs.tolist() == expected().tolist()


def test_deep_columns_of_parquet_count(tmp_path: Path) -> None:
    text = ["one two three four five six"]
    deep = pa.list_(pa.struct({"deep": pa.string()}))
    table = pa.table(
        {
            "encoded": pa.array(text).dictionary_encode(),
            "large": pa.array(["seven eight nine ten eleven twelve"], pa.large_string()),
            "map": pa.array([[("key", [{"deep": TEST}])]], pa.map_(pa.string(), deep)),
            "number": [1],
        }
    )
    pq.write_table(table, tmp_path / "test.parquet")

    assert read_benchmark(tmp_path / "test.parquet", 5).runs.tolist() == expected().tolist()


def test_plain_text_counts_across_lines(tmp_path: Path) -> None:
    found = read_benchmark(write(tmp_path / "test.txt", "one two three\nfour five six\n\n"), 5)

    assert found.rows == 2
    assert found.runs.tolist() == runs("one two three four five six").tolist()


def test_another_json_document_is_one_row(tmp_path: Path) -> None:
    found = read_benchmark(write(tmp_path / "test.json", json.dumps({"rows": ALIGNX})), 5)

    assert found.rows == 1
    assert found.runs.tolist() == expected().tolist()


@pytest.mark.parametrize("read", [1, 7, 64])
def test_files_are_read_piece_by_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: int) -> None:
    for module in (benchmarks, json_files):
        monkeypatch.setattr(module, "_READ", read)
    rows: list[Any] = [*ALIGNX, 12345, 'text \\ " , ] alone', [], None, {"é": "日本"}]
    as_json = read_benchmark(write(tmp_path / "test.json", json.dumps(rows, ensure_ascii=False)), 5)
    as_lines = read_benchmark(write(tmp_path / "test.jsonl", "\n".join(map(json.dumps, rows))), 5)
    as_text = read_benchmark(write(tmp_path / "test.txt", "\n".join(TEST.split())), 5)

    assert as_json.rows == as_lines.rows == 7
    assert as_json.runs.tolist() == as_lines.runs.tolist() == expected().tolist()
    assert as_text.runs.tolist() == runs(TEST).tolist()


def test_halves_of_characters_do_no_harm(tmp_path: Path) -> None:
    path = write(tmp_path / "test.json", '["one two three four five \\ud83d six"]')

    assert read_benchmark(path, 5).runs.tolist() == runs("one two three four five six").tolist()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("test.csv", "a,b", "use one of .json, .jsonl, .parquet, .txt"),
        ("test.json", '["never closed"', "is not readable as .json"),
        ("test.json", '[{"a": }]', "is not readable as .json"),
        ("test.json", "", "is not readable as .json"),
        ("test.json", "[" * 100_000, "is not readable as .json"),
        ("test.jsonl", '{"a": 1}\n{"a"', "is not readable as .jsonl: line 2"),
        ("test.parquet", "no parquet", "is not readable as .parquet"),
        ("missing.json", None, "no such file"),
    ],
)
def test_unreadable_file_is_wrong_usage(tmp_path: Path, name: str, content: str | None, message: str) -> None:
    if content is not None:
        write(tmp_path / name, content)

    with pytest.raises(UsageError, match=message) as caught:
        read_benchmark(tmp_path / name, 5)
    assert "\n" not in str(caught.value)


def test_text_in_another_encoding_is_wrong_usage(tmp_path: Path) -> None:
    (tmp_path / "test.txt").write_bytes("café".encode("latin-1"))

    with pytest.raises(UsageError, match=r"is not readable as \.txt"):
        read_benchmark(tmp_path / "test.txt", 5)


def figures_of(folder: Path, text: str, *parts: list[Row], words: int = 13) -> ContaminationFigures:
    found = read_benchmark(write(folder / "test.txt", text), words)
    np.save(folder / "runs.npy", found.runs)
    named = BenchmarkRuns("test.txt", found.rows, len(found.runs), folder / "runs.npy")
    return merged(lambda: ContaminationTally(named, words, 1000, 1000), *parts).result()


def test_posts_and_rows_that_share_thirteen_words_are_counted(tmp_path: Path) -> None:
    rows = [
        *pair("a", prompt=f"Title\n\n{TEST.upper()} Help me."),
        *pair("b", prompt=f"Title\n\n{TEST.upper()} Help me."),
        *pair("c", chosen=f"I ask myself: {TEST}"),
        *pair("d", rejected=" ".join(TEST.split()[3:17]), mirror=False),
        *pair("e", chosen=" ".join(TEST.split()[3:15]), rejected=f"Or {OTHER}?"),
        *pair("f"),
    ]
    figures = figures_of(tmp_path, TEST, rows)

    assert (figures.file, figures.rows, figures.words) == ("test.txt", 1, 13)
    assert figures.posts == 1
    assert figures.replies == 3


def test_shared_runs_are_shown_whole(tmp_path: Path) -> None:
    figures = figures_of(tmp_path, TEST, pair("c", chosen=f"I ask myself: {TEST} Because..."))

    assert figures.examples == (TEST.rstrip("?"),)


def test_runs_are_as_long_as_is_asked_for(tmp_path: Path) -> None:
    rows = pair("e", chosen=f"Or {OTHER}?")

    assert figures_of(tmp_path, TEST, rows, words=7).replies == 2
    assert figures_of(tmp_path, TEST, rows, words=8).replies == 0
    assert figures_of(tmp_path, "dog", pair("f", chosen="A dog!"), words=1).replies == 2


def test_a_benchmark_without_long_texts_overlaps_with_nothing(tmp_path: Path) -> None:
    figures = figures_of(tmp_path, "Too short.", pair("a", chosen=TEST))

    assert (figures.posts, figures.replies, figures.examples) == (0, 0, ())


def test_merged_figures_are_those_of_all(tmp_path: Path) -> None:
    parts = [[*pair(f"a{k}", prompt=f"{TEST} {k % 3}"), *pair(f"b{k}", chosen=f"{k} {TEST}")] for k in range(20)]
    whole = figures_of(tmp_path, TEST, [row for part in parts for row in part])

    assert (whole.posts, whole.replies) == (3, 40)
    assert figures_of(tmp_path, TEST, *parts[10:], *parts[:10]) == whole
