"""Live counts: every worker process counts, and shares the counts through a small file; the driver sums them.

What is counted here also goes to Beam's metrics (`metrics.py`), for runners that show them. The driver notes the
sums down now and then, for `everyuser report` (`Pace`).
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import orjson

from pipeline.io import storage
from pipeline.io.outages import is_down, without_retries
from pipeline.io.storage import AnyPath
from schemas.base import UserError

PACE = "logs/pace.jsonl"
"""Where a build's pace is, relative to its folder: one line a note, of all runs."""

BEFORE = "pairs/before"
"""The count of pairs that earlier runs have stored."""

FOLDER = ".progress"
_SECONDS = 0.3
_REMOTE_SECONDS = 10.0
"""How often counts are written, and read: in an object store each is a request that costs money."""


class Counters:
    """Counts of this process, written to the build's folder a few times a second (elsewhere: a minute)."""

    def __init__(self, output: AnyPath) -> None:
        self._path = output / FOLDER / f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.json"
        self._counts: Counter[str] = Counter()
        self._gauges: dict[str, int] = {}
        self._reported: Counter[str] = Counter()
        self._observed: list[tuple[str, int]] = []
        self._lock = threading.Lock()
        self._written: dict[str, int] = {}
        self._is_local = storage.is_local(output)
        storage.make_folder(self._path.parent)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._share, name="everyuser-counters", daemon=True)
        self._thread.start()

    def add(self, name: str, amount: int) -> None:
        """Add to a count."""
        with self._lock:
            self._counts[name] += amount

    def get(self, name: str) -> int:
        """This process's count or value."""
        return self._counts[name] or self._gauges.get(name, 0)

    def gauge(self, name: str, value: int) -> None:
        """Set a value that is not a sum over time."""
        self._gauges[name] = value

    def observe(self, name: str, value: int) -> None:
        """Note one value of many, of which smallest, largest and mean are told."""
        with self._lock:
            self._observed.append((name, value))

    def take_unreported(self) -> tuple[Counter[str], Sequence[tuple[str, int]]]:
        """What was counted and observed since the last call, whoever made it."""
        with self._lock:
            fresh, observed = self._counts - self._reported, self._observed
            self._reported, self._observed = self._counts.copy(), []
        return fresh, observed

    def close(self) -> None:
        """Stop sharing."""
        self._over.set()
        self._thread.join()

    def flush(self) -> None:
        """Share the counts now. A full disk must not hide the error that it causes elsewhere, so it is ignored here."""
        with self._lock:
            counts = dict(self._counts) | self._gauges
        if counts == self._written:
            return
        with contextlib.suppress(OSError, UserError), without_retries():
            self._write(orjson.dumps(counts))
            self._written = counts

    def _write(self, content: bytes) -> None:
        if not storage.is_local(self._path):
            storage.write_bytes(self._path, content)
            return
        # Not synced, as it may be lost.
        temporary = self._path.with_suffix(".tmp")
        try:
            temporary.write_bytes(content)
            temporary.replace(self._path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise

    def _share(self) -> None:
        while not self._over.wait(_SECONDS if self._is_local else _REMOTE_SECONDS):
            self.flush()


_counters: dict[AnyPath, Counters] = {}
_lock = threading.Lock()


def counters_for(output: AnyPath) -> Counters:
    """Return this process's counters of a build."""
    with _lock:
        if output not in _counters:
            _counters[output] = Counters(output)
        return _counters[output]


_totals: dict[AnyPath, tuple[float, Counter[str]]] = {}


def total(output: AnyPath, fresh: bool = False) -> Counter[str]:
    """The sum over all processes that work on a build; elsewhere some seconds old, unless `fresh` is asked for."""
    if storage.is_local(output):
        return _sum(output)
    known = _totals.get(output)
    if known is None or fresh or time.monotonic() - known[0] > _REMOTE_SECONDS / 2:
        counts = known[1] if known else Counter()
        # Each try to reach a store that is gone takes half a minute. Others notice when it is back.
        if not is_down(output):
            with contextlib.suppress(UserError), without_retries():
                counts = _sum(output)
        known = _totals[output] = (time.monotonic(), counts)
    return known[1]


def _sum(output: AnyPath) -> Counter[str]:
    counts: Counter[str] = Counter()
    for name in storage.list_names(output / FOLDER):
        if name.endswith(".json"):
            with contextlib.suppress(FileNotFoundError, UserError, orjson.JSONDecodeError):
                counts.update(orjson.loads(storage.read_bytes(output / FOLDER / name)))
    return counts


class Pace:
    """Notes down how far a run is, every second at first and every half minute in the end, until it is closed.

    Pairs are those of the whole build, tokens those of this run. Each note is one short line at the file's end, so a
    kill costs the last one at most. An object store does not append: there the whole file is written, twice a minute.
    """

    def __init__(self, output: AnyPath, run: str) -> None:
        self._output = output
        self._run = run
        self._started = time.monotonic()
        self._over = threading.Event()
        self._earlier: bytes | None = None
        self._thread = threading.Thread(target=self._watch, name="everyuser-pace", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Note down how far the run has come, and stop. To be called before the counts are deleted."""
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        is_over = False
        while not is_over:
            first = 1.0 if storage.is_local(self._output) else 30.0
            is_over = self._over.wait(min(30.0, max(first, (time.monotonic() - self._started) / 100)))
            # A full disk must not hide the error that it causes elsewhere.
            with contextlib.suppress(OSError, UserError), without_retries():
                self._note()

    def _note(self) -> None:
        counts = total(self._output)
        done = {
            "pairs": counts[BEFORE] + counts["settled"],
            "prompt_tokens": counts["prompt_tokens"],
            "completion_tokens": counts["completion_tokens"],
        }
        # A run that has done nothing leaves nothing: its folder may be refused, and is then another build's.
        if not any(done.values()):
            return
        seconds = round(time.monotonic() - self._started, 1)
        self._append(orjson.dumps({"run": self._run, "seconds": seconds, **done}) + b"\n")

    def _append(self, line: bytes) -> None:
        path = self._output / PACE
        if isinstance(path, Path):
            path.parent.mkdir(exist_ok=True)
            with path.open("ab") as file:
                file.write(line)
            return
        if self._earlier is None:
            self._earlier = b""
            with contextlib.suppress(FileNotFoundError):
                self._earlier = storage.read_bytes(path)
        self._earlier += line
        storage.write_bytes(path, self._earlier)


def delete_counts(output: AnyPath) -> None:
    """Delete the counts, of this run or of an earlier one that was killed."""
    with _lock:
        mine = _counters.pop(output, None)
    if mine:
        mine.close()
    _totals.pop(output, None)
    with contextlib.suppress(UserError):
        storage.remove_tree(output / FOLDER)
