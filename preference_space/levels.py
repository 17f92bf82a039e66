"""Arithmetic of intensity levels: one-hot vectors, their matches, votes, and margins.

Levels are an int8 array over {-1, 0, 1}: positive pole, negative pole, or 0 where the text alone cannot tell (the
middle one of the paper's three levels). A response has shape (D,), N responses (N, D).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from preference_space.direction import Direction


def one_hot(levels: Direction) -> npt.NDArray[np.float32]:
    """Return one-hot vectors, shape (N, D) to (N, 3 * D), for K-means and for the paper's cosine.

    The product of two rows counts the dimensions with the same level; divided by D it is their cosine. The counts are
    exact in float32, in whatever order a matrix product adds them.
    """
    hot: npt.NDArray[np.bool_] = levels[..., None] == np.array([1, 0, -1], dtype=np.int8)
    return hot.reshape(len(levels), 3 * levels.shape[-1]).astype(np.float32)


def pole_probabilities(levels: Direction) -> npt.NDArray[np.float32]:
    """Return the probabilities of the positive and the negative pole for certain levels, shape (..., D, 2)."""
    return np.stack([levels > 0, levels < 0], axis=-1).astype(np.float32)


def majority(levels: Direction) -> Direction:
    """Return the majority vote, shape (N, D) to (D,): the pole of more than half of the rows, else 0."""
    positive, negative = ((levels == pole).sum(axis=0) > len(levels) / 2 for pole in (1, -1))
    result: Direction = positive.astype(np.int8) - negative.astype(np.int8)
    return result


def claimed(directions: npt.NDArray[np.int8], kinds: Sequence[str]) -> npt.NDArray[np.int8]:
    """Return how the chosen replies of N pairs differ from the rejected ones by their directions, shape (N, D).

    This is the direction, and its opposite for a restraint pair: there the rejected reply shows the person.
    """
    signs = np.array([-1 if kind == "restraint" else 1 for kind in kinds], dtype=np.int8)
    return directions * signs[:, None]


def is_shown(
    margins: npt.NDArray[np.float32], levels: npt.NDArray[np.int8], min_margin: float = 0.0
) -> npt.NDArray[np.bool_]:
    """Return which dimensions two replies show as asked: the margin in the asked direction is above `min_margin`.

    Args:
        margins: Of chosen and rejected reply, not a number where nobody was asked; shape (..., D).
        levels: The asked difference, by `claimed`; shape (..., D).
        min_margin: 0 asks for the right sign alone.

    Returns:
        One value for each dimension, False where the level is 0; shape (..., D).
    """
    return np.asarray(margins * levels > np.float32(min_margin))
