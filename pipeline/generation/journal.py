"""The journal of completions: one JSON line for each outcome, appended as it arrives, one file for each shard.

After a kill a shard asks only for what its journal lacks. A kept journal replays a build without a model.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import orjson

from pipeline.generation.requests import Completion, Failure, Outcome
from pipeline.shards import disk_errors
from schemas.base import UserError


def read_journal(path: Path) -> dict[str, Outcome]:
    """Outcomes by request key. A last line that a kill cut off is skipped; a missing file is empty."""
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return {}
    outcomes: dict[str, Outcome] = {}
    for number, line in enumerate(lines[:-1], 1):
        try:
            entry = orjson.loads(line)
            key = entry.pop("key")
            outcomes[key] = Failure(**entry) if "reason" in entry else Completion(**entry)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UserError(f"{path}: line {number} is damaged; delete that line and run again") from None
    return outcomes


class JournalWriter:
    """Appends outcomes. One write each, so that a killed process loses none that it has announced."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            self._size = _drop_torn_line(self._file)

    def append(self, key: str, outcome: Outcome) -> None:
        """Store one outcome; raises `UserError` when the disk does not take it, and then leaves no part of it."""
        # A dataclass is serialised by orjson itself.
        line = b'{"key":"' + key.encode() + b'",' + orjson.dumps(outcome)[1:] + b"\n"
        with disk_errors(self._path):
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
        """Release the file."""
        os.close(self._file)


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
