"""Readers of benchmark files, which a dataset should not overlap with. Every text in a file counts."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.reading.json_files import read_list
from pipeline.reading.values import texts_in
from pipeline.report.texts import Hashes, words_of
from schemas.base import UsageError

Texts = Iterator[tuple[int, pa.Array]]
"""Pairs of a number of rows and the texts in them."""

_READ = 1 << 20
"""Characters to read at once, approximately."""
_ROWS = 256
_OVERLAP = 4096
"""Characters of plain text that are repeated before the next block, since a run may cross the cut."""


class Benchmark(NamedTuple):
    """A file's rows, and the runs of words in its texts: distinct hashes in order, shape (G,)."""

    rows: int
    runs: Hashes


def read_benchmark(path: Path, words: int) -> Benchmark:
    """Return the runs of `words` words in a file, 8 bytes each. Raise `UsageError` for a file that cannot be read."""
    reader = _READERS.get(path.suffix)
    if reader is None:
        raise UsageError(f"{path}: unknown kind of file; use one of {', '.join(_READERS)}")
    rows, runs, waiting = 0, np.empty(0, dtype=np.uint64), [np.empty(0, dtype=np.uint64)]
    try:
        for number, texts in reader(path):
            rows += number
            waiting.append(words_of(texts).grams(words).hashes)
            # Sort once as many are new as known: the cost stays proportional to the file.
            if sum(map(len, waiting)) > max(_READ, len(runs)):
                runs, waiting = np.unique(np.concatenate([runs, *waiting])), []
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file") from None
    except (ValueError, RecursionError, pa.ArrowException, OSError) as error:
        raise UsageError(f"{path} is not readable as {path.suffix}: {' '.join(str(error).split())[:200]}") from None
    return Benchmark(rows, np.unique(np.concatenate([runs, *waiting])))


def _json(path: Path) -> Texts:
    """Read a JSON file: each element of a list is a row, any other document is one row."""
    return _group_texts(_elements(path))


def _jsonl(path: Path) -> Texts:
    return _group_texts(_lines(path))


def _txt(path: Path) -> Texts:
    tail = ""
    with path.open(encoding="utf-8-sig") as file:
        while lines := file.readlines(_READ):
            text = tail + "".join(lines)
            yield sum(not line.isspace() for line in lines), pa.array([text])
            tail = text[-_OVERLAP:]


def _parquet(path: Path) -> Texts:
    with pq.ParquetFile(path, pre_buffer=False) as file:
        for batch in file.iter_batches(batch_size=_ROWS, use_threads=False):
            yield batch.num_rows, pa.array([], pa.string())
            for column in batch.columns:
                for texts in _texts_in(column):
                    yield 0, texts


_READERS = {".json": _json, ".jsonl": _jsonl, ".parquet": _parquet, ".txt": _txt}


def _lines(path: Path) -> Iterator[Any]:
    with path.open("rb") as file:
        for number, line in enumerate(file):
            text = line.removeprefix(codecs.BOM_UTF8).strip()
            if text:
                try:
                    yield orjson.loads(text)
                except orjson.JSONDecodeError as error:
                    raise ValueError(f"line {number + 1}: {error}") from None


def _elements(path: Path) -> Iterator[Any]:
    with path.open(encoding="utf-8-sig") as file:
        yield from read_list(file)


def _group_texts(rows: Iterator[Any]) -> Texts:
    """Yield the texts of rows (lists, objects or texts), many rows at a time."""
    number, size = 0, 0
    texts: list[str] = []
    for row in rows:
        found = [*texts_in(row)]
        texts += found
        number += 1
        size += sum(map(len, found))
        if size > _READ:
            yield number, _array(texts)
            texts, number, size = [], 0, 0
    yield number, _array(texts)


def _array(texts: list[str]) -> pa.Array:
    # JSON may hold lone surrogates, which UTF-8 cannot encode.
    return pa.array([text.encode("utf-8", "replace").decode() for text in texts], pa.string())


def _texts_in(array: pa.Array) -> Iterator[pa.Array]:
    """Yield the texts of a column at any depth."""
    kind = array.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        yield array.drop_null().cast(pa.string())
    elif pa.types.is_dictionary(kind):
        yield from _texts_in(array.dictionary_decode())
    elif pa.types.is_map(kind):
        yield from _texts_in(array.items)
    elif pa.types.is_struct(kind):
        for child in array.flatten():
            yield from _texts_in(child)
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        yield from _texts_in(array.flatten())
