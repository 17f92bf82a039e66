"""Selection of the persona's parts for a prompt: random for training, the first items for evaluation."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from everyuser_train.config import Method, Part, PersonaConfig, Source
from everyuser_train.examples import Example, PairItem, UgcItem
from preference_space.direction import aggregate, verbalise
from preference_space.space import PreferenceSpace
from schemas.base import UsageError

T = TypeVar("T")

_PURPOSE = int.from_bytes(hashlib.blake2b(b"personas", digest_size=8).digest(), "little")


class Persona(NamedTuple):
    """The selected parts of a persona; `profile` is its direction in words, for PBA."""

    ugc: tuple[UgcItem, ...]
    pair: tuple[PairItem, ...]
    portrait: str
    profile: str


NO_PERSONA = Persona((), (), "", "")
"""A persona without any part."""


def draw_persona(
    example: Example, config: PersonaConfig, space: PreferenceSpace | None, seed: int, epoch: int
) -> Persona:
    """Draw the persona of an example in an epoch of training. The result depends on the arguments alone.

    The number of items of each kind is uniform on `items_min` to `items_max`, capped by the available ones. Choice and
    order are uniform, too.

    Args:
        example: The example.
        config: Method, parts and numbers of items.
        space: Needed for a profile of a direction.
        seed: Seed of the run.
        epoch: Number of the epoch.

    Raises:
        UsageError: PBA needs a direction or a space that is missing.
    """

    def drawn(items: Sequence[T], kind: int) -> tuple[T, ...]:
        # The lowest word counts the numbers of one draw. Raw bits are stable across versions of numpy.
        counter = np.array([0, kind, epoch, example.number], dtype=np.uint64)
        key = np.array([seed, _PURPOSE], dtype=np.uint64)
        bits = np.random.Philox(key=key, counter=counter).random_raw(1 + len(items))
        low, high = min(config.items_min, len(items)), min(config.items_max, len(items))
        count = low + int(bits[0]) % (high - low + 1)
        return tuple(items[k] for k in np.argsort(bits[1:], kind="stable")[:count])

    ugc = drawn(example.ugc, 0) if "ugc" in config.parts else ()
    pair = drawn(example.pair, 1) if "pair" in config.parts else ()
    portrait = example.portrait if "demo" in config.parts else ""
    return _with_profile(example, Persona(ugc, pair, portrait, ""), config.method, config.direction, space)


def evaluation_persona(
    example: Example,
    parts: Sequence[Part],
    items: int,
    method: Method,
    direction: Source,
    space: PreferenceSpace | None,
    together: bool = False,
) -> Persona:
    """Return the persona of an example in evaluation.

    Args:
        example: The example.
        parts: Parts to show.
        items: Number of history items of each kind; the first ones are taken.
        together: `items` counts both kinds together. The pipeline deals a user's history to both in turn, in proportion
            to their numbers, and so are the first ones.
        method: ICA or PBA.
        direction: Origin of PBA's direction.
        space: Needed for a profile of a direction.

    Raises:
        UsageError: PBA needs a direction or a space that is missing.
    """
    ugc = example.ugc if "ugc" in parts else ()
    pair = example.pair if "pair" in parts else ()
    comments = pairs = items
    if together:
        whole = len(ugc) + len(pair)
        comments = min(items, whole) * len(ugc) // max(whole, 1)
        pairs = min(items, whole) - comments
    portrait = example.portrait if "demo" in parts else ""
    return _with_profile(example, Persona(ugc[:comments], pair[:pairs], portrait, ""), method, direction, space)


def _with_profile(
    example: Example, persona: Persona, method: Method, direction: Source, space: PreferenceSpace | None
) -> Persona:
    if method == "ica":
        return persona
    if direction == "user":
        profile = _user_profile(example, space)
    elif direction == "target":
        profile = _target_profile(example, space)
    else:
        profile = _history_profile(example, persona, space)
    return persona._replace(profile=profile)


def _user_profile(example: Example, space: PreferenceSpace | None) -> str:
    if example.user_direction is None:
        raise UsageError(
            f"example {example.id} has no user_direction; build the dataset with `persona: users`, or use another "
            "direction"
        )
    return verbalise(_required(space), example.user_direction)


def _target_profile(example: Example, space: PreferenceSpace | None) -> str:
    if example.profile is not None:
        return example.profile
    if example.direction is None:
        raise UsageError(
            f"example {example.id} has neither a direction nor a profile for PBA; infer the directions first "
            "(`everyuser-train infer`), or use ICA"
        )
    return verbalise(_required(space), example.direction)


def _history_profile(example: Example, persona: Persona, space: PreferenceSpace | None) -> str:
    """Return the aggregate of the persona's parts in words. A portrait stands for the example's direction."""
    directions = [*(item.direction for item in persona.ugc), *(item.direction for item in persona.pair)]
    if persona.portrait:
        directions.append(example.direction if example.portrait_direction is None else example.portrait_direction)
    if not directions:
        return ""
    known = [direction for direction in directions if direction is not None]
    if not known:
        raise UsageError(
            f"no part of the persona of example {example.id} has a direction for PBA; infer the directions first "
            "(`everyuser-train infer`), or use ICA"
        )
    return verbalise(_required(space), aggregate(np.stack(known)))


def _required(space: PreferenceSpace | None) -> PreferenceSpace:
    if space is None:
        raise UsageError("the dataset has no preference space, which PBA needs; name a preference_space.yaml")
    return space
