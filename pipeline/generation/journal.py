"""The journal of completions: one file for each shard, one JSON line for each outcome.

On this machine a line is appended as its outcome arrives. An object store cannot append: there the lines of half a
minute become an object beside the journal (a part), and all parts become one object when the shard is finished. After a
kill a shard sends only the requests that its journal lacks. A kept journal replays a build without a model, also when
each of its files was compressed by gzip.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import threading
import time
import uuid
import weakref
import zlib
from pathlib import Path
from typing import Any, Protocol

import orjson
from upath import UPath

from pipeline.generation.completions import Completion, Failure, Outcome
from pipeline.io import storage
from pipeline.io.storage import AnyPath, write_errors
from schemas.base import UserError

_PART_SECONDS = 30.0
"""Seconds between two parts: the outcomes that a kill can lose in an object store."""


def read_journal(path: AnyPath) -> dict[str, Outcome]:
    """Return outcomes by request key. A last line that a kill cut off is skipped; a missing file is empty.

    Raises:
        UserError: A line is not as it was written; names file and line.
    """
    outcomes: dict[str, Outcome] = {}
    for number, line in enumerate(_read(path).split(b"\n")[:-1], 1):
        entry = _entry(line)
        if entry is None:
            raise UserError(f"{path}: line {number} is damaged; delete that line and run again")
        key = entry.pop("key")
        outcomes[key] = Failure(**entry) if "reason" in entry else Completion(**entry)
    return outcomes


def _read(path: AnyPath) -> bytes:
    """Return the lines of a journal, and in an object store those of the parts that a killed run left."""
    content = b""
    try:
        content = storage.read_bytes(path)
    except FileNotFoundError:
        with contextlib.suppress(FileNotFoundError):
            content = _unpack(path.with_name(f"{path.name}.gz"))
    if not storage.is_local(path):
        # A copied journal may end in a torn line, which must not run into the first line of a part.
        content = content[: content.rfind(b"\n") + 1]
        for part in storage.list_names(_parts(path)):
            # Another worker with the same shard may just have merged its parts.
            with contextlib.suppress(FileNotFoundError):
                content += storage.read_bytes(_parts(path) / part)
    return content


def _unpack(path: AnyPath) -> bytes:
    try:
        return gzip.decompress(storage.read_bytes(path))
    except (OSError, EOFError, zlib.error) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise UserError(f"{path} is damaged: {error}") from None


def _parts(path: UPath) -> UPath:
    return path.with_name(f"{path.stem}.parts")


class JournalWriter(Protocol):
    """Stores the outcomes of one shard."""

    def append(self, key: str, outcome: Outcome) -> None:
        """Store one outcome; raises `UserError` when it cannot be stored."""

    def close(self) -> None:
        """Close the journal. Outcomes that still arrive, of a bundle that has failed, are dropped."""


def open_journal(path: AnyPath, is_kept: bool = True) -> JournalWriter:
    """Return a writer that stores outcomes in `path`, or one that stores none."""
    if not is_kept:
        return _NoJournal()
    return _AppendingWriter(path) if storage.is_local(path) else _PartsWriter(path)


def journal_line(key: str, outcome: Outcome) -> bytes:
    """Return a line of a journal: an object whose first field is a checksum of the rest.

    Without it, a changed reply would change rows unseen.
    """
    # Most models do not reason, and a journal has many lines.
    fields = {name: value for name in outcome.__slots__ if (value := getattr(outcome, name)) or name not in _RARE}
    rest = b'"key":"' + key.encode() + b'",' + orjson.dumps(fields)[1:]
    return b'{"crc":"%08x",' % zlib.crc32(rest) + rest + b"\n"


_RARE = frozenset({"reasoning", "reasoning_tokens"})
_REST = len(b'{"crc":"00000000",')


def _entry(line: bytes) -> dict[str, Any] | None:
    """Return the fields of a line without its checksum; None for a damaged line."""
    rest = line[_REST:]
    if line[:_REST] != b'{"crc":"%08x",' % zlib.crc32(rest):
        return None
    entry: dict[str, Any] = orjson.loads(b"{" + rest)
    return entry


class _NoJournal:
    def append(self, key: str, outcome: Outcome) -> None:
        pass

    def close(self) -> None:
        pass


class _AppendingWriter:
    """Appends each outcome by one write, so that a kill loses no outcome that a shard has seen."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            self._size = _drop_torn_line(self._file)
        self._is_closed = False
        # One thread appends; another one closes.
        self._lock = threading.Lock()

    def append(self, key: str, outcome: Outcome) -> None:
        # A line that the disk does not take whole is removed again.
        line = journal_line(key, outcome)
        with self._lock, write_errors(self._path):
            if self._is_closed:
                return
            try:
                written = os.write(self._file, line)
                if written != len(line):
                    written += os.write(self._file, line[written:])
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._file, self._size)
                raise
        self._size += written

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            os.close(self._file)


class _PartsWriter:
    """Buffers lines and writes them as parts; `close` merges the parts into one object."""

    def __init__(self, path: UPath) -> None:
        self._path = path
        self._earlier = _read(path)
        self._lines: list[bytes] = []
        self._written = 0
        # Parts are read in the order of their numbers, so newer ones need higher numbers.
        self._number = max((int(name[:6]) for name in storage.list_names(_parts(path))), default=0)
        self._is_closed = False
        self._run = uuid.uuid4().hex[:8]
        self._error: UserError | None = None
        self._lock = threading.Lock()
        _flusher.add(self)

    def append(self, key: str, outcome: Outcome) -> None:
        if self._error is not None:
            raise self._error
        self._lines.append(journal_line(key, outcome))

    def flush(self) -> None:
        """Write new lines as a part. Called by another thread, so the next `append` raises its error."""
        with self._lock:
            fresh = self._lines[self._written :]
            if not fresh or self._is_closed:
                return
            self._number += 1
            try:
                part = _parts(self._path) / f"{self._number:06d}-{self._run}.jsonl"
                storage.write_bytes(part, b"".join(fresh))
                self._written += len(fresh)
            except UserError as error:
                self._error = error

    def close(self) -> None:
        _flusher.remove(self)
        with self._lock:
            self._is_closed = True
            storage.write_bytes(self._path, self._earlier + b"".join(self._lines))
            storage.remove_tree(_parts(self._path))


class _Flusher:
    """A thread that flushes all `_PartsWriter`s of this process."""

    def __init__(self) -> None:
        self._writers: weakref.WeakSet[_PartsWriter] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def add(self, journal: _PartsWriter) -> None:
        with self._lock:
            self._writers.add(journal)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="everyuser-journal", daemon=True)
                self._thread.start()

    def remove(self, journal: _PartsWriter) -> None:
        with self._lock:
            self._writers.discard(journal)

    def _run(self) -> None:
        while True:
            time.sleep(_PART_SECONDS)
            with self._lock:
                journals = [*self._writers]
            for journal in journals:
                journal.flush()


_flusher = _Flusher()


def _drop_torn_line(file: int) -> int:
    """Cut off a line that a kill left incomplete; return the remaining size."""
    size = os.fstat(file).st_size
    end = size
    while end > 0:
        start = max(0, end - 65536)
        newline = os.pread(file, end - start, start).rfind(b"\n")
        if newline >= 0:
            end = start + newline + 1
            break
        end = start
    if end != size:
        os.ftruncate(file, end)
    return end
