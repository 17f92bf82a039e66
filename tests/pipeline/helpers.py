"""Small builds, and the two phases of one step by step, without Beam."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from pipeline.assembly.leaks import find_shared_replies
from pipeline.build import Observer, build
from pipeline.driver.prepare import check_output, prepare
from pipeline.generation.completions import AnyRequest, Completion, Outcome, Request
from pipeline.io.locks import locked
from pipeline.io.shards import read_shard
from pipeline.plan import SPLITS, BuildPlan, ShardSpec
from pipeline.sampling.pairs import (
    PairShard,
    load_drafts,
    render_prompts,
    sample_directions,
    store_pairs,
    validate_pairs,
)
from schemas import SCHEMA_VERSION
from schemas.config import BuildConfig
from schemas.loader import validate
from schemas.manifest import Counts, Manifest
from tests.schemas.records import PAIR, UGC
from tests.stub import Answer, StubServer, good, good_text, log_line

NOWHERE = "http://127.0.0.1:9/v1"
"""A base URL at which nothing listens."""

MATCHED_SPLITS = SPLITS[:3]
"""Splits of a build without users."""

TINY: dict[str, Any] = {
    "pairs": 60,
    "shard_pairs": 16,
    "attempts": 1,
    "splits": {"train": 0.6, "validation": 0.2, "test": 0.2},
    "history": {"ugc": 1, "pair": 1, "min_support": 0},
    "generation": {"model": "stub"},
    "engine": {"kind": "openai", "base_urls": [NOWHERE]},
    "requests": {"max_retries": 0},
}
"""36 train, 12 validation and 12 test pairs, in 5 shards of 12."""

DUMMY: dict[str, Any] = {"generation": {"model": "dummy"}, "engine": {"kind": "dummy"}}
"""Keys of a build that needs no model."""


def tiny(**keys: Any) -> BuildConfig:
    """A small build's configuration, with top-level keys replaced."""
    return validate(BuildConfig, TINY | keys, "tiny")


def of_users(count: int = 20, each: int = 4, users: Mapping[str, Any] | None = None, **keys: Any) -> BuildConfig:
    """A small build of users with so many pairs each. `users` and `keys` are further keys of the section and others."""
    section = {"count": count, "pairs_per_user": each, "min_items": 1, **(users or {})}
    given = {key: value for key, value in TINY.items() if key != "pairs"} | {"persona": "users", "users": section}
    return validate(BuildConfig, given | keys, "tiny")


def made_manifest(**keys: Any) -> Manifest:
    """Return the manifest of a finished build, with fields replaced."""
    given = {"schema_version": SCHEMA_VERSION, "status": "complete", "name": "small", "fingerprint": "f" * 64}
    empty: dict[str, Any] = {"parts": {}, "config": {}, "versions": {}, "counts": Counts()}
    return Manifest.model_validate(given | empty | keys)


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_posts(path: Path, count: int) -> Path:
    """Posts `p0`, `p1`, ..., each with a different text."""
    return write_jsonl(path, ({"id": f"p{k}", "text": f"Question number {k}, what now?"} for k in range(count)))


def thread(number: int, responses: int = 5, **keys: Any) -> dict[str, Any]:
    """A thread `t0`, `t1`, ..., with texts that are the same for the same number."""
    entries = [
        {"id": f"r{k}", "author": f"someone {k}", "text": good_text({"thread": number, "response": k})}
        for k in range(responses)
    ]
    return {"id": f"t{number}", "post": f"Thread number {number}, what do you think?", "responses": entries} | keys


def write_threads(path: Path, count: int, responses: int = 5) -> Path:
    return write_jsonl(path, (thread(number, responses) for number in range(count)))


def mining(*paths: Path, annotation: Mapping[str, Any] | None = None, **keys: Any) -> dict[str, Any]:
    """The section `mining` for threads in files: few levels that are not 'cannot tell', so that few pairs clash."""
    source = {"kind": "threads", "path": [str(path) for path in paths]}
    return {"source": source, "annotation": {"min_confidence": 0.85, **(annotation or {})}} | keys


def number_of(body: Mapping[str, Any]) -> int:
    """A number that a request has for ever: a chat's seed, or a hash of a call's prompts."""
    return int(body["seed"]) if "seed" in body else int(log_line(body), 16)


def prepared(output: Path, config: BuildConfig) -> BuildPlan:
    """The folder as a build leaves it before its first shard."""
    check_output(output)
    with locked(output):
        return prepare(config, output)[0]


def run_build(output: Path, answer: Answer = good, **keys: Any) -> tuple[Manifest, StubServer]:
    """A whole build against a stub server; the server is returned for the requests that it saw."""
    with StubServer(answer) as stub:
        return build(tiny(**{"engine": {"kind": "openai", "base_urls": [stub.url]}} | keys), output), stub


class Notices(Observer):
    """An observer that keeps its notices."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def notice(self, line: str) -> None:
        self.lines.append(line)


def folder_of(plan: BuildPlan) -> Path:
    """The folder of a build on this machine."""
    assert isinstance(plan.output, Path)
    return plan.output


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """Every row of a folder's Parquet files, file by file."""
    return [row for path in sorted(folder.glob("*.parquet")) for row in read_shard(path).to_pylist()]


def body_of(request: AnyRequest) -> dict[str, Any]:
    body: dict[str, Any] = orjson.loads(request.body)
    return body


def reply(text: str, finish_reason: str = "stop") -> Completion:
    return Completion(text, finish_reason, prompt_tokens=100, completion_tokens=30)


def good_reply(request: Request) -> Outcome:
    """What the stub server answers to a request."""
    return reply(good_text(body_of(request)))


Reply = Callable[[Request], Outcome]


def asked(spec: ShardSpec, plan: BuildPlan, attempt: int = 0) -> PairShard:
    """A shard with its prompts, before any answer."""
    return render_prompts(sample_directions(load_drafts(spec, plan), plan, attempt), plan)


def answered(shard: PairShard, answer: Reply = good_reply) -> PairShard:
    return shard.with_outcomes([answer(request) for request in shard.requests()])


def fill_pool(plan: BuildPlan, answer: Callable[[str, str], str | None] = lambda pair_id, role: None) -> None:
    """Phase one of a build. `answer` gives the reply to a pair's `chosen` or `rejected`; None for a good one."""
    for spec in plan.shards():
        shard = asked(spec, plan)
        outcomes = []
        for draft in shard.drafts:
            for role, request in zip(("chosen", "rejected"), draft.requests, strict=True):
                text = answer(draft.pair_id, role)
                outcomes.append(good_reply(request) if text is None else reply(text))
        store_pairs(validate_pairs(shard.with_outcomes(outcomes), plan, last=True), plan)
    find_shared_replies(plan)


def specs_of(plan: BuildPlan, split: str) -> list[ShardSpec]:
    return [spec for spec in plan.shards() if spec.split == split]


class Built(NamedTuple):
    """A finished build, and the server that it asked."""

    folder: Path
    manifest: Manifest
    stub: StubServer

    def rows(self, folder: str) -> list[dict[str, Any]]:
        return rows_of(self.folder / folder)

    def by_split(self, folder: str) -> list[list[dict[str, Any]]]:
        files = [sorted((self.folder / folder).glob(f"{split}-*.parquet")) for split in MATCHED_SPLITS]
        return [[row for path in paths for row in read_shard(path).to_pylist()] for paths in files]


def posts_in(example: dict[str, Any]) -> set[str]:
    return {example["prompt"]} | {item["prompt"] for item in (*example[UGC], *example[PAIR])}


def assert_disjoint(sets: Iterable[set[Any]]) -> None:
    counts = Counter(value for part in sets for value in part)
    assert [value for value, count in counts.items() if count > 1] == []
