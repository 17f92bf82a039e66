"""Worker processes of Beam's local runner (`python -m pipeline.runtime.worker [LOG]`), and their supervision.

A worker prints a traceback for each stage of a failed bundle, while the driver reports one line. Its output therefore
goes to a log.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from apache_beam.runners.worker import sdk_worker_main
from apache_beam.transforms.environments import SubprocessSDKEnvironment

from pipeline.runtime import logs
from pipeline.runtime.exits import end_process
from schemas.base import UserError


class Log(io.TextIOBase):
    """A log file that ignores a full disk. Beam would wait for ever for a bundle whose traceback cannot be printed."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        # Redirect the output of C libraries too.
        for output in (1, 2):
            os.dup2(self._file, output)

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, text: str) -> int:
        """Append the text as far as the disk has room."""
        with contextlib.suppress(OSError):
            os.write(self._file, text.encode(errors="replace"))
        return len(text)


def environment(log: Path | None) -> SubprocessSDKEnvironment:
    """Return the Beam environment that starts these workers."""
    command = [sys.executable, "-m", "pipeline.runtime.worker", *([str(log)] if log else [])]
    # Without `exec` a shell would hide the worker's exit status.
    return SubprocessSDKEnvironment.from_command_string(f"exec {shlex.join(command)}")


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Raise `UserError` if a worker process is killed within the block. Beam itself would wait for it for ever."""
    before, killed = threading.excepthook, ""

    def notice(failure: threading.ExceptHookArgs) -> None:
        nonlocal killed
        found = re.search(r"Worker subprocess exited with return code -(\d+)", str(failure.exc_value))
        # Ctrl-C reaches all workers and is no fault.
        if found is None or int(found[1]) == signal.SIGINT:
            before(failure)
        elif not killed:
            killed = signal.Signals(int(found[1])).name
            os.kill(os.getpid(), signal.SIGINT)

    threading.excepthook = notice
    try:
        yield
    except KeyboardInterrupt:
        if killed:
            raise UserError(
                f"a worker process was killed ({killed}); finished work is kept: run the same command again; if memory "
                "has run out, with fewer workers, such as --direct_num_workers=2 (a smaller shard_pairs needs another "
                "--output)"
            ) from None
        raise
    finally:
        threading.excepthook = before


def main() -> None:
    """Run a worker until Beam ends it."""
    # Ctrl-C ends it at once. As an exception it would end the interpreter under gRPC's threads, which may abort: that
    # looks like a kill. Nothing is lost, as after any kill.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    with contextlib.ExitStack() as stack:
        if sys.argv[1:]:
            with contextlib.suppress(OSError):
                log = sys.stdout = sys.stderr = Log(Path(sys.argv[1]))
                stack.enter_context(logs.shown(logging.INFO, lambda line: log.write(f"{line}\n")))
        sdk_worker_main.main(sys.argv)
    end_process(0)


if __name__ == "__main__":
    main()
