"""Sampling of points of the preference space: marginals, number of active dimensions, copula, exclusions.

A *user* is a point of many dimensions. A *part* of it has those that fit a post, and a *flip* of a point has the
dimensions in which a near neighbour differs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
        self._weights = np.array([m.weight for m in marginals]) * chosen
        self._post_weights = self._weights * np.where(topical, config.topical_weight, 1.0)
        self._topical = topical
        self._threshold = np.array([_quantile(m.positive) for m in marginals])
        self._cholesky = _cholesky(space, config)
        self._forbidden = [
            [(space.index[slug], 1 if pole == "positive" else -1) for slug, pole in combination.items()]
            for combination in config.forbidden
        ]
        free = int((self._weights[~topical] > 0).sum())
        if free < config.min_active and free == self.eligible:
            raise UsageError(
                f"sampling: min_active is {config.min_active}, but only {free} dimensions can be active; "
                "lower it or add dimensions"
            )

    @property
    def eligible(self) -> int:
        """Return the number of dimensions that can be active."""
        return int((self._weights > 0).sum())

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
        weights = np.where(self.fits(topics), self._post_weights, 0.0)
        return self._allowed(lambda redraw: stream_key(stream, attempt, redraw), records, weights, self._range)

    def users(self, numbers: npt.NDArray[np.int64], fewest: int, most: int) -> Direction:
        """Return the directions of users, shape (N, D), int8. User u depends only on (seed, u).

        Args:
            numbers: Numbers of the users, shape (N,).
            fewest: Fewest active dimensions of a user.
            most: Most active dimensions of a user.
        """
        weights = np.tile(self._weights, (len(numbers), 1))
        return self._allowed(lambda redraw: stream_key("users", redraw), numbers, weights, (fewest, most))

    def parts(
        self,
        stream: str,
        attempt: int,
        records: npt.NDArray[np.int64],
        eligible: npt.NDArray[np.bool_],
        users: Direction,
    ) -> Direction:
        """Return the part of each record's user that its pair is written for, shape (N, D), int8.

        The arguments are those of `draw`. A part has the poles of the user in dimensions that are `eligible`; both
        have shape (N, D).
        """
        weights = np.where(eligible & (users != 0), self._post_weights, 0.0)
        u = uniforms(self.seed, stream_key("parts", stream, attempt), records, 1 + len(self.space))
        return np.where(_race(u, weights, *self._range), users, 0).astype(np.int8)

    def flips(
        self, stream: str, attempt: int, records: npt.NDArray[np.int64], points: Direction, most: int
    ) -> Direction:
        """Return the dimensions of each point that a near neighbour flips, with the point's levels, shape (N, D).

        From 1 to `most` dimensions are flipped, and always fewer than all. A row is neutral where a point has one
        active dimension, or where 16 more draws find no neighbour without a forbidden combination.
        """
        flips = np.zeros_like(points)
        active = np.count_nonzero(points, axis=1)
        missing = np.flatnonzero(active > 1)
        for redraw in range(1 + _REDRAWS):
            if len(missing) == 0:
                break
            u = uniforms(self.seed, stream_key("flips", stream, attempt, redraw), records[missing], 1 + len(self.space))
            own = points[missing]
            drawn = np.where(_race(u, np.abs(own), 1, np.minimum(most, active[missing] - 1)), own, 0).astype(np.int8)
            is_forbidden = self._is_forbidden(own - 2 * drawn)
            flips[missing[~is_forbidden]] = drawn[~is_forbidden]
            missing = missing[is_forbidden]
        return flips

    def on_topic(self, topics: Sequence[Sequence[str]]) -> npt.NDArray[np.bool_]:
        """Return which topical dimensions the topics of each post name, shape (N, D)."""
        named = np.zeros((len(topics), len(self.space)), dtype=bool)
        for row, slugs in enumerate(topics):
            for slug in slugs:
                d = self.space.index.get(slug)
                if d is not None and self._topical[d]:
                    named[row, d] = True
        return named

    def fits(self, topics: Sequence[Sequence[str]]) -> npt.NDArray[np.bool_]:
        """Return which dimensions can be active for each post, shape (N, D)."""
        return ~self._topical | self.on_topic(topics)

    def _allowed(
        self,
        key_of: Callable[[int], int],
        records: npt.NDArray[np.int64],
        weights: npt.NDArray[np.float64],
        active: tuple[int, int],
    ) -> Direction:
        """Return points without forbidden combinations; `key_of` returns the key of a redraw, and of the draw by 0."""
        points = self._points(key_of(0), records, weights, active)
        offending = np.flatnonzero(self._is_forbidden(points))
        for redraw in range(1, _REDRAWS + 1):
            if len(offending) == 0:
                return points
            points[offending] = self._points(key_of(redraw), records[offending], weights[offending], active)
            offending = offending[self._is_forbidden(points[offending])]
        for combination in self._forbidden:
            points[_has_combination(points, combination), combination[-1][0]] = 0
        return points

    def _points(
        self, key: int, records: npt.NDArray[np.int64], weights: npt.NDArray[np.float64], active: tuple[int, int]
    ) -> Direction:
        size = len(self.space)
        u = uniforms(self.seed, key, records, 1 + 3 * size)
        is_active = _race(u[:, : 1 + size], weights, *active)
        radius = np.sqrt(-2 * np.log(u[:, 1 + size : 1 + 2 * size]))
        normal = radius * np.cos(2 * np.pi * u[:, 1 + 2 * size :])
        if self._cholesky is not None:
            # Not `@`: BLAS rounds a row differently in another batch, so point i would depend on its neighbours.
            normal = np.einsum("nd,kd->nk", normal, self._cholesky)
        return np.where(is_active, np.where(normal < self._threshold, 1, -1), 0).astype(np.int8)

    def _is_forbidden(self, points: Direction) -> npt.NDArray[np.bool_]:
        hit = np.zeros(len(points), dtype=bool)
        for combination in self._forbidden:
            hit |= _has_combination(points, combination)
        return hit


def _race(
    u: npt.NDArray[np.float64],
    weights: npt.NDArray[np.float64] | Direction,
    fewest: int,
    most: int | npt.NDArray[np.int64],
) -> npt.NDArray[np.bool_]:
    """Return which dimensions win a place, shape (N, D): from `fewest` to `most`, in proportion to their weights.

    Args:
        u: Uniform numbers, shape (N, 1 + D): for the number of places, and for the race of each dimension.
        weights: Weights, 0 for a dimension that is not eligible; shape (N, D).
        fewest: Fewest places. There are never more than eligible dimensions.
        most: Most places, the same for all rows or one for each.
    """
    places = np.minimum(fewest + (u[:, 0] * (most - fewest + 1)).astype(np.int64), (weights > 0).sum(axis=1))
    with np.errstate(divide="ignore"):
        race = np.where(weights > 0, -np.log(u[:, 1:]) / weights, np.inf)
    rank = race.argsort(axis=1, kind="stable").argsort(axis=1, kind="stable")
    winners: npt.NDArray[np.bool_] = rank < places[:, None]
    return winners


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
