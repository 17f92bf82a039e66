"""Parquet files that appear whole or not at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.outages import error_text
from pipeline.storage import AnyPath
from schemas.arrow import hf_metadata
from schemas.base import UserError

# Arrow's own allocator keeps tens of MiB for itself; shards are few and large, which malloc serves as fast.
pa.set_memory_pool(pa.system_memory_pool())

_META = "everyuser"
_ADVICE = "delete it and run again"


def write_shard(path: AnyPath, schema: pa.Schema, groups: Iterable[pa.Table], meta: Mapping[str, Any]) -> None:
    """Write `groups`, each as one row group, with `meta` (JSON) in the footer.

    Equal groups and meta give equal bytes.
    """
    with staged_shard(path, schema, groups, meta):
        pass


@contextmanager
def staged_shard(
    path: AnyPath, schema: pa.Schema, groups: Iterable[pa.Table], meta: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """Like `write_shard`, but the file appears at the end of the block, which is given its `bytes` and `sha256`."""
    with storage.atomic(path) as temporary:
        _write(temporary, schema, groups, meta)
        with temporary.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        yield {"bytes": temporary.stat().st_size, "sha256": digest}


def _write(path: Path, schema: pa.Schema, groups: Iterable[pa.Table], meta: Mapping[str, Any]) -> None:
    with pq.ParquetWriter(
        path,
        schema.with_metadata(hf_metadata(schema)),
        compression="zstd",
        write_page_index=True,
        use_content_defined_chunking=True,
    ) as writer:
        for group in groups:
            writer.write_table(group.replace_schema_metadata(writer.schema.metadata))
        writer.add_key_value_metadata({_META: json.dumps(meta, sort_keys=True)})


def read_shard(path: AnyPath, columns: list[str] | None = None) -> pa.Table:
    """A shard as a table. `pq.read_table` would load the dataset engine, of 60 MiB, to do the same."""
    with parsed(path), storage.open_parquet(path, whole=columns is None) as opened, pq.ParquetFile(opened) as file:
        return file.read(columns).replace_schema_metadata(None)


def read_groups(path: AnyPath, rows: npt.NDArray[np.int64], advice: str = _ADVICE) -> pa.Table:
    """The given rows of a file, in their order, reading only the row groups that hold them.

    `advice` says what to do about a damaged one.
    """
    with parsed(path, advice), storage.open_parquet(path) as opened, pq.ParquetFile(opened) as file:
        sizes = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
        ends = np.cumsum(sizes)
        group_of = np.searchsorted(ends, rows, side="right")
        groups = np.unique(group_of)
        table = file.read_row_groups(groups.tolist()).replace_schema_metadata(None)
    starts_here = np.cumsum([0, *(sizes[group] for group in groups.tolist())])
    before = (ends - sizes)[group_of]
    return table.take(starts_here[np.searchsorted(groups, group_of)] + rows - before)


def read_meta(path: AnyPath) -> dict[str, Any] | None:
    """The footer's `meta`; None where there is no such file. Raises `UserError` for a file that is no shard of ours."""
    try:
        with parsed(path), storage.open_parquet(path) as opened:
            entries = pq.read_metadata(opened).metadata or {}
    except FileNotFoundError:
        return None
    text = entries.get(_META.encode())
    if text is None:
        raise UserError(f"{path} was not written by everyuser; choose another output folder")
    meta: dict[str, Any] = json.loads(text)
    return meta


@contextmanager
def parsed(path: AnyPath, advice: str = _ADVICE) -> Iterator[None]:
    """Turn what goes wrong while a shard is read into a line; `FileNotFoundError` passes.

    An error with a number is the system's, of which the file is innocent. Arrow's own errors have none.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except (pa.ArrowInvalid, OSError) as error:
        told = error_text(error)
        if isinstance(error, OSError) and error.errno is not None:
            raise UserError(f"cannot read {path}: {told}; mend that and run the same command again") from error
        raise UserError(f"{path} is damaged ({told}); {advice}") from error


def read_metas(folder: AnyPath, files: Sequence[str]) -> list[dict[str, Any] | None]:
    """`read_meta` of many files of a folder. In an object store only what a listing shows is asked for, all at once."""
    there = frozenset(storage.names(folder))
    return storage.each(folder, lambda file: read_meta(folder / file) if file in there else None, files)
