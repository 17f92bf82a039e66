"""Annotation by one-token choices: a question for each dimension, with three options in a drawn order."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from pipeline.generation.completions import AnyRequest, Failure, Outcome, choice_head
from pipeline.plan import BuildPlan
from pipeline.quality.rules import Violation
from pipeline.questions.choices import (
    ORDERS,
    Asked,
    Questionnaire,
    by_meaning,
    dimension_texts,
    make_questionnaire,
    read_options,
)
from pipeline.runtime.resources import resources
from pipeline.threads.batch import ThreadBatch

Levels = tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]
"""Levels (D,) of a response, and the probabilities (D, 2) of both poles."""


@lru_cache(maxsize=4)
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
        Indices into `ORDERS`, shape (D,).
    """
    text = f"options\x1f{seed}\x1f{post}\x1f{response}"
    draws = np.frombuffer(hashlib.shake_128(text.encode()).digest(4 * dimensions), dtype="<u4")
    return (draws % len(ORDERS)).astype(np.int64)


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


@lru_cache(maxsize=4)
def _questionnaire(plan: BuildPlan) -> Questionnaire:
    parts, annotation = resources(plan), plan.mining.annotation
    template = parts.templates["annotate"]
    texts = [dimension_texts(template, parts.space.plain[d]) for d in annotated_dimensions(plan)]
    head = choice_head(plan.config.generation.model, annotation.structured_outputs)
    return make_questionnaire(head, texts, annotation.prompts_per_call)


def render_choices(threads: ThreadBatch, row: int, plan: BuildPlan) -> list[AnyRequest]:
    """Render the requests about the response at `row`, each with many questions."""
    post = threads.posts[threads.thread_of(row)]
    prefix = resources(plan).templates["annotate"].render_block("context", post=post.plain, response=threads.texts[row])
    return _questionnaire(plan).requests(prefix, _asked(threads, row, plan))


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
    dimensions, asked = annotated_dimensions(plan), _asked(threads, row, plan)
    options = read_options(outcomes, len(asked))
    if isinstance(options, Violation | Failure):
        return options
    found = by_meaning(options, asked[:, 1])
    levels = np.zeros(threads.levels.shape[1], dtype=np.int8)
    poles = np.zeros((len(levels), 2), dtype=np.float32)
    levels[dimensions] = confident_levels(found, plan.mining.annotation.min_confidence)
    poles[dimensions] = found[:, :2]
    return levels, poles


def _asked(threads: ThreadBatch, row: int, plan: BuildPlan) -> Asked:
    """Return the questions about a response: one for each annotated dimension, in its order of options."""
    dimensions = annotated_dimensions(plan)
    orders = np.zeros(len(dimensions), dtype=np.int64)
    if plan.mining.annotation.option_order == "shuffled":
        post = threads.posts[threads.thread_of(row)].id
        orders = option_orders(plan.config.seed, post, threads.ids[row], threads.levels.shape[1])[dimensions]
    return np.stack([np.arange(len(dimensions)), orders], axis=1)
