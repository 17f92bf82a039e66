"""Live counts: every worker process keeps a tally and shares it through a small file; the driver sums them.

The driver also notes the sums down now and then, for `everyuser report` (`Pace`).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
from collections import Counter
from pathlib import Path

import orjson

PACE = "logs/pace.jsonl"
"""Where a build's pace is, relative to its folder: one line a note, of all runs."""

BEFORE = "pairs/before"
"""The count of pairs that earlier runs have stored."""

_FOLDER = ".progress"
_RESTARTS = "server_restarts"


class Tally:
    """Counts of this process, written to the build's folder a few times a second."""

    def __init__(self, output: Path) -> None:
        self._path = output / _FOLDER / f"{os.getpid()}.json"
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._written: dict[str, int] = {}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._share, name="everyuser-tally", daemon=True)
        self._thread.start()

    def add(self, name: str, amount: int) -> None:
        """Add to a count."""
        with self._lock:
            self._counts[name] += amount

    def get(self, name: str) -> int:
        """This process's count."""
        return self._counts[name]

    def gauge(self, name: str, value: int) -> None:
        """Set a value that is not a sum over time."""
        self._counts[name] = value

    def close(self) -> None:
        """Stop sharing."""
        self._over.set()
        self._thread.join()

    def flush(self) -> None:
        """Write the file now. A full disk must not hide the error that it causes elsewhere, so it is ignored here."""
        with self._lock:
            counts = dict(self._counts)
        if counts == self._written:
            return
        temporary = self._path.with_suffix(".tmp")
        try:
            temporary.write_bytes(orjson.dumps(counts))
            temporary.replace(self._path)
            self._written = counts
        except OSError:
            temporary.unlink(missing_ok=True)

    def _share(self) -> None:
        while not self._over.wait(0.3):
            self.flush()


_tallies: dict[Path, Tally] = {}
_lock = threading.Lock()


def tally(output: Path) -> Tally:
    """This process's tally for a build."""
    with _lock:
        if output not in _tallies:
            _tallies[output] = Tally(output)
        return _tallies[output]


def total(output: Path) -> Counter[str]:
    """The sum over all processes that work on a build."""
    counts: Counter[str] = Counter()
    for path in (output / _FOLDER).glob("*.json"):
        try:
            entry = orjson.loads(path.read_bytes())
        except (OSError, orjson.JSONDecodeError):
            continue
        # All processes of a machine watch the same server.
        restarts = max(counts[_RESTARTS], entry.pop(_RESTARTS, 0))
        counts.update(entry)
        counts[_RESTARTS] = restarts
    return counts


class Pace:
    """Notes down how far a run is, every second at first and every half minute in the end, until it is closed.

    Pairs are those of the whole build, tokens those of this run. Each note is one short line at the file's end, so a
    kill costs the last one at most.
    """

    def __init__(self, output: Path, run: str) -> None:
        self._output = output
        self._run = run
        self._started = time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="everyuser-pace", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Note down how far the run has come, and stop. To be called before the counts are deleted."""
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        is_over = False
        while not is_over:
            is_over = self._over.wait(min(30.0, max(1.0, (time.monotonic() - self._started) / 100)))
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
        line = {"run": self._run, "seconds": round(time.monotonic() - self._started, 1), **done}
        path = self._output / PACE
        # A full disk must not hide the error that it causes elsewhere.
        with contextlib.suppress(OSError):
            path.parent.mkdir(exist_ok=True)
            with path.open("ab") as file:
                file.write(orjson.dumps(line) + b"\n")


def forget(output: Path) -> None:
    """Delete the counts, of this run or of an earlier one that was killed."""
    with _lock:
        mine = _tallies.pop(output, None)
    if mine:
        mine.close()
    shutil.rmtree(output / _FOLDER, ignore_errors=True)
