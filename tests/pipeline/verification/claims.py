"""Claims about a few dimensions, and a judge who reads marks such as `extraversion+1` in their replies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.generation.completions import AnyRequest, ChoiceRequest, Completion, Outcome
from pipeline.plan import BuildPlan
from pipeline.runtime.resources import resources
from pipeline.verification.ask import Claim, VerifyShard, ask_judge
from schemas.records import Kind, SeedPost
from tests.pipeline.helpers import DUMMY, prepared, tiny, write_posts
from tests.planted import Planted
from tests.schemas.records import pair
from tests.stub import choice_of, option_texts

Judge = Callable[[str], Mapping[str, float]]
"""The probability of each option of a prompt's last question."""


def plan_at(folder: Path, **verification: Any) -> BuildPlan:
    """The plan of a build that samples all dimensions of the packaged space."""
    posts = write_posts(folder / "posts.jsonl", 60)
    settings = {"mode": "filter"} | verification
    return prepared(folder / "build", tiny(seeds={"path": str(posts)}, verification=settings, **DUMMY))


def direction_of(plan: BuildPlan, **levels: int) -> tuple[int, ...]:
    """A direction by slugs."""
    return tuple(levels.get(dimension.slug, 0) for dimension in resources(plan).space.dimensions)


def claim(plan: BuildPlan, chosen: str, rejected: str, index: int = 0, **levels: int) -> Claim:
    """A claim that two replies show these levels, from rejected to chosen."""
    post = SeedPost(id=f"p{index}", title="", text=f"Question number {index}, what now?")
    claimed = pair(prompt=post.prompt, chosen=chosen, rejected=rejected, direction=direction_of(plan, **levels))
    return Claim(index, post, claimed)


def of_kind(kind: Kind, claim: Claim) -> Claim:
    """The claim about a pair of another kind."""
    return replace(claim, pair=claim.pair.model_copy(update={"kind": kind}))


def asked(plan: BuildPlan, *claims: Claim, attempt: int = 0) -> VerifyShard:
    return ask_judge(VerifyShard(plan.shards()[0], claims, None), plan, attempt)


def by_marks(prompt: str) -> Mapping[str, float]:
    """The judge who reads marks, and calls a reply that says `fine` good and one that says `foul` poor."""
    reply = prompt.rpartition("\nQuestion: ")[0].rpartition("\nComment: ")[2]
    options = option_texts(prompt)
    if any(text.startswith("Good") for text in options.values()):
        wanted = "Good" if "fine" in reply else "Poor" if "foul" in reply else "Fair"
        return {letter: float(text.startswith(wanted)) for letter, text in options.items()}
    return Planted().judge(prompt)


def answer(request: AnyRequest, judge: Judge = by_marks) -> Outcome:
    """What a server with this judge answers."""
    assert isinstance(request, ChoiceRequest)
    found = [choice_of(k, judge(request.prefix + question)) for k, question in enumerate(request.questions)]
    text, reason = request.read({"choices": found})
    return Completion(text, reason, 100, len(found))


def answered(plan: BuildPlan, *claims: Claim, judge: Judge = by_marks) -> list[Claim]:
    """The claims with the judge's answers."""
    shard = asked(plan, *claims)
    return [*shard.with_outcomes([answer(request, judge) for request in shard.requests()]).claims]


def margins_by_slug(plan: BuildPlan, margins: Any) -> dict[str, float]:
    """The margins that are there, by the dimension."""
    slugs = [dimension.slug for dimension in resources(plan).space.dimensions]
    numbers = np.array([np.nan if number is None else number for number in margins], dtype=np.float64)
    return {slugs[d]: float(numbers[d]) for d in np.flatnonzero(~np.isnan(numbers))}
