"""Portraits (P_DEMO) of a shard's personas: by template, by the model, or as in the paper."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any, Literal, NamedTuple

import numpy as np
import orjson
from pydantic import Field, ValidationError

from pipeline.assembly.examples import ExampleShard, Persona, Subject, reject
from pipeline.assembly.matching import parts_of, shares_a_sign
from pipeline.generation.completions import Failure, Outcome, Request, make_request
from pipeline.generation.json_formats import MOST_TAGS, portrait_format
from pipeline.plan import BuildPlan
from pipeline.quality.cleaning import NOTHING, Cleaned, clean
from pipeline.quality.rules import Violation, check_text
from pipeline.runtime.resources import resources
from preference_space.direction import Direction
from preference_space.space import PreferenceSpace
from schemas.answers import read_object
from schemas.base import Record
from schemas.records import Text

_PAPER_TOKENS = 768
"""Longest JSON portrait, in tokens."""


class PaperPortrait(Record):
    """Answer of the model to the paper's comparative prompt."""

    portrait: Text
    occupation: str
    dimensions: dict[str, Literal["positive", "negative"]]
    liked: tuple[str, ...] = Field(max_length=MOST_TAGS)
    disliked: tuple[str, ...] = Field(max_length=MOST_TAGS)

    @classmethod
    def read(cls, text: str, space: PreferenceSpace) -> PaperPortrait:
        """Read a reply. Unknown keys and dimensions are ignored.

        Raises `ValueError` (or its subclass `ValidationError`) if the rest is no portrait.
        """
        found = read_object(text)
        wanted = {name: found[name] for name in cls.model_fields if name in found}
        if isinstance(wanted.get("dimensions"), dict):
            known = {dimension.slug for dimension in space.dimensions}
            wanted["dimensions"] = {slug: pole for slug, pole in wanted["dimensions"].items() if slug in known}
        return cls.model_validate_json(orjson.dumps(wanted))

    def text(self) -> str:
        """Return the portrait as the dataset holds it."""
        facts = (
            ("Occupation", self.occupation.strip()),
            ("Likes", ", ".join(self.liked)),
            ("Dislikes", ", ".join(self.disliked)),
        )
        return " ".join([self.portrait.strip(), *(f"{name}: {value}." for name, value in facts if value)])

    def direction(self, space: PreferenceSpace) -> Direction:
        """Return the dimensions that the portrait names as a direction, shape (D,). Unknown tags are ignored."""
        named = {slug: 1 if pole == "positive" else -1 for slug, pole in self.dimensions.items()}
        named |= dict.fromkeys(self.liked, 1) | dict.fromkeys(self.disliked, -1)
        return np.array([named.get(dimension.slug, 0) for dimension in space.dimensions], dtype=np.int8)


@dataclass(frozen=True)
class _Portrait:
    """An accepted portrait. `direction` is what the paper's prompt made the model say of the person."""

    text: str
    direction: Direction | None = None


def write_portraits(shard: ExampleShard, plan: BuildPlan) -> ExampleShard:
    """Write all portraits by template, from the directions alone."""
    render = resources(plan).templates["portrait_text"].render
    texts = {
        subject: render(traits=_traits(shard, persona, plan))["text"] for subject, persona in shard.subjects().items()
    }
    portrayed = [replace(persona, portrait=texts[shard.subject_of(persona)]) for persona in shard.personas]
    return replace(shard, personas=portrayed)


def render_portraits(shard: ExampleShard, plan: BuildPlan) -> ExampleShard:
    """Render the requests that ask the model for the portraits."""
    render = _paper_request if plan.config.portrait == "paper" else _request
    return replace(
        shard, asked={subject: render(shard, persona, plan) for subject, persona in shard.subjects().items()}
    )


class _Answer(NamedTuple):
    """An answer about a portrait, as it came and cleaned, and what was read from it."""

    outcome: Outcome
    cleaned: Cleaned
    read: _Portrait | Violation | Failure


def read_portraits(shard: ExampleShard, plan: BuildPlan) -> ExampleShard:
    """Read the model's portraits. A pair with one bad portrait is rejected with all of its examples."""
    answers: dict[Subject, _Answer] = {}
    for subject, outcome in zip(shard.asked, shard.outcomes, strict=True):
        cleaned = _clean(outcome, plan)
        answers[subject] = _Answer(outcome, cleaned, _read(outcome, cleaned, plan))
    personas: list[Persona] = []
    rejections = [*shard.rejections]
    for row, people in itertools.groupby(shard.personas, attrgetter("row")):
        portrayed, given = [], []
        cause: Violation | Failure | None = None
        for persona in people:
            answer = answers[shard.subject_of(persona)]
            given.append(answer)
            if isinstance(answer.read, _Portrait):
                cause = cause or _check_signs(shard, persona, answer.read, plan)
                portrayed.append(replace(persona, portrait=answer.read.text))
            else:
                cause = cause or answer.read
        if cause:
            raw = tuple("" if isinstance(answer.outcome, Failure) else answer.outcome.text for answer in given)
            cleaned_texts = tuple(answer.cleaned.text for answer in given)
            rejections.append(reject(shard.block.table, row, "portrait", cause, raw, cleaned_texts))
        else:
            personas += portrayed
    steps = Counter(step for answer in answers.values() for step in answer.cleaned.steps)
    return replace(shard, personas=personas, rejections=rejections, asked={}, cleaned=dict(steps))


def _clean(outcome: Outcome, plan: BuildPlan) -> Cleaned:
    if isinstance(outcome, Failure):
        return NOTHING
    if plan.config.portrait == "paper":
        # A JSON object, which `read_object` finds in any text.
        return Cleaned(outcome.text, outcome.finish_reason, ())
    return clean(outcome.text, plan.config.cleaning_of(outcome.reasoning_tokens), outcome.finish_reason)


def _traits(shard: ExampleShard, persona: Persona, plan: BuildPlan) -> list[dict[str, Any]]:
    return resources(plan).space.traits(persona.side * shard.block.people[persona.row])


def _request(shard: ExampleShard, persona: Persona, plan: BuildPlan) -> Request:
    """Ask for a portrait from the direction alone."""
    messages = resources(plan).templates["portrait_model"].render(traits=_traits(shard, persona, plan))
    counter = (plan.config.seed, "portrait", *shard.subject_of(persona))
    return make_request(plan.config.generation, messages, counter)


def _paper_request(shard: ExampleShard, persona: Persona, plan: BuildPlan) -> Request:
    """Ask for a portrait from the post and both replies, as in the paper. It may reveal which reply is preferred."""
    parts, table = resources(plan), shard.block.table
    post, preferred, other = (
        table[name][persona.row].as_py() for name in ("prompt", *("chosen", "rejected")[:: persona.side])
    )
    tags = [dimension for dimension in parts.space.plain if dimension["topical"]]
    dimensions = [dimension for dimension in parts.space.plain if not dimension["topical"]]
    messages = parts.templates["portrait_paper"].render(
        post=post, chosen=preferred, rejected=other, dimensions=dimensions, tags=tags
    )
    counter = (plan.config.seed, "portrait_paper", *shard.subject_of(persona))
    limit = plan.config.generation.token_limit(_PAPER_TOKENS)
    changes = {"max_tokens": limit, "stop": None, "response_format": portrait_format(parts.space)}
    return make_request(plan.config.generation, messages, counter, **changes)


def _read(outcome: Outcome, cleaned: Cleaned, plan: BuildPlan) -> _Portrait | Violation | Failure:
    if isinstance(outcome, Failure):
        return outcome
    if plan.config.portrait != "paper":
        return check_text(cleaned.text, cleaned.finish_reason, plan.config.rules) or _Portrait(cleaned.text)
    if outcome.finish_reason != "stop":
        return Violation("unfinished", f"finish_reason {outcome.finish_reason}")
    space = resources(plan).space
    try:
        answer = PaperPortrait.read(outcome.text, space)
    except ValidationError as error:
        problem = error.errors()[0]
        return Violation("schema", f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}")
    except ValueError as error:
        return Violation("schema", str(error))
    violation = check_text(answer.portrait, outcome.finish_reason, plan.config.rules)
    return violation or _Portrait(answer.text(), answer.direction(space))


def _check_signs(shard: ExampleShard, persona: Persona, found: _Portrait, plan: BuildPlan) -> Violation | None:
    """Return a violation if pair, history and portrait share no sign: the paper's criterion with the portrait."""
    is_paper = plan.config.history.consistency == "paper" and shard.spec.source == "mined"
    if not is_paper or found.direction is None:
        return None
    pool = shard.block.pool
    parts = [persona.side * pool.directions[persona.row], *parts_of(persona.history, pool), found.direction]
    if shares_a_sign(parts):
        return None
    return Violation("inconsistent", "no dimension has the same sign in the pair, its history and the portrait")
