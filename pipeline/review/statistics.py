"""Agreement of two sources of levels, with 95 % intervals by post.

Everything is a function of tables of counts over the levels -1, 0 and 1, where 0 is "cannot tell". Tables of single
posts add up, so a bootstrap over posts is one matrix product.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from pipeline.report.intervals import estimate_share
from preference_space.philox import stream_key
from schemas.report import Estimate

Floats = npt.NDArray[np.float64]
Statistic = Callable[[Floats], Floats]
"""A function of square tables, shape (..., L, L) to (...); NaN where it is not defined."""

REPLICATES = 2000
_COVERAGE = 0.95


def tables(posts: Sequence[str], ours: Sequence[int], theirs: Sequence[int]) -> Floats:
    """Return a table of counts for each post, shape (P, 3, 3): our level by theirs."""
    _, post = np.unique(np.asarray(posts), return_inverse=True)
    counts = np.zeros((post.max(initial=-1) + 1, 3, 3))
    np.add.at(counts, (post, np.asarray(ours, dtype=int) + 1, np.asarray(theirs, dtype=int) + 1), 1)
    return counts


def coincidences(posts: Sequence[str], labels: Sequence[Sequence[int]]) -> Floats:
    """Return Krippendorff's coincidence matrix for each post, shape (P, 3, 3).

    Args:
        posts: The post of each question.
        labels: The levels that reviewers gave to each question, two or more.
    """
    _, post = np.unique(np.asarray(posts), return_inverse=True)
    matrices = np.zeros((post.max(initial=-1) + 1, 3, 3))
    for at, given in zip(post, labels, strict=True):
        counts = np.bincount(np.asarray(given) + 1, minlength=3).astype(np.float64)
        matrices[at] += (np.outer(counts, counts) - np.diag(counts)) / (len(given) - 1)
    return matrices


def decided(of_posts: Floats) -> Floats:
    """Return tables of the cases in which neither level is 0, shape (P, 3, 3) to (P, 2, 2)."""
    return of_posts[..., ::2, ::2]


def share(of_posts: Floats) -> Estimate | None:
    """Return the share of equal levels, given a table for each post; None without a case."""
    hits, cases = np.trace(of_posts, axis1=-2, axis2=-1), of_posts.sum(axis=(-2, -1))
    return estimate_share(hits.astype(np.int64), cases.astype(np.int64))


def kappa(table: Floats) -> Floats:
    """Return Cohen's kappa (Cohen 1960, "A coefficient of agreement for nominal scales")."""
    total = table.sum(axis=(-2, -1))
    by_chance = _ratio((table.sum(axis=-1) * table.sum(axis=-2)).sum(axis=-1), total * total)
    observed = _ratio(np.trace(table, axis1=-2, axis2=-1), total)
    return _ratio(observed - by_chance, 1 - by_chance)


def alpha(matrix: Floats) -> Floats:
    """Return Krippendorff's alpha for nominal data (Krippendorff 2011, "Computing Krippendorff's alpha-reliability").

    Unlike kappa it takes any number of reviewers, of whom each may leave questions out.
    """
    sizes = matrix.sum(axis=-1)
    total = sizes.sum(axis=-1)
    observed = total - np.trace(matrix, axis1=-2, axis2=-1)
    expected = _ratio(total * total - (sizes * sizes).sum(axis=-1), total - 1)
    return 1 - _ratio(observed, expected)


def bootstrap(of_posts: Floats, statistic: Statistic) -> Estimate | None:
    """Return a statistic of the sum of tables, with a percentile bootstrap interval that resamples posts.

    Args:
        of_posts: A table for each post, shape (P, L, L).
        statistic: The statistic. Resamples in which it is not defined are left out.

    Returns:
        None where the statistic is not defined. The interval is None with fewer than two posts.
    """
    total = of_posts.sum(axis=0)
    value, number, posts = float(statistic(total)), round(float(total.sum())), len(of_posts)
    if np.isnan(value):
        return None
    if posts < 2:
        return Estimate(value=value, low=None, high=None, number=number)
    generator = np.random.Generator(np.random.Philox(key=stream_key("review/bootstrap")))
    weights = generator.multinomial(posts, np.full(posts, 1 / posts), size=REPLICATES)
    found = statistic((weights @ of_posts.reshape(posts, -1)).reshape(-1, *total.shape))
    low, high = np.nanquantile(found, [(1 - _COVERAGE) / 2, (1 + _COVERAGE) / 2])
    return Estimate(value=value, low=float(low), high=float(high), number=number)


def _ratio(part: Floats, whole: Floats) -> Floats:
    """Return quotients, NaN where the divisor is 0 up to rounding."""
    part, whole = np.asarray(part, dtype=np.float64), np.asarray(whole, dtype=np.float64)
    quotient: Floats = np.full(np.broadcast(part, whole).shape, np.nan)
    return np.divide(part, whole, out=quotient, where=np.abs(whole) > 1e-12)
