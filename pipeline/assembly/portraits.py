"""Portraits (P_DEMO) of a shard's personas: by template, by the model, or as in the paper."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import orjson
from pydantic import Field, ValidationError

from pipeline.assembly.examples import ExampleShard, Persona, reject
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
    """Write every persona's portraits by template, from the direction alone."""
    parts = resources(plan)
    render = parts.templates["portrait_text"].render
    return replace(
        shard,
        personas=[
            replace(
                persona,
                portraits=tuple(
                    render(traits=parts.space.traits(side * shard.block.pool.directions[persona.row]))["text"]
                    for side in plan.sides
                ),
            )
            for persona in shard.personas
        ],
    )


def render_portraits(shard: ExampleShard, plan: BuildPlan) -> ExampleShard:
    """Render the requests that ask the model for the portraits."""
    columns = {name: shard.block.table[name].to_pylist() for name in ("pair_id", "prompt", "chosen", "rejected")}

    def requests(row: int) -> tuple[Request, ...]:
        pair = {name: values[row] for name, values in columns.items()}
        if plan.config.portrait == "paper":
            return tuple(_paper_request(pair, side, plan) for side in plan.sides)
        direction = shard.block.pool.directions[row]
        return tuple(_request(pair["pair_id"], direction, side, plan) for side in plan.sides)

    return replace(shard, personas=[replace(persona, requests=requests(persona.row)) for persona in shard.personas])


def read_portraits(shard: ExampleShard, plan: BuildPlan) -> ExampleShard:
    """Read the model's portraits. A pair with one bad portrait is rejected with both of its examples."""
    personas, rejections = [], [*shard.rejections]
    steps: Counter[str] = Counter()
    each = len(plan.sides)
    for number, persona in enumerate(shard.personas):
        outcomes = shard.outcomes[number * each : (number + 1) * each]
        texts = [_clean(outcome, plan) for outcome in outcomes]
        steps.update(step for text in texts for step in text.steps)
        portraits = [_read(outcome, text, plan) for outcome, text in zip(outcomes, texts, strict=True)]
        cause = next((found for found in portraits if not isinstance(found, _Portrait)), None)
        good = [found for found in portraits if isinstance(found, _Portrait)]
        if cause is None and plan.config.history.consistency == "paper" and shard.spec.source == "mined":
            cause = _check_signs(shard, persona, good, plan)
        if cause:
            raw = tuple("" if isinstance(outcome, Failure) else outcome.text for outcome in outcomes)
            cleaned = tuple(text.text for text in texts)
            rejections.append(reject(shard.block.table, persona.row, "portrait", cause, raw, cleaned))
        else:
            personas.append(replace(persona, requests=(), portraits=tuple(found.text for found in good)))
    return replace(shard, personas=personas, rejections=rejections, cleaned=dict(steps))


def _clean(outcome: Outcome, plan: BuildPlan) -> Cleaned:
    if isinstance(outcome, Failure):
        return NOTHING
    if plan.config.portrait == "paper":
        # A JSON object, which `read_object` finds in any text.
        return Cleaned(outcome.text, outcome.finish_reason, ())
    return clean(outcome.text, plan.config.cleaning_of(outcome.reasoning_tokens), outcome.finish_reason)


def _request(pair_id: str, direction: Direction, side: int, plan: BuildPlan) -> Request:
    """Ask for a portrait from the direction alone."""
    parts = resources(plan)
    messages = parts.templates["portrait_model"].render(traits=parts.space.traits(side * direction))
    return make_request(plan.config.generation, messages, (plan.config.seed, "portrait", pair_id, side))


def _paper_request(pair: dict[str, str], side: int, plan: BuildPlan) -> Request:
    """Ask for a portrait from the post and both replies, as in the paper. It may reveal which reply is preferred."""
    parts = resources(plan)
    preferred, other = ("chosen", "rejected")[::side]
    tags = [dimension for dimension in parts.space.plain if dimension["topical"]]
    dimensions = [dimension for dimension in parts.space.plain if not dimension["topical"]]
    messages = parts.templates["portrait_paper"].render(
        post=pair["prompt"], chosen=pair[preferred], rejected=pair[other], dimensions=dimensions, tags=tags
    )
    counter = (plan.config.seed, "portrait_paper", pair["pair_id"], side)
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


def _check_signs(
    shard: ExampleShard, persona: Persona, found: Sequence[_Portrait], plan: BuildPlan
) -> Violation | None:
    """Return a violation if pair, history and portrait share no sign: the paper's criterion with the portrait."""
    pool = shard.block.pool
    for side, history, portrait in zip(plan.sides, persona.histories, found, strict=True):
        parts = [side * pool.directions[persona.row], *parts_of(history, pool)]
        if portrait.direction is not None and not shares_a_sign([*parts, portrait.direction]):
            return Violation("inconsistent", "no dimension has the same sign in the pair, its history and the portrait")
    return None
