"""What the judge found: margins, agreement of orders and qualities, as arrays over the claims of a shard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.generation.completions import Failure
from pipeline.quality.rules import Violation
from pipeline.questions.choices import MEANINGS, read_answers
from pipeline.verification.ask import Claim

_QUALITY_SCORES = np.array([1.0, 0.5, 0.0], dtype=np.float32)
"""Of good, fair and poor."""
_DIGITS = 4
"""Decimal digits of margins and qualities. Answers have fewer, and sums in another order are equal with these."""


@dataclass(frozen=True)
class Findings:
    """Findings about N claims in a space of D dimensions; NaN where nobody was asked or nothing was answered.

    `margins` (N, D) are the chosen replies' scores less the rejected ones', in [-2, 2]; `qualities` (N, 2) are those
    of chosen and rejected replies, in [0, 1]; `agreement` (N,) is the share of the questions about dimensions whose
    likeliest answer is the same in all orders. `unanswered` has the reason for each claim without an answer.
    """

    margins: npt.NDArray[np.float32]
    qualities: npt.NDArray[np.float64]
    agreement: npt.NDArray[np.float64]
    unanswered: Mapping[int, Violation | Failure]


def read_findings(claims: Sequence[Claim], dimensions: int, orders: int) -> Findings:
    """Return what the outcomes of the claims say.

    Args:
        claims: Claims with their outcomes.
        dimensions: D, the number of dimensions of the space. The question of this number is about quality.
        orders: Orders in which each question was asked, one after another.
    """
    scores = np.full((len(claims), 2, dimensions), np.nan, dtype=np.float32)
    qualities = np.full((len(claims), 2), np.nan)
    agreement = np.full(len(claims), np.nan)
    unanswered: dict[int, Violation | Failure] = {}
    for number, claim in enumerate(claims):
        found = _probabilities(claim, orders)
        if isinstance(found, Violation | Failure):
            unanswered[number] = found
            continue
        questions = claim.asked[::orders, 0]
        about_dimension = questions < dimensions
        mean = found.mean(axis=2, dtype=np.float32)
        scores[number][:, questions[about_dimension]] = (mean[..., 0] - mean[..., 1])[:, about_dimension]
        if not about_dimension.all():
            qualities[number] = (mean[:, -1] * _QUALITY_SCORES).sum(axis=-1)
        likeliest = found[:, about_dimension].argmax(axis=-1)
        agreement[number] = (likeliest == likeliest[..., :1]).all(axis=-1).mean()
    margins = (scores[:, 0] - scores[:, 1]).round(_DIGITS)
    return Findings(margins, np.clip(qualities.round(_DIGITS), 0, 1), agreement, unanswered)


def _probabilities(claim: Claim, orders: int) -> npt.NDArray[np.float32] | Violation | Failure:
    """Return the probability of each meaning, shape (2 replies, questions, orders, meanings)."""
    half = len(claim.outcomes) // 2
    replies = []
    for outcomes in (claim.outcomes[:half], claim.outcomes[half:]):
        found = read_answers(outcomes, claim.asked)
        if isinstance(found, Violation | Failure):
            return found
        replies.append(found.reshape(-1, orders, MEANINGS))
    return np.stack(replies)
