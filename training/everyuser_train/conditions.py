"""Conditions of an evaluation: the ways to show a persona, and the persona of each case."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from everyuser_train.config import EvaluateConfig, Part, Source
from everyuser_train.data import Loaded
from everyuser_train.examples import Example
from everyuser_train.personas import NO_PERSONA, Persona, evaluation_persona
from everyuser_train.report import Kind
from schemas.base import UsageError

IntArray = npt.NDArray[np.int64]


class Condition(NamedTuple):
    """One way to show the persona. `parts` is empty where it has no meaning; `direction` is PBA's.

    `items` counts history items of each kind; with `known`, of both kinds together.
    """

    kind: Kind | Literal["flip", "flipped"]
    parts: tuple[Part, ...]
    direction: Source | None
    items: int


def plan(settings: EvaluateConfig, loaded: Loaded) -> tuple[list[Condition], list[str]]:
    """Return the conditions of an evaluation, the main one first, and notes on those that the data do not allow."""
    examples, notes = loaded.examples, []
    has = {
        "ugc": any(example.ugc for example in examples),
        "pair": any(example.pair for example in examples),
        "demo": any(example.portrait for example in examples),
    }
    lacking = [part for part in has if not has[part] and any(part in parts for parts in settings.parts)]
    if lacking:
        notes.append(f"no example has {' or '.join(lacking)}")
    if loaded.users is None and any(example.user_id for example in examples):
        notes.append("no figures by user: some rows have none; data.kinds=[opposite,near,restraint] leaves them out")
    # Without the missing parts, some sets are equal.
    kept = list(dict.fromkeys(tuple(part for part in parts if has[part]) for parts in settings.parts))
    sets = [parts for parts in kept if parts]
    history = tuple(part for part in sets[0] if part != "demo") if sets else ()

    conditions = []
    sources: tuple[Source | None, ...] = (
        (None,) if settings.method == "ica" else tuple(dict.fromkeys(settings.directions))
    )
    for source in sources:
        if source in _GIVEN:
            conditions.append(Condition("persona", (), source, settings.items))
        else:
            conditions += [Condition("persona", parts, source, settings.items) for parts in sets]
            if history and settings.lengths:
                lengths, beyond = _lengths(settings.lengths, history, examples)
                conditions += [Condition("length", history, source, length) for length in lengths]
                if beyond:
                    notes.append(f"no history is longer than {lengths[-1]}: lengths {_listed(beyond)} left out")
            if history and settings.known and loaded.users is not None:
                conditions += [
                    Condition("known", history, source, items) for items in _known(settings.known, history, examples)
                ]
    if not conditions:
        raise UsageError(f"{settings.data.path} has none of the persona parts in `parts`")
    if settings.shuffled:
        if partners(_groups(loaded), settings.seed) is None:
            shared = "post" if loaded.users is None else "user"
            notes.append(f"no control with someone else's persona: more than half of the examples share a {shared}")
        else:
            main: dict[Source | None, Condition] = {}
            for condition in conditions:
                main.setdefault(condition.direction, condition)
            conditions += [condition._replace(kind="shuffled") for condition in main.values()]
    if settings.baseline:
        conditions.append(Condition("none", (), None, 0))
    if settings.flip:
        for source in sources:
            if any(_can_flip(example, source, loaded) for example in examples):
                parts: tuple[Part, ...] = () if source in _GIVEN else ("pair",)
                conditions += [Condition(kind, parts, source, settings.items) for kind in _FLIP]
            else:
                lacks = "directions and a space" if source in _GIVEN else "history pairs"
                notes.append(f"no flip: the dataset has no {lacks}")
    return conditions, notes


_GIVEN = ("target", "user")
"""Sources of a direction that does not depend on the parts of the persona."""

_FLIP: tuple[Literal["flip", "flipped"], ...] = ("flip", "flipped")


def _lengths(asked: Sequence[int], parts: Sequence[Part], examples: Sequence[Example]) -> tuple[list[int], list[int]]:
    """Return the lengths with distinct results, ascending, and those longer than any history."""
    longest = max(
        max(len(example.ugc) if "ugc" in parts else 0, len(example.pair) if "pair" in parts else 0)
        for example in examples
    )
    lengths = sorted(set(asked))
    kept = [length for k, length in enumerate(lengths) if k == 0 or lengths[k - 1] < longest]
    return kept, lengths[len(kept) :]


def _known(asked: Sequence[int], parts: Sequence[Part], examples: Sequence[Example]) -> list[int]:
    """Return the numbers of known items, ascending, up to those of the longest history."""
    most = max(
        (len(example.ugc) if "ugc" in parts else 0) + (len(example.pair) if "pair" in parts else 0)
        for example in examples
    )
    return sorted({most, *(items for items in asked if items < most)})


def _can_flip(example: Example, source: Source | None, loaded: Loaded) -> bool:
    """Return whether a reversed persona reverses the preference. A plain answer stays the better one."""
    if example.kind == "restraint":
        return False
    if source not in _GIVEN:
        return bool(example.pair)
    direction = example.direction if source == "target" else example.user_direction
    return direction is not None and loaded.space is not None


def _groups(loaded: Loaded) -> npt.NDArray[Any]:
    """Return the group of each case, (N,), within which no control is drawn: its user, or else its post."""
    return np.array([example.post for example in loaded.examples]) if loaded.users is None else loaded.users


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def partners(groups: npt.NDArray[Any], seed: int) -> IntArray | None:
    """Return a permutation (N,) that pairs each case with one of another group, or None if one group is too large.

    `groups` (N,) is the post of each case, or its user.
    """
    _, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    largest = int(sizes.max())
    if 2 * largest > len(group):
        return None
    purpose = int.from_bytes(hashlib.blake2b(b"partners", digest_size=8).digest(), "little")
    generator = np.random.Generator(np.random.Philox(key=[seed, purpose]))
    place = generator.permutation(len(sizes))
    # Cases in random order, by group. A rotation by the largest group's size leaves no case in its own group.
    order = np.lexsort((generator.random(len(group)), place[group]))
    partner = np.empty(len(group), dtype=np.int64)
    partner[order] = np.roll(order, -largest)
    return partner


def personas(condition: Condition, loaded: Loaded, settings: EvaluateConfig) -> Iterator[tuple[int, Example, Persona]]:
    """Yield the cases of a condition: row, example, and the persona in its prompt."""
    source = condition.direction or "target"

    def persona(example: Example) -> Persona:
        parts, items, together = condition.parts, condition.items, condition.kind == "known"
        return evaluation_persona(example, parts, items, settings.method, source, loaded.space, together)

    examples = loaded.examples
    partner = None
    if condition.kind == "shuffled":
        partner = partners(_groups(loaded), settings.seed)
    for row, example in enumerate(examples):
        if condition.kind == "none":
            yield row, example, NO_PERSONA
        elif partner is not None:
            yield row, example, persona(examples[partner[row]])
        elif condition.kind in _FLIP:
            if not _can_flip(example, condition.direction, loaded):
                continue
            shown = example.flipped() if condition.kind == "flipped" else example
            yield row, shown, persona(shown)
        else:
            yield row, example, persona(example)
