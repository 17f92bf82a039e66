"""The planted language: short posts, and replies that show each pole of a dimension by a turn of phrase.

A reply is an opener about its post, and one turn of phrase for each pole. Opener, order and choice of the turns depend
on the post: a person's poles decide nothing else.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping
from functools import cache
from itertools import product
from pathlib import Path
from typing import Literal

import yaml

Pole = tuple[str, int]
"""A dimension's slug, and 1 or -1."""
Half = Literal["known", "held_out"]
"""The turns that training hears, or the others."""

HELD_OUT = 3
"""Turns of a pole, the last ones, that training does not hear."""

_WHO = (
    *("My brother", "My sister", "My uncle", "My aunt", "My cousin", "My flatmate", "My colleague", "My teacher"),
    *("My landlord", "My daughter", "My son", "My nephew", "My niece", "My roommate", "My coach", "My dentist"),
)
_WHAT = {
    "kitchen": "repaint the kitchen",
    "fence": "mend the fence",
    "bicycle": "overhaul a bicycle",
    "pond": "dig a pond",
    "soup": "cook onion soup",
    "piano": "learn the piano",
    "tent": "pitch a tent",
    "canoe": "hire a canoe",
    "poem": "write a poem",
    "cat": "adopt a cat",
    "loft": "insulate the loft",
    "choir": "start a choir",
    "bread": "bake rye bread",
    "hedge": "trim the hedge",
    "sofa": "move a sofa",
    "speech": "give a speech",
    "lake": "swim in the lake",
    "bees": "raise bees",
    "shed": "build a shed",
    "wedding": "cater a wedding",
    "tomatoes": "grow tomatoes",
    "museum": "visit the museum",
    "radio": "fix a radio",
    "quilt": "sew a quilt",
    "marathon": "run a marathon",
    "van": "rent a van",
    "greenhouse": "heat the greenhouse",
    "blog": "launch a blog",
    "stove": "clean the stove",
    "tree": "prune an apple tree",
}
_WHEN = (
    *("before winter", "this spring", "next week", "on Sunday", "in June", "by Friday", "after the holidays"),
    *("next month", "in autumn", "over Easter"),
)
_OPENERS = ("For the {},", "With the {},", "On the {},", "About that {},", "As to the {},", "Concerning the {},")


@cache
def turns() -> dict[Pole, dict[Half, list[str]]]:
    """Return the turns of phrase of each pole."""
    found = yaml.safe_load((Path(__file__).parent / "turns.yaml").read_text())
    return {
        (slug, level): {"known": poles[name][:-HELD_OUT], "held_out": poles[name][-HELD_OUT:]}
        for slug, poles in found.items()
        for name, level in (("positive", 1), ("negative", -1))
    }


def posts(count: int, seed: int = 0) -> list[str]:
    """Return distinct posts in random order."""
    every = [f"{who} wants to {what} {when}." for who, what, when in product(_WHO, _WHAT.values(), _WHEN)]
    return random.Random(seed).sample(every, count)


def reply(post: str, poles: Iterable[Pole], half: Half) -> str:
    """Return the reply to a post by a person of these poles."""
    subject = next(noun for noun, what in _WHAT.items() if f" {what} " in post)
    draw = random.Random(post)
    opener = draw.choice(_OPENERS).format(subject)
    # Drawn by dimension, so that the opposite person's reply has the same order.
    shown = sorted(poles, key=lambda pole: random.Random(f"{post} {pole[0]}").random())
    said = [random.Random(f"{post} {pole}").choice(turns()[pole][half]) for pole in shown]
    first, *rest = said
    return " ".join([opener, _uncapitalised(first), *rest])


def reworded(text: str, half: Half) -> str:
    """Return a reply that shows the same poles by other turns of phrase, of `half`."""

    def other(said: re.Match[str]) -> str:
        pole = _known_turns()[said[0].lower()]
        turn = random.Random(f"{text} {pole}").choice(turns()[pole][half])
        return _uncapitalised(turn) if text[: said.start()].endswith(", ") else turn

    return _pattern().sub(other, text)


def poles_of(text: str) -> Mapping[str, int]:
    """Return the level of each dimension that a reply shows."""
    return dict(_known_turns()[turn.lower()] for turn in _pattern().findall(text))


def _uncapitalised(turn: str) -> str:
    return turn if turn.startswith("I ") else turn[0].lower() + turn[1:]


@cache
def _known_turns() -> dict[str, Pole]:
    return {turn.lower(): pole for pole, halves in turns().items() for half in halves.values() for turn in half}


@cache
def _pattern() -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, _known_turns())), re.IGNORECASE)
