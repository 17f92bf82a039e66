"""Mined shards of a space with five dimensions, and models that answer their requests."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pipeline.generation.completions import ChoiceRequest, Completion, Outcome
from pipeline.mining.annotate import MinedShard, read_levels
from pipeline.plan import BuildPlan, ShardSpec
from pipeline.threads.batch import ThreadBatch
from preference_space.direction import Direction
from preference_space.levels import pole_probabilities
from schemas.records import SeedPost
from tests.pipeline.helpers import body_of, prepared, tiny, write_jsonl
from tests.stub import choice_of

SLUGS = ("calm", "young", "rich", "kind", "neat")
UNCLEAR = "The comment alone cannot tell"
SPEC = ShardSpec("train", 0, 1, 0, 2, "mined")


def write_space(path: Path) -> str:
    dimensions = [
        {
            "slug": slug,
            "name": slug,
            "group": "first" if number < 2 else "second",
            "source": "test",
            "question": f"Is the writer {slug}?",
            "positive": {"label": f"Very {slug}", "description": f"is {slug} indeed", "hint": "Yes."},
            "negative": {"label": f"Hardly {slug}", "description": f"is anything but {slug}", "hint": "No."},
        }
        for number, slug in enumerate(SLUGS)
    ]
    path.write_text(yaml.safe_dump({"name": "five", "dimensions": dimensions}))
    return str(path)


def make_plan(folder: Path, space: str | None = None, **keys: Any) -> BuildPlan:
    """Return the plan of a mined build; `annotation` has keys of `mining.annotation`, and `keys` those of a build."""
    folder.mkdir(exist_ok=True)
    source = {"kind": "threads", "path": [str(write_jsonl(folder / "threads.jsonl", [{"post": "Which?"}]))]}
    mining = {"source": source, "annotation": keys.pop("annotation", {})}
    config = tiny(**{"pairs": None, "space": space or write_space(folder / "space.yaml"), "mining": mining} | keys)
    return prepared(folder / "build", config)


def make_threads(*sizes: int, given: Mapping[int, Sequence[int]] | None = None, dimensions: int = 5) -> ThreadBatch:
    """Return posts `p0`, `p1`, ... with so many responses each; `given` has levels by row."""
    first = np.cumsum([0, *sizes])
    count = int(first[-1])
    levels, known = np.zeros((count, dimensions), dtype=np.int8), np.zeros(count, dtype=bool)
    for row, values in (given or {}).items():
        levels[row], known[row] = values, True
    return ThreadBatch(
        [SeedPost(id=f"p{k}", title=f"Title {k}", text=f"Text number {k}.") for k in range(len(sizes))],
        first,
        [f"r{row}" for row in range(count)],
        [f"This is comment {row}." for row in range(count)],
        levels,
        pole_probabilities(levels),
        known,
    )


def with_text(threads: ThreadBatch, text: str) -> ThreadBatch:
    """Return the threads with another text in row 0."""
    return dataclasses.replace(threads, texts=[text, *threads.texts[1:]])


def opened(*sizes: int, **keys: Any) -> MinedShard:
    return MinedShard(SPEC, make_threads(*sizes, **keys))


def choice_requests(shard: MinedShard) -> list[ChoiceRequest]:
    requests = [request for request in shard.requests() if isinstance(request, ChoiceRequest)]
    assert len(requests) == len(shard.requests())
    return requests


def bodies(shard: MinedShard) -> list[dict[str, Any]]:
    return [body_of(request) for request in shard.requests()]


def keys(shard: MinedShard) -> list[str]:
    return [request.key for request in shard.requests()]


def slug_of(question: str) -> str:
    (slug,) = [slug for slug in SLUGS if f"Question: Is the writer {slug}?\n" in question]
    return slug


def options_of(question: str) -> dict[str, int]:
    """Return the level of each option letter, by the text of the question."""
    slug = slug_of(question)
    level_of = {f"Very {slug}: is {slug} indeed": 1, f"Hardly {slug}: is anything but {slug}": -1, UNCLEAR: 0}
    lines = [line for line in question.splitlines() if line.startswith("(")]
    assert [line[:4] for line in lines] == ["(A) ", "(B) ", "(C) "]
    return {line[1]: level_of[line[4:]] for line in lines}


def read(request: ChoiceRequest, by_question: Callable[[str], Mapping[str, float]]) -> Completion:
    """Return the outcome of a model that gives these probabilities to the options."""
    found = [choice_of(index, by_question(question)) for index, question in enumerate(request.questions)]
    text, finish_reason = request.read({"choices": found})
    return Completion(text, finish_reason, prompt_tokens=10, completion_tokens=1)


Truth = Mapping[str, Direction]
"""The levels of each response, by its text."""


def truth_of(threads: ThreadBatch, seed: int = 0) -> dict[str, Direction]:
    draws = np.random.default_rng(seed).integers(-1, 2, size=(len(threads.texts), 5)).astype(np.int8)
    return dict(zip(threads.texts, draws, strict=True))


def oracle(request: ChoiceRequest, truth: Truth, sure: float = 1.0) -> Completion:
    """Knows the levels, and says so by the text of the options."""
    levels = truth[request.prefix.rpartition("\nComment: ")[2]]

    def shares(question: str) -> dict[str, float]:
        level = levels[SLUGS.index(slug_of(question))]
        return {letter: sure if meant == level else (1 - sure) / 2 for letter, meant in options_of(question).items()}

    return read(request, shares)


def answered(shard: MinedShard, truth: Truth, sure: float = 1.0) -> MinedShard:
    return shard.with_outcomes([oracle(request, truth, sure) for request in choice_requests(shard)])


def annotated(shard: MinedShard, plan: BuildPlan, outcomes: Sequence[Outcome], attempt: int = 0) -> MinedShard:
    return read_levels(shard.with_outcomes(outcomes), plan, attempt)
