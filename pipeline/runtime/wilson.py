"""The confidence interval of a share, which more than one room needs."""

from __future__ import annotations

import math

SIGMAS = 1.959964
"""Standard deviations around the mean that hold 95 % of a normal distribution."""


def wilson(share: float, cases: float) -> tuple[float, float]:
    """Return the 95 % interval of Wilson (1927) for a share of so many independent cases."""
    square = SIGMAS**2 / cases
    middle = (share + square / 2) / (1 + square)
    half = math.sqrt(square * share * (1 - share) + square**2 / 4) / (1 + square)
    return max(0.0, middle - half), min(1.0, middle + half)
