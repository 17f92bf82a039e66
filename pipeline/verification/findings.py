"""What the judge found: margins, agreement of orders and qualities, as arrays over the claims of a shard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.generation.completions import Failure
from pipeline.quality.rules import Violation
from pipeline.questions.choices import MEANINGS, by_meaning, read_options
from pipeline.verification.ask import Claim

Options = npt.NDArray[np.uint8]
"""Answers to the questions about a reply, of `read_options`."""

_QUALITY_SCORES = np.array([1.0, 0.5, 0.0], dtype=np.float32)
"""Of good, fair and poor."""
DIGITS = 4
"""Decimal digits of margins and qualities. Answers have fewer, and sums in another order are equal with these."""


@dataclass(frozen=True)
class Findings:
    """Findings about N claims in a space of D dimensions; NaN where nobody was asked or nothing was answered.

    `margins` (N, D) are the chosen replies' scores less the rejected ones', in [-2, 2]; `qualities` (N, 2) are those
    of chosen and rejected replies, in [0, 1]; `agreement` (N,) is the share of the questions about dimensions whose
    likeliest answer is the same in all orders, NaN for one order. `unanswered` has the reason for each claim without
    an answer.
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
    answers, unanswered = _read_claims(claims)
    scores = np.full((len(claims), 2, dimensions), np.nan, dtype=np.float32)
    qualities = np.full((len(claims), 2), np.nan)
    agreement = np.full(len(claims), np.nan)
    if answers:
        # All of a shard at once: for one claim, calling NumPy takes longer than the work.
        asked = np.concatenate([claims[number].asked for number in answers for _ in range(2)])
        options = np.concatenate([reply for replies in answers.values() for reply in replies])
        probabilities = by_meaning(options, asked[:, 1]).reshape(-1, orders, MEANINGS)
        question = asked[::orders, 0]
        sizes = [len(reply) // orders for replies in answers.values() for reply in replies]
        owner = np.repeat(np.repeat([*answers], 2), sizes)
        side = np.repeat(np.tile([0, 1], len(answers)), sizes)
        mean = probabilities.mean(axis=1, dtype=np.float32)
        likeliest = probabilities.argmax(axis=-1)
        agrees = (likeliest == likeliest[:, :1]).all(axis=-1)

        trait = question < dimensions
        scores[owner[trait], side[trait], question[trait]] = mean[trait, 0] - mean[trait, 1]
        qualities[owner[~trait], side[~trait]] = _quality(mean[~trait])
        agreeing, of = (np.bincount(owner[trait], counted, len(claims)) for counted in (agrees[trait], None))
        if orders > 1:
            agreement[of > 0] = agreeing[of > 0] / of[of > 0]
    margins = (scores[:, 0] - scores[:, 1]).round(DIGITS)
    return Findings(margins, qualities.round(DIGITS).clip(0, 1), agreement, unanswered)


def _quality(shares: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the mean quality by the shares of good, fair and poor, (N, 3) to (N,); NaN where no share is known."""
    known = shares.sum(axis=1)
    quality: npt.NDArray[np.float32] = np.full_like(known, np.nan)
    np.divide((shares * _QUALITY_SCORES).sum(axis=1), known, out=quality, where=known > 0)
    return quality


def _read_claims(claims: Sequence[Claim]) -> tuple[dict[int, list[Options]], dict[int, Violation | Failure]]:
    """Return the options of both replies by the claim's number, and the reasons of claims without an answer."""
    answers: dict[int, list[Options]] = {}
    unanswered: dict[int, Violation | Failure] = {}
    for number, claim in enumerate(claims):
        half = len(claim.outcomes) // 2
        answers[number] = []
        for outcomes in (claim.outcomes[:half], claim.outcomes[half:]):
            found = read_options(outcomes, len(claim.asked))
            if isinstance(found, Violation | Failure):
                unanswered.setdefault(number, found)
            else:
                answers[number].append(found)
    return {number: replies for number, replies in answers.items() if number not in unanswered}, unanswered
