from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.io.shards import read_groups, read_shard, write_shard
from pipeline.threads.batch import ROWS_PER_GROUP, THREAD_SCHEMA, ThreadBatch
from schemas.records import Response, SeedPost, Thread

DIMENSIONS = 3


def threads(sizes: Sequence[int], known: Sequence[bool] | None = None, seed: int = 5) -> ThreadBatch:
    """Return threads of so many responses, with random levels; 0 for responses that are not `known`."""
    rng = np.random.default_rng(seed)
    total = sum(sizes)
    levels = rng.integers(-1, 2, (total, DIMENSIONS)).astype(np.int8)
    shares = (rng.random((total, DIMENSIONS, 2)) / 2).astype(np.float32)
    there = np.ones(total, dtype=bool) if known is None else np.array(known, dtype=bool)
    levels[~there] = 0
    shares[~there] = 0
    return ThreadBatch(
        [
            SeedPost(
                id=f"p{k}",
                title=f"Größe {k}?",
                text="" if k % 2 else "Über\n\u2028\U0001f600",
                topics=("a", "b")[: k % 3],
            )
            for k in range(len(sizes))
        ],
        np.cumsum([0, *sizes]).astype(np.int64),
        [f"r{row}" for row in range(total)],
        [f"Text {row} \u4f60\u597d \x00." for row in range(total)],
        levels,
        shares,
        there,
    )


def check_equal(found: ThreadBatch, expected: ThreadBatch) -> None:
    for field in fields(ThreadBatch):
        ours, theirs = getattr(found, field.name), getattr(expected, field.name)
        if isinstance(theirs, np.ndarray):
            assert ours.dtype == theirs.dtype, field.name
            np.testing.assert_array_equal(ours, theirs, err_msg=field.name)
        else:
            assert list(ours) == list(theirs), field.name


def row(identity: str, *responses: dict[str, Any]) -> dict[str, Any]:
    empty: dict[str, Any] = {"levels": [], "positive": [], "negative": []}
    return {
        "id": identity,
        "title": "T",
        "text": "",
        "topics": [],
        "responses": [{"id": f"r{k}", "text": "x"} | empty | response for k, response in enumerate(responses)],
    }


def table_of(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=THREAD_SCHEMA)


ALL = [True] * 6
NONE = [False] * 6


@pytest.mark.parametrize(
    ("sizes", "known"),
    [
        ([3, 1, 2], ALL),
        ([3, 1, 2], NONE),
        ([3, 1, 2], [True, False, False, True, False, True]),
        ([3, 1, 2], [False, True, False, False, True, False]),
        ([0, 6, 0], ALL),
        ([0, 0, 0], []),
        ([6], NONE),
        ([], []),
    ],
)
def test_table_and_back_is_the_same(sizes: Sequence[int], known: Sequence[bool]) -> None:
    block = threads(sizes, known)

    table = block.to_table()

    assert table.schema.equals(THREAD_SCHEMA)
    table.validate(full=True)
    assert table.num_rows == len(sizes)
    check_equal(ThreadBatch.from_table(table, DIMENSIONS), block)


def test_row_of_the_table_is_a_thread_as_the_record_has_it() -> None:
    block = threads([2, 0, 1], [True, False, True])

    rows = block.to_table().to_pylist()

    for number, found in enumerate(rows):
        post = block.posts[number]
        expected = Thread(
            id=post.id,
            title=post.title,
            text=post.text,
            topics=post.topics,
            responses=tuple(
                Response(
                    id=block.ids[r],
                    text=block.texts[r],
                    levels=tuple(block.levels[r].tolist()) if block.annotated[r] else (),
                    positive=tuple(block.probabilities[r, :, 0].tolist()) if block.annotated[r] else (),
                    negative=tuple(block.probabilities[r, :, 1].tolist()) if block.annotated[r] else (),
                )
                for r in block.rows(number)
            ),
        )
        assert found == expected.model_dump(mode="json")


def test_more_responses_than_arrow_can_count_are_refused() -> None:
    post = SeedPost(id="p", title="", text="What now?", topics=())
    empty = np.zeros((0, 2), dtype=np.int8)
    first = np.array([0, 1 << 31])
    threads = ThreadBatch([post], first, [], [], empty, np.zeros((0, 2, 2), dtype=np.float32), np.zeros(0, dtype=bool))

    with pytest.raises(pa.ArrowInvalid, match="2147483648"):
        threads.to_table()


def test_levels_without_probabilities_are_certain() -> None:
    block = ThreadBatch.from_table(table_of(row("p", {"levels": [1, 0, -1]})), DIMENSIONS)

    assert block.annotated.tolist() == [True]
    assert block.levels.tolist() == [[1, 0, -1]]
    assert block.probabilities.tolist() == [[[1, 0], [0, 0], [0, 1]]]


def test_responses_with_and_without_levels_and_probabilities_keep_their_own() -> None:
    shares: dict[str, Any] = {"positive": [0.5, 0.25, 0], "negative": [0, 0.25, 1]}
    table = table_of(
        row("p", {}, {"levels": [1, 1, 1]}),
        row("q"),
        row("r", {"levels": [1, 0, -1], **shares}, {}, {"levels": [0, -1, 0]}),
    )

    block = ThreadBatch.from_table(table, DIMENSIONS)

    assert block.annotated.tolist() == [False, True, True, False, True]
    assert block.levels.tolist() == [[0, 0, 0], [1, 1, 1], [1, 0, -1], [0, 0, 0], [0, -1, 0]]
    assert block.probabilities[2].tolist() == [[0.5, 0], [0.25, 0.25], [0, 1]]
    assert block.probabilities[[0, 3]].tolist() == np.zeros((2, DIMENSIONS, 2)).tolist()
    assert block.probabilities[4].tolist() == [[0, 0], [0, 1], [0, 0]]
    assert [list(block.rows(thread)) for thread in range(3)] == [[0, 1], [], [2, 3, 4]]


def test_thread_of_a_response_is_the_one_whose_rows_hold_it() -> None:
    block = threads([0, 3, 0, 0, 1, 2, 0])

    assert [block.thread_of(r) for r in range(6)] == [1, 1, 1, 4, 5, 5]
    assert all(r in block.rows(block.thread_of(r)) for r in range(6))


@pytest.mark.parametrize(("start", "count"), [(0, 2), (1, 3), (2, 2), (3, 0)])
def test_slice_of_a_table_is_read_as_those_threads(start: int, count: int) -> None:
    block = threads([2, 3, 0, 1], [True, False, True, True, False, True])
    table = block.to_table().slice(start, count)

    found = ThreadBatch.from_table(table, DIMENSIONS)

    assert found.posts == block.posts[start : start + count]
    rows = [r for thread in range(start, start + count) for r in block.rows(thread)]
    assert found.texts == [block.texts[r] for r in rows]
    np.testing.assert_array_equal(found.levels, block.levels[rows])
    np.testing.assert_array_equal(found.probabilities, block.probabilities[rows])
    np.testing.assert_array_equal(found.annotated, block.annotated[rows])
    check_equal(ThreadBatch.from_table(found.to_table(), DIMENSIONS), found)


def test_chunks_of_a_table_are_read_as_one() -> None:
    blocks = [threads(sizes, seed=sum(sizes)) for sizes in ([1, 2], [0], [], [3])]

    found = ThreadBatch.from_table(pa.concat_tables([block.to_table() for block in blocks]), DIMENSIONS)

    np.testing.assert_array_equal(found.levels, np.concatenate([block.levels for block in blocks]))
    assert found.offsets.tolist() == [0, 1, 3, 3, 6]
    assert found.texts == [text for block in blocks for text in block.texts]


def test_empty_table_gives_no_threads() -> None:
    block = ThreadBatch.from_table(THREAD_SCHEMA.empty_table(), DIMENSIONS)

    assert block.posts == []
    assert block.offsets.tolist() == [0]
    assert block.levels.shape == (0, DIMENSIONS)
    assert block.probabilities.shape == (0, DIMENSIONS, 2)


def test_shard_on_disk_holds_the_same_threads_in_groups_of_the_right_size(tmp_path: Path) -> None:
    block = threads([k % 4 for k in range(2 * ROWS_PER_GROUP + 5)])
    table = block.to_table()
    groups = [table.slice(start, ROWS_PER_GROUP) for start in range(0, table.num_rows, ROWS_PER_GROUP)]
    write_shard(tmp_path / "x.parquet", THREAD_SCHEMA, groups, {})

    check_equal(ThreadBatch.from_table(read_shard(tmp_path / "x.parquet"), DIMENSIONS), block)
    wanted = np.array([0, ROWS_PER_GROUP, 2 * ROWS_PER_GROUP + 4])
    found = ThreadBatch.from_table(read_groups(tmp_path / "x.parquet", wanted), DIMENSIONS)
    assert [post.id for post in found.posts] == [f"p{k}" for k in wanted]


def grouped(path: Path, sizes: Sequence[int]) -> Path:
    """Return a file of threads `p0`, `p1`, ... in row groups of such sizes."""
    table = threads([k % 3 for k in range(sum(sizes))]).to_table()
    starts = itertools.accumulate([0, *sizes])
    groups = (table.slice(start, size) for start, size in zip(starts, sizes, strict=False))
    write_shard(path, THREAD_SCHEMA, groups, {})
    return path


@pytest.mark.parametrize("sizes", [[4, 4, 4], [1] * 12, [12], [5, 1, 6], [3, 0, 9]])
@pytest.mark.parametrize(
    "wanted",
    [[0], [11], [3, 4], [4, 3], list(range(12)), list(range(12))[::-1], [11, 0, 5, 5, 0], [6, 2, 10], []],
)
def test_rows_of_several_groups_come_in_the_order_asked_for(
    tmp_path: Path, sizes: Sequence[int], wanted: list[int]
) -> None:
    path = grouped(tmp_path / "x.parquet", sizes)

    table = read_groups(path, np.array(wanted, dtype=np.int64))

    assert table["id"].to_pylist() == [f"p{k}" for k in wanted]
    whole = read_shard(path)
    assert table.to_pylist() == whole.take(wanted).to_pylist() if wanted else table.num_rows == 0
    assert [post.id for post in ThreadBatch.from_table(table, DIMENSIONS).posts] == [f"p{k}" for k in wanted]


def test_only_the_groups_that_hold_the_rows_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = grouped(tmp_path / "x.parquet", [4, 4, 4, 4])
    asked: list[list[int]] = []
    original = pq.ParquetFile.read_row_groups

    def read_row_groups(self: pq.ParquetFile, groups: list[int], *args: Any, **keys: Any) -> pa.Table:
        asked.append(groups)
        return original(self, groups, *args, **keys)

    monkeypatch.setattr(pq.ParquetFile, "read_row_groups", read_row_groups)

    read_groups(path, np.array([13, 5, 4]))

    assert asked == [[1, 3]]
