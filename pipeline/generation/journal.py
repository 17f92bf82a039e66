"""The journal of completions: one JSON line for each outcome, one file for each shard.

On this machine a line is appended as its outcome arrives. An object store does not append: there the lines of half a
minute become an object of their own beside the journal, and all of them one when the shard is finished. After a kill a
shard asks only for what its journal lacks. A kept journal replays a build without a model.
"""

from __future__ import annotations

import contextlib
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
"""How long an outcome is in memory alone, at most, where nothing can be appended to."""


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
    """The lines of a journal, and in an object store those that a killed run left beside it."""
    content = b""
    with contextlib.suppress(FileNotFoundError):
        content = storage.read_bytes(path)
    if not storage.is_local(path):
        # A line that a kill cut off, in a journal that was copied here, must not run into the next one.
        content = content[: content.rfind(b"\n") + 1]
        for part in storage.list_names(_parts(path)):
            # Another worker that had the same shard may just have finished it.
            with contextlib.suppress(FileNotFoundError):
                content += storage.read_bytes(_parts(path) / part)
    return content


def _parts(path: UPath) -> UPath:
    return path.with_name(f"{path.stem}.parts")


class JournalWriter(Protocol):
    """Keeps the outcomes of one shard."""

    def append(self, key: str, outcome: Outcome) -> None:
        """Store one outcome; raises `UserError` when it cannot be stored."""

    def close(self) -> None:
        """The shard asks nothing more here; what still arrives, for a bundle that has failed, is dropped."""


def open_journal(path: AnyPath, is_kept: bool = True) -> JournalWriter:
    """What keeps a shard's outcomes in `path`, or forgets them."""
    if not is_kept:
        return _Forgotten()
    return _Appended(path) if storage.is_local(path) else _Collected(path)


def _line(key: str, outcome: Outcome) -> bytes:
    """One line: an object whose first field is a checksum of the rest, as a changed reply would be another row."""
    # A dataclass is serialised by orjson itself.
    rest = b'"key":"' + key.encode() + b'",' + orjson.dumps(outcome)[1:]
    return b'{"crc":"%08x",' % zlib.crc32(rest) + rest + b"\n"


_REST = len(b'{"crc":"00000000",')


def _entry(line: bytes) -> dict[str, Any] | None:
    """The fields of a line but for its checksum; None for one that is not as it was written."""
    rest = line[_REST:]
    if line[:_REST] != b'{"crc":"%08x",' % zlib.crc32(rest):
        return None
    entry: dict[str, Any] = orjson.loads(b"{" + rest)
    return entry


class _Forgotten:
    def append(self, key: str, outcome: Outcome) -> None:
        pass

    def close(self) -> None:
        pass


class _Appended:
    """One write for each outcome, so that a killed process loses none that it has announced."""

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
        # Where the disk does not take it, no part of it is left.
        line = _line(key, outcome)
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


class _Collected:
    """Lines are collected, and written as parts; in the end the parts become one object."""

    def __init__(self, path: UPath) -> None:
        self._path = path
        self._earlier = _read(path)
        self._lines: list[bytes] = []
        self._written = 0
        # Parts are read by their numbers: what is newer must come later.
        self._number = max((int(name[:6]) for name in storage.list_names(_parts(path))), default=0)
        self._is_closed = False
        self._run = uuid.uuid4().hex[:8]
        self._fault: UserError | None = None
        self._lock = threading.Lock()
        _flusher.watch(self)

    def append(self, key: str, outcome: Outcome) -> None:
        if self._fault is not None:
            raise self._fault
        self._lines.append(_line(key, outcome))

    def flush(self) -> None:
        """Write what is new as a part. Called by another thread, so a fault is told by the next `append`."""
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
                self._fault = error

    def close(self) -> None:
        _flusher.forget(self)
        with self._lock:
            self._is_closed = True
            storage.write_bytes(self._path, self._earlier + b"".join(self._lines))
            storage.remove_tree(_parts(self._path))


class _Flusher:
    """A thread that has all collecting journals of this process write their parts."""

    def __init__(self) -> None:
        self._journals: weakref.WeakSet[_Collected] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def watch(self, journal: _Collected) -> None:
        with self._lock:
            self._journals.add(journal)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="everyuser-journal", daemon=True)
                self._thread.start()

    def forget(self, journal: _Collected) -> None:
        with self._lock:
            self._journals.discard(journal)

    def _run(self) -> None:
        while True:
            time.sleep(_PART_SECONDS)
            with self._lock:
                journals = [*self._journals]
            for journal in journals:
                journal.flush()


_flusher = _Flusher()


def _drop_torn_line(file: int) -> int:
    """Cut off what a kill left of a line; the size that remains."""
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
