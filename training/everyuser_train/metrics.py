"""Metrics of preferences from log-probabilities, with bootstrap intervals clustered by post."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from schemas.base import Record

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Directions = npt.NDArray[np.int8]

REPLICATES = 2000
LEVEL = 0.95

_MAX_WEIGHTS = 2**22
"""Most resampling weights in memory."""


class Estimate(Record):
    """A mean and its interval. The bounds are None for fewer than two posts."""

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


def exceeds(left: FloatArray, right: FloatArray | float) -> FloatArray:
    """Return 1 where left is larger, 0.5 where both are equal, 0 elsewhere."""
    return (np.sign(left - right) + 1) / 2


def per_case(cases: Cases) -> dict[str, FloatArray]:
    """Return the value of every metric for every case, (N,) each. A metric is the mean over cases.

    `alignment`: the policy's margin is larger than the reference's (the paper's accuracy). `absolute`: the policy
    prefers the chosen reply. `reference_absolute`: so does the reference. `..._per_token`: the same of mean
    log-probabilities. `margin`: the policy's margin minus the reference's, in nats.
    """
    values = {}
    for suffix, these in (("", cases), ("_per_token", cases.per_token())):
        policy, reference = these.margins()
        values[f"alignment{suffix}"] = exceeds(policy, reference)
        values[f"absolute{suffix}"] = exceeds(policy, 0.0)
        values[f"reference_absolute{suffix}"] = exceeds(reference, 0.0)
    policy, reference = cases.margins()
    return values | {"margin": policy - reference}


def flips(before: Cases, after: Cases) -> dict[str, FloatArray]:
    """Compare the order of two replies before and after the persona is reversed.

    Args:
        before: The cases.
        after: The same cases reversed: the chosen reply is the rejected one of `before`.

    Returns:
        Values per case, (N,) each. `reversed`: the order by the margin over the reference's changes (0.5 for a tie).
        `followed`: the order agrees with the persona before, and with the reversed persona after. `absolute_...`: the
        same for the policy's margin alone.
    """
    values = {}
    for prefix, index in (("", 1), ("absolute_", 0)):
        orders = []
        for cases in (before, after):
            policy, reference = cases.margins()
            orders.append(np.sign(policy - reference * index))
        values[f"{prefix}reversed"] = (orders[0] * orders[1] + 1) / 2
        values[f"{prefix}followed"] = ((orders[0] > 0) & (orders[1] > 0)).astype(np.float64)
    return values


def estimates(
    values: Mapping[str, FloatArray],
    posts: npt.ArrayLike,
    seed: int,
    replicates: int = REPLICATES,
) -> dict[str, Estimate]:
    """Return the mean of each value, with a percentile bootstrap interval that resamples whole posts.

    The intervals have coverage `LEVEL`.

    Args:
        values: Values per case by name, (N,) each, N > 0.
        posts: The post of each case, (N,).
        seed: Determines the resamples.
        replicates: Number of resamples.
    """
    names = list(values)
    _, cluster = np.unique(np.asarray(posts), return_inverse=True)
    clusters = int(cluster.max()) + 1
    # A mean over resampled posts needs only their sums and sizes, shape (clusters, metrics + 1).
    columns = [*values.values(), np.ones(len(cluster))]
    sums = np.stack([np.bincount(cluster, weights=column, minlength=clusters) for column in columns], axis=1)
    means = sums[:, :-1].sum(axis=0) / len(cluster)
    if clusters < 2:
        return {name: Estimate(value=float(mean), low=None, high=None) for name, mean in zip(names, means, strict=True)}
    purpose = hashlib.blake2b(b"bootstrap", digest_size=8).digest()
    generator = np.random.Generator(np.random.Philox(key=[seed, int.from_bytes(purpose, "little")]))
    resampled = []
    step = max(1, _MAX_WEIGHTS // clusters)
    for start in range(0, replicates, step):
        size = min(step, replicates - start)
        weights = generator.multinomial(clusters, np.full(clusters, 1 / clusters), size=size)
        totals = weights @ sums
        resampled.append(totals[:, :-1] / totals[:, -1:])
    low, high = np.quantile(np.concatenate(resampled), [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return {
        name: Estimate(value=float(means[k]), low=float(low[k]), high=float(high[k])) for k, name in enumerate(names)
    }


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
    seed: int,
    replicates: int = REPLICATES,
) -> list[Pole]:
    """Return the metrics for each dimension and pole in `directions` (N, D), the positive pole first."""
    posts = np.asarray(posts)
    poles = []
    for dimension in range(directions.shape[1]):
        for level in (1, -1):
            rows = np.flatnonzero(directions[:, dimension] == level)
            if len(rows):
                these = {name: column[rows] for name, column in values.items()}
                poles.append(Pole(dimension, level, len(rows), estimates(these, posts[rows], seed, replicates)))
    return poles
