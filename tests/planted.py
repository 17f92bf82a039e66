"""A model server with a known truth: a writer whose faults are planted, and a judge that errs at a known rate.

A reply names what it shows by marks, such as `extraversion+1`, which the judge reads. The same request gets the same
answer from every server.

In a test:     `with StubServer(Planted(faults, error=0.05)) as stub: ...`
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from typing import Any

from aiohttp import web

from preference_space.space import load_space
from tests.stub import choice_of, completion, completions, is_trial, option_texts, prompt_of, words_of

Mark = tuple[str, int]
"""A dimension's slug and a level of it."""

_MARK = re.compile(r"([a-z_]+)([+-]1)\b")
_LEVELS = (1, 0, -1)
_SURE, _LEAN = 0.75, 0.1
"""Probability that goes to the option that the judge believes, and to the first option whatever it says."""


def one_voice(slug: str, ignored: int) -> dict[Mark, tuple[Mark, ...]]:
    """Return the fault of a writer who shows the other pole where this one is asked for."""
    return {(slug, ignored): ((slug, -ignored),)}


def silent(slug: str, ignored: int) -> dict[Mark, tuple[Mark, ...]]:
    """Return the fault of a writer who shows nothing where this pole is asked for."""
    return {(slug, ignored): ()}


def swapped(slug: str) -> dict[Mark, tuple[Mark, ...]]:
    """Return the fault of a writer who takes each pole for the other."""
    return {(slug, level): ((slug, -level),) for level in (1, -1)}


def halo(slug: str, other: str) -> dict[Mark, tuple[Mark, ...]]:
    """Return the fault of a writer who shows a pole of another dimension along with each pole of this one."""
    return {(slug, level): ((slug, level), (other, level)) for level in (1, -1)}


@dataclass(frozen=True)
class Planted:
    """Writer and judge: an `Answer` of a `StubServer`.

    Args:
        faults: What a reply shows where a pole is asked for, if it is not that pole alone.
        error: Share of a reply's dimensions whose level the judge takes for one of the other two.
    """

    faults: Mapping[Mark, tuple[Mark, ...]] = field(default_factory=dict)
    error: float = 0.0

    async def __call__(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        """Write a reply, or answer questions about one."""
        if "prompt" in body:
            return completions([choice_of(k, self.judge(prompt)) for k, prompt in enumerate(body["prompt"])])
        if is_trial(body):
            return completion("Hello.", prompt_tokens=len(prompt_of(body).split()))
        return completion(self.write(body))

    def write(self, body: Mapping[str, Any]) -> str:
        """Return a reply with the marks of what it shows."""
        asked = [pole for line in prompt_of(body).splitlines() if (pole := _prompts().get(line.removeprefix("- ")))]
        marks = " ".join(f"{slug}{level:+d}" for slug, level in self.shown(asked).items())
        digest = hashlib.blake2b(repr(body).encode(), digest_size=8)
        return f"Reply {digest.hexdigest()} shows {marks} and says {words_of(digest.digest(), 48)}."

    def shown(self, asked: Iterable[Mark]) -> dict[str, int]:
        """Return the levels of the dimensions that a reply shows; a pole that is asked for prevails over a halo."""
        own = dict(asked)
        found = [(of, mark) for of, level in own.items() for mark in self.faults.get((of, level), ((of, level),))]
        return {slug: level for of, (slug, level) in found if slug == of or slug not in own}

    def judge(self, prompt: str) -> dict[str, float]:
        """Return the probability of each option of a prompt's last question."""
        options = option_texts(prompt) or dict.fromkeys("ABC", "")
        poles = [_poles().get(text) for text in options.values()]
        slugs = {pole[0] for pole in poles if pole}
        believed = 0
        if slugs:
            (slug,) = slugs
            reply = re.split(r"\n(?:Comment|Reply): ", prompt.rpartition("\nQuestion: ")[0])[-1]
            seen = self.seen(reply, slug)
            believed = [pole[1] if pole else 0 for pole in poles].index(seen)
        rest = (1 - _SURE - _LEAN) / len(options)
        shares = (rest + _SURE * (k == believed) + _LEAN * (k == 0) for k in range(len(options)))
        return dict(zip(options, shares, strict=True))

    def seen(self, reply: str, slug: str) -> int:
        """Return the level of a dimension that the judge takes a reply to show."""
        true = dict(_MARK.findall(reply)).get(slug, "0")
        draw = random.Random(f"{slug} {' '.join(reply.split())}")
        others = [level for level in _LEVELS if level != int(true)]
        return draw.choice(others) if draw.random() < self.error else int(true)

    def recovery(self, slug: str, level: int) -> float:
        """Return the probability that the judge confirms a level of a sampled pair."""
        chosen, rejected = (self.shown([(slug, sign * level)]).get(slug, 0) for sign in (1, -1))
        pairs = product(_LEVELS, _LEVELS)
        return sum(self._chance(a, chosen) * self._chance(b, rejected) for a, b in pairs if (a - b) * level > 0)

    def _chance(self, seen: int, true: int) -> float:
        return 1 - self.error if seen == true else self.error / 2


@cache
def _prompts() -> dict[str, Mark]:
    """Return each pole by what asks for it in either style."""
    return {
        text: (d.slug, level)
        for d in load_space("alignx").dimensions
        for level in (1, -1)
        for text in (d.pole(level).hint, d.pole(level).service)
    }


@cache
def _poles() -> dict[str, Mark]:
    """Return each pole by the option that stands for it."""
    return {
        f"{d.pole(level).label}: {d.pole(level).description}": (d.slug, level)
        for d in load_space("alignx").dimensions
        for level in (1, -1)
    }
