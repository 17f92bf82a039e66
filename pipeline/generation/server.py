"""The model server that the build runs itself: its command, and the connection to the guard that supervises it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import importlib.util
import json
import logging
import os
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.generation.device import Device, cpu_cache_gib, cpu_dtype
from pipeline.generation.endpoints import Endpoint
from pipeline.generation.guard import ServerSpec
from pipeline.generation.packaged import model_path
from pipeline.io.storage import private_folder
from pipeline.runtime.progress import Counters
from schemas.base import UsageError, UserError
from schemas.config import VllmEngine

logger = logging.getLogger(__name__)


def require_vllm(engine: VllmEngine) -> None:
    """Raise `UsageError` where the engine needs vLLM and this Python has none."""
    if engine.command is None and importlib.util.find_spec("vllm") is None:
        raise UsageError(
            "engine vllm: vLLM is not installed in this Python; set engine.kind to openai and engine.base_urls to a "
            "server (vLLM, Ollama, llama.cpp, a provider), or on Linux x86-64 run `make setup`; `everyuser build "
            "quickstart` shows recorded replies without an engine"
        )


def server_spec(engine: VllmEngine, model: str, log: Path, device: Device) -> ServerSpec:
    """Return the command that serves `model` under that name, on loopback.

    Args:
        engine: Settings of the server.
        model: A model of the Hub, a folder or a packaged model.
        log: File of the server's log.
        device: Where the server runs.

    Raises:
        UserError: vLLM or the model is missing.
    """
    require_vllm(engine)
    in_flight = device.bound(engine)
    command = [
        *(engine.command or (sys.executable, "-m", "vllm.entrypoints.openai.api_server")),
        *("--model", model_path(model), "--served-model-name", model),
        *("--host", "127.0.0.1", "--port", "{port}", "--max-num-seqs", str(in_flight)),
        *("--stream-interval", str(_STREAM_INTERVAL)),
        *((*_CPU_ARGS, "--dtype", cpu_dtype()) if device.is_cpu else ()),
        *(_HALF_GPU_ARGS if device.half is not None and not device.is_cpu else ()),
        *engine.args,
    ]
    return ServerSpec(
        command=tuple(command),
        environment=_environment(device, in_flight),
        log=str(log),
        start_seconds=engine.start_seconds,
        max_restarts=engine.max_restarts,
        yielding=_SPINNING if device.is_cpu and device.size > 1 else "",
    )


_SPINNING = "VLLM::EngineC"
"""vLLM's scheduler waits for the model's step in a loop, which on a CPU takes cores from the model.

The model's process waits for the scheduler in a loop too: on a single core that would starve a scheduler that yields.
"""


_STREAM_INTERVAL = 8
"""Tokens in a piece of a stream. Each piece costs the server time, and a sign of life is enough."""


# Chunked prefill and a per-request seed together kill vLLM 0.32 on a CPU ("CPU Generator does not use offset").
# Compilation takes longer at the start than it saves in a build of a few thousand rows. The default cache block of 128
# tokens would waste most of the prefix that a pair's two prompts share.
_CPU_ARGS = (
    *("--enforce-eager", "--no-enable-chunked-prefill", "--block-size", "32"),
    *("--max-model-len", "4096", "--max-num-batched-tokens", "4096"),
)


_HALF_GPU_ARGS = ("--gpu-memory-utilization", "0.45")
"""Arguments of each of two servers on one GPU. By default vLLM takes nine tenths, and the second would not start."""


def _environment(device: Device, in_flight: int) -> dict[str, str]:
    environment = {"VLLM_NO_USAGE_STATS": "1", "TOKENIZERS_PARALLELISM": "false", "VLLM_CONFIGURE_LOGGING": "1"}
    if device.is_cpu:
        cores = ",".join(str(core) for core in device.cores)
        # Without this vLLM keeps one core for itself: with two cores, half the machine.
        environment |= {"VLLM_CPU_OMP_THREADS_BIND": cores, "VLLM_CPU_KVCACHE_SPACE": str(cpu_cache_gib(in_flight))}
    return environment


class ManagedServer:
    """A server under a guard: starts the guard where there is none, and follows the state that it reports."""

    is_managed = True
    event_tokens = _STREAM_INTERVAL

    def __init__(self, spec: ServerSpec, counters: Counters) -> None:
        self._spec = spec
        self._counters = counters
        self._socket = _socket_path(spec)
        self._restarts = 0
        self._pid = 0
        self._url = ""
        self._paused_until = 0.0
        self._error: str | None = None
        self._changed = asyncio.Condition()
        self._watcher: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Connect to the guard and wait until the server answers."""
        self._watcher = asyncio.create_task(self._watch_guard())
        self._watcher.add_done_callback(lambda task: task.cancelled() or task.exception())
        await self.acquire()

    async def acquire(self) -> Endpoint:
        """Return the server's endpoint once it is ready."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._url or self._error)
        if self._error is not None:
            raise UserError(f"engine vllm: {self._error}")
        return Endpoint("vllm", f"{self._url}/v1", self._restarts)

    async def current(self) -> list[Endpoint]:
        """Return the only endpoint."""
        return [await self.acquire()]

    def release(self, endpoint: Endpoint) -> None:
        """Do nothing: one server takes all requests."""

    def mark(self, endpoint: Endpoint, is_up: bool) -> None:
        """Do nothing: there is no other server to prefer."""

    def any_up(self) -> bool:
        """Return False: there is no other server to try."""
        return False

    def pause(self, endpoint: Endpoint, until: float) -> None:
        """Send nothing before `until`."""
        self._paused_until = max(self._paused_until, until)

    def available_at(self) -> float:
        """Return the end of the pause."""
        return self._paused_until

    def restarts(self) -> int:
        """Return how often the server was restarted, counting a restart that is under way."""
        return self._restarts if self._url else self._restarts + 1

    async def close(self) -> None:
        """Disconnect. The guard stops the server when its last client has left."""
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)

    async def _watch_guard(self) -> None:
        earlier_restarts = 0
        for _ in range(1 + self._spec.max_restarts):
            try:
                reader, writer = await self._connect()
            except OSError as error:
                await self._publish("", f"cannot start the server's guard: {error}")
                return
            # A guard that is killed may leave a connection reset, or half a line.
            with contextlib.suppress(OSError, ValueError):
                while line := await reader.readline():
                    await self._apply_state(json.loads(line), earlier_restarts)
            writer.close()
            if self._error is not None:
                return
            # The guard was killed. Its server ends with it, but not that server's children.
            if self._pid:
                with contextlib.suppress(OSError):
                    os.killpg(self._pid, signal.SIGKILL)
            logger.warning("the guard of the model server was killed; restarting both")
            earlier_restarts = self._restarts + 1
            await self._publish("")
        await self._publish("", "the server's guard died too often")

    async def _apply_state(self, state: dict[str, Any], earlier_restarts: int) -> None:
        restarts = earlier_restarts + int(state["restarts"])
        if self._pid and restarts > self._restarts:
            logger.warning("the model server ended; restart %d (its log: %s)", restarts, self._spec.log)
            if state["counts_restarts"]:
                self._counters.add("server_restarts", restarts - self._restarts)
        self._restarts = restarts
        self._pid = int(state.get("pid", 0)) or self._pid
        if state["state"] == "failed":
            await self._publish("", state["error"])
        else:
            await self._publish(state["url"] if state["state"] == "ready" else "")

    async def _publish(self, url: str, error: str | None = None) -> None:
        if url and url != self._url:
            logger.info("the model server is ready at %s", url)
        async with self._changed:
            self._url, self._error = url, error
            self._changed.notify_all()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        for _ in range(50):
            try:
                return await asyncio.open_unix_connection(self._socket)
            except OSError:
                self._start_guard()
                await asyncio.sleep(0.5)
        return await asyncio.open_unix_connection(self._socket)

    def _start_guard(self) -> None:
        # In its own session, Ctrl-C in the terminal does not reach the guard, which cleans up after the build.
        subprocess.Popen(
            [sys.executable, "-m", "pipeline.generation.guard", str(self._socket), json.dumps(asdict(self._spec))],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )


def _socket_path(spec: ServerSpec) -> Path:
    """Return the socket of a spec's guard: processes with the same command share one server."""
    key = hashlib.sha256(json.dumps([spec.command, spec.environment], sort_keys=True).encode()).hexdigest()[:16]
    return private_folder() / f"{key}.sock"
