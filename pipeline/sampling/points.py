"""What the replies of a pair are written for, drawn in each attempt: the person's traits, and who the other one is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.sampling.assignment import kinds_of
from preference_space.direction import Direction
from preference_space.sampling import Sampler
from schemas.config import BuildConfig
from schemas.records import Kind


class Points(NamedTuple):
    """Of N pairs: their `kinds`, the `traits` of the person and the `directions`, both of shape (N, D).

    A near pair has a direction in the flipped traits alone, another pair in all of them.
    """

    kinds: Sequence[Kind]
    traits: Direction
    directions: Direction


def draw_points(
    config: BuildConfig,
    sampler: Sampler,
    split: str,
    attempt: int,
    numbers: npt.NDArray[np.int64],
    topics: Sequence[Sequence[str]],
    users: Direction | None,
) -> Points:
    """Draw what pairs are written for. A near pair without a possible neighbour becomes one of the opposite person.

    Args:
        config: The build's configuration.
        sampler: Sampler of the build's space.
        split: Split of the pairs.
        attempt: Number of the attempt; each draws other points.
        numbers: Numbers of the pairs, shape (N,).
        topics: Topics of each pair's post.
        users: Direction of each pair's user, shape (N, D); None for a build without users.
    """
    kinds = kinds_of(config, split, numbers)
    if users is None:
        traits = sampler.draw(split, attempt, numbers, topics)
    else:
        eligible = sampler.fits(topics)
        # Whatever a post is about, a reply may wrongly bring up what the person likes.
        eligible[kinds == "restraint"] = True
        traits = sampler.parts(split, attempt, numbers, eligible, users)
    near = np.flatnonzero(kinds == "near")
    flips = sampler.flips(split, attempt, numbers[near], traits[near], config.kinds.max_flips)
    has_neighbour = flips.any(axis=1)
    kinds[near[~has_neighbour]] = "opposite"
    directions = traits.copy()
    directions[near[has_neighbour]] = flips[has_neighbour]
    return Points(kinds.tolist(), traits, directions)
