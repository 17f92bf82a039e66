"""Dimensions and directions: counts of poles and of pairs of poles, and the length bias of each pole."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.report.source import Batch
from pipeline.report.tallies import HashCounts
from pipeline.report.texts import Hashes, Integers, mix
from preference_space.coverage import Coverage
from preference_space.direction import Direction
from preference_space.space import PreferenceSpace
from schemas.report import CorrelatedPair, CorrelationFigures, DimensionFigures

_STRONGEST = 20
_DECIMALS = 4


class CoverageTally:
    """Counts of poles, pairs of poles, active dimensions and distinct directions."""

    def __init__(self, space: PreferenceSpace, expected: int, limit: int) -> None:
        self._coverage = Coverage(space)
        self._longer: Integers = np.zeros((2, len(space)), dtype=np.int64)
        self.directions = HashCounts(expected, limit)

    def add(self, batch: Batch) -> None:
        """Count a batch's rows."""
        levels = batch.directions
        self._coverage.add(levels)
        for pole, sign in enumerate((1, -1)):
            self._longer[pole] += batch.longer @ (levels == sign)
        self.directions.add(hash_directions(levels))

    def merge(self, other: CoverageTally) -> None:
        """Add the counts of another tally."""
        self._coverage.pairs += other._coverage.pairs
        self._coverage.active += other._coverage.active
        self._coverage.points += other._coverage.points
        self._longer += other._longer
        self.directions.merge(other.directions)

    @property
    def active(self) -> tuple[int, ...]:
        """Return the examples with 0, 1, 2 ... active dimensions."""
        return tuple(np.trim_zeros(self._coverage.active, "b").tolist())

    def dimensions(self) -> tuple[DimensionFigures, ...]:
        """Return the figures of each dimension, in the space's order."""
        counts = (self._coverage.positive, self._coverage.negative)

        def auc(pole: int, d: int) -> float | None:
            return float(self._longer[pole, d] / (2 * counts[pole][d])) if counts[pole][d] else None

        return tuple(
            DimensionFigures(
                slug=dimension.slug,
                name=dimension.name,
                group=dimension.group,
                positive_label=dimension.positive.label,
                negative_label=dimension.negative.label,
                positive=int(counts[0][d]),
                negative=int(counts[1][d]),
                positive_length_auc=auc(0, d),
                negative_length_auc=auc(1, d),
            )
            for d, dimension in enumerate(self._coverage.space.dimensions)
        )

    def correlation(self) -> CorrelationFigures:
        """Return the correlations of levels, computed from the counts of pairs of poles."""
        number, pairs = self._coverage.points, self._coverage.pairs.astype(np.float64)
        same = pairs[0::2, 0::2] + pairs[1::2, 1::2]
        opposite = pairs[0::2, 1::2] + pairs[1::2, 0::2]
        mean = (self._coverage.positive - self._coverage.negative) / number
        covariance = (same - opposite) / number - np.outer(mean, mean)
        varies = np.flatnonzero(covariance.diagonal() > 1e-12)
        deviation = np.sqrt(covariance.diagonal()[varies])
        matrix = covariance[np.ix_(varies, varies)] / np.outer(deviation, deviation)
        matrix = np.clip(matrix, -1, 1)
        np.fill_diagonal(matrix, 1)
        slugs = [self._coverage.space.dimensions[d].slug for d in varies]
        return CorrelationFigures(
            slugs=tuple(slugs),
            matrix=tuple(map(tuple, (np.round(matrix, _DECIMALS) + 0.0).tolist())),
            below_half=_below_half(matrix),
            strongest=_strongest(matrix, slugs),
        )


def hash_directions(levels: Direction) -> Hashes:
    """Return a 64-bit hash of each direction, shape (N, D) to (N,): the sum of a number for each active pole."""
    poles = mix(np.arange(1, 2 * levels.shape[1] + 1, dtype=np.uint64))
    return mix((levels > 0) @ poles[0::2] + (levels < 0) @ poles[1::2])


def _below_half(matrix: npt.NDArray[np.float64]) -> float | None:
    pairs = np.abs(matrix[np.triu_indices(len(matrix), 1)])
    return float((pairs < 0.5).mean()) if len(pairs) else None


def _strongest(matrix: npt.NDArray[np.float64], slugs: list[str]) -> tuple[CorrelatedPair, ...]:
    rows, columns = np.triu_indices(len(matrix), 1)
    # Rounded first, since a difference in the last bit must not change the order.
    sizes = np.round(matrix[rows, columns], _DECIMALS) + 0.0
    order = np.argsort(-np.abs(sizes), kind="stable")[:_STRONGEST]
    return tuple(
        CorrelatedPair(a=slugs[rows[k]], b=slugs[columns[k]], correlation=float(sizes[k])) for k in order if sizes[k]
    )
