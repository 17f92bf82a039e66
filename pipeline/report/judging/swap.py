"""Persona swap: given a portrait, which reply does the judge prefer, and which one given the opposite portrait?

Every question is asked with the replies in both orders, since judges prefer places.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from pipeline.generation.completions import AnyRequest, Failure, Outcome, make_choice_request
from pipeline.quality.rules import Violation
from pipeline.questions.choices import by_meaning, read_options
from pipeline.reading.text import hash_texts
from pipeline.report.intervals import GROUPS, estimate_share, group_of
from pipeline.report.judging.sample import SampledPair
from prompts.renderer import Template
from schemas.records import SeedPost
from schemas.report import SwapFigures

Preferences = npt.NDArray[np.float32]
"""Probabilities of (own reply, other reply, no preference) for each portrait and order, shape (portraits, 2, 3).

The own reply of a pair's person is the chosen one; that of the opposite person is the rejected one.
"""

_OPTION_ORDERS = np.zeros(2, dtype=np.int64)
"""The options of both questions are in the first order: first reply, second reply, no preference."""


def swap_requests(sampled: SampledPair, post: SeedPost, template: Template, head: dict[str, Any]) -> list[AnyRequest]:
    """Return a request for each portrait, with the question in both orders of the replies."""
    chosen, rejected = sampled.pair.chosen, sampled.pair.rejected
    questions = tuple(
        "\n" + template.render_block("question", first=first, second=second)
        for first, second in ((chosen, rejected), (rejected, chosen))
    )
    digest = hashlib.blake2b(orjson.dumps([head, questions]), digest_size=16).digest()
    return [
        make_choice_request(
            head, template.render_block("context", portrait=portrait, post=post.plain), questions, digest
        )
        for portrait in sampled.portraits
    ]


def read_preferences(outcomes: Sequence[Outcome]) -> Preferences | Violation | Failure:
    """Return the preferences in the outcomes of `swap_requests`, or the reason why there are none."""
    preferences = np.zeros((len(outcomes), 2, 3), dtype=np.float32)
    for portrait, outcome in enumerate(outcomes):
        options = read_options([outcome], len(_OPTION_ORDERS))
        if isinstance(options, Violation | Failure):
            return options
        if not options.any(axis=1).all():
            return Violation("no_option", "the judge gave none of the options in one of the orders")
        answers = by_meaning(options, _OPTION_ORDERS)
        # Portrait and order both turn round which of the two replies is the own one.
        for order in range(2):
            is_second = portrait != order
            preferences[portrait, order] = answers[order][[1, 0, 2] if is_second else [0, 1, 2]]
    return preferences


def swap_figures(posts: Sequence[str], preferences: Sequence[Preferences]) -> SwapFigures | None:
    """Return the figures of some pairs, given the ids of their posts; None without a pair."""
    if not preferences:
        return None
    groups = group_of(hash_texts([*posts]))
    means = [each.mean(axis=1) for each in preferences]
    is_own = [mean[:, 0] > mean[:, 1] for mean in means]
    own, portraits, both, pairs = np.zeros((4, GROUPS), dtype=np.int64)
    for group, answers in zip(groups, is_own, strict=True):
        own[group] += answers.sum()
        portraits[group] += len(answers)
        if len(answers) == 2:
            both[group] += answers.all()
            pairs[group] += 1
    preferred = estimate_share(own, portraits)
    if preferred is None:
        raise ValueError("every pair has a portrait")
    likeliest = np.concatenate([each.argmax(axis=2) for each in preferences])
    mean = np.concatenate(means)
    # A judge that goes by the place of a reply finds both equally likely.
    is_undecided = (mean.argmax(axis=1) == 2) | (mean[:, 0] == mean[:, 1])
    return SwapFigures(
        preferred=preferred,
        both=estimate_share(both, pairs),
        undecided=float(is_undecided.mean()),
        order_agreement=float((likeliest[:, 0] == likeliest[:, 1]).mean()),
    )
