"""Seconds, processor seconds and memory up to a build's first line and first requests: `python -m benchmarks.start`.

Each round builds a few pairs against an instant stub in a new process and a new folder. Memory is the proportional set
size of the process tree (PSS). `--python` names the interpreter of another environment, such as one with other extras;
named more than once, the environments take turns. A first build in each, which writes the bytecode, is not counted.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import NamedTuple

import psutil

from benchmarks.machine import describe, free_port, tree_pss
from benchmarks.stub_server import Stub, write
from pipeline.generation.trial import TRIAL

MOMENTS = ("first line", "first request", "first row's request", "end")
"""The first request is a trial request; the first of a row follows when Beam runs."""


class Moment(NamedTuple):
    """What a command had taken at a moment. Memory in bytes."""

    seconds: float
    busy: float
    pss: int


class Command:
    """A command whose moments are noted. Several threads note them."""

    def __init__(self, arguments: list[str]) -> None:
        self.moments: dict[str, Moment] = {}
        # As the Makefile does: without bytecode on disk each process compiles all that it imports.
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        self._started = time.monotonic()
        self.process = subprocess.Popen(
            arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def note(self, name: str) -> None:
        """Note a moment the first time that it comes."""
        if name in self.moments:
            return
        seconds = time.monotonic() - self._started
        times = psutil.Process(self.process.pid).cpu_times()
        self.moments[name] = Moment(seconds, times.user + times.system, tree_pss(self.process.pid))


def main() -> None:
    """Run the rounds and print a table of medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=256)
    parser.add_argument("--python", action="append", default=[], help="by default this one; may be repeated")
    arguments = parser.parse_args()
    print(describe())
    pythons = arguments.python or [sys.executable]
    rounds: dict[str, list[dict[str, Moment]]] = {python: [] for python in pythons}
    for python in pythons:
        build(python, arguments.pairs)
    for _ in range(arguments.rounds):
        for python in pythons:
            rounds[python].append(build(python, arguments.pairs))
    for python in pythons:
        print(f"\n{python}, medians of {arguments.rounds} rounds:\n")
        print("| moment | seconds (all rounds) | processor seconds | memory (PSS) |")
        print("|---|---|---|---|")
        for name in MOMENTS:
            found = [moments[name] for moments in rounds[python]]
            seconds, busy, pss = (statistics.median(values) for values in zip(*found, strict=True))
            each = ", ".join(f"{moment.seconds:.2f}" for moment in found)
            print(f"| {name} | {seconds:.2f} ({each}) | {busy:.2f} | {pss / 2**20:.0f} MiB |")


def build(python: str, pairs: int) -> dict[str, Moment]:
    """Build once and return the moments. Raise `SystemExit` with the command's output if it fails."""
    port = free_port()
    with tempfile.TemporaryDirectory() as scratch:
        config = Path(scratch) / "start.yaml"
        config.write_text(
            f"pairs: {pairs}\nsplits: {{train: 1, validation: 0, test: 0}}\n"
            "generation: {model: stub}\n"
            f"engine: {{kind: openai, base_urls: ['http://127.0.0.1:{port}/v1']}}\n"
        )
        command: Command | None = None

        def answer(body: bytes) -> str:
            assert command is not None  # noqa: S101 - for the type checker
            command.note("first request")
            if TRIAL.encode() not in body:
                command.note("first row's request")
            return write(body)

        loop = asyncio.new_event_loop()
        loop.run_until_complete(loop.create_server(lambda: Stub(answer), "127.0.0.1", port))
        threading.Thread(target=loop.run_forever, daemon=True).start()
        output = ["--output", str(Path(scratch) / "out")]
        command = Command([python, "-m", "pipeline.cli", "build", str(config), *output])
        assert command.process.stdout is not None  # noqa: S101 - for the type checker
        said = []
        for line in command.process.stdout:
            command.note("first line")
            if line.startswith("in "):  # The command's last lines; its memory is gone when it has ended.
                command.note("end")
            said.append(line)
        if command.process.wait():
            sys.exit(f"failed: {python}\n{''.join(said)}")
        loop.call_soon_threadsafe(loop.stop)
    return command.moments


if __name__ == "__main__":
    main()
