"""What of an example's persona goes into a prompt: drawn for training, the first items for evaluation."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeVar

import numpy as np

from everyuser_train.base import UsageError
from everyuser_train.config import Part, PersonaConfig
from everyuser_train.examples import Example, PairItem, UgcItem
from everyuser_train.space import Space, aggregate, verbalise

T = TypeVar("T")

Method = Literal["ica", "pba"]
Source = Literal["target", "history"]
"""Where PBA's direction comes from, as `PersonaConfig.direction` says."""

_PURPOSE = int.from_bytes(hashlib.blake2b(b"personas", digest_size=8).digest(), "little")


class Persona(NamedTuple):
    """What is used of a persona; `profile` is its direction in words, for PBA."""

    ugc: tuple[UgcItem, ...]
    pair: tuple[PairItem, ...]
    portrait: str
    profile: str


NO_PERSONA = Persona((), (), "", "")
"""Nothing is known of the person."""


def draw(example: Example, config: PersonaConfig, space: Space | None, seed: int, epoch: int) -> Persona:
    """The persona of an example in an epoch of training: a pure function of its arguments.

    How many items of each kind is uniform on `items_min` to `items_max`, both at most what there is; which ones, and
    their order, is uniform, too. Raises `UsageError` where the profile cannot be told.
    """

    def drawn(items: Sequence[T], kind: int) -> tuple[T, ...]:
        # The lowest word counts the numbers of one draw. Raw bits are the same in every version of numpy.
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


def fixed(
    example: Example,
    parts: Sequence[Part],
    items: int,
    method: Method,
    direction: Source,
    space: Space | None,
) -> Persona:
    """The persona of an example in evaluation: the first `items` of each kind, and the portrait, as `parts` say.

    Raises `UsageError` where the profile cannot be told.
    """
    ugc = example.ugc[:items] if "ugc" in parts else ()
    pair = example.pair[:items] if "pair" in parts else ()
    portrait = example.portrait if "demo" in parts else ""
    return _with_profile(example, Persona(ugc, pair, portrait, ""), method, direction, space)


def _with_profile(
    example: Example, persona: Persona, method: Method, direction: Source, space: Space | None
) -> Persona:
    if method == "ica":
        return persona
    told = _target_profile(example, space) if direction == "target" else _history_profile(example, persona, space)
    return persona._replace(profile=told)


def _target_profile(example: Example, space: Space | None) -> str:
    if example.profile is not None:
        return example.profile
    if example.direction is None:
        raise UsageError(
            f"example {example.id} has neither a direction nor a profile for PBA; infer the directions first "
            "(`everyuser-train infer`), or use ICA"
        )
    return verbalise(_needed(space), example.direction)


def _history_profile(example: Example, persona: Persona, space: Space | None) -> str:
    """What the parts of `persona` say together, in words; the portrait says what the example's direction says."""
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
    return verbalise(_needed(space), aggregate(np.stack(known)))


def _needed(space: Space | None) -> Space:
    if space is None:
        raise UsageError("the dataset brings no preference space, which PBA needs; name a preference_space.yaml")
    return space
