"""One run at a time in a build's folder: a file lock on this machine, a lease in an object store.

A lease is an object that its holder writes anew every few seconds. Leases are numbered, and the highest holds: whoever
takes over from a dead run creates the next number, which only one can, and a run that had only been asleep finds that
number and stops. No clocks are compared: a lease is dead when it stands still while it is watched.

A file lock goes with its process, and holds between hosts wherever the shared disk has locks, as NFS has.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import re
import signal
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Self

from upath import UPath

from pipeline.io import storage
from pipeline.io.outages import error_text, is_reachable, without_retries
from pipeline.io.processes import Process
from pipeline.io.storage import AnyPath
from schemas.base import UsageError, UserError

logger = logging.getLogger(__name__)

LOCK = ".lock"
_BEAT_SECONDS = 10.0
_WATCHED_SECONDS = 35.0
"""How long a lease must stand still to be dead: three beats, and a little."""


@contextlib.contextmanager
def locked(folder: AnyPath) -> Iterator[None]:
    """Hold a build's folder for this process alone.

    Raises `UsageError` where another run holds it. On this machine the lock goes with the process, however it ends;
    elsewhere the next run takes over after half a minute (at once where it sees that the process is gone).
    """
    if storage.is_local(folder):
        with _file_lock(folder):
            yield
        return
    lease = _Lease(folder)
    try:
        yield
    except KeyboardInterrupt:
        lease.check()
        raise
    finally:
        lease.release()
    lease.check()


@contextlib.contextmanager
def _file_lock(folder: Path) -> Iterator[None]:
    storage.make_folder(folder)
    with storage.write_errors(folder):
        file = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(file, 300, 0).decode(errors="replace").strip() or "process unknown"
            raise _held(folder, holder) from None
        except OSError as error:
            raise UsageError(
                f"{folder}: its file system has no locks ({error_text(error)}), so two runs could meet there; "
                "choose an --output on another disk, or in a bucket"
            ) from None
        with storage.write_errors(folder):
            os.ftruncate(file, 0)
            os.pwrite(file, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        yield
    finally:
        os.close(file)


@dataclass(frozen=True)
class _Holder:
    """What a lease says. `beats` grows while its holder lives. Host and process are for people to read."""

    host: str
    process: int
    machine: str
    started: int | None
    run: str
    beats: int = 0
    released: bool = False

    @classmethod
    def current(cls) -> Self:
        """Return this process, as the holder of a new lease."""
        me = Process.current()
        return cls(socket.gethostname(), me.number, me.machine, me.started, uuid.uuid4().hex)

    @property
    def is_gone(self) -> bool:
        """Whether it is known to be over without watching."""
        process = Process(self.machine, self.process, self.started)
        if self.released or process.is_gone:
            return True
        # Of this very process, or of an earlier one of its number where no start times are told.
        return process.is_here and self.process == os.getpid() and self.run not in _ours


_ours: set[str] = set()
"""Leases that this process holds."""


class _Lease:
    def __init__(self, folder: UPath) -> None:
        self._folder = folder
        self._me = _Holder.current()
        self._number = self._acquire()
        _ours.add(self._me.run)
        self._taken_by: _Holder | None = None
        self._over = threading.Event()
        if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            # As for a command that a script has put into the background: it must be possible to stop it.
            signal.signal(signal.SIGINT, signal.default_int_handler)
        self._thread = threading.Thread(target=self._beat, name="everyuser-lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raises `UserError` where another run has taken over."""
        if self._taken_by is not None:
            raise UserError(
                f"{self._folder}: process {self._taken_by.process} on {self._taken_by.host} has taken over, as this "
                "one had stood still; nothing is lost, let it finish"
            )

    def release(self) -> None:
        """Let the next one in."""
        self._over.set()
        _ours.discard(self._me.run)
        # Where the store is gone a beat hangs for half a minute, and there is nothing to wait for.
        if self._taken_by is None and is_reachable(self._folder):
            self._thread.join()
            with contextlib.suppress(UserError), without_retries():
                self._write(replace(self._me, released=True))

    def _path(self, number: int) -> UPath:
        return self._folder / LOCK / f"{number:08d}.json"

    def _numbers(self) -> list[int]:
        return [int(name[:8]) for name in storage.list_names(self._folder / LOCK) if re.fullmatch(r"\d{8}\.json", name)]

    def _read(self, number: int) -> _Holder | None:
        try:
            return _Holder(**json.loads(storage.read_bytes(self._path(number))))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError):
            raise UsageError(f"{self._path(number)} is damaged; delete it") from None

    def _write(self, holder: _Holder) -> None:
        self._me = holder
        storage.write_text(self._path(self._number), json.dumps(asdict(holder)))

    def _acquire(self) -> int:
        last = max(self._numbers(), default=0)
        holder = self._read(last) if last else None
        if holder is not None and not holder.is_gone and self._is_alive(last, holder):
            raise _held(self._folder, f"process {holder.process} on {holder.host}")
        try:
            storage.create(self._path(last + 1), json.dumps(asdict(self._me)).encode())
        except FileExistsError:
            # Clients try again by themselves: it may be there by our own first try.
            winner = self._read(last + 1)
            if winner is None or winner.run != self._me.run:
                raise _held(self._folder, "one that began at the same moment") from None
        numbers = self._numbers()
        if max(numbers) > last + 1:
            # While this one looked, others have taken this very number and given it back.
            storage.remove(self._path(last + 1))
            raise _held(self._folder, "one that began at the same moment")
        if holder is not None and not holder.released:
            logger.warning(
                "%s: took over the lease of process %d on %s, which has ended or stopped renewing it",
                self._folder,
                holder.process,
                holder.host,
            )
        for number in numbers:
            if number <= last:
                storage.remove(self._path(number))
        return last + 1

    def _is_alive(self, number: int, holder: _Holder) -> bool:
        """Watch a lease until it moves, or has stood still for too long."""
        logger.info("%s: watching the lease of process %d on %s", self._folder, holder.process, holder.host)
        watched, slowest = 0.0, _BEAT_SECONDS
        while watched < _WATCHED_SECONDS:
            sent = time.monotonic()
            time.sleep(min(1.0, _WATCHED_SECONDS / 10))
            seen = self._read(number)
            if seen != holder:
                return seen is None or not seen.released
            seconds = time.monotonic() - sent
            # While a store is away no lease moves, and its holder needs a while to notice that it is back. It was away
            # if it took longer than ever to answer; one that always takes so long is slow, and its answers count.
            watched = 0.0 if seconds > slowest else watched + min(seconds, _BEAT_SECONDS)
            slowest = max(slowest, seconds)
        return False

    def _beat(self) -> None:
        while not self._over.wait(_BEAT_SECONDS):
            # A store that cannot be reached for a moment is no reason to stop.
            with contextlib.suppress(UserError), without_retries():
                newest = max(self._numbers(), default=self._number)
                if newest > self._number:
                    self._taken_by = self._read(newest) or _Holder("another host", 0, "", None, "")
                    os.kill(os.getpid(), signal.SIGINT)
                    return
                self._write(replace(self._me, beats=self._me.beats + 1))


def _held(folder: AnyPath, whom: str) -> UsageError:
    return UsageError(f"{folder}: another build is at work there ({whom}); wait for it, or choose another --output")
