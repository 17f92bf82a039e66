"""Shares and means with 95 % confidence intervals by post, since replies to one post resemble each other.

Posts are put into groups by a hash, so that sums by group bound the memory. Groups of whole posts are independent, as
posts are; fewer groups only make an interval less certain, not narrower.
"""

from __future__ import annotations

import numpy as np

from pipeline.report.texts import Hashes, Integers
from pipeline.runtime.wilson import SIGMAS, wilson
from schemas.report import Estimate

GROUPS = 512
"""Groups of posts: sums by group have this length."""


def group_of(posts: Hashes) -> Integers:
    """Return the group of each post, given hashes of the posts' ids."""
    groups: Integers = (posts % np.uint64(GROUPS)).astype(np.int64)
    return groups


def estimate_share(hits: Integers, cases: Integers) -> Estimate | None:
    """Return the share of cases that are hits; None without a case.

    The interval is that of Wilson (1927) for the effective number of cases: the number of independent cases that
    would give the variance seen between groups (Kish, Survey Sampling, 1965). Franco et al. (2019) compare such
    intervals, and prefer this one for shares near 0 and 1.

    Args:
        hits: Hits in each group of posts, shape (GROUPS,).
        cases: Cases in each group.
    """
    number = int(cases.sum())
    if not number:
        return None
    share = float(hits.sum() / number)
    variance = _variance(hits, cases)
    # Equal groups show no variance. Then count as if all cases of a group were the same case.
    effective = share * (1 - share) / variance if variance else number**2 / float((cases**2).sum())
    low, high = wilson(share, min(effective, number))
    return Estimate(value=share, low=low, high=high, number=number)


def estimate_mean(sums: Integers, cases: Integers, unit: float) -> Estimate | None:
    """Return the mean of numbers; None without a case. The interval is None with cases in fewer than two groups.

    Args:
        sums: Sum of the numbers in each group of posts, in `unit`, shape (GROUPS,).
        cases: Number of them in each group.
        unit: Size of the unit, such as 0.001. Sums of whole units do not depend on their order.
    """
    number = int(cases.sum())
    if not number:
        return None
    mean = float(sums.sum() / number) * unit
    half = SIGMAS * float(np.sqrt(_variance(sums, cases))) * unit
    is_known = (cases > 0).sum() > 1
    return Estimate(
        value=mean, low=mean - half if is_known else None, high=mean + half if is_known else None, number=number
    )


def _variance(sums: Integers, cases: Integers) -> float:
    """Return the variance of the mean of all cases, from the differences between groups (linearised ratio)."""
    groups, number = int((cases > 0).sum()), int(cases.sum())
    if groups < 2:
        return 0.0
    residuals = sums - sums.sum() / number * cases
    return float((residuals**2).sum()) * groups / (groups - 1) / number**2
