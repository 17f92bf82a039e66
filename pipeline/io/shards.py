"""Shards: Parquet files that are written atomically and checked whenever they are read.

A footer holds the file's name and its own hash, and every page has a checksum. So a file that was damaged, edited or
swapped raises an error that names it, and never gives other rows.
"""

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

from pipeline.io import storage
from pipeline.io.outages import error_text
from pipeline.io.storage import AnyPath
from schemas.arrow import hf_metadata
from schemas.base import UserError


class DamagedShardError(UserError):
    """A file that is not the shard that was written. The message advises a build, which can write it again."""

    def __init__(self, path: AnyPath, what: str) -> None:
        self.fact = f"{path} {what}"
        super().__init__(f"{self.fact}; delete it and run again")


_META = "everyuser"
_META_HASH = "everyuser.hash"


def write_shard(path: AnyPath, schema: pa.Schema, groups: Iterable[pa.Table], meta: Mapping[str, Any]) -> None:
    """Write a shard. Equal groups and meta give equal bytes.

    Args:
        path: The shard.
        schema: Of the groups.
        groups: Tables, each written as one row group.
        meta: JSON object for the footer.
    """
    with staged_shard(path, schema, groups, meta):
        pass


@contextmanager
def staged_shard(
    path: AnyPath, schema: pa.Schema, groups: Iterable[pa.Table], meta: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """Write a shard as `write_shard` does, but yield its `bytes` and `sha256` before the file appears."""
    with storage.atomic(path) as temporary:
        _write(temporary, schema, groups, {**meta, "file": _name(path)})
        with temporary.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        yield {"bytes": temporary.stat().st_size, "sha256": digest}


def _name(path: AnyPath) -> str:
    """Return a shard's name in its footer: relative to the build's folder, which may be renamed."""
    return f"{path.parent.name}/{path.name}"


def _write(path: Path, schema: pa.Schema, groups: Iterable[pa.Table], meta: Mapping[str, Any]) -> None:
    with pq.ParquetWriter(
        path,
        schema.with_metadata(hf_metadata(schema)),
        compression="zstd",
        write_page_index=True,
        write_page_checksum=True,
        use_content_defined_chunking=True,
    ) as writer:
        rows = 0
        for group in groups:
            writer.write_table(group.replace_schema_metadata(writer.schema.metadata))
            rows += group.num_rows
        text = json.dumps(meta, sort_keys=True)
        writer.add_key_value_metadata({_META: text, _META_HASH: _hash(text, schema, rows)})


def _hash(meta: str, schema: pa.Schema, rows: int) -> str:
    """Hash the content of a footer. Parquet has no checksum for it, and a changed bit may rename a column."""
    columns = schema.remove_metadata().to_string(show_field_metadata=False)
    return hashlib.blake2b(f"{meta}\n{columns}\n{rows}".encode(), digest_size=16).hexdigest()


@contextmanager
def open_shard(path: AnyPath, whole: bool = False, fingerprint: str | None = None) -> Iterator[pq.ParquetFile]:
    """Open a shard to read rows. Errors of reading within the block become errors of the shard, too.

    Args:
        path: The shard.
        whole: True where most of it will be read.
        fingerprint: The build that it must belong to.

    Raises:
        UserError: The file is damaged, was not written by everyuser, is another shard, or cannot be read.
        FileNotFoundError: There is no such file.
    """
    with (
        shard_errors(path),
        storage.open_parquet(path, whole) as opened,
        # Without read-ahead, which takes memory and saves no time where processes share the processors.
        pq.ParquetFile(opened, pre_buffer=False, page_checksum_verification=True) as file,
    ):
        _meta_of(file.metadata, path, fingerprint)
        yield file


@contextmanager
def shard_errors(path: AnyPath) -> Iterator[None]:
    """Convert errors of Arrow and the system to `UserError`; a missing file stays a `FileNotFoundError`.

    Only damage is called damage: a good shard may be unreadable for lack of a permission or of file handles, and
    nobody should delete it for that.
    """
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError:
        raise FileNotFoundError(str(path)) from None
    except OSError as error:
        if storage.is_local(path) and path.is_dir():
            raise UserError(f"{path} is a folder, where a file should be; remove it and run again") from None
        # Arrow's errors about a file's content have no number.
        if error.errno is None:
            raise _damaged(path, error) from None
        raise UserError(f"cannot read {path}: {error_text(error)}; fix that and run the same command again") from error
    except pa.ArrowException as error:
        raise _damaged(path, error) from None


def _damaged(path: AnyPath, error: Exception) -> UserError:
    return DamagedShardError(path, f"is damaged ({error_text(error)})")


def read_shard(path: AnyPath, columns: list[str] | None = None, fingerprint: str | None = None) -> pa.Table:
    """Read a shard as a table; `open_shard` lists the errors."""
    with open_shard(path, columns is None, fingerprint) as file:
        return file.read(columns).replace_schema_metadata(None)


def read_groups(path: AnyPath, rows: npt.NDArray[np.int64]) -> pa.Table:
    """Read the given rows of a shard, in their order, and only the row groups that hold them."""
    with open_shard(path) as file:
        return take_rows(file, rows)


def take_rows(file: pq.ParquetFile, rows: npt.NDArray[np.int64]) -> pa.Table:
    """Read the given rows of an open shard, as `read_groups` does."""
    sizes = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
    ends = np.cumsum(sizes)
    group_of = np.searchsorted(ends, rows, side="right")
    groups = np.unique(group_of)
    table = file.read_row_groups(groups.tolist()).replace_schema_metadata(None)
    starts_here = np.cumsum([0, *(sizes[group] for group in groups.tolist())])
    before = (ends - sizes)[group_of]
    return table.take(starts_here[np.searchsorted(groups, group_of)] + rows - before)


def read_meta(path: AnyPath, fingerprint: str | None = None) -> dict[str, Any] | None:
    """Return the footer's `meta`; None where there is no such file. `open_shard` lists the errors."""
    try:
        with shard_errors(path), storage.open_parquet(path) as opened:
            return _meta_of(pq.read_metadata(opened), path, fingerprint)
    except FileNotFoundError:
        return None


def _meta_of(metadata: pq.FileMetaData, path: AnyPath, fingerprint: str | None) -> dict[str, Any]:
    entries = metadata.metadata or {}
    text = entries.get(_META.encode())
    if text is None:
        raise UserError(f"{path} was not written by everyuser; choose another output folder, or remove it")
    digest = _hash(text.decode(errors="replace"), metadata.schema.to_arrow_schema(), metadata.num_rows)
    if entries.get(_META_HASH.encode()) != digest.encode():
        raise DamagedShardError(path, "is damaged (its footer has changed)")
    meta: dict[str, Any] = json.loads(text)
    if meta["file"] != _name(path):
        raise DamagedShardError(path, f"is another shard, {meta['file']}")
    if fingerprint is not None and meta["fingerprint"] != fingerprint:
        raise UserError(f"{path} belongs to another build; delete it and run `everyuser build` again")
    return meta


def read_metas(folder: AnyPath, files: Sequence[str], fingerprint: str | None = None) -> list[dict[str, Any] | None]:
    """Return `read_meta` of many files of a folder. In an object store only listed files are read, many at a time."""
    there = frozenset(storage.list_names(folder))

    def read(file: str) -> dict[str, Any] | None:
        return read_meta(folder / file, fingerprint) if file in there else None

    return storage.map_files(folder, read, files)
