"""Sampling of points of the preference space: marginals, number of active dimensions, copula, exclusions."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from preference_space.direction import Direction
from preference_space.philox import stream_key, uniforms
from preference_space.space import PreferenceSpace
from schemas.base import UsageError
from schemas.config import Marginal, SamplingConfig

_REDRAWS = 16
"""Most draws of a point with a forbidden combination, before one of its dimensions is made neutral."""


class Sampler:
    """Sampler of directions. Point i of a stream depends only on (seed, stream, attempt, i) and its post's topics.

    1. The number k of active dimensions is uniform on [min_active, max_active].
    2. k of the eligible dimensions become active. They are drawn without replacement, in proportion to their weights,
       by exponential races: the k smallest of -log(u) / weight.
    3. The pole of an active dimension is positive where a standard normal variable is below the quantile of
       `positive`. The variables are correlated as configured (a Gaussian copula). With symmetric marginals two active
       dimensions then correlate by 2 / pi * arcsin(rho).

    Raises:
        UsageError: A slug is unknown, or no distribution can have the correlations.
    """

    def __init__(self, space: PreferenceSpace, config: SamplingConfig, seed: int) -> None:
        self.space = space
        self.seed = seed
        self._range = (config.min_active, config.max_active)
        chosen = np.isin(np.arange(len(space)), space.select(config.dimensions, "sampling"))
        for slug in _named_slugs(config):
            space.require(slug, "sampling")

        marginals = [config.marginals.get(d.slug, Marginal(weight=1.0, positive=0.5)) for d in space.dimensions]
        topical = np.array([d.topical for d in space.dimensions])
        self._weights = np.array([m.weight for m in marginals]) * chosen * np.where(topical, config.topical_weight, 1.0)
        self._topical = topical
        self._threshold = np.array([_quantile(m.positive) for m in marginals])
        self._cholesky = _cholesky(space, config)
        self._forbidden = [
            [(space.index[slug], 1 if pole == "positive" else -1) for slug, pole in combination.items()]
            for combination in config.forbidden
        ]
        free = int((self._weights[~topical] > 0).sum())
        if free < config.min_active and not (self._weights[topical] > 0).any():
            raise UsageError(
                f"sampling: min_active is {config.min_active}, but only {free} dimensions can be active; "
                "lower it or add dimensions"
            )

    def draw(
        self, stream: str, attempt: int, records: npt.NDArray[np.int64], topics: Sequence[Sequence[str]]
    ) -> Direction:
        """Return the directions of records, shape (N, D), int8.

        Args:
            stream: Purpose of the draw, such as a split.
            attempt: Number of the attempt.
            records: Numbers of the records, shape (N,).
            topics: Topics of each record's post.
        """
        weights = np.tile(self._weights, (len(records), 1))
        weights[:, self._topical] = 0.0
        for row, slugs in enumerate(topics):
            for slug in slugs:
                d = self.space.index.get(slug)
                if d is not None and self._topical[d]:
                    weights[row, d] = self._weights[d]

        points = self._points(stream_key(stream, attempt, 0), records, weights)
        offending = np.flatnonzero(self._is_forbidden(points))
        for redraw in range(1, _REDRAWS + 1):
            if len(offending) == 0:
                return points
            key = stream_key(stream, attempt, redraw)
            points[offending] = self._points(key, records[offending], weights[offending])
            offending = offending[self._is_forbidden(points[offending])]
        for combination in self._forbidden:
            points[_has_combination(points, combination), combination[-1][0]] = 0
        return points

    def _points(self, stream: int, records: npt.NDArray[np.int64], weights: npt.NDArray[np.float64]) -> Direction:
        size = len(self.space)
        u = uniforms(self.seed, stream, records, 1 + 3 * size)
        low, high = self._range
        active_count = np.minimum(low + (u[:, 0] * (high - low + 1)).astype(np.int64), (weights > 0).sum(axis=1))
        with np.errstate(divide="ignore"):
            race = np.where(weights > 0, -np.log(u[:, 1 : 1 + size]) / weights, np.inf)
        rank = race.argsort(axis=1, kind="stable").argsort(axis=1, kind="stable")
        active = rank < active_count[:, None]

        radius = np.sqrt(-2 * np.log(u[:, 1 + size : 1 + 2 * size]))
        normal = radius * np.cos(2 * np.pi * u[:, 1 + 2 * size :])
        if self._cholesky is not None:
            # Not `@`: BLAS rounds a row differently in another batch, so point i would depend on its neighbours.
            normal = np.einsum("nd,kd->nk", normal, self._cholesky)
        return np.where(active, np.where(normal < self._threshold, 1, -1), 0).astype(np.int8)

    def _is_forbidden(self, points: Direction) -> npt.NDArray[np.bool_]:
        hit = np.zeros(len(points), dtype=bool)
        for combination in self._forbidden:
            hit |= _has_combination(points, combination)
        return hit


def _has_combination(points: Direction, combination: list[tuple[int, int]]) -> npt.NDArray[np.bool_]:
    """Return which points or their mirror images have a combination, since the opposite person is published too."""
    found = np.zeros(len(points), dtype=bool)
    for side in (1, -1):
        found |= np.all([points[:, d] == side * level for d, level in combination], axis=0)
    return found


def _named_slugs(config: SamplingConfig) -> list[str]:
    correlated = [slug for c in config.correlations for slug in (c.a, c.b)]
    forbidden = [slug for combination in config.forbidden for slug in combination]
    return [*config.marginals, *correlated, *forbidden]


def _quantile(probability: float) -> float:
    if probability in (0.0, 1.0):
        return float("inf") if probability else float("-inf")
    return NormalDist().inv_cdf(probability)


def _cholesky(space: PreferenceSpace, config: SamplingConfig) -> npt.NDArray[np.float64] | None:
    """Return the Cholesky factor of the configured correlations; None where there are none."""
    if not config.correlations:
        return None
    matrix = np.eye(len(space))
    for c in config.correlations:
        if c.a == c.b:
            raise UsageError(f"sampling.correlations: '{c.a}' is correlated with itself; name two dimensions")
        a, b = space.index[c.a], space.index[c.b]
        matrix[a, b] = matrix[b, a] = c.rho
    try:
        return np.asarray(np.linalg.cholesky(matrix), dtype=np.float64)
    except np.linalg.LinAlgError:
        pairs = ", ".join(f"{c.a}~{c.b} {c.rho:g}" for c in config.correlations)
        raise UsageError(f"sampling.correlations: these contradict each other: {pairs}; make them weaker") from None
