"""Reads threads: dumps of submissions and comments, joined threads, and published datasets of rated responses.

What is read becomes *events*, posts and responses in any order, which `pipeline.mining.gather` joins. Input is cut into
slices that workers read independently; a row that no thread can use is counted and dropped here.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from pipeline import storage
from pipeline.hub import dataset_commit, dataset_rows
from pipeline.mining.adapters import ADAPTERS
from pipeline.storage import AnyPath
from pipeline.text import count_words, slug
from preference_space.space import PreferenceSpace
from schemas.base import UsageError
from schemas.config import DumpSource, MiningConfig, ThreadsSource

PACKAGED = "packaged"
"""Forty short threads of this project, to try things on."""
SLICE_BYTES = 64 << 20
_ZSTD_RATIO = 8
"""Bytes that a compressed byte of a dump stands for, about."""
_ROUNDING = 1e-3
"""By how much given probabilities may exceed one."""
_LONGEST_WINDOW = 1 << 31
"""Reddit's dumps are compressed with zstd's `--long=31`."""
_GONE = frozenset({"[deleted]", "[removed]", "[ removed by reddit ]", "[deleted by user]"})


class PostEvent(NamedTuple):
    """A post."""

    id: str
    title: str
    text: str
    topics: list[str]
    author: str = ""


class ResponseEvent(NamedTuple):
    """A response to post `post`; levels and probabilities are None where it brings none."""

    post: str
    id: str
    author: str
    text: str
    levels: list[int] | None
    positive: list[float] | None
    negative: list[float] | None


Event = PostEvent | ResponseEvent


@dataclass(frozen=True)
class Slice:
    """A part of the input: the lines that begin in bytes `start` to `stop` of a file, or all of it (`stop` None)."""

    number: int
    key: Literal["submissions", "comments", "path"]
    path: str
    start: int = 0
    stop: int | None = None


def source_contents(config: MiningConfig) -> list[str]:
    """Identifies the threads that `config` names: a Hub dataset's commit, or a hash of each file's content."""
    source = config.source
    if isinstance(source, ThreadsSource) and source.is_hub:
        return [dataset_commit(source.path[0], source.revision, "mining.source.path")]
    return [f"{key}:{storage.content_id(path)}" for key, path in _files(source)]


def cut_slices(config: MiningConfig) -> list[Slice]:
    """The slices of the input, in order."""
    source = config.source
    if isinstance(source, ThreadsSource) and source.is_hub:
        return [Slice(0, "path", source.path[0])]
    slices: list[Slice] = []
    # A published dataset's rows belong together, and Parquet and zstd cannot be cut at a byte.
    splittable = source.kind in ("dump", "threads")
    for key, path in _files(source):
        size = storage.size(path)
        if path.suffix == ".jsonl" and splittable:
            for start in range(0, max(size, 1), SLICE_BYTES):
                slices.append(Slice(len(slices), key, str(path), start, min(size, start + SLICE_BYTES)))
        else:
            slices.append(Slice(len(slices), key, str(path)))
    return slices


def input_bytes(config: MiningConfig) -> int | None:
    """About how many bytes of JSON the input is; None where that is not known."""
    source = config.source
    if isinstance(source, ThreadsSource) and source.is_hub:
        return None
    return sum(storage.size(path) * (1 if path.suffix == ".jsonl" else _ZSTD_RATIO) for _, path in _files(source))


def read_events(piece: Slice, config: MiningConfig, space: PreferenceSpace, counts: Counter[str]) -> Iterator[Event]:
    """The usable posts and responses of a slice. Raises `UsageError` that names file and row for one it cannot read."""
    filters = _Filters(config, counts)
    source = config.source
    if isinstance(source, DumpSource):
        read = _submissions if piece.key == "submissions" else _comments
        yield from read(_rows(piece), piece.path, source, filters)
        return
    rows: Iterator[tuple[int, Mapping[str, Any]]]
    if source.is_hub:
        rows = enumerate(dataset_rows(piece.path, source.config, source.split, source.revision, "mining.source.path"))
    else:
        rows = _rows(piece)
    if source.kind != "threads":
        rows = enumerate(_adapted(source.kind, rows, piece.path))
    by_byte = source.kind == "threads" and piece.path.endswith(_LINES)
    yield from _threads(rows, piece.path, space, filters, by_byte)


def _adapted(kind: str, rows: Iterator[tuple[int, Mapping[str, Any]]], path: str) -> Iterator[Mapping[str, Any]]:
    try:
        yield from ADAPTERS[kind](row for _, row in rows)
    except UsageError as error:
        raise error if path in str(error) else UsageError(f"{path}: {error}") from None


class _Filters:
    """What makes a text unusable, counted under the names that the manifest shows."""

    def __init__(self, config: MiningConfig, counts: Counter[str]) -> None:
        self._config = config
        self._counts = counts
        # Each by itself: joined, their flags and groups would get in each other's way.
        self._bots = [re.compile(pattern, re.IGNORECASE) for pattern in config.bots]

    def count(self, name: str) -> None:
        self._counts[name] += 1

    def drop(self, reason: str) -> bool:
        self.count(reason)
        return False

    def is_bot(self, author: str) -> bool:
        return bool(author) and any(bot.search(author) for bot in self._bots)

    def post(self, title: str, text: str, author: str = "", is_moderator: bool = False) -> bool:
        self.count("posts/read")
        if text.strip().lower() in _GONE or title.strip().lower() in _GONE:
            return self.drop("posts/deleted")
        if not title.strip() and not text.strip():
            return self.drop("posts/empty")
        if is_moderator:
            return self.drop("posts/moderator")
        if self.is_bot(author):
            return self.drop("posts/bot")
        if count_words(f"{title} {text}") > self._config.max_post_words:
            return self.drop("posts/too_long")
        return True

    def response(self, author: str, text: str, is_moderator: bool = False) -> bool:
        self.count("responses/read")
        if author in _GONE or text.strip().lower() in _GONE:
            return self.drop("responses/deleted")
        if is_moderator:
            return self.drop("responses/moderator")
        if self.is_bot(author):
            return self.drop("responses/bot")
        words = count_words(text)
        if words < self._config.min_words:
            return self.drop("responses/too_short")
        if words > self._config.max_words:
            return self.drop("responses/too_long")
        return True


def _submissions(
    rows: Iterable[tuple[int, Mapping[str, Any]]], path: str, source: DumpSource, filters: _Filters
) -> Iterator[Event]:
    for position, row in rows:
        identity = _required(row, "id", path, position)
        title, text = str(row.get("title") or ""), str(row.get("selftext") or "")
        author, subreddit = str(row.get("author") or ""), str(row.get("subreddit") or "")
        if filters.post(title, text, author, bool(row.get("distinguished"))):
            topics = [slug(subreddit)] if subreddit else []
            yield PostEvent(identity, title, text, topics, author)


def _comments(
    rows: Iterable[tuple[int, Mapping[str, Any]]], path: str, source: DumpSource, filters: _Filters
) -> Iterator[Event]:
    for position, row in rows:
        link = _required(row, "link_id", path, position)
        identity = _required(row, "id", path, position)
        author, text = str(row.get("author") or ""), str(row.get("body") or "")
        is_moderator = bool(row.get("distinguished") or row.get("stickied"))
        # A comment on a comment has that one's `t1_` name as its parent.
        parent = str(row.get("parent_id") or link)
        if source.replies == "top_level" and parent.removeprefix("t3_") != link.removeprefix("t3_"):
            filters.count("responses/read")
            filters.drop("responses/nested")
        elif filters.response(author, text, is_moderator):
            yield ResponseEvent(link.removeprefix("t3_"), identity, author, text, None, None, None)


def _threads(
    rows: Iterable[tuple[int, Mapping[str, Any]]], path: str, space: PreferenceSpace, filters: _Filters, by_byte: bool
) -> Iterator[Event]:
    for position, row in rows:
        where = f"{path}: {_place(position, by_byte)}"
        title, text = str(row.get("title") or ""), str(row.get("post") or row.get("text") or "")
        responses = row.get("responses")
        if not isinstance(responses, (list, tuple)):
            raise UsageError(f"{where} has no list 'responses'; it has {', '.join(map(str, row))}")
        made_up = hashlib.blake2b(f"{title}\x1f{text}".encode(), digest_size=8).hexdigest()
        identity = _identity(row, made_up)
        poster = str(row.get("author") or "")
        if not filters.post(title, text, poster):
            continue
        topics = row.get("topics") or ()
        topics = topics.split(",") if isinstance(topics, str) else topics
        if not isinstance(topics, (list, tuple)):
            raise UsageError(f"{where}: 'topics' is neither a list nor a text")
        named = [slug(str(topic)) for topic in topics if str(topic).strip()]
        yield PostEvent(identity, title, text, named, poster)
        for number, entry in enumerate(responses):
            response = {"text": entry} if isinstance(entry, str) else entry
            if not isinstance(response, Mapping) or not isinstance(response.get("text"), str):
                raise UsageError(f"{where}: response {number + 1} is neither a text nor an object with a 'text'")
            author = str(response.get("author") or "")
            if not filters.response(author, response["text"]):
                continue
            given = _given(response, f"{where}: response {number + 1}", space)
            yield ResponseEvent(identity, _identity(response, f"{number:05d}"), author, response["text"], *given)


def _given(
    response: Mapping[str, Any], where: str, space: PreferenceSpace
) -> tuple[list[int] | None, list[float] | None, list[float] | None]:
    """The levels that a response brings, by position or by slug, and their probabilities."""
    levels = response.get("levels")
    if levels is None or levels in ([], ()):
        return None, None, None
    if isinstance(levels, Mapping):
        unknown = [slug for slug in levels if slug not in space.index]
        if unknown:
            raise UsageError(f"{where}: the space '{space.name}' has no dimension '{unknown[0]}'")
        listed = [0] * len(space)
        for slug, level in levels.items():
            # Parquet fills up the keys that other rows have.
            listed[space.index[slug]] = 0 if level is None else level
        levels = listed
    if not isinstance(levels, (list, tuple)) or len(levels) != len(space) or any(v not in (-1, 0, 1) for v in levels):
        raise UsageError(f"{where}: 'levels' must be {len(space)} numbers of -1, 0 and 1")
    shares = [response.get(name) for name in ("positive", "negative")]
    if all(share is None or share in ([], ()) for share in shares):
        return [int(level) for level in levels], None, None
    try:
        both = np.array(shares, dtype=np.float64)
    except (TypeError, ValueError):
        both = np.empty(0)
    if both.shape != (2, len(space)) or not ((both >= 0).all() and (both.sum(axis=0) <= 1 + _ROUNDING).all()):
        raise UsageError(f"{where}: 'positive' and 'negative' must be {len(space)} probabilities")
    return [int(level) for level in levels], both[0].tolist(), both[1].tolist()


def _identity(row: Mapping[str, Any], otherwise: str) -> str:
    value = row.get("id")
    return otherwise if value is None or not str(value).strip() else str(value)


def _required(row: Mapping[str, Any], field: str, path: str, position: int) -> str:
    value = row.get(field)
    if value is None or not str(value).strip():
        where = f"{path}: {_place(position, path.endswith(_LINES))}"
        raise UsageError(f"{where} has no '{field}'; it has {', '.join(map(str, row))[:200]}")
    return str(value)


_LINES = (".jsonl", ".zst")


def _place(position: int, by_byte: bool) -> str:
    """Where a row stands: a slice of a file of lines does not know their numbers."""
    return f"the row at byte {position}" if by_byte else f"row {position + 1}"


def _rows(piece: Slice) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The rows of a file's slice, each with its place: bytes of JSON lines, or a number."""
    path = storage.parse(piece.path)
    try:
        if path.suffix == ".parquet":
            with storage.open_parquet(path) as opened, pq.ParquetFile(opened) as file:
                batches = file.iter_batches(batch_size=256)
                yield from enumerate(row for batch in batches for row in batch.to_pylist())
        elif path.suffix == ".zst":
            with storage.open_binary(path, from_start_to_end=True) as raw:
                yield from _json_lines(_buffered_lines(_decompressed(raw)), piece.path, 0)
        else:
            with storage.open_binary(path, from_start_to_end=True) as file:
                yield from _json_lines(_lines_from(file, piece.start, piece.stop), piece.path, piece.start)
    except (pa.ArrowInvalid, zstandard.ZstdError, OSError) as error:
        raise UsageError(f"{path}: not readable as {path.suffix}: {' '.join(str(error).split())}") from None


def _lines_from(file: BinaryIO, start: int, stop: int | None) -> Iterator[bytes]:
    """The lines that begin in [start, stop); an empty one stands for what belongs to the slice before."""
    if start:
        file.seek(start - 1)
        skipped = file.readline()
        yield b" " * (len(skipped) - 1)
    while stop is None or file.tell() < stop:
        line = file.readline()
        if not line:
            return
        yield line


def _decompressed(raw: BinaryIO) -> Iterator[bytes]:
    """The content of all frames. zstandard's own reader takes a file that is cut off for one that ends there."""
    decompressor = zstandard.ZstdDecompressor(max_window_size=_LONGEST_WINDOW)
    frame = None
    while block := raw.read(1 << 17):
        while block:
            frame = frame or decompressor.decompressobj()
            yield frame.decompress(block)
            block = frame.unused_data if frame.eof else b""
            frame = None if frame.eof else frame
    if frame is not None:
        raise zstandard.ZstdError("the file is cut off")


def _buffered_lines(blocks: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for block in blocks:
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            yield line + b"\n"
    if rest:
        yield rest


def _json_lines(lines: Iterable[bytes], path: str, position: int) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for line in lines:
        text = line.removeprefix(b"\xef\xbb\xbf").strip()
        if text:
            try:
                row = orjson.loads(text)
            except orjson.JSONDecodeError as error:
                raise UsageError(f"{path}: the line at byte {position} is not JSON: {error}") from None
            if not isinstance(row, dict):
                raise UsageError(f"{path}: the line at byte {position} is not a JSON object")
            yield position, row
        position += len(line)


def _matches(pattern: str) -> list[AnyPath]:
    folder, _, name = pattern.rpartition("/")
    parent = storage.parse(folder or ".") if folder or not pattern.startswith("/") else Path("/")
    return [parent / found for found in storage.names(parent) if fnmatchcase(found, name)]


_SUFFIXES = (".jsonl", ".zst", ".parquet")


def _files(source: DumpSource | ThreadsSource) -> list[tuple[Any, AnyPath]]:
    """Every file with the key that names it. Raises `UsageError` for one that is missing or of another kind."""
    files: list[tuple[Any, AnyPath]] = []
    for key in source.paths:
        for pattern in getattr(source, key):
            if pattern == PACKAGED:
                files.append((key, Path(str(importlib.resources.files("pipeline") / "sample_threads.jsonl"))))
                continue
            found = _matches(pattern) if set(pattern) & set("*?[") else [storage.parse(pattern)]
            if not found:
                raise UsageError(f"mining.source.{key}: no file fits {pattern}")
            for path in found:
                if path.suffix not in _SUFFIXES:
                    raise UsageError(f"mining.source.{key}: {path} is not one of {', '.join(_SUFFIXES)}")
                if not storage.is_file(path):
                    raise UsageError(f"mining.source.{key}: {path}: no such file")
                files.append((key, path))
    return files
