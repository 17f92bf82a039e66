from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Features, load_dataset

from pipeline.io.shards import read_groups, read_meta, read_shard, write_shard
from schemas.arrow import arrow_schema, hf_metadata
from schemas.base import UserError
from schemas.records import Example, PairItem
from tests.forks import python

SCHEMA = arrow_schema(PairItem)
META = {"fingerprint": "abc", "rejected": {"validate/equal": 2}, "asked": 5}
STORED = META | {"file": "data/shard.parquet"}


def table(count: int, first: int = 0) -> pa.Table:
    numbers = range(first, first + count)
    return pa.Table.from_pylist(
        [
            {"prompt": f"post {k}", "chosen": f"yes {k}", "rejected": f"no {k}", "Preference Direction": [0.0, 0.5, 1]}
            for k in numbers
        ],
        schema=SCHEMA,
    )


def shard(folder: Path, *groups: pa.Table) -> Path:
    path = folder / "data" / "shard.parquet"
    write_shard(path, SCHEMA, groups, META)
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_shard_holds_its_groups_in_order(tmp_path: Path) -> None:
    path = shard(tmp_path / "new" / "folder", table(3), table(2, first=3))

    assert read_shard(path).equals(table(5))
    assert [pq.read_metadata(path).row_group(k).num_rows for k in range(2)] == [3, 2]


def test_selected_columns_are_read_alone(tmp_path: Path) -> None:
    assert read_shard(shard(tmp_path, table(2)), ["chosen"]).to_pydict() == {"chosen": ["yes 0", "yes 1"]}


def test_shard_without_rows_is_a_shard(tmp_path: Path) -> None:
    path = shard(tmp_path)

    assert read_shard(path).equals(SCHEMA.empty_table())
    assert read_meta(path) == STORED


def test_footer_holds_meta(tmp_path: Path) -> None:
    assert read_meta(shard(tmp_path, table(2))) == STORED


def test_file_that_is_not_there_has_no_meta(tmp_path: Path) -> None:
    assert read_meta(tmp_path / "shard.parquet") is None


def test_columns_are_zstd_with_a_page_index(tmp_path: Path) -> None:
    group = pq.read_metadata(shard(tmp_path, table(100))).row_group(0)

    columns = [group.column(k) for k in range(group.num_columns)]
    assert {column.compression for column in columns} == {"ZSTD"}
    assert all(column.has_offset_index and column.has_column_index for column in columns)


def test_same_rows_and_meta_give_the_same_bytes(tmp_path: Path) -> None:
    first = shard(tmp_path / "first", table(50), table(50, first=50))
    second = shard(tmp_path / "second", table(50), table(50, first=50))

    assert first.read_bytes() == second.read_bytes()


def test_order_of_meta_changes_no_byte(tmp_path: Path) -> None:
    paths = [tmp_path / folder / "data" / "shard.parquet" for folder in ("first", "second")]
    for path, meta in zip(paths, ({"a": 1, "b": 2}, {"b": 2, "a": 1}), strict=True):
        write_shard(path, SCHEMA, [table(1)], meta)

    assert paths[0].read_bytes() == paths[1].read_bytes()


@pytest.mark.parametrize("model", [PairItem, Example])
def test_datasets_restores_the_features_of_the_footer(tmp_path: Path, model: Any) -> None:
    schema = arrow_schema(model)
    write_shard(tmp_path / "shard.parquet", schema, [schema.empty_table()], META)

    footer = json.loads(pq.read_schema(tmp_path / "shard.parquet").metadata[b"huggingface"])

    assert footer == json.loads(hf_metadata(schema)["huggingface"])
    assert Features.from_arrow_schema(pq.read_schema(tmp_path / "shard.parquet")) == Features.from_dict(
        footer["info"]["features"]
    )


def test_datasets_reads_rows_with_the_features_of_the_footer(tmp_path: Path) -> None:
    path = shard(tmp_path, table(3))

    dataset = load_dataset("parquet", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))

    assert dataset.features == Features.from_dict(json.loads(hf_metadata(SCHEMA)["huggingface"])["info"]["features"])
    assert list(dataset) == table(3).to_pylist()


def test_error_midway_leaves_nothing_behind(tmp_path: Path) -> None:
    def groups() -> Iterator[pa.Table]:
        yield table(10)
        raise KeyError("stop")

    with pytest.raises(KeyError):
        write_shard(tmp_path / "shard.parquet", SCHEMA, groups(), META)

    assert names(tmp_path) == []


@pytest.mark.parametrize("keep", [0, 3, 200])
def test_cut_off_file_is_damaged(tmp_path: Path, keep: int) -> None:
    path = shard(tmp_path, table(50))
    path.write_bytes(path.read_bytes()[:keep])

    with pytest.raises(UserError, match=r"shard\.parquet is damaged \(.*\); delete it and run again"):
        read_meta(path)


READS: list[Callable[[Path], Any]] = [read_meta, read_shard, lambda path: read_groups(path, np.arange(3))]


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("number", [errno.EMFILE, errno.EACCES, errno.EIO])
def test_a_file_that_cannot_be_read_just_now_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Callable[[Path], Any], number: int
) -> None:
    path = shard(tmp_path, table(50))

    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(pq, "read_metadata", fail)
    monkeypatch.setattr(pq, "ParquetFile", fail)
    with pytest.raises(UserError) as caught:
        read(path)

    message = f"cannot read {path}: {os.strerror(number)}; fix that and run the same command again"
    assert str(caught.value).startswith(message)


def test_too_many_open_files_are_not_a_damaged_shard(tmp_path: Path) -> None:
    path = shard(tmp_path, table(50))
    code = """
import resource, sys
from pathlib import Path
from pipeline.io.shards import read_meta
from schemas.base import UserError
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
files = []
try:
    while True:
        files.append(open(sys.argv[1]))
except OSError:
    pass
try:
    read_meta(Path(sys.argv[1]))
except UserError as error:
    files.clear()
    print(error)
"""
    out, err = python(code, str(path)).communicate()

    assert out.startswith(f"cannot read {path}: "), err
    assert "Too many open files" in out and "delete" not in out


@pytest.mark.parametrize("read", READS[1:])
def test_changed_bytes_are_damage_of_a_named_file(tmp_path: Path, read: Callable[[Path], Any]) -> None:
    path = shard(tmp_path, table(500))
    content = path.read_bytes()
    path.write_bytes(content[:4] + bytes(len(content) // 2) + content[4 + len(content) // 2 :])

    with pytest.raises(UserError, match=r"shard\.parquet is damaged \(.*\); delete it and run again"):
        read(path)


def test_no_flipped_bit_of_a_shard_gives_other_rows(tmp_path: Path) -> None:
    path = shard(tmp_path, table(20))
    content = path.read_bytes()
    silent = []
    for position in range(4, len(content), 5):
        path.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        try:
            if not read_shard(path).equals(table(20)) or read_meta(path) != STORED:
                silent.append(position)
        except UserError as error:
            assert str(path) in str(error)

    assert silent == []


@pytest.mark.parametrize("read", [read_meta, read_shard, lambda path: read_groups(path, np.array([0]))])
def test_shard_in_the_place_of_another_is_refused(tmp_path: Path, read: Callable[[Path], Any]) -> None:
    path = shard(tmp_path, table(2))
    other = path.rename(path.with_name("other.parquet"))

    with pytest.raises(UserError, match=r"other\.parquet is another shard, data/shard\.parquet; delete it"):
        read(other)


def test_footer_of_another_content_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data" / "shard.parquet"
    path.parent.mkdir()
    with pq.ParquetWriter(path, SCHEMA) as writer:
        writer.add_key_value_metadata({"everyuser": json.dumps(STORED | {"asked": 6}), "everyuser.hash": "0" * 32})

    with pytest.raises(UserError, match=r"is damaged \(its footer has changed\)"):
        read_meta(path)


def test_folder_in_the_place_of_a_shard_is_named(tmp_path: Path) -> None:
    path = shard(tmp_path, table(2))
    path.unlink()
    path.mkdir()

    with pytest.raises(UserError, match=r"shard\.parquet is a folder, where a file should be"):
        read_meta(path)


def test_parquet_of_somebody_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "shard.parquet"
    pq.write_table(table(1), path)

    with pytest.raises(UserError, match="was not written by everyuser; choose another output folder"):
        read_meta(path)


def test_disk_that_does_not_take_a_shard_is_a_user_error_and_leaves_nothing(tmp_path: Path) -> None:
    # A real failure of a write, in another process, where no file may exceed 4 KiB.
    code = """
import resource, sys
from pathlib import Path
import pyarrow as pa
from pipeline.io.shards import write_shard
from schemas.base import UserError
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
table = pa.table({"number": range(20_000)})
try:
    write_shard(Path(sys.argv[1]), table.schema, [table], {})
except UserError as error:
    sys.stdout.write(str(error))
"""
    out, err = python(code, str(tmp_path / "data" / "shard.parquet")).communicate()

    assert out.startswith(f"cannot write {tmp_path}/data/shard.parquet: "), err
    assert out.endswith("run the same command again, finished work is kept")
    assert names(tmp_path / "data") == []
