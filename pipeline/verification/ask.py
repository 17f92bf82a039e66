"""Questions to the judge about both replies of a pair: the active dimensions, some others, and quality."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.generation.completions import AnyRequest, Outcome, choice_head
from pipeline.plan import BuildPlan, ShardSpec
from pipeline.questions.choices import Asked, Questionnaire, dimension_texts, make_questionnaire, question_texts
from pipeline.runtime.resources import resources
from preference_space.direction import Direction
from preference_space.philox import stream_key, uniforms
from schemas.records import Pair, SeedPost

_QUALITIES = tuple({"label": label, "description": ""} for label in ("good", "fair", "poor"))
"""Meanings of the options of the question about quality."""
_SEQUENCES = np.array([(0, 3, 4, 1, 2, 5), (3, 4, 0, 2, 5, 1), (4, 0, 3, 5, 1, 2)])
"""Orders (`ORDERS`) in which a question is asked, from each of three starts: the rotations of one, then the others.

So in each three orders every meaning is in every place once.
"""


@dataclass(frozen=True, slots=True, eq=False)
class Claim:
    """A pair whose replies were written to differ in its direction, number `index` of its split.

    `asked` are the questions about each reply, `requests` those about the chosen reply, then as many about the
    rejected.
    """

    index: int
    post: SeedPost
    pair: Pair
    asked: Asked = field(default_factory=lambda: np.empty((0, 2), dtype=np.int64))
    requests: tuple[AnyRequest, ...] = ()
    outcomes: tuple[Outcome, ...] = ()


@dataclass(frozen=True, slots=True)
class VerifyShard:
    """The element of verification: the claims of a shard in one attempt. `origin` is that shard."""

    spec: ShardSpec
    claims: Sequence[Claim]
    origin: Any

    @property
    def journal(self) -> str:
        """Return the name of the journal with the judge's answers."""
        return f"verify-{self.spec.name}"

    def requests(self) -> list[AnyRequest]:
        """Return the requests of all claims. Those about one reply are adjacent, so that the engine reuses the prefix.

        The two replies of a pair follow each other, as they share the post.
        """
        return [request for claim in self.claims for request in claim.requests]

    def with_outcomes(self, outcomes: Sequence[Outcome]) -> VerifyShard:
        """Return the shard with the outcomes of `requests()`, in their order."""
        answered, position = [], 0
        for claim in self.claims:
            end = position + len(claim.requests)
            answered.append(replace(claim, outcomes=tuple(outcomes[position:end])))
            position = end
        return replace(self, claims=answered)


def ask_judge(shard: VerifyShard, plan: BuildPlan, attempt: int) -> VerifyShard:
    """Render the requests about both replies of every claim.

    Args:
        shard: Shard whose pairs obey the rules.
        plan: Plan of the build.
        attempt: Number of the attempt, from 0; each asks about other dimensions outside the direction.
    """
    if not shard.claims:
        return shard
    size = len(resources(plan).space)
    directions = np.array([claim.pair.direction for claim in shard.claims], dtype=np.int8)
    indices = np.array([claim.index for claim in shard.claims])
    # A draw for the place of each dimension, one for its first order, and one for that of quality.
    stream = stream_key("verify", shard.spec.split, attempt)
    draws = uniforms(plan.config.seed, stream, indices, 2 * size + 1)
    starts = (draws[:, size:] * len(_SEQUENCES)).astype(np.int64)
    is_asked = asked_dimensions(directions, draws[:, :size], plan)
    return replace(
        shard,
        claims=[
            _with_requests(claim, np.flatnonzero(mask), start, plan)
            for claim, mask, start in zip(shard.claims, is_asked, starts, strict=True)
        ],
    )


def asked_dimensions(directions: Direction, draws: npt.NDArray[np.float64], plan: BuildPlan) -> npt.NDArray[np.bool_]:
    """Return which dimensions the judge is asked about: the active ones, and `drift_dimensions` of the others.

    Args:
        directions: Asked directions, shape (N, D).
        draws: Uniform numbers in (0, 1), shape (N, D).
        plan: Plan of the build. The others are drawn from the dimensions that it samples.
    """
    is_sampled = np.zeros(directions.shape[1], dtype=bool)
    is_sampled[resources(plan).space.select(plan.config.sampling.dimensions, "sampling.dimensions")] = True
    is_asked: npt.NDArray[np.bool_] = directions != 0
    keys = np.where(is_sampled & ~is_asked, draws, np.inf)
    first = np.argsort(keys, axis=1, kind="stable")[:, : plan.config.verification.drift_dimensions]
    drawn = np.zeros_like(is_asked)
    np.put_along_axis(drawn, first, np.isfinite(np.take_along_axis(keys, first, axis=1)), axis=1)
    return is_asked | drawn


@lru_cache(maxsize=4)
def _questionnaire(plan: BuildPlan) -> Questionnaire:
    """Return the questions about all dimensions of the space by their indices, then the one about quality."""
    parts, settings = resources(plan), plan.config.verification
    texts = [dimension_texts(parts.styled("annotate"), dimension) for dimension in parts.space.plain]
    texts.append(question_texts(parts.styled("quality"), _QUALITIES))
    head = choice_head(plan.config.judge, settings.structured_outputs)
    return make_questionnaire(head, texts, settings.prompts_per_call)


def _with_requests(
    claim: Claim, dimensions: npt.NDArray[np.int64], starts: npt.NDArray[np.int64], plan: BuildPlan
) -> Claim:
    settings = plan.config.verification
    # Number D is the question about quality.
    questions = np.append(dimensions, len(claim.pair.direction)) if settings.quality else dimensions
    orders = _SEQUENCES[starts[questions], : settings.orders]
    asked = np.stack([np.repeat(questions, settings.orders), orders.reshape(-1)], axis=1)
    context = resources(plan).styled("annotate").render_block
    requests: list[AnyRequest] = []
    for reply in (claim.pair.chosen, claim.pair.rejected):
        prefix = context("context", post=claim.post.plain, response=reply)
        requests += _questionnaire(plan).requests(prefix, asked)
    return replace(claim, asked=asked, requests=tuple(requests))
