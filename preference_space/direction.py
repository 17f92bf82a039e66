"""Arithmetic of directions: the released numbers, words, and the persona's aggregate.

A direction is an int8 array of shape (D,) over {-1, 0, 1}; N directions have shape (N, D).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from preference_space.space import PreferenceSpace

Direction = npt.NDArray[np.int8]

POSITIVE_ABOVE = 0.6
NEGATIVE_BELOW = 0.4
"""Thresholds on the mean of released values (1 / 0.5 / 0), as in the released PBA script (paper, section 4)."""


def to_released(direction: Direction) -> npt.NDArray[np.float64]:
    """Return levels {-1, 0, 1} as the published {0, 0.5, 1}; any shape."""
    return (direction.astype(np.float64) + 1) / 2


def from_released(values: Sequence[float] | npt.NDArray[np.float64]) -> Direction:
    """Return the published {0, 0.5, 1} as levels {-1, 0, 1}; any shape. Raise `ValueError` for another number."""
    levels = np.asarray(values, dtype=np.float64) * 2 - 1
    wrong = ~np.isin(levels, (-1, 0, 1))
    if wrong.any():
        offending = ((levels[wrong] + 1) / 2).flat[0]
        raise ValueError(f"a released direction holds 0, 0.5 and 1 only, found {offending}")
    return levels.astype(np.int8)


def verbalise(space: PreferenceSpace, direction: Direction) -> str:
    """Return the labels of the active poles in the space's order, as in the released `profile` strings."""
    return ", ".join(space.dimensions[d].pole(int(direction[d])).label for d in np.flatnonzero(direction))


def aggregate(directions: Direction) -> Direction:
    """Return the persona's direction from its parts, shape (N, D) to (D,) (paper, section 4: P-tilde).

    A dimension is positive where the mean of the released values is above 0.6, and negative below 0.4. Where no
    dimension is active, those farthest from neutral are kept. Where all means are neutral, so is the result.
    """
    if len(directions) == 0:
        return np.zeros(directions.shape[1], dtype=np.int8)
    mean = to_released(directions).mean(axis=0)
    result: Direction = (mean > POSITIVE_ABOVE).astype(np.int8) - (mean < NEGATIVE_BELOW).astype(np.int8)
    if not result.any():
        distance = np.abs(mean - 0.5)
        if distance.max() > 0:
            farthest = np.isclose(distance, distance.max())
            result = np.where(farthest, np.sign(mean - 0.5), 0).astype(np.int8)
    return result
