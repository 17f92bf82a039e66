"""Locks that let one run at a time work in a build's folder: a file lock on this machine, a lease in an object store.

A lease is an object that its holder rewrites every few seconds. Leases are numbered, and the highest number holds. To
take over from a dead run, another run creates the next number, which only one run can do. A run that had been suspended
finds that number and stops. Clocks are not compared: a lease has expired when it does not change while it is watched.

A file lock ends with its process. It holds between hosts where the shared disk supports locks, as NFS does.
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
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple, Self

from upath import UPath

from pipeline.io import storage
from pipeline.io.outages import error_text, is_reachable, without_retries
from pipeline.io.processes import Process
from pipeline.io.storage import AnyPath
from schemas.base import UsageError, UserError

logger = logging.getLogger(__name__)

LOCK = ".lock"
_HEARTBEAT_SECONDS = 10.0
_GLANCE_SECONDS = 0.2
"""Pause before a file lock is tried again: `find_holder` holds it for a moment."""
_EXPIRY_SECONDS = 35.0
"""Time without a change after which a lease has expired: three heartbeats and a little more."""


@contextlib.contextmanager
def locked(folder: AnyPath) -> Iterator[None]:
    """Hold a build's folder for this process alone.

    A file lock ends with the process. A lease that was not released is taken over after half a minute, or at once
    where the next run can see that the process is gone.

    Raises:
        UsageError: Another run holds the folder, or its file system has no locks.
        UserError: Another run has taken over the lease.
    """
    if storage.is_local(folder):
        with _file_lock(folder):
            yield
        return
    with _interruptible():
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
def _interruptible() -> Iterator[None]:
    """Take interrupts within the block, by which a lost lease stops the run. Background commands ignore them."""
    is_ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    if not is_ignored or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextlib.contextmanager
def _file_lock(folder: Path) -> Iterator[None]:
    storage.make_folder(folder)
    with storage.write_errors(folder):
        file = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            _flock(file, fcntl.LOCK_EX)
        except BlockingIOError:
            raise _in_use(folder, _noted(file) or "process unknown") from None
        except OSError as error:
            raise UsageError(
                f"{folder}: its file system has no locks ({error_text(error)}), so two runs could write there at once; "
                "choose an --output on another disk, or in a bucket"
            ) from None
        with storage.write_errors(folder):
            os.ftruncate(file, 0)
            os.pwrite(file, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        try:
            yield
        finally:
            # A name that stays is that of a process that was killed.
            with contextlib.suppress(OSError):
                os.ftruncate(file, 0)
    finally:
        os.close(file)


def _flock(file: int, kind: int) -> None:
    """Take a file lock. Raise `BlockingIOError` where another process keeps it for more than a glance."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        time.sleep(_GLANCE_SECONDS)
        fcntl.flock(file, kind | fcntl.LOCK_NB)


def _noted(file: int) -> str:
    """Return what the holder of a file lock has noted there."""
    return os.pread(file, 300, 0).decode(errors="replace").strip()


class LockHolder(NamedTuple):
    """The last process that took a folder and has not released it. One that is not alive was killed."""

    name: str
    is_alive: bool


def find_holder(folder: AnyPath) -> LockHolder | None:
    """Return who holds a build's folder, or held it when killed; None where it was released. Changes nothing there.

    The lease of a process that is not visible from here is watched: for a second heartbeat, or half a minute for none.
    """
    if not storage.is_local(folder):
        number = max(_lease_numbers(folder), default=0)
        holder = _read_lease(folder, number) if number else None
        if holder is None or holder.released:
            return None
        is_alive = not holder.is_gone and (holder.is_here or _is_renewed(folder, number, holder))
        return LockHolder(f"process {holder.process} on {holder.host}", is_alive)
    # Where it is a folder, this is a copy of a build in a bucket, with its leases.
    if not (folder / LOCK).is_file():
        return None
    file = os.open(folder / LOCK, os.O_RDONLY)
    try:
        _flock(file, fcntl.LOCK_SH)
        is_alive = False
    except BlockingIOError:
        is_alive = True
    except OSError as error:
        raise UserError(f"{folder / LOCK}: {error_text(error)}; run the command on the machine of the build") from None
    finally:
        noted = _noted(file)
        os.close(file)
    return LockHolder(noted, is_alive) if noted else None


@dataclass(frozen=True)
class _Holder:
    """The content of a lease. `heartbeats` grows while the holder lives. Host and process are for people to read."""

    host: str
    process: int
    machine: str
    started: int | None
    run: str
    heartbeats: int = 0
    released: bool = False

    @classmethod
    def current(cls) -> Self:
        """Return this process as the holder of a new lease."""
        me = Process.current()
        return cls(socket.gethostname(), me.number, me.machine, me.started, uuid.uuid4().hex)

    @property
    def is_here(self) -> bool:
        """True where the holder is visible from here, so that `is_gone` is sure."""
        return Process(self.machine, self.process, self.started).is_here and self.started is not None

    @property
    def is_gone(self) -> bool:
        """True where the holder has ended for sure. Otherwise its lease must be watched."""
        process = Process(self.machine, self.process, self.started)
        if self.released or process.is_gone:
            return True
        # A lease of this process, or of an earlier one with its number where the system reports no start times.
        return process.is_here and self.process == os.getpid() and self.run not in _own_runs


_own_runs: set[str] = set()
"""Runs of the leases that this process holds."""


def _lease_path(folder: UPath, number: int) -> UPath:
    return folder / LOCK / f"{number:08d}.json"


def _lease_numbers(folder: UPath) -> Sequence[int]:
    return [int(name[:8]) for name in storage.list_names(folder / LOCK) if re.fullmatch(r"\d{8}\.json", name)]


def _read_lease(folder: UPath, number: int) -> _Holder | None:
    path = _lease_path(folder, number)
    try:
        return _Holder(**json.loads(storage.read_bytes(path)))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        raise UsageError(f"{path} is damaged; delete it and run again") from None


def _is_renewed(folder: UPath, number: int, holder: _Holder) -> bool:
    """Watch a lease; return False once it is released or has expired."""
    logger.info("%s: watching the lease of process %d on %s", folder, holder.process, holder.host)
    watched, slowest = 0.0, _HEARTBEAT_SECONDS
    while watched < _EXPIRY_SECONDS:
        sent = time.monotonic()
        time.sleep(min(1.0, _EXPIRY_SECONDS / 10))
        seen = _read_lease(folder, number)
        if seen != holder:
            return seen is None or not seen.released
        seconds = time.monotonic() - sent
        # No lease changes while its store is down, and the holder notices its return late. So watching starts again
        # after a response that took longer than any before. A store that is always slow is not down.
        watched = 0.0 if seconds > slowest else watched + min(seconds, _HEARTBEAT_SECONDS)
        slowest = max(slowest, seconds)
    return False


class _Lease:
    def __init__(self, folder: UPath) -> None:
        self._folder = folder
        self._holder = _Holder.current()
        self._number = self._acquire()
        _own_runs.add(self._holder.run)
        self._taken_by: _Holder | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._send_heartbeats, name="everyuser-lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise `UserError` where another run has taken over."""
        if self._taken_by is not None:
            raise UserError(
                f"{self._folder}: process {self._taken_by.process} on {self._taken_by.host} has taken over, as this "
                "run did not renew its lease; nothing is lost, let the other run finish"
            )

    def release(self) -> None:
        """Let the next run in."""
        self._stopped.set()
        _own_runs.discard(self._holder.run)
        # Where the store is down, a heartbeat takes half a minute, and waiting for it is useless.
        if self._taken_by is None and is_reachable(self._folder):
            self._thread.join()
            with contextlib.suppress(UserError), without_retries():
                self._write(replace(self._holder, released=True))

    def _write(self, holder: _Holder) -> None:
        self._holder = holder
        storage.write_text(_lease_path(self._folder, self._number), json.dumps(asdict(holder)))

    def _acquire(self) -> int:
        last = max(_lease_numbers(self._folder), default=0)
        holder = _read_lease(self._folder, last) if last else None
        if holder is not None and not holder.is_gone and _is_renewed(self._folder, last, holder):
            raise _in_use(self._folder, f"process {holder.process} on {holder.host}")
        try:
            storage.create(_lease_path(self._folder, last + 1), json.dumps(asdict(self._holder)).encode())
        except FileExistsError:
            # The store's client retries by itself, so its own first try may have created the lease.
            winner = _read_lease(self._folder, last + 1)
            if winner is None or winner.run != self._holder.run:
                raise _in_use(self._folder, "a run that began at the same moment") from None
        numbers = _lease_numbers(self._folder)
        if max(numbers) > last + 1:
            # In the meantime other runs have taken and released this number.
            storage.remove(_lease_path(self._folder, last + 1))
            raise _in_use(self._folder, "a run that began at the same moment")
        if holder is not None and not holder.released:
            logger.warning(
                "%s: took over the lease of process %d on %s, which has ended or stopped renewing it",
                self._folder,
                holder.process,
                holder.host,
            )
        for number in numbers:
            if number <= last:
                storage.remove(_lease_path(self._folder, number))
        return last + 1

    def _send_heartbeats(self) -> None:
        while not self._stopped.wait(_HEARTBEAT_SECONDS):
            # A store that is down for a moment is no reason to stop.
            with contextlib.suppress(UserError), without_retries():
                newest = max(_lease_numbers(self._folder), default=self._number)
                if newest > self._number:
                    self._taken_by = _read_lease(self._folder, newest) or _Holder("another host", 0, "", None, "")
                    os.kill(os.getpid(), signal.SIGINT)
                    return
                self._write(replace(self._holder, heartbeats=self._holder.heartbeats + 1))


def _in_use(folder: AnyPath, whom: str) -> UsageError:
    return UsageError(f"{folder}: another build is at work there ({whom}); wait for it, or choose another --output")
