"""Intensity annotation: for each response and dimension the positive pole, the negative one, or 'cannot tell'."""

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
    make_choice_request,
    make_request,
    probabilities,
)
from pipeline.generation.json_formats import LEVEL_OF, levels_format
from pipeline.plan import BuildPlan, ShardSpec
from pipeline.quality.rules import Violation
from pipeline.runtime.resources import resources
from pipeline.threads.joined import Threads
from schemas.answers import read_object
from schemas.config import AnnotationConfig
from schemas.records import Pair, Rejection

_MEANINGS = 3
"""Positive, negative, cannot tell: what an option may stand for, in this order."""
_ORDERS = tuple(itertools.permutations(range(_MEANINGS)))
"""Ways to put them to the options A, B, C. The first is the fixed one."""


@dataclass(frozen=True, slots=True)
class Question:
    """What a request asks: about which response, and from which of the asked dimensions on."""

    row: int
    start: int
    request: AnyRequest


@dataclass(frozen=True, slots=True)
class MinedShard:
    """The element of phase one for mined pairs. `outcomes` answer `questions`; tokens are those of all attempts."""

    spec: ShardSpec
    threads: Threads
    questions: Sequence[Question] = ()
    outcomes: Sequence[Outcome] = ()
    pairs: Sequence[Pair] = ()
    rejections: Sequence[Rejection] = ()
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def journal(self) -> str:
        """Name of the journal that holds this shard's answers."""
        return f"pairs-{self.spec.name}"

    def requests(self) -> list[AnyRequest]:
        """Every request, in order: all about one response follow one another, as they share a prefix."""
        return [question.request for question in self.questions]

    def with_outcomes(self, outcomes: Sequence[Outcome]) -> MinedShard:
        """The same shard, its questions answered."""
        return replace(self, outcomes=tuple(outcomes))


def admit_given(threads: Threads, plan: BuildPlan) -> Threads:
    """Levels that came with the threads, as this build would have taken them: of asked dimensions, sure ones only."""
    asked = np.zeros(threads.levels.shape[1], dtype=bool)
    asked[asked_dimensions(plan)] = True
    shares = threads.shares * asked[:, None]
    unclear = np.maximum(np.float32(0), 1 - shares.sum(axis=-1, keepdims=True))
    levels = confident_levels(np.concatenate([shares, unclear], axis=-1), settings(plan).min_confidence)
    return replace(threads, levels=levels, shares=shares)


def ask(shard: MinedShard, plan: BuildPlan, attempt: int) -> MinedShard:
    """Render the questions about every response that has no levels yet."""
    questions: list[Question] = []
    if settings(plan).mode != "given":
        render = _choices if settings(plan).mode == "choice" else _structured
        for row in np.flatnonzero(~shard.threads.known).tolist():
            questions += render(shard.threads, row, plan, attempt)
    return replace(shard, questions=questions, outcomes=())


def take_levels(shard: MinedShard, plan: BuildPlan, attempt: int) -> MinedShard:
    """Read the answers. A response of which a question was not answered well is left without levels, and told so."""
    threads = shard.threads
    levels, shares, known = threads.levels.copy(), threads.shares.copy(), threads.known.copy()
    rejections = [*shard.rejections]
    read = _read_choices if settings(plan).mode == "choice" else _read_structured
    answers = zip(shard.questions, shard.outcomes, strict=True)
    for row, group in itertools.groupby(answers, key=lambda answer: answer[0].row):
        answered = list(group)
        found = read(answered, threads, plan)
        if isinstance(found, Violation | Failure):
            # A structured reply is worth reading; the probabilities of a choice are not.
            said = [outcome for _, outcome in answered if settings(plan).mode == "json"]
            rejections.append(_rejection(threads, row, found, attempt, said))
        else:
            levels[row], shares[row] = found
            known[row] = True
    spent = [outcome for outcome in shard.outcomes if isinstance(outcome, Completion)]
    return replace(
        shard,
        threads=replace(threads, levels=levels, shares=shares, known=known),
        questions=(),
        outcomes=(),
        rejections=rejections,
        prompt_tokens=shard.prompt_tokens + sum(completion.prompt_tokens for completion in spent),
        completion_tokens=shard.completion_tokens + sum(completion.completion_tokens for completion in spent),
    )


def rounds(plan: BuildPlan) -> int:
    """How often a response is asked about at most: a choice comes out the same again, a structured reply need not."""
    return plan.config.attempts if settings(plan).mode == "json" else 1


def option_orders(seed: int, post: str, response: str, dimensions: int) -> npt.NDArray[np.int64]:
    """Which order of options each dimension gets, shape (D,): a function of seed and ids alone."""
    text = f"options\x1f{seed}\x1f{post}\x1f{response}"
    draws = np.frombuffer(hashlib.shake_128(text.encode()).digest(4 * dimensions), dtype="<u4")
    return (draws % len(_ORDERS)).astype(np.int64)


def confident_levels(shares: npt.NDArray[np.float32], min_confidence: float) -> npt.NDArray[np.int8]:
    """Levels from probabilities of (positive, negative, cannot tell), shape (..., 3) to (...). A tie tells nothing."""
    best, top = shares.argmax(axis=-1), shares.max(axis=-1, keepdims=True)
    alone = (shares == top).sum(axis=-1) == 1
    sure = top[..., 0] >= np.float32(min_confidence)
    return np.where(sure & alone, np.array([1, -1, 0], dtype=np.int8)[best], np.int8(0))


@dataclass(frozen=True)
class _Sheet:
    """The questions of a build: `texts[d][order]` of each asked dimension, and what identifies them all."""

    asked: npt.NDArray[np.int64]
    texts: Sequence[Sequence[str]]
    head: dict[str, Any]
    identity: bytes


@lru_cache(maxsize=4)
def _sheet(plan: BuildPlan) -> _Sheet:
    parts, config = resources(plan), settings(plan)
    asked = asked_dimensions(plan)
    render = parts.templates["annotate"].render_block
    texts = [
        ["\n" + render("question", dimension=dimension, options=_options(dimension, order)) for order in _ORDERS]
        for dimension in (parts.space.plain[d] for d in asked)
    ]
    head = choice_head(plan.config.generation.model, config.structured_outputs)
    identity = hashlib.blake2b(orjson.dumps([head, texts]), digest_size=16).digest()
    return _Sheet(asked, texts, head, identity)


def asked_dimensions(plan: BuildPlan) -> npt.NDArray[np.int64]:
    """The dimensions that a response is asked about."""
    return resources(plan).space.select(settings(plan).dimensions, "mining.annotation.dimensions")


def _options(dimension: Mapping[str, Any], order: Sequence[int]) -> list[dict[str, str]]:
    """`order[k]` is what option k stands for."""
    options = []
    for letter, meaning in zip(OPTIONS, order, strict=True):
        pole = (dimension["positive"], dimension["negative"], {"label": "", "description": ""})[meaning]
        options.append({"letter": letter, "label": pole["label"], "description": pole["description"]})
    return options


def _choices(threads: Threads, row: int, plan: BuildPlan, attempt: int) -> list[Question]:
    sheet, config = _sheet(plan), settings(plan)
    post = threads.posts[threads.thread_of(row)]
    prefix = resources(plan).templates["annotate"].render_block("context", post=post.plain, response=threads.texts[row])
    orders = _orders_of(threads, row, plan)
    questions = []
    for start in range(0, len(sheet.asked), config.prompts_per_call):
        chunk = orders[start : start + config.prompts_per_call]
        texts = tuple(sheet.texts[start + k][order] for k, order in enumerate(chunk.tolist()))
        known = sheet.identity + start.to_bytes(4, "little") + chunk.astype(np.uint8).tobytes()
        questions.append(Question(row, start, make_choice_request(sheet.head, prefix, texts, known)))
    return questions


def _read_choices(
    answers: Sequence[tuple[Question, Outcome]], threads: Threads, plan: BuildPlan
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]] | Violation | Failure:
    sheet = _sheet(plan)
    by_option = []
    for _, outcome in answers:
        if isinstance(outcome, Failure):
            return outcome
        by_option.append(probabilities(outcome.text))
    options = np.concatenate(by_option).astype(np.float32)
    # Of rounded numbers, so that the three add up to one.
    options /= np.maximum(options.sum(axis=1, keepdims=True), 1)
    if len(options) != len(sheet.asked):
        return Violation("incomplete", f"{len(options)} answers to {len(sheet.asked)} questions")
    if not options.any():
        return Violation("no_option", "the model gave none of the options to any question")
    orders = np.array(_ORDERS)[_orders_of(threads, answers[0][0].row, plan)]
    by_meaning = np.empty_like(options)
    np.put_along_axis(by_meaning, orders, options, axis=1)
    levels = np.zeros(threads.levels.shape[1], dtype=np.int8)
    shares = np.zeros((len(levels), 2), dtype=np.float32)
    levels[sheet.asked] = confident_levels(by_meaning, settings(plan).min_confidence)
    shares[sheet.asked] = by_meaning[:, :2]
    return levels, shares


def _orders_of(threads: Threads, row: int, plan: BuildPlan) -> npt.NDArray[np.int64]:
    sheet = _sheet(plan)
    if settings(plan).option_order == "fixed":
        return np.zeros(len(sheet.asked), dtype=np.int64)
    post = threads.posts[threads.thread_of(row)].id
    return option_orders(plan.config.seed, post, threads.ids[row], threads.levels.shape[1])[sheet.asked]


@lru_cache(maxsize=4)
def _levels_format(plan: BuildPlan) -> dict[str, Any] | None:
    """The `response_format` of a structured reply; None where the engine is not to constrain it."""
    if not settings(plan).structured_outputs:
        return None
    space = resources(plan).space
    return levels_format([space.dimensions[d].slug for d in asked_dimensions(plan)])


def _structured(threads: Threads, row: int, plan: BuildPlan, attempt: int) -> list[Question]:
    parts = resources(plan)
    dimensions = [parts.space.plain[d] for d in asked_dimensions(plan)]
    post = threads.posts[threads.thread_of(row)]
    given = {"post": post.plain, "response": threads.texts[row], "dimensions": dimensions}
    messages = parts.templates["annotate_json"].render(**given)
    counter = (plan.config.seed, "annotate", post.id, threads.ids[row], attempt)
    request = make_request(
        plan.config.generation,
        messages,
        counter,
        max_tokens=settings(plan).max_tokens,
        stop=None,
        response_format=_levels_format(plan),
    )
    return [Question(row, 0, request)]


def _read_structured(
    answers: Sequence[tuple[Question, Outcome]], threads: Threads, plan: BuildPlan
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]] | Violation | Failure:
    outcome = answers[0][1]
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
    for d in asked_dimensions(plan).tolist():
        slug = space.dimensions[d].slug
        if slug not in verdicts:
            return Violation("schema", f"no answer for '{slug}'")
        verdict = verdicts[slug]
        if not isinstance(verdict, str) or verdict not in LEVEL_OF:
            found = orjson.dumps(verdict)[:40].decode(errors="replace")
            return Violation("schema", f"{slug}: found {found}, expected one of {', '.join(LEVEL_OF)}")
        levels[d] = LEVEL_OF[verdict]
    return levels, np.stack([levels > 0, levels < 0], axis=-1).astype(np.float32)


def open_responses(shard: MinedShard) -> set[int]:
    """Rows of the responses that have no levels because of circumstances: another run would ask about them again."""
    failed = {rejection.record_id for rejection in shard.rejections if rejection.may_pass}
    unknown = np.flatnonzero(~shard.threads.known).tolist() if failed else []
    return {row for row in unknown if _response_id(shard.threads, row) in failed}


def _response_id(threads: Threads, row: int) -> str:
    return f"{threads.posts[threads.thread_of(row)].id}/{threads.ids[row]}"


def settings(plan: BuildPlan) -> AnnotationConfig:
    """How responses are annotated."""
    return plan.mining.annotation


def _rejection(
    threads: Threads, row: int, cause: Violation | Failure, attempt: int, outcomes: Sequence[Outcome]
) -> Rejection:
    """A response without levels; no pair is lost by it alone, so it is never final."""
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
