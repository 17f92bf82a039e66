"""The model server that the build runs itself: its command line, and the link to the guard that supervises it."""

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

from pipeline.generation.endpoints import Endpoint
from pipeline.generation.guard import Spec
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
            "server (vLLM, Ollama, llama.cpp, a provider), or on Linux x86-64 run `make setup`"
        )


def server_spec(engine: VllmEngine, model: str, log: Path) -> Spec:
    """The command that serves `model` under that very name, on loopback.

    Raises `UserError` where vLLM or the model is missing.
    """
    require_vllm(engine)
    on_cpu = engine.device == "cpu" or (engine.device == "auto" and not _has_gpu())
    command = [
        *(engine.command or (sys.executable, "-m", "vllm.entrypoints.openai.api_server")),
        *("--model", model_path(model), "--served-model-name", model),
        *("--host", "127.0.0.1", "--port", "{port}", "--max-num-seqs", str(engine.in_flight)),
        *(_CPU_ARGS if on_cpu else ()),
        *engine.args,
    ]
    return Spec(
        command=tuple(command),
        environment=_environment(on_cpu),
        log=str(log),
        start_seconds=engine.start_seconds,
        restarts=engine.max_restarts,
    )


# Chunked prefill and a per-request seed together kill vLLM 0.32 on a CPU ("CPU Generator does not use offset").
# Compilation takes longer to start than it saves in a build of some thousand rows. The default cache block of 128
# tokens would waste most of the prefix that a pair's two prompts share.
_CPU_ARGS = (
    *("--enforce-eager", "--no-enable-chunked-prefill", "--dtype", "bfloat16", "--block-size", "32"),
    *("--max-model-len", "4096", "--max-num-batched-tokens", "4096"),
)


def _has_gpu() -> bool:
    """Whether `nvidia-smi` answers: that it is there says nothing about the driver."""
    try:
        return subprocess.run(["nvidia-smi"], capture_output=True, timeout=30, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _environment(on_cpu: bool) -> dict[str, str]:
    environment = {"VLLM_NO_USAGE_STATS": "1", "TOKENIZERS_PARALLELISM": "false", "VLLM_CONFIGURE_LOGGING": "1"}
    if on_cpu:
        cores = ",".join(str(core) for core in sorted(os.sched_getaffinity(0)))
        # Without this vLLM keeps one core for itself: with two cores, half the machine.
        environment |= {"VLLM_CPU_OMP_THREADS_BIND": cores, "VLLM_CPU_KVCACHE_SPACE": "2"}
    return environment


class ManagedServer:
    """The link to a guard: starts one where there is none, follows its state, and says so when it fails."""

    own = True

    def __init__(self, spec: Spec, counters: Counters) -> None:
        self._spec = spec
        self._counters = counters
        self._socket = _socket_path(spec)
        self._life = 0
        self._pid = 0
        self._url = ""
        self._rest_until = 0.0
        self._error: str | None = None
        self._changed = asyncio.Condition()
        self._follower: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Connect, and wait until the server answers."""
        self._follower = asyncio.create_task(self._follow())
        self._follower.add_done_callback(lambda task: task.cancelled() or task.exception())
        await self.acquire()

    async def acquire(self) -> Endpoint:
        """The server, once it is ready."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._url or self._error)
        if self._error is not None:
            raise UserError(f"engine vllm: {self._error}")
        return Endpoint("vllm", f"{self._url}/v1", self._life)

    async def current(self) -> list[Endpoint]:
        """The one that there is."""
        return [await self.acquire()]

    def release(self, endpoint: Endpoint) -> None:
        """One server takes all: nothing to count."""

    def mark(self, endpoint: Endpoint, works: bool) -> None:
        """There is no other server to prefer."""

    def reachable(self) -> bool:
        """There is no other server to try."""
        return False

    def rest(self, endpoint: Endpoint, until: float) -> None:
        """Send nothing before that time."""
        self._rest_until = max(self._rest_until, until)

    def rests_until(self) -> float:
        """When it takes requests."""
        return self._rest_until

    def life(self) -> int:
        """Which server this is: 0 for the first, and one more for each restart."""
        return self._life if self._url else self._life + 1

    async def close(self) -> None:
        """Leave. The guard ends the server when its last client has left."""
        if self._follower is not None:
            self._follower.cancel()
            await asyncio.gather(self._follower, return_exceptions=True)

    async def _follow(self) -> None:
        first_life = 0
        for _ in range(1 + self._spec.restarts):
            try:
                reader, writer = await self._connect()
            except OSError as error:
                await self._set("", f"cannot start the server's guard: {error}")
                return
            # A guard that is killed may leave a reset, or half a line.
            with contextlib.suppress(OSError, ValueError):
                while line := await reader.readline():
                    await self._heed(json.loads(line), first_life)
            writer.close()
            if self._error is not None:
                return
            # The guard was killed. Its server goes with it, but not that server's children.
            if self._pid:
                with contextlib.suppress(OSError):
                    os.killpg(self._pid, signal.SIGKILL)
            logger.warning("the guard of the model server was killed; starting both again")
            first_life = self._life + 1
            await self._set("")
        await self._set("", "the server's guard died too often")

    async def _heed(self, state: dict[str, Any], first_life: int) -> None:
        life = first_life + int(state["life"])
        if self._pid and life > self._life:
            logger.warning("the model server ended; restart %d (its log: %s)", life, self._spec.log)
            if state["counts"]:
                self._counters.add("server_restarts", life - self._life)
        self._life = life
        self._pid = int(state.get("pid", 0)) or self._pid
        if state["state"] == "failed":
            await self._set("", state["error"])
        else:
            await self._set(state["url"] if state["state"] == "ready" else "")

    async def _set(self, url: str, error: str | None = None) -> None:
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
        # A session of its own: Ctrl-C in the terminal ends the build, which then leaves; the guard cleans up.
        subprocess.Popen(
            [sys.executable, "-m", "pipeline.generation.guard", str(self._socket), json.dumps(asdict(self._spec))],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )


def _socket_path(spec: Spec) -> Path:
    """One server for each command on a machine, whoever asks."""
    key = hashlib.sha256(json.dumps([spec.command, spec.environment], sort_keys=True).encode()).hexdigest()[:16]
    return private_folder() / f"{key}.sock"
