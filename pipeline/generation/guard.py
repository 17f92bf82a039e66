"""The guard: a small process that starts a model server, restarts it, and stops it when its last client is gone.

A machine has one guard for each server, which all worker processes share. The guard stops the server even where its
clients were killed.

    python -m pipeline.generation.guard SOCKET SPEC

It holds a lock beside SOCKET, listens there, and sends its state to every client as JSON lines:
`{"state": "starting" | "ready" | "failed", "restarts": 0, "url": "...", "pid": 1, "error": "...",
"counts_restarts": true}`.
It imports the standard library only, so that it starts at once and stays small.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

LOCK_SUFFIX = ".lock"
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Loopback is reached directly, whatever proxy the environment names."""
_LINGER_SECONDS = 5.0
"""Seconds for which the server outlives its last client, so that the next phase of a build finds it warm."""
_STABLE_SECONDS = 600.0
"""Uptime after which a server is allowed all its restarts again."""
_HEALTH_SECONDS = 5.0
_HEALTH_FAILURES = 6
_NICER = 15
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class ServerSpec:
    """A server to run: `{port}` in `command` is replaced by a free port of the loopback interface."""

    command: tuple[str, ...]
    environment: dict[str, str]
    log: str
    start_seconds: float
    max_restarts: int
    yielding: str = ""
    """Name with which a process of the server begins that runs at a lower priority; empty: none does."""


class Guard:
    """Supervises one server."""

    def __init__(self, spec: ServerSpec) -> None:
        self._spec = spec
        self._clients: dict[asyncio.StreamWriter, None] = {}
        self._state: dict[str, object] = {"state": "starting", "restarts": 0}
        self._server: asyncio.subprocess.Process | None = None
        self._client_left = asyncio.Event()
        self._first_client = asyncio.Event()

    async def run(self, listener: socket.socket) -> None:
        """Run until the server has failed for good, or no client has been connected for a while."""
        await asyncio.start_unix_server(self._serve_client, sock=listener)
        self._client_left.set()
        supervision = asyncio.create_task(self._supervise())
        abandoned = asyncio.create_task(self._wait_until_abandoned())
        try:
            await asyncio.wait({supervision, abandoned}, return_when=asyncio.FIRST_COMPLETED)
            error = None if abandoned.done() else supervision.result()
            if error is not None:
                # The client that started this server must learn of the failure.
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._first_client.wait(), _LINGER_SECONDS)
            # Without the socket no new client finds this guard. It goes before the failure is sent: a client that has
            # read of it and tries again must find a new guard, not this one.
            Path(listener.getsockname()).unlink(missing_ok=True)  # noqa: ASYNC240 - a local file, once
            if error is not None:
                self._broadcast("failed", error=error)
            for writer in [*self._clients]:
                with contextlib.suppress(OSError):
                    await writer.drain()
        finally:
            supervision.cancel()
            abandoned.cancel()
            self._stop_server()

    async def _wait_until_abandoned(self) -> None:
        """Return when no client has been connected for a while."""
        while True:
            await self._client_left.wait()
            self._client_left.clear()
            if not self._clients:
                await asyncio.sleep(_LINGER_SECONDS)
                if not self._clients:
                    return

    async def _serve_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients[writer] = None
        self._send(writer)
        self._first_client.set()
        # Returns when the client closes or dies; is cancelled when the guard ends first.
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await reader.read()
        self._clients.pop(writer, None)
        self._client_left.set()
        writer.close()

    def _broadcast(self, state: str, **details: object) -> None:
        self._state = self._state | {"state": state} | details
        for writer in self._clients:
            self._send(writer)

    def _send(self, writer: asyncio.StreamWriter) -> None:
        # One client only: each restart is counted once.
        counts = writer is next(iter(self._clients), None)
        with contextlib.suppress(OSError):
            writer.write(json.dumps(self._state | {"counts_restarts": counts}).encode() + b"\n")

    async def _supervise(self) -> str:
        """Run the server, restart it until it cannot be started or has died too often, and return the error."""
        deaths = restarts = 0
        try:
            while deaths <= self._spec.max_restarts:
                started = time.monotonic()
                if not await self._run_server(restarts) and restarts == 0:
                    # It has never worked: the model or an argument is wrong, and a restart would fail too.
                    break
                deaths = 1 if time.monotonic() - started > _STABLE_SECONDS else deaths + 1
                restarts += 1
            verb = "died too often" if restarts else "did not start"
            return f"the model server {verb}: {_last_error(Path(self._spec.log))}"
        except OSError as error:
            return f"the model server cannot be started: {error}"

    async def _run_server(self, restarts: int) -> bool:
        """Run the server to its end; return whether it was ever ready."""
        port = _free_port()
        with Path(self._spec.log).open("ab") as log:  # noqa: ASYNC230 - a local file, opened once a start
            self._server = await asyncio.create_subprocess_exec(
                *(part.replace("{port}", str(port)) for part in self._spec.command),
                env=_environment() | self._spec.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        self._broadcast("starting", restarts=restarts, pid=self._server.pid)
        ready = await self._wait_until_ready(self._server, port)
        if ready:
            if self._spec.yielding:
                _lower_priority(self._server.pid, self._spec.yielding)
            self._broadcast("ready", url=f"http://127.0.0.1:{port}")
            await self._wait_until_dead(self._server, port)
        self._stop_server()
        return ready

    async def _wait_until_ready(self, server: asyncio.subprocess.Process, port: int) -> bool:
        deadline = time.monotonic() + self._spec.start_seconds
        while time.monotonic() < deadline and server.returncode is None:
            if await asyncio.to_thread(_healthy, port):
                return True
            await asyncio.sleep(0.25)
        return False

    async def _wait_until_dead(self, server: asyncio.subprocess.Process, port: int) -> None:
        """Return when the process has ended or no longer answers."""
        failures = 0
        while failures < _HEALTH_FAILURES:
            try:
                await asyncio.wait_for(server.wait(), _HEALTH_SECONDS)
                return
            except TimeoutError:
                failures = 0 if await asyncio.to_thread(_healthy, port) else failures + 1

    def _stop_server(self) -> None:
        """Kill the whole process group: a server's engine process can outlive it."""
        if self._server is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._server.pid, signal.SIGKILL)
            self._server = None


def _environment() -> dict[str, str]:
    """Return this process's environment without vLLM's key: clients on loopback send none."""
    return {name: value for name, value in os.environ.items() if name != "VLLM_API_KEY"}


def _die_with_parent() -> None:
    """Have Linux kill the server when its guard is killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _lower_priority(group: int, name: str) -> None:
    """Lower the priority of the processes of a group whose name begins with `name`, with all their threads."""
    for path in Path("/proc").glob("[0-9]*"):
        # Any process can end meanwhile.
        with contextlib.suppress(OSError):
            if os.getpgid(int(path.name)) == group and (path / "comm").read_text().startswith(name):
                for thread in (path / "task").iterdir():
                    now = os.getpriority(os.PRIO_PROCESS, int(thread.name))
                    os.setpriority(os.PRIO_PROCESS, int(thread.name), now + _NICER)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _healthy(port: int) -> bool:
    try:
        with _OPENER.open(f"http://127.0.0.1:{port}/health", timeout=10) as response:
            return bool(response.status == 200)
    except (OSError, ValueError):
        return False


def _last_error(log: Path) -> str:
    """Return the last line of the log that names an error."""
    try:
        lines = log.read_text(errors="replace").splitlines()[-400:]
    except OSError:
        lines = []
    errors = [line for line in lines if re.search(r"\b\w*(?:Error|Exception)\b: ", line)]
    words = re.sub(r"^\(.*?\)\s*|\x1b\[[0-9;]*m", "", (errors or lines or ["no output"])[-1]).strip()
    words = re.sub(r"^(?:ERROR|INFO)\s[\d: -]+\[[^]]*\]\s*", "", words)
    return f"{words[:300]} (log: {log})"


def main() -> None:
    """Run a guard, unless another one holds the lock."""
    path, spec = Path(sys.argv[1]), ServerSpec(**json.loads(sys.argv[2]))
    lock = os.open(f"{path}{LOCK_SUFFIX}", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))

    async def guard() -> None:
        task = asyncio.ensure_future(Guard(spec).run(listener))
        for name in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(name, task.cancel)
        with contextlib.suppress(asyncio.CancelledError):
            await task

    try:
        asyncio.run(guard())
    finally:
        path.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
