"""Annotation of responses: a model says for each dimension which pole a response shows, or that it cannot tell.

In mode `choice` a dimension is a question with one-token options. A request holds many questions about one response,
after a prefix that all of them share. In mode `json` one structured reply answers for all dimensions.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from pipeline.generation.completions import (
    OPTIONS,
    AnyRequest,
    Completion,
    Failure,
    Outcome,
    choice_head,
    count_tokens,
    decode_probabilities,
    make_choice_request,
    make_request,
)
from pipeline.generation.json_formats import LEVEL_OF, levels_format
from pipeline.plan import BuildPlan, ShardSpec
from pipeline.quality.rules import Violation
from pipeline.runtime.resources import resources
from pipeline.threads.batch import ThreadBatch
from schemas.answers import read_object
from schemas.records import Pair, Rejection

_MEANINGS = 3
"""Meanings of an option, in this order: positive pole, negative pole, cannot tell."""
_ORDERS = tuple(itertools.permutations(range(_MEANINGS)))
"""Assignments of the meanings to the options A, B, C. The first is the one of `option_order: fixed`."""

_Levels = tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]
"""Levels (D,) of a response, and the probabilities (D, 2) of both poles."""
_Cause = Violation | Failure


@dataclass(frozen=True, slots=True)
class AnnotationRequest:
    """A request about the response at `row` of the shard's threads."""

    row: int
    request: AnyRequest


@dataclass(frozen=True, slots=True)
class MinedShard:
    """The element of phase one for mined pairs.

    `outcomes` belong to `pending`, one each. The token counts cover all attempts.
    """

    spec: ShardSpec
    threads: ThreadBatch
    pending: Sequence[AnnotationRequest] = ()
    outcomes: Sequence[Outcome] = ()
    pairs: Sequence[Pair] = ()
    rejections: Sequence[Rejection] = ()
    prompt_tokens: int = 0
    completion_tokens: int = 0

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
    """Render the requests about every response without levels."""
    requests: list[AnnotationRequest] = []
    if plan.mining.annotation.mode != "given":
        render = _render_choices if plan.mining.annotation.mode == "choice" else _render_structured
        for row in np.flatnonzero(~shard.threads.annotated).tolist():
            requests += render(shard.threads, row, plan, attempt)
    return replace(shard, pending=requests, outcomes=())


def read_levels(shard: MinedShard, plan: BuildPlan, attempt: int) -> MinedShard:
    """Return the shard with the levels that its outcomes give, and a rejection for each response without any."""
    threads, rejections = shard.threads, [*shard.rejections]
    levels, poles, annotated = threads.levels.copy(), threads.probabilities.copy(), threads.annotated.copy()
    read = _read_choices if plan.mining.annotation.mode == "choice" else _read_structured
    answers = zip(shard.pending, shard.outcomes, strict=True)
    for row, group in itertools.groupby(answers, key=lambda answer: answer[0].row):
        outcomes = [outcome for _, outcome in group]
        found = read(outcomes, threads, row, plan)
        if isinstance(found, Violation | Failure):
            # People can read a structured reply; the probabilities of a choice say nothing to them.
            readable = outcomes if plan.mining.annotation.mode == "json" else []
            rejections.append(_rejection(threads, row, found, attempt, readable))
        else:
            levels[row], poles[row] = found
            annotated[row] = True
    prompt_tokens, completion_tokens = count_tokens(shard.outcomes)
    return replace(
        shard,
        threads=replace(threads, levels=levels, probabilities=poles, annotated=annotated),
        pending=(),
        outcomes=(),
        rejections=rejections,
        prompt_tokens=shard.prompt_tokens + prompt_tokens,
        completion_tokens=shard.completion_tokens + completion_tokens,
    )


def max_attempts(plan: BuildPlan) -> int:
    """Return how often a response is annotated at most. A choice is deterministic, so asking again is of no use."""
    return plan.config.attempts if plan.mining.annotation.mode == "json" else 1


def option_orders(seed: int, post: str, response: str, dimensions: int) -> npt.NDArray[np.int64]:
    """Return the order of options of each dimension, which depends on the seed and the ids alone.

    Returns:
        Indices into the six orders, shape (D,).
    """
    text = f"options\x1f{seed}\x1f{post}\x1f{response}"
    draws = np.frombuffer(hashlib.shake_128(text.encode()).digest(4 * dimensions), dtype="<u4")
    return (draws % len(_ORDERS)).astype(np.int64)


def confident_levels(probabilities: npt.NDArray[np.float32], min_confidence: float) -> npt.NDArray[np.int8]:
    """Return the likeliest level, or 0 where it is tied or less likely than `min_confidence`.

    Args:
        probabilities: Of (positive, negative, cannot tell), shape (..., 3).
        min_confidence: Least probability of a level, in [0, 1].

    Returns:
        Levels of 1, -1 and 0, shape (...).
    """
    best, top = probabilities.argmax(axis=-1), probabilities.max(axis=-1, keepdims=True)
    is_unique = (probabilities == top).sum(axis=-1) == 1
    is_confident = top[..., 0] >= np.float32(min_confidence)
    return np.where(is_confident & is_unique, np.array([1, -1, 0], dtype=np.int8)[best], np.int8(0))


@dataclass(frozen=True)
class _Questionnaire:
    """The questions of a build.

    `texts[k][order]` is the question about dimension `dimensions[k]`; `head` has the fields that all requests share.
    `digest` identifies `head` and `texts`.
    """

    dimensions: npt.NDArray[np.int64]
    texts: Sequence[Sequence[str]]
    head: dict[str, Any]
    digest: bytes


@lru_cache(maxsize=4)
def _questionnaire(plan: BuildPlan) -> _Questionnaire:
    parts, dimensions = resources(plan), annotated_dimensions(plan)
    render = parts.templates["annotate"].render_block
    texts = [
        ["\n" + render("question", dimension=dimension, options=_options(dimension, order)) for order in _ORDERS]
        for dimension in (parts.space.plain[d] for d in dimensions)
    ]
    head = choice_head(plan.config.generation.model, plan.mining.annotation.structured_outputs)
    digest = hashlib.blake2b(orjson.dumps([head, texts]), digest_size=16).digest()
    return _Questionnaire(dimensions, texts, head, digest)


def annotated_dimensions(plan: BuildPlan) -> npt.NDArray[np.int64]:
    """Return the indices of the dimensions that this build annotates."""
    return resources(plan).space.select(plan.mining.annotation.dimensions, "mining.annotation.dimensions")


def _options(dimension: Mapping[str, Any], order: Sequence[int]) -> list[dict[str, str]]:
    """Return the options as the template takes them; `order[k]` is the meaning of option k."""
    options = []
    for letter, meaning in zip(OPTIONS, order, strict=True):
        pole = (dimension["positive"], dimension["negative"], {"label": "", "description": ""})[meaning]
        options.append({"letter": letter, "label": pole["label"], "description": pole["description"]})
    return options


def _render_choices(threads: ThreadBatch, row: int, plan: BuildPlan, attempt: int) -> list[AnnotationRequest]:
    sheet, size = _questionnaire(plan), plan.mining.annotation.prompts_per_call
    post = threads.posts[threads.thread_of(row)]
    prefix = resources(plan).templates["annotate"].render_block("context", post=post.plain, response=threads.texts[row])
    orders = _orders_of(threads, row, plan)
    requests = []
    for start in range(0, len(sheet.dimensions), size):
        chunk = orders[start : start + size]
        texts = tuple(sheet.texts[start + k][order] for k, order in enumerate(chunk.tolist()))
        digest = sheet.digest + start.to_bytes(4, "little") + chunk.astype(np.uint8).tobytes()
        requests.append(AnnotationRequest(row, make_choice_request(sheet.head, prefix, texts, digest)))
    return requests


def _read_choices(outcomes: Sequence[Outcome], threads: ThreadBatch, row: int, plan: BuildPlan) -> _Levels | _Cause:
    sheet = _questionnaire(plan)
    by_option = []
    for outcome in outcomes:
        if isinstance(outcome, Failure):
            return outcome
        by_option.append(decode_probabilities(outcome.text))
    options = np.concatenate(by_option).astype(np.float32)
    # Bytes are rounded, so that the three of a question may not add up to 255.
    options /= np.maximum(options.sum(axis=1, keepdims=True), 1)
    if len(options) != len(sheet.dimensions):
        return Violation("incomplete", f"{len(options)} answers to {len(sheet.dimensions)} questions")
    if not options.any():
        return Violation("no_option", "the model gave none of the options to any question")
    orders = np.array(_ORDERS)[_orders_of(threads, row, plan)]
    by_meaning = np.empty_like(options)
    np.put_along_axis(by_meaning, orders, options, axis=1)
    levels = np.zeros(threads.levels.shape[1], dtype=np.int8)
    poles = np.zeros((len(levels), 2), dtype=np.float32)
    levels[sheet.dimensions] = confident_levels(by_meaning, plan.mining.annotation.min_confidence)
    poles[sheet.dimensions] = by_meaning[:, :2]
    return levels, poles


def _orders_of(threads: ThreadBatch, row: int, plan: BuildPlan) -> npt.NDArray[np.int64]:
    sheet = _questionnaire(plan)
    if plan.mining.annotation.option_order == "fixed":
        return np.zeros(len(sheet.dimensions), dtype=np.int64)
    post = threads.posts[threads.thread_of(row)].id
    return option_orders(plan.config.seed, post, threads.ids[row], threads.levels.shape[1])[sheet.dimensions]


@lru_cache(maxsize=4)
def _levels_format(plan: BuildPlan) -> dict[str, Any] | None:
    """Return the `response_format` of a structured reply; None where the engine shall not constrain it."""
    if not plan.mining.annotation.structured_outputs:
        return None
    space = resources(plan).space
    return levels_format([space.dimensions[d].slug for d in annotated_dimensions(plan)])


def _render_structured(threads: ThreadBatch, row: int, plan: BuildPlan, attempt: int) -> list[AnnotationRequest]:
    parts = resources(plan)
    dimensions = [parts.space.plain[d] for d in annotated_dimensions(plan)]
    post = threads.posts[threads.thread_of(row)]
    given = {"post": post.plain, "response": threads.texts[row], "dimensions": dimensions}
    messages = parts.templates["annotate_json"].render(**given)
    counter = (plan.config.seed, "annotate", post.id, threads.ids[row], attempt)
    request = make_request(
        plan.config.generation,
        messages,
        counter,
        max_tokens=plan.mining.annotation.max_tokens,
        stop=None,
        response_format=_levels_format(plan),
    )
    return [AnnotationRequest(row, request)]


def _read_structured(outcomes: Sequence[Outcome], threads: ThreadBatch, row: int, plan: BuildPlan) -> _Levels | _Cause:
    (outcome,) = outcomes
    if isinstance(outcome, Failure):
        return outcome
    if outcome.finish_reason != "stop":
        return Violation("unfinished", f"finish_reason {outcome.finish_reason}")
    try:
        verdicts = read_object(outcome.text)
    except ValueError as error:
        return Violation("schema", str(error))
    space = resources(plan).space
    levels = np.zeros(len(space), dtype=np.int8)
    for d in annotated_dimensions(plan).tolist():
        slug = space.dimensions[d].slug
        if slug not in verdicts:
            return Violation("schema", f"no answer for '{slug}'")
        verdict = verdicts[slug]
        if not isinstance(verdict, str) or verdict not in LEVEL_OF:
            found = orjson.dumps(verdict)[:40].decode(errors="replace")
            return Violation("schema", f"{slug}: found {found}, expected one of {', '.join(LEVEL_OF)}")
        levels[d] = LEVEL_OF[verdict]
    return levels, np.stack([levels > 0, levels < 0], axis=-1).astype(np.float32)


def unanswered_responses(shard: MinedShard) -> set[int]:
    """Return the rows of the responses without levels that another run would ask about again."""
    failed = {rejection.record_id for rejection in shard.rejections if rejection.may_pass}
    without_levels = np.flatnonzero(~shard.threads.annotated).tolist() if failed else []
    return {row for row in without_levels if _response_id(shard.threads, row) in failed}


def _response_id(threads: ThreadBatch, row: int) -> str:
    return f"{threads.posts[threads.thread_of(row)].id}/{threads.ids[row]}"


def _rejection(threads: ThreadBatch, row: int, cause: _Cause, attempt: int, outcomes: Sequence[Outcome]) -> Rejection:
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
        may_pass=cause.may_pass,
    )
