"""JSON schemas for the model, as `response_format` fields: the levels of a response, and a portrait."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from preference_space.space import PreferenceSpace

LEVEL_OF = {"positive": 1, "negative": -1, "unclear": 0}
"""Levels by the annotator's words."""
MOST_TAGS = 8
"""Interest tags that a portrait lists at most, liked and disliked each."""


def levels_format(slugs: Sequence[str]) -> dict[str, Any]:
    """Return the `response_format` of one verdict for each dimension."""
    schema = {
        "type": "object",
        "properties": {slug: {"enum": [*LEVEL_OF]} for slug in slugs},
        "required": [*slugs],
        "additionalProperties": False,
    }
    return json_format("levels", schema)


def portrait_format(space: PreferenceSpace) -> dict[str, Any]:
    """Return the `response_format` of a portrait as in the paper."""
    tags = [dimension.slug for dimension in space.dimensions if dimension.topical]
    poles = {d.slug: {"enum": ["positive", "negative"]} for d in space.dimensions if not d.topical}
    listed = {
        "type": "array",
        "items": {"enum": tags} if tags else {"type": "string"},
        "maxItems": MOST_TAGS if tags else 0,
    }
    properties: dict[str, Any] = {
        "portrait": {"type": "string"},
        "occupation": {"type": "string"},
        "dimensions": {"type": "object", "properties": poles, "additionalProperties": False},
        "liked": listed,
        "disliked": listed,
    }
    schema = {
        "type": "object",
        "properties": properties,
        "required": [*properties],
        "additionalProperties": False,
    }
    return json_format("portrait", schema)


def json_format(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    """Return the `response_format` for a JSON schema."""
    return {"type": "json_schema", "json_schema": {"name": name, "schema": schema, "strict": True}}
