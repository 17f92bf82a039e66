"""The preference space that travels with a dataset: its labels, and directions as words and numbers.

A direction is an int8 array over {1, -1, 0}, one number a dimension; a dataset publishes it as 1, 0 and 0.5.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from everyuser_train.base import UsageError
from everyuser_train.documents import read_yaml

Direction = npt.NDArray[np.int8]

POSITIVE_ABOVE = 0.6
NEGATIVE_BELOW = 0.4
"""Thresholds on the mean of published values, as in the released PBA script."""


class Dimension(NamedTuple):
    """One axis: its slug, what an annotator is asked, and the labels of its poles."""

    slug: str
    question: str
    positive: str
    negative: str


class Space(NamedTuple):
    """An ordered list of dimensions."""

    name: str
    dimensions: tuple[Dimension, ...]


def load_space(path: Path) -> Space:
    """Read a `preference_space.yaml`. Raises `UsageError` for a file that is none."""
    try:
        document = read_yaml(path)
        dimensions = tuple(
            Dimension(
                *map(_text, (entry["slug"], entry["question"], entry["positive"]["label"], entry["negative"]["label"]))
            )
            for entry in document["dimensions"]
        )
        return Space(_text(document["name"]), dimensions)
    except KeyError as error:
        raise UsageError(f"{path} is not a preference space: a name, dimension or pole has no {error}") from None
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(f"{path} is not a preference space: {error}") from None


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected a text, found {value!r}")
    return value


def from_released(values: Sequence[float]) -> Direction:
    """Published numbers to levels. Raises `ValueError` on another number."""
    levels = np.asarray(values, dtype=np.float64) * 2 - 1
    if not np.isin(levels, (-1, 0, 1)).all():
        raise ValueError("a direction holds 0, 0.5 and 1 only")
    return levels.astype(np.int8)


def verbalise(space: Space, direction: Direction) -> str:
    """The labels of the non-neutral dimensions, joined by commas: a dataset's `profile`."""
    return ", ".join(
        dimension.positive if level > 0 else dimension.negative
        for dimension, level in zip(space.dimensions, direction.tolist(), strict=True)
        if level
    )


def aggregate(directions: Direction) -> Direction:
    """A persona's direction from those of its parts, shape (N, D) to (D,): the paper's P-tilde.

    Mean of the published values: above 0.6 positive, below 0.4 negative. If nothing survives, the dimensions that are
    farthest from neutral are kept.
    """
    if len(directions) == 0:
        return np.zeros(directions.shape[1], dtype=np.int8)
    mean = (directions.astype(np.float64) + 1).mean(axis=0) / 2
    result: Direction = (mean > POSITIVE_ABOVE).astype(np.int8) - (mean < NEGATIVE_BELOW).astype(np.int8)
    distance = np.abs(mean - 0.5)
    if not result.any() and distance.max() > 0:
        farthest = np.isclose(distance, distance.max())
        result = np.where(farthest, np.sign(mean - 0.5), 0).astype(np.int8)
    return result
