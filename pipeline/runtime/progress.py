"""Live counts: each process writes its counts to a small file, and the driver sums the files.

The same counts become Beam's metrics (`metrics.py`), for runners that show them. The driver records the sums over time
for `everyuser report` (`Pace`).
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from pipeline.io import storage
from pipeline.io.outages import is_down, without_retries
from pipeline.io.storage import AnyPath
from schemas.base import UserError

PACE = "logs/pace.jsonl"
"""File of a build's pace, relative to its folder: one line for each record, of all runs."""

EARLIER_PAIRS = "pairs/before"
"""Name of the count of pairs that earlier runs have stored."""

FOLDER = ".progress"
_SECONDS = 0.3
_REMOTE_SECONDS = 10.0
"""Seconds between two writes, and two reads: in an object store each is a request that costs money."""


class Counters:
    """Counts of this process, written to the build's folder a few times a second (in a bucket: a minute)."""

    def __init__(self, output: AnyPath) -> None:
        self.path = output / FOLDER / f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.json"
        self._counts: Counter[str] = Counter()
        self._gauges: dict[str, int] = {}
        self._sources: list[Callable[[], Mapping[str, int]]] = []
        self._reported: Counter[str] = Counter()
        self._observed: list[tuple[str, int]] = []
        self._lock = threading.Lock()
        self._written: dict[str, int] = {}
        self._is_local = storage.is_local(output)
        storage.make_folder(self.path.parent)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._write_periodically, name="everyuser-counters", daemon=True)
        self._thread.start()

    def add(self, name: str, amount: int) -> None:
        """Add to a count."""
        with self._lock:
            self._counts[name] += amount

    def get(self, name: str) -> int:
        """Return this process's count or gauge."""
        return self._counts[name] or self._gauges.get(name, 0)

    def counts(self) -> dict[str, int]:
        """Return all counts and gauges of this process."""
        for source in self._sources:
            self._gauges.update(source())
        with self._lock:
            return dict(self._counts) | self._gauges

    def add_source(self, source: Callable[[], Mapping[str, int]]) -> None:
        """Ask for gauges whenever the counts are written."""
        self._sources.append(source)

    def set_gauge(self, name: str, value: int) -> None:
        """Set a value that is no sum over time."""
        self._gauges[name] = value

    def observe(self, name: str, value: int) -> None:
        """Record one value of a distribution, which is reported by its smallest, largest and mean value."""
        with self._lock:
            self._observed.append((name, value))

    def take_unreported(self) -> tuple[Counter[str], Sequence[tuple[str, int]]]:
        """Return the counts and observations since the last call by any thread."""
        with self._lock:
            fresh, observed = self._counts - self._reported, self._observed
            self._reported, self._observed = self._counts.copy(), []
        return fresh, observed

    def close(self) -> None:
        """Stop writing."""
        self._stopped.set()
        self._thread.join()

    def flush(self) -> None:
        """Write the counts now. Errors are ignored: those of a full disk are raised elsewhere."""
        counts = self.counts()
        if counts == self._written:
            return
        with contextlib.suppress(OSError, UserError), without_retries():
            self._write(orjson.dumps(counts))
            self._written = counts

    def _write(self, content: bytes) -> None:
        if not storage.is_local(self.path):
            storage.write_bytes(self.path, content)
            return
        # Not synced: a lost file does no harm.
        temporary = self.path.with_suffix(".tmp")
        try:
            temporary.write_bytes(content)
            temporary.replace(self.path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise

    def _write_periodically(self) -> None:
        while not self._stopped.wait(_SECONDS if self._is_local else _REMOTE_SECONDS):
            self.flush()


_counters: dict[tuple[AnyPath, str], Counters] = {}
_lock = threading.Lock()


def counters_for(output: AnyPath, service: str = "generation") -> Counters:
    """Return this process's counters of a build. A second service has its own, as each has its own gauges."""
    with _lock:
        if (output, service) not in _counters:
            _counters[output, service] = Counters(output)
        return _counters[output, service]


def own_counters(output: AnyPath) -> list[Counters]:
    """Return all counters of this process for a build."""
    with _lock:
        return [counters for (folder, _), counters in _counters.items() if folder == output]


def flush_counters(output: AnyPath) -> None:
    """Write all counts of this process."""
    for counters in own_counters(output):
        counters.flush()


_totals: dict[AnyPath, tuple[float, Counter[str]]] = {}


def total(output: AnyPath, fresh: bool = False) -> Counter[str]:
    """Return the sum over all processes of a build. In a bucket it may be some seconds old, unless `fresh` is set."""
    if storage.is_local(output):
        return _sum(output)
    known = _totals.get(output)
    if known is None or fresh or time.monotonic() - known[0] > _REMOTE_SECONDS / 2:
        counts = known[1] if known else Counter()
        # Each request to a store that is down takes half a minute. Other threads notice when it answers again.
        if not is_down(output):
            with contextlib.suppress(UserError), without_retries():
                counts = _sum(output)
        known = _totals[output] = (time.monotonic(), counts)
    return known[1]


def _sum(output: AnyPath) -> Counter[str]:
    counts: Counter[str] = Counter()
    for found in counts_by_file(output):
        counts.update(found)
    return counts


def counts_by_file(output: AnyPath, without: Sequence[Counters] = ()) -> list[Counter[str]]:
    """Return the counts of each file of a build, but those of some counters."""
    left_out = {counters.path.name for counters in without}
    found = []
    for name in storage.list_names(output / FOLDER):
        if name.endswith(".json") and name not in left_out:
            with contextlib.suppress(FileNotFoundError, UserError, orjson.JSONDecodeError):
                found.append(Counter(orjson.loads(storage.read_bytes(output / FOLDER / name))))
    return found


Watch = Callable[[Mapping[str, int], float], None]


class Pace:
    """Records a run's progress, every second at first and every half minute later, until it is closed.

    Pairs are those of the whole build; tokens, answers, and pairs made into examples are those of this run. Each record
    is one appended line, so a kill loses one record at most. An object store cannot append: there the whole file is
    written, twice a minute.

    Args:
        output: The build's folder.
        run: Name of the run.
        watch: Gets the counts while the run goes on, with the monotonic time.
    """

    def __init__(self, output: AnyPath, run: str, watch: Watch | None = None) -> None:
        self._output = output
        self._run = run
        self._watch = watch
        self._started = time.monotonic()
        self._stopped = threading.Event()
        self._earlier: bytes | None = None
        self._thread = threading.Thread(target=self._follow, name="everyuser-pace", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Write the last record and stop. Call it before the counts are deleted."""
        self._stopped.set()
        self._thread.join()

    def _follow(self) -> None:
        is_over = False
        while not is_over:
            first = 1.0 if storage.is_local(self._output) else 30.0
            is_over = self._stopped.wait(min(30.0, max(first, (time.monotonic() - self._started) / 100)))
            # Errors of a full disk are raised elsewhere.
            with contextlib.suppress(OSError, UserError), without_retries():
                counts = total(self._output)
                if self._watch is not None and not is_over:
                    self._watch(counts, time.monotonic())
                self._record(counts)

    def _record(self, counts: Counter[str]) -> None:
        done = {
            "pairs": counts[EARLIER_PAIRS] + counts["settled"],
            "prompt_tokens": counts["prompt_tokens"],
            "completion_tokens": counts["completion_tokens"],
            "answers": counts["answers"],
            "examples": counts["examples/asked"],
        }
        # A run without progress writes nothing: its folder may yet be refused, as that of another build.
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


def note_run(output: AnyPath, run: str) -> None:
    """Note the begin of a detached run, which no driver follows."""
    path = output / PACE
    earlier = b""
    with contextlib.suppress(FileNotFoundError):
        earlier = storage.read_bytes(path)
    zeros = dict.fromkeys(("pairs", "prompt_tokens", "completion_tokens", "answers", "examples"), 0)
    storage.write_bytes(path, earlier + orjson.dumps({"run": run, "seconds": 0.0, **zeros}) + b"\n")


def read_notes(folder: AnyPath) -> Iterator[dict[str, Any]]:
    """Yield the records of `Pace` in order, without lines that a kill cut off."""
    content = b""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        content = storage.read_bytes(folder / PACE)
    for line in content.splitlines():
        with contextlib.suppress(orjson.JSONDecodeError):
            yield orjson.loads(line)


def delete_counts(output: AnyPath) -> None:
    """Delete the counts of this run, or of an earlier one that was killed."""
    with _lock:
        mine = [_counters.pop(key) for key in [*_counters] if key[0] == output]
    for counters in mine:
        counters.close()
    _totals.pop(output, None)
    with contextlib.suppress(UserError):
        storage.remove_tree(output / FOLDER)
