"""Annotation by one-token choices: a question for each dimension, with three options in a drawn order.

A request holds many questions about one response, after a prefix that all of them share.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from pipeline.generation.completions import (
    OPTIONS,
    AnyRequest,
    Failure,
    Outcome,
    choice_head,
    decode_probabilities,
    make_choice_request,
)
from pipeline.plan import BuildPlan
from pipeline.quality.rules import Violation
from pipeline.runtime.resources import resources
from pipeline.threads.batch import ThreadBatch

_MEANINGS = 3
"""Meanings of an option, in this order: positive pole, negative pole, cannot tell."""
_ORDERS = tuple(itertools.permutations(range(_MEANINGS)))
"""Assignments of the meanings to the options A, B, C. The first is the one of `option_order: fixed`."""

Levels = tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]
"""Levels (D,) of a response, and the probabilities (D, 2) of both poles."""


def annotated_dimensions(plan: BuildPlan) -> npt.NDArray[np.int64]:
    """Return the indices of the dimensions that this build annotates."""
    return resources(plan).space.select(plan.mining.annotation.dimensions, "mining.annotation.dimensions")


def option_orders(seed: int, post: str, response: str, dimensions: int) -> npt.NDArray[np.int64]:
    """Draw the order of options of each dimension, a function of the seed and the ids.

    Args:
        seed: Seed of the build.
        post: Id of the post.
        response: Id of the response.
        dimensions: D, the number of dimensions of the space.

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


def _options(dimension: Mapping[str, Any], order: Sequence[int]) -> list[dict[str, str]]:
    """Return the options as the template takes them; `order[k]` is the meaning of option k."""
    options = []
    for letter, meaning in zip(OPTIONS, order, strict=True):
        pole = (dimension["positive"], dimension["negative"], {"label": "", "description": ""})[meaning]
        options.append({"letter": letter, "label": pole["label"], "description": pole["description"]})
    return options


def render_choices(threads: ThreadBatch, row: int, plan: BuildPlan) -> list[AnyRequest]:
    """Render the requests about the response at `row`, each with many questions."""
    sheet, size = _questionnaire(plan), plan.mining.annotation.prompts_per_call
    post = threads.posts[threads.thread_of(row)]
    prefix = resources(plan).templates["annotate"].render_block("context", post=post.plain, response=threads.texts[row])
    orders = _orders_of(threads, row, plan)
    requests: list[AnyRequest] = []
    for start in range(0, len(sheet.dimensions), size):
        chunk = orders[start : start + size]
        texts = tuple(sheet.texts[start + k][order] for k, order in enumerate(chunk.tolist()))
        digest = sheet.digest + start.to_bytes(4, "little") + chunk.astype(np.uint8).tobytes()
        requests.append(make_choice_request(sheet.head, prefix, texts, digest))
    return requests


def read_choices(
    outcomes: Sequence[Outcome], threads: ThreadBatch, row: int, plan: BuildPlan
) -> Levels | Violation | Failure:
    """Return the levels of the response at `row`, or the reason why its outcomes give none.

    Args:
        outcomes: One for each request of `render_choices`, in order.
        threads: Threads of the shard.
        row: Row of the response.
        plan: Plan of the build.
    """
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
