"""vLLM as a build would start it, but known to the benchmark: its address and its `/metrics`."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from benchmarks.machine import free_port
from pipeline.generation.device import find_device
from pipeline.generation.server import server_spec
from schemas.config import VllmEngine

_START_SECONDS = 600.0


@contextlib.contextmanager
def serving(model: str, log: Path, engine: VllmEngine) -> Iterator[str]:
    """Serve a model on loopback, and yield the base URL, up to and with /v1.

    Args:
        model: A model of the Hub, a folder or a packaged model.
        log: File of the server's log.
        engine: Settings of the server.
    """
    port = free_port()
    spec = server_spec(engine, model, log, find_device(engine))
    command = [part.replace("{port}", str(port)) for part in spec.command]
    with log.open("wb") as file:
        server = subprocess.Popen(
            command, stdout=file, stderr=file, env={**os.environ, **spec.environment}, start_new_session=True
        )
    # Ends the server as Ctrl-C does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        _wait(f"http://127.0.0.1:{port}/health", server, log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, 9)
        server.wait()


def read_metrics(url: str) -> dict[str, float]:
    """Return the counters of the server at a base URL by name, without labels; none where it shows no metrics."""
    try:
        with urllib.request.urlopen(f"{url.removesuffix('/v1')}/metrics", timeout=30) as answer:  # noqa: S310 - the user's own
            lines = answer.read().decode().splitlines()
    except urllib.error.HTTPError:
        return {}
    found = (re.match(r"([a-z_:]+)(?:\{.*\})? ([0-9.e+]+)$", line) for line in lines)
    return {match.group(1): float(match.group(2)) for match in found if match}


def _wait(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + _START_SECONDS
    while time.monotonic() < until and server.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5)  # noqa: S310 - loopback
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    sys.exit(f"the server did not start; see {log}")
