"""Metrics of preferences from log-probabilities, with intervals by cluster: cases of a post or a user are alike."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from schemas.base import Record

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Directions = npt.NDArray[np.int8]

LEVEL = 0.95
MIN_CLUSTERS = 10
"""Fewest clusters for an interval. The variance between fewer is too uncertain."""
MIN_USERS_OF_TENTH = 200
"""Fewest users for an interval of their worst tenth: with 100, one of 95 % covers 81 to 89 % in simulations."""

_MARGIN = "margin"
"""The only metric that is not a share."""


class Estimate(Record):
    """A mean and its interval. The bounds are None for too few clusters."""

    value: float
    low: float | None
    high: float | None


class Cases(NamedTuple):
    """Summed log-probabilities in nats and token counts of N cases, (N,) each."""

    policy_chosen: FloatArray
    policy_rejected: FloatArray
    reference_chosen: FloatArray
    reference_rejected: FloatArray
    tokens_chosen: IntArray
    tokens_rejected: IntArray

    def margins(self) -> tuple[FloatArray, FloatArray]:
        """Return log p(chosen) - log p(rejected) under the policy and under the reference, (N,) each."""
        return self.policy_chosen - self.policy_rejected, self.reference_chosen - self.reference_rejected

    def take(self, rows: IntArray) -> Cases:
        """Return the cases at `rows`."""
        return Cases._make(column[rows] for column in self)

    def per_token(self) -> Cases:
        """Return the cases with mean instead of summed log-probabilities. A reply without tokens keeps its 0."""
        chosen, rejected = np.maximum(self.tokens_chosen, 1), np.maximum(self.tokens_rejected, 1)
        return self._replace(
            policy_chosen=self.policy_chosen / chosen,
            policy_rejected=self.policy_rejected / rejected,
            reference_chosen=self.reference_chosen / chosen,
            reference_rejected=self.reference_rejected / rejected,
        )


class Rewards(NamedTuple):
    """Rewards of the chosen and the rejected replies of N cases, (N,) each, in units of the reward model."""

    chosen: FloatArray
    rejected: FloatArray

    def take(self, rows: IntArray) -> Rewards:
        """Return the cases at `rows`."""
        return Rewards._make(column[rows] for column in self)


def exceeds(left: FloatArray, right: FloatArray | float) -> FloatArray:
    """Return 1 where left is larger, 0.5 where both are equal, 0 elsewhere."""
    return (np.sign(left - right) + 1) / 2


def per_case(cases: Cases | Rewards) -> dict[str, FloatArray]:
    """Return the value of every metric for every case, (N,) each. A metric is the mean over cases.

    `alignment`: the policy's margin is larger than the reference's (the paper's accuracy). `absolute`: the policy
    prefers the chosen reply. `reference_absolute`: so does the reference. `..._per_token`: the same of mean
    log-probabilities. `margin`: the policy's margin minus the reference's, in nats.

    Of rewards: `accuracy`: the chosen reply has the higher reward. `margin`: by how much.
    """
    if isinstance(cases, Rewards):
        margin = cases.chosen - cases.rejected
        return {"accuracy": exceeds(margin, 0.0), _MARGIN: margin}
    values = {}
    for suffix, these in (("", cases), ("_per_token", cases.per_token())):
        policy, reference = these.margins()
        values[f"alignment{suffix}"] = exceeds(policy, reference)
        values[f"absolute{suffix}"] = exceeds(policy, 0.0)
        values[f"reference_absolute{suffix}"] = exceeds(reference, 0.0)
    policy, reference = cases.margins()
    return values | {_MARGIN: policy - reference}


def flips(before: Cases | Rewards, after: Cases | Rewards) -> dict[str, FloatArray]:
    """Compare the order of two replies before and after the persona is reversed.

    Args:
        before: The cases.
        after: The same cases reversed: the chosen reply is the rejected one of `before`.

    Returns:
        Values per case, (N,) each. `reversed`: the order by the margin over the reference's changes (0.5 for a tie).
        `followed`: the order agrees with the persona before, and with the reversed persona after. `absolute_...`: the
        same for the policy's margin alone. Rewards have the first two, by their own margin.
    """
    values = {}
    orders = zip(_orders(before), _orders(after), strict=True)
    for prefix, (first, second) in zip(("", "absolute_"), orders, strict=False):
        values[f"{prefix}reversed"] = (first * second + 1) / 2
        values[f"{prefix}followed"] = ((first > 0) & (second > 0)).astype(np.float64)
    return values


def _orders(cases: Cases | Rewards) -> list[FloatArray]:
    """Return 1 where the chosen reply comes first, -1 where the rejected one does: by each margin, (N,) each."""
    if isinstance(cases, Rewards):
        return [np.sign(cases.chosen - cases.rejected)]
    policy, reference = cases.margins()
    return [np.sign(policy - reference), np.sign(policy)]


def estimates(
    values: Mapping[str, FloatArray],
    clusters: npt.ArrayLike,
    *,
    differences: bool = False,
    least: int = MIN_CLUSTERS,
) -> dict[str, Estimate]:
    """Return the mean of each value with an interval of coverage `LEVEL`. Whole clusters are independent.

    The variance of a mean is that between clusters, of a linearised ratio. Margins and differences have a symmetric
    interval by Student's t. Shares have that of Wilson (1927) for the effective number of cases (Kish, Survey Sampling,
    1965), by Student's t (Korn and Graubard, 1998). Franco et al. (2019) prefer this one for shares near 0 and 1.

    Args:
        values: Values per case by name, (N,) each, N > 0.
        clusters: The post or the user of each case, (N,).
        differences: The values are differences of shares.
        least: Fewest clusters for an interval.
    """
    _, cluster = np.unique(np.asarray(clusters), return_inverse=True)
    cases = np.bincount(cluster).astype(np.float64)
    found = {}
    for name, column in values.items():
        sums = np.bincount(cluster, weights=column).astype(np.float64)
        found[name] = _estimate(sums, cases, least, is_share=name != _MARGIN and not differences)
    return found


def _estimate(sums: FloatArray, cases: FloatArray, least: int, *, is_share: bool) -> Estimate:
    """Return the mean of all cases, given the sums and the numbers of cases of G clusters, (G,) each."""
    clusters, number = len(cases), cases.sum()
    mean = float(sums.sum() / number)
    if clusters < least:
        return Estimate(value=mean, low=None, high=None)
    variance = float(((sums - mean * cases) ** 2).sum()) * clusters / (clusters - 1) / number**2
    quantile = _student(clusters - 1)
    if not is_share:
        half = quantile * math.sqrt(variance)
        return Estimate(value=mean, low=mean - half, high=mean + half)
    # At 0 and 1 clusters show no variance. Then count as if all cases of a cluster were the same case.
    inverse = float((cases**2).sum()) / number**2 if mean in (0, 1) else variance / (mean * (1 - mean))
    square = quantile**2 * inverse
    middle = (mean + square / 2) / (1 + square)
    half = math.sqrt(square * mean * (1 - mean) + square**2 / 4) / (1 + square)
    return Estimate(value=mean, low=max(0.0, middle - half), high=min(1.0, middle + half))


def _student(freedom: int) -> float:
    """Return the quantile of Student's t for `LEVEL` (Abramowitz and Stegun 26.7.5; within 1e-3 from 9 degrees on)."""
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return float(z + sum(term / freedom**power for power, term in enumerate(terms, 1)))


def worst_tenth(values: FloatArray) -> FloatArray:
    """Return numbers (U,) whose mean is that of the lowest tenth of `values` (U,), at least one of them.

    A value at the border counts in part. The numbers are those of Rockafellar and Uryasev (2000) for the expected
    shortfall, so that its interval is the interval of a mean.
    """
    share = max(0.1, 1 / len(values))
    border = np.sort(values)[math.ceil(share * len(values) - 1e-9) - 1]
    numbers: FloatArray = border - np.maximum(border - values, 0) / share
    return numbers


class ByUser(NamedTuple):
    """The number of users, the mean over users of their own means, and the mean of the worst tenth of users."""

    users: int
    mean: dict[str, Estimate]
    worst: dict[str, Estimate]


def by_user(values: Mapping[str, FloatArray], persons: npt.ArrayLike, users: npt.ArrayLike) -> ByUser:
    """Return the metrics of persons: each counts the same, however many cases it has.

    Args:
        values: Values per case by name, (N,) each, N > 0.
        persons: The person of each case, (N,). A user and its mirror image are two persons.
        users: The cluster of each case, (N,): equal for a user and its mirror image, which resemble each other.
    """
    _, first, person = np.unique(np.asarray(persons), return_index=True, return_inverse=True)
    cases, clusters = np.bincount(person), np.asarray(users)[first]
    means = {name: np.bincount(person, weights=column) / cases for name, column in values.items()}
    worst = {name: worst_tenth(column) for name, column in means.items()}
    return ByUser(len(first), estimates(means, clusters), estimates(worst, clusters, least=MIN_USERS_OF_TENTH))


class Pole(NamedTuple):
    """Metrics of the cases whose direction has one pole in one dimension."""

    dimension: int
    level: int
    cases: int
    metrics: dict[str, Estimate]


def by_dimension(
    values: Mapping[str, FloatArray],
    directions: Directions,
    posts: npt.ArrayLike,
) -> list[Pole]:
    """Return the metrics for each dimension and pole in `directions` (N, D), the positive pole first."""
    posts = np.asarray(posts)
    poles = []
    for dimension in range(directions.shape[1]):
        for level in (1, -1):
            rows = np.flatnonzero(directions[:, dimension] == level)
            if len(rows):
                these = {name: column[rows] for name, column in values.items()}
                poles.append(Pole(dimension, level, len(rows), estimates(these, posts[rows])))
    return poles
