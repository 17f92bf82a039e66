"""Arithmetic of intensity levels: one-hot vectors, their matches, and votes.

Levels are an int8 array over {-1, 0, 1}: positive pole, negative pole, or 0 where the text alone cannot tell (the
median of the paper's three levels). A response has shape (D,), many of them (N, D).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from preference_space.direction import Direction


def one_hot(levels: Direction) -> npt.NDArray[np.float32]:
    """Shape (N, D) to (N, 3 * D): what K-means clusters, and what the paper's cosine compares.

    Products of such rows count the dimensions with the same level; divided by D that is their cosine. In float32 the
    counts are exact, whichever way a matrix product adds them up.
    """
    hot: npt.NDArray[np.bool_] = levels[..., None] == np.array([1, 0, -1], dtype=np.int8)
    return hot.reshape(len(levels), 3 * levels.shape[-1]).astype(np.float32)


def majority(levels: Direction) -> Direction:
    """The majority vote, shape (N, D) to (D,): a pole that more than half of the rows have, else 0."""
    positive, negative = ((levels == pole).sum(axis=0) > len(levels) / 2 for pole in (1, -1))
    result: Direction = positive.astype(np.int8) - negative.astype(np.int8)
    return result
