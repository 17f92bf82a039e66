"""Builds as processes: their configuration, their commands, the engines that they ask, and the shards they write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aiohttp import web

from tests.forks import Fork
from tests.pipeline.helpers import number_of, write_threads
from tests.stub import Answer, StubServer, choices, completion, completions, good, good_text, refuse

CONFIG = """
pairs: {pairs}
shard_pairs: 32
attempts: 3
splits: {{train: 0.6, validation: 0.2, test: 0.2}}
history: {{ugc: 2, pair: 2, min_support: 0}}
generation: {{model: stub}}
engine: {engine}
"""

MINED = """
mining:
  source: {kind: threads, path: ['threads*.jsonl']}
  annotation: {dimensions: [demographics_and_traits, humor], min_confidence: 0.85}
"""
"""Eight questions about each response, in one call."""

BY_TWO = ("--", "--direct_running_mode=multi_processing", "--direct_num_workers=2")
"""The arguments of a build by two worker processes."""


def write_config(folder: Path, engine: str, source: str = "sampled", pairs: int = 200, more: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "build.yaml"
    path.write_text(CONFIG.format(pairs=pairs, engine=engine) + (MINED if source == "mined" else "") + more)
    if source == "mined":
        write_threads(folder / "threads.jsonl", pairs)
    return path


def start(config: Path, output: Path, *arguments: str, file_size: int | None = None) -> Fork:
    command = ["-m", "pipeline.cli", "build", str(config), "--output", str(output), *arguments]
    return Fork(*command, file_size=file_size)


def end(process: Fork, code: int) -> str:
    """Wait for the end of a build; what it printed last, which for an error is all on standard error."""
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, out + err
    assert "Traceback" not in err
    return (out + err).splitlines()[-1]


def finish(config: Path, output: Path, *arguments: str) -> None:
    end(start(config, output, *arguments), 0)


def shards(output: Path) -> dict[str, bytes]:
    """Every shard of a build, or of one of its folders, by its name."""
    # A recursive glob would also list folders that a build at work deletes meanwhile, and then fail.
    paths = [path for folder in ("", "[!.]*/", "rejected/*/") for path in output.glob(f"{folder}*-of-*.parquet")]
    return {str(path.relative_to(output)): path.read_bytes() for path in sorted(paths)}


async def sometimes_bad(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    """Good replies, cut-off ones, refusals and bad requests, as the request's number has it."""
    kind = number_of(body) % 11
    if kind in (0, 1) and "prompt" in body:
        return completions([choice | {"text": "The", "logprobs": None} for choice in choices(body)])
    if kind == 0:
        return completion(good_text(body), finish_reason="length")
    if kind == 1:
        return completion("As an AI language model I would rather not say anything about it.")
    if kind == 2:
        return await refuse(400, "too long")(request, body)
    return await good(request, body)


def openai(stub: StubServer, in_flight: int) -> str:
    """The engine that asks a stub server."""
    return f"{{kind: openai, base_urls: ['{stub.url}'], in_flight: {in_flight}}}"


def replay(journal: Path | str) -> str:
    """The engine that reads a build's journal."""
    return f"{{kind: replay, journal: {journal}}}"


def failing(every: int) -> Answer:
    """Some requests are answered by a server's error, always the same ones; some others by a bad reply of the row's."""

    async def answer(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        if every and number_of(body) % every == 0:
            return await refuse(500, "out of memory")(request, body)
        if "messages" in body and "response_format" not in body and number_of(body) % 11 == 5:
            return completion("no")
        return await good(request, body)

    return answer
