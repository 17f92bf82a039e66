"""One-token choices about a reply: questions with three options, many in a request after a prefix that all share.

Which meaning an option has is an *order*. Orders are drawn or averaged, as models prefer places.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from pipeline.generation.completions import (
    OPTIONS,
    AnyRequest,
    Failure,
    Outcome,
    decode_probabilities,
    make_choice_request,
)
from pipeline.quality.rules import Violation
from prompts.renderer import Template

MEANINGS = 3
"""Meanings of an option. Those about a dimension are: positive pole, negative pole, cannot tell."""
ORDERS = tuple(itertools.permutations(range(MEANINGS)))
"""Orders: `ORDERS[n][k]` is the meaning of option k. The first is the one of `option_order: fixed`."""

Asked = npt.NDArray[np.int64]
"""Questions of a reply, in turn: number of the question and of the order, shape (N, 2)."""


@dataclass(frozen=True)
class Questionnaire:
    """The questions of a build.

    `texts[k][n]` is question k with its options in order n; `head` has the fields that all requests share, and
    `digest` identifies both. A request holds at most `size` questions.
    """

    head: Mapping[str, Any]
    texts: Sequence[Sequence[str]]
    size: int
    digest: bytes

    def requests(self, prefix: str, asked: Asked) -> list[AnyRequest]:
        """Return the requests about the reply that `prefix` shows, to be sent one after another."""
        requests: list[AnyRequest] = []
        for start in range(0, len(asked), self.size):
            part = asked[start : start + self.size]
            texts = tuple(self.texts[question][order] for question, order in part.tolist())
            requests.append(make_choice_request(self.head, prefix, texts, self.digest + part.astype("<u2").tobytes()))
        return requests


def make_questionnaire(head: Mapping[str, Any], texts: Sequence[Sequence[str]], size: int) -> Questionnaire:
    """Return the questionnaire of these texts, one for each question and order."""
    digest = hashlib.blake2b(orjson.dumps([head, texts]), digest_size=16).digest()
    return Questionnaire(head, texts, size, digest)


def dimension_texts(template: Template, dimension: Mapping[str, Any]) -> list[str]:
    """Return the question about a dimension, in every order of its options."""
    poles = [dimension["positive"], dimension["negative"], {"label": "", "description": ""}]
    return question_texts(template, poles, dimension=dimension)


def question_texts(template: Template, meanings: Sequence[Mapping[str, str]], **inputs: object) -> list[str]:
    """Return a question in every order of its options.

    Args:
        template: Template with a block `question`.
        meanings: Label and description of each meaning.
        **inputs: Further inputs of the block.
    """
    texts = []
    for order in ORDERS:
        options = [
            {"letter": letter, "label": meanings[m]["label"], "description": meanings[m]["description"]}
            for letter, m in zip(OPTIONS, order, strict=True)
        ]
        texts.append("\n" + template.render_block("question", options=options, **inputs))
    return texts


def read_options(outcomes: Sequence[Outcome], questions: int) -> npt.NDArray[np.uint8] | Violation | Failure:
    """Return the probabilities of the options in 255ths, shape (N, 3), or the reason why there are none.

    Args:
        outcomes: One for each request about a reply.
        questions: N, the number of questions of these requests.
    """
    answers = []
    for outcome in outcomes:
        if isinstance(outcome, Failure):
            return outcome
        answers.append(decode_probabilities(outcome.text))
    options = np.concatenate(answers)
    if len(options) != questions:
        return Violation("incomplete", f"{len(options)} answers to {questions} questions")
    if not options.any():
        return Violation("no_option", "the model gave none of the options to any question")
    return options


def by_meaning(options: npt.NDArray[np.uint8], orders: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Return the probability of each meaning, shape (N, 3); zeros where a question has no answer.

    Args:
        options: Of `read_options`.
        orders: Number of the order of each question's options, shape (N,).
    """
    # Bytes are rounded, so that the three of a question may not add up to 255.
    shares: npt.NDArray[np.float32] = options / np.maximum(options.sum(axis=1, keepdims=True), 1).astype(np.float32)
    found = np.empty_like(shares)
    np.put_along_axis(found, _ORDERS[orders], shares, axis=1)
    return found


_ORDERS = np.array(ORDERS)
