"""Parquet files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from schemas.arrow import hf_metadata
from schemas.base import UserError

# Arrow's own allocator keeps tens of MiB for itself; shards are few and large, which malloc serves as fast.
pa.set_memory_pool(pa.system_memory_pool())

_META = "everyuser"


def write_shard(path: Path, schema: pa.Schema, groups: Iterable[pa.Table], meta: Mapping[str, Any]) -> None:
    """Write `groups`, each as one row group, with `meta` (JSON) in the footer.

    Equal groups and meta give equal bytes.
    """
    with (
        atomic(path) as temporary,
        pq.ParquetWriter(
            temporary,
            schema.with_metadata(hf_metadata(schema)),
            compression="zstd",
            write_page_index=True,
            use_content_defined_chunking=True,
        ) as writer,
    ):
        for group in groups:
            writer.write_table(group.replace_schema_metadata(writer.schema.metadata))
        writer.add_key_value_metadata({_META: json.dumps(meta, sort_keys=True)})


def read_shard(path: Path, columns: list[str] | None = None) -> pa.Table:
    """A shard as a table. `pq.read_table` would load the dataset engine, of 60 MiB, to do the same."""
    with pq.ParquetFile(path) as file:
        return file.read(columns).replace_schema_metadata(None)


def read_groups(path: Path, rows: npt.NDArray[np.int64]) -> pa.Table:
    """The given rows of a file, in their order, reading only the row groups that hold them."""
    with pq.ParquetFile(path) as file:
        sizes = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
        ends = np.cumsum(sizes)
        group_of = np.searchsorted(ends, rows, side="right")
        groups = np.unique(group_of)
        table = file.read_row_groups(groups.tolist()).replace_schema_metadata(None)
    starts_here = np.cumsum([0, *(sizes[group] for group in groups.tolist())])
    before = (ends - sizes)[group_of]
    return table.take(starts_here[np.searchsorted(groups, group_of)] + rows - before)


def read_meta(path: Path) -> dict[str, Any] | None:
    """The footer's `meta`; None where there is no such file. Raises `UserError` for a file that is no shard of ours."""
    try:
        entries = pq.read_metadata(path).metadata or {}
    except FileNotFoundError:
        return None
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path} is damaged ({' '.join(str(error).split())}); delete it and run again") from None
    text = entries.get(_META.encode())
    if text is None:
        raise UserError(f"{path} was not written by everyuser; choose another output folder")
    meta: dict[str, Any] = json.loads(text)
    return meta


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, synced and renamed to it at the end, removed on an error."""
    temporary = path.with_name(f".tmp-{path.name}-{os.getpid()}")
    try:
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turns a failed write into one line with the way out."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; mend that and run the same command again, "
            "finished work is kept"
        ) from error


def remove_temporary(folder: Path) -> None:
    """Delete what a killed run left half-written. Only the holder of the folder's lock may call this."""
    for path in folder.rglob(".tmp-*"):
        path.unlink(missing_ok=True)
