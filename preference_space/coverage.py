"""Coverage of a set of directions: counts of each pole and of each pair of poles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from preference_space.direction import Direction
from preference_space.space import PreferenceSpace


@dataclass
class Coverage:
    """Running counts of poles in bounded memory, over any number of batches.

    `pairs[i, j]` counts points with both pole i and pole j, shape (2D, 2D). Pole 2d is the positive pole of dimension
    d, and 2d + 1 its negative pole. The diagonal counts single poles.
    """

    space: PreferenceSpace
    points: int = 0

    def __post_init__(self) -> None:
        self.pairs: npt.NDArray[np.int64] = np.zeros((2 * len(self.space),) * 2, dtype=np.int64)
        self.active: npt.NDArray[np.int64] = np.zeros(len(self.space) + 1, dtype=np.int64)

    def add(self, directions: Direction) -> None:
        """Count a batch of directions, shape (N, D)."""
        poles = (
            np.stack([directions > 0, directions < 0], axis=2)
            .reshape(len(directions), len(self.pairs))
            .astype(np.float32)
        )
        self.pairs += (poles.T @ poles).astype(np.int64)
        self.active += np.bincount((directions != 0).sum(axis=1), minlength=len(self.active))
        self.points += len(directions)

    @property
    def positive(self) -> npt.NDArray[np.int64]:
        """Return the points in which each dimension is positive, shape (D,)."""
        return self.pairs.diagonal()[0::2]

    @property
    def negative(self) -> npt.NDArray[np.int64]:
        """Return the points in which each dimension is negative, shape (D,)."""
        return self.pairs.diagonal()[1::2]

    def unseen(self) -> list[str]:
        """Return the poles that no point has, as "slug positive" or "slug negative"."""
        return [
            f"{dimension.slug} {pole}"
            for d, dimension in enumerate(self.space.dimensions)
            for pole, counts in (("positive", self.positive), ("negative", self.negative))
            if counts[d] == 0
        ]

    def pair_share(self) -> float:
        """Return the share of pairs of poles of different dimensions that at least one point has."""
        size = len(self.space)
        between = ~np.kron(np.eye(size, dtype=bool), np.ones((2, 2), dtype=bool))
        return float((self.pairs[between] > 0).mean()) if size > 1 else 1.0
