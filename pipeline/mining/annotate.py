"""Annotation of responses: a model says for each dimension which pole a response shows, or that it cannot tell.

In mode `choice` each dimension is a question (`choice_levels.py`). In mode `json` one structured reply answers for all
dimensions. In mode `given` the levels come with the threads.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import orjson

from pipeline.generation.completions import (
    AnyRequest,
    Completion,
    Failure,
    Outcome,
    count_tokens,
    make_request,
)
from pipeline.generation.json_formats import LEVEL_OF, levels_format
from pipeline.mining.choice_levels import Levels, annotated_dimensions, confident_levels, read_choices, render_choices
from pipeline.plan import BuildPlan, ShardSpec
from pipeline.quality.rules import Violation
from pipeline.runtime.resources import resources
from pipeline.runtime.results import NO_TOKENS, Tokens
from pipeline.threads.batch import ThreadBatch
from preference_space.levels import pole_probabilities
from schemas.answers import read_object
from schemas.records import Pair, Rejection


@dataclass(frozen=True, slots=True)
class AnnotationRequest:
    """A request about the response at `row` of the shard's threads."""

    row: int
    request: AnyRequest


@dataclass(frozen=True, slots=True)
class MinedShard:
    """The element of phase one for mined pairs.

    `outcomes` belong to `pending`, one each. `tokens` are of all attempts.
    """

    spec: ShardSpec
    threads: ThreadBatch
    pending: Sequence[AnnotationRequest] = ()
    outcomes: Sequence[Outcome] = ()
    pairs: Sequence[Pair] = ()
    rejections: Sequence[Rejection] = ()
    tokens: Tokens = NO_TOKENS

    @property
    def journal(self) -> str:
        """Return the name of the journal with this shard's answers."""
        return f"pairs-{self.spec.name}"

    def requests(self) -> list[AnyRequest]:
        """Return the pending requests. Those about one response are adjacent, so that the engine reuses the prefix."""
        return [entry.request for entry in self.pending]

    def with_outcomes(self, outcomes: Sequence[Outcome]) -> MinedShard:
        """Return the shard with the outcomes of `requests()`, in their order."""
        return replace(self, outcomes=tuple(outcomes))


def filter_given_levels(threads: ThreadBatch, plan: BuildPlan) -> ThreadBatch:
    """Return threads whose given levels obey this build's annotation settings.

    Dimensions that the build does not annotate become neutral, and so do levels below `min_confidence`.
    """
    is_annotated = np.zeros(threads.levels.shape[1], dtype=bool)
    is_annotated[annotated_dimensions(plan)] = True
    poles = threads.probabilities * is_annotated[:, None]
    cannot_tell = np.maximum(np.float32(0), 1 - poles.sum(axis=-1, keepdims=True))
    levels = confident_levels(np.concatenate([poles, cannot_tell], axis=-1), plan.mining.annotation.min_confidence)
    return replace(threads, levels=levels, probabilities=poles)


def render_questions(shard: MinedShard, plan: BuildPlan, attempt: int) -> MinedShard:
    """Render the requests about every response without levels.

    Args:
        shard: Shard of an earlier attempt, or one that was just loaded.
        plan: Plan of the build.
        attempt: Number of the attempt, from 0; it changes the sampling seed of structured replies.
    """
    requests: list[AnnotationRequest] = []
    if plan.mining.annotator is not None:
        for row in np.flatnonzero(~shard.threads.annotated).tolist():
            if plan.mining.annotator == "choice":
                found = render_choices(shard.threads, row, plan)
            else:
                found = [_render_structured(shard.threads, row, plan, attempt)]
            requests += [AnnotationRequest(row, request) for request in found]
    return replace(shard, pending=requests, outcomes=())


def read_levels(shard: MinedShard, plan: BuildPlan, attempt: int) -> MinedShard:
    """Return the shard with the levels that its outcomes give.

    A response without usable outcomes stays without levels, and gets a rejection.

    Args:
        shard: Shard with an outcome for each pending request.
        plan: Plan of the build.
        attempt: Number of the attempt, from 0, for rejections.
    """
    threads, rejections = shard.threads, [*shard.rejections]
    levels, poles, annotated = threads.levels.copy(), threads.probabilities.copy(), threads.annotated.copy()
    annotator = plan.mining.annotator
    answers = zip(shard.pending, shard.outcomes, strict=True)
    for row, group in itertools.groupby(answers, key=lambda answer: answer[0].row):
        outcomes = [outcome for _, outcome in group]
        found = (
            read_choices(outcomes, threads, row, plan) if annotator == "choice" else _read_structured(outcomes[0], plan)
        )
        if isinstance(found, Violation | Failure):
            # People can read a structured reply; the probabilities of a choice say nothing to them.
            readable = outcomes if annotator == "json" else []
            rejections.append(_rejection(threads, row, found, attempt, readable))
        else:
            levels[row], poles[row] = found
            annotated[row] = True
    return replace(
        shard,
        threads=replace(threads, levels=levels, probabilities=poles, annotated=annotated),
        pending=(),
        outcomes=(),
        rejections=rejections,
        tokens=shard.tokens + count_tokens(shard.outcomes),
    )


def max_attempts(plan: BuildPlan) -> int:
    """Return how often a response is annotated at most. A choice is deterministic, so asking again is of no use."""
    return plan.config.attempts if plan.mining.annotator == "json" else 1


@lru_cache(maxsize=4)
def _levels_format(plan: BuildPlan) -> dict[str, Any] | None:
    """Return the `response_format` of a structured reply; None where the engine shall not constrain it."""
    if not plan.mining.annotation.structured_outputs:
        return None
    space = resources(plan).space
    return levels_format([space.dimensions[d].slug for d in annotated_dimensions(plan)])


def _render_structured(threads: ThreadBatch, row: int, plan: BuildPlan, attempt: int) -> AnyRequest:
    parts = resources(plan)
    dimensions = [parts.space.plain[d] for d in annotated_dimensions(plan)]
    post = threads.posts[threads.thread_of(row)]
    given = {"post": post.plain, "response": threads.texts[row], "dimensions": dimensions}
    messages = parts.templates["annotate_json"].render(**given)
    counter = (plan.config.seed, "annotate", post.id, threads.ids[row], attempt)
    return make_request(
        plan.config.generation,
        messages,
        counter,
        max_tokens=plan.config.generation.token_limit(plan.mining.annotation.max_tokens),
        stop=None,
        response_format=_levels_format(plan),
    )


def _read_structured(outcome: Outcome, plan: BuildPlan) -> Levels | Violation | Failure:
    if isinstance(outcome, Failure):
        return outcome
    if outcome.finish_reason != "stop":
        return Violation("unfinished", f"finish_reason {outcome.finish_reason}")
    try:
        answers = read_object(outcome.text)
    except ValueError as error:
        return Violation("schema", str(error))
    space = resources(plan).space
    levels = np.zeros(len(space), dtype=np.int8)
    for d in annotated_dimensions(plan).tolist():
        slug = space.dimensions[d].slug
        if slug not in answers:
            return Violation("schema", f"no answer for '{slug}'")
        answer = answers[slug]
        if not isinstance(answer, str) or answer not in LEVEL_OF:
            found = orjson.dumps(answer)[:40].decode(errors="replace")
            return Violation("schema", f"{slug}: found {found}, expected one of {', '.join(LEVEL_OF)}")
        levels[d] = LEVEL_OF[answer]
    return levels, pole_probabilities(levels)


def unanswered_responses(shard: MinedShard) -> set[int]:
    """Return the rows of the responses without levels that another run would ask about again."""
    failed = {rejection.record_id for rejection in shard.rejections if rejection.may_pass}
    without_levels = np.flatnonzero(~shard.threads.annotated).tolist() if failed else []
    return {row for row in without_levels if _response_id(shard.threads, row) in failed}


def _response_id(threads: ThreadBatch, row: int) -> str:
    return f"{threads.posts[threads.thread_of(row)].id}/{threads.ids[row]}"


def _rejection(
    threads: ThreadBatch, row: int, cause: Violation | Failure, attempt: int, outcomes: Sequence[Outcome]
) -> Rejection:
    """Return the rejection of a response. It costs no pair by itself, so it is never final."""
    post = threads.posts[threads.thread_of(row)]
    return Rejection(
        record_id=_response_id(threads, row),
        stage="annotate",
        reason=cause.reason,
        detail=cause.detail,
        attempt=attempt,
        final=False,
        post_id=post.id,
        prompt=post.prompt,
        direction=(0,) * threads.levels.shape[1],
        texts=(threads.texts[row], *(outcome.text for outcome in outcomes if isinstance(outcome, Completion))),
        kind="mined",
        may_pass=cause.may_pass,
    )
