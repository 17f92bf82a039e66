"""Python processes for tests: `python`, a new one, and `Fork`, a fork of a server that has imported what takes seconds.

`process = Fork("-m", "pipeline.cli", "build", "build.yaml"); out, err = process.communicate()`

A fork is a process like any other, with a process ID, an environment and signals of its own. It imports our code and
the Hub's client itself, since these read the environment when they are imported. Only the packages of `_IMPORTED` are
there already. They cost 3 to 5 CPU seconds in each `python -m pipeline.cli build`, more than most builds of the tests.
The forks of a server have one hash seed. It differs from the seed of the process that started the server, so a test of
equal bytes compares a fork with a build of its own process.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import resource
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests import ROOT

_IMPORTED = ("apache_beam", "aiohttp", "jinja2", "pyarrow.parquet", "pydantic", "rapidfuzz", "sklearn", "upath")
_REQUEST_BYTES = 1 << 17

_server: socket.socket | None = None
_starting = threading.Lock()


class Fork:
    """A running `python ARGUMENTS`, with the interface of `subprocess.Popen`. Output goes into files, not into pipes.

    `file_size` limits the bytes of each file that the process writes, as a full disk does. `stderr` is the descriptor
    of a file for standard error.
    """

    def __init__(
        self,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        file_size: int | None = None,
        stderr: int | None = None,
        new_session: bool = False,
    ) -> None:
        self.returncode: int | None = None
        self._outputs = [tempfile.TemporaryFile("w+") for _ in range(2)]  # noqa: SIM115 - open until nobody has it
        self._status, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        environment = dict(os.environ if env is None else env)
        request = {
            "arguments": arguments,
            "env": environment,
            "cwd": str(cwd or Path.cwd()),
            "file_size": file_size,
            "new_session": new_session,
        }
        out, err = (file.fileno() for file in self._outputs)
        descriptors = [theirs.fileno(), out, err if stderr is None else stderr]
        global _server
        with _starting:
            _server = _server or _start_server()
        socket.send_fds(_server, [json.dumps(request).encode()], descriptors)
        theirs.close()
        self.pid = self._next_number()

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code. Raise `subprocess.TimeoutExpired` if the process runs for `timeout` seconds more."""
        if self.returncode is None:
            if not select.select([self._status], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("fork", timeout or 0.0)
            self.returncode = self._next_number()
            self._status.close()
        return self.returncode

    def poll(self) -> int | None:
        """Return the exit code, or None while the process runs."""
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait, and return everything on standard output and on standard error."""
        self.wait(timeout)
        for file in self._outputs:
            file.seek(0)
        out, err = (file.read() for file in self._outputs)
        return out, err

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End the process as `kill -9` does."""
        self.send_signal(signal.SIGKILL)

    def _next_number(self) -> int:
        number = self._status.recv(16)
        assert number, "the server of forks has died"
        return int(number)


def python(code: str, *arguments: str) -> subprocess.Popen[str]:
    """Start `python -c CODE ARGUMENTS` as a new interpreter that can import the project, with pipes to its streams."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def fork_from_here() -> None:
    """Have the forks of this process come from a copy of it as it is now: it must have no other thread."""
    global _server
    _server, theirs = _sockets()
    if not os.fork():
        _server.close()
        _be_forks(theirs)
        sys.exit()
    theirs.close()


def _start_server() -> socket.socket:
    ours, theirs = _sockets()
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.forks", str(theirs.fileno())],
        cwd=ROOT,
        pass_fds=[theirs.fileno()],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    theirs.close()

    def stop() -> None:
        ours.close()
        process.wait()

    atexit.register(stop)
    return ours


def _sockets() -> tuple[socket.socket, socket.socket]:
    """The end to send requests to, and the end to receive them from."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * _REQUEST_BYTES)
    return ours, theirs


def _serve(requests: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Fork for each request. Return in a fork, with what it has to run and its status, output and error descriptors."""
    waiting: list[int] = []
    while True:
        content, descriptors, _, _ = socket.recv_fds(requests, _REQUEST_BYTES, 3)
        waiting = [process for process in waiting if not os.waitpid(process, os.WNOHANG)[0]]
        if not content:
            os._exit(0)
        if process := os.fork():
            waiting.append(process)
            for descriptor in descriptors:
                os.close(descriptor)
            continue
        # Only a parent can wait for a fork. This one does so, and the server is free for the next request.
        requests.close()
        fork = os.fork()
        if not fork:
            return json.loads(content), descriptors
        os.write(descriptors[0], b"%d" % fork)
        os.write(descriptors[0], b"%d" % os.waitstatus_to_exitcode(os.waitpid(fork, 0)[1]))
        os._exit(0)


def _run(arguments: list[str], env: dict[str, str], cwd: str, file_size: int | None, new_session: bool) -> None:
    """Do what `python ARGUMENTS` does."""
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    # A server in a shell's background ignores Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if new_session:
        os.setsid()
    if file_size is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
    sys.argv = arguments
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    elif arguments[0] == "-c":
        program = arguments.pop(1)
        exec(compile(program, "<string>", "exec"), {"__name__": "__main__"})  # noqa: S102 - a test's own program
    else:
        runpy.run_path(arguments[0], run_name="__main__")


def _be_forks(requests: socket.socket) -> None:
    """Be the server, and then each fork."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.freeze()
    request, (status, out, err) = _serve(requests)
    os.close(status)
    os.dup2(out, 1)
    os.dup2(err, 2)
    os.closerange(out, err + 1)
    _run(**request)


if __name__ == "__main__":
    for name in _IMPORTED:
        importlib.import_module(name)
    _be_forks(socket.socket(fileno=int(sys.argv[1])))
