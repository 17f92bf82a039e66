"""Dimensions as typed records, and spaces loaded from YAML."""

from __future__ import annotations

import difflib
import hashlib
import importlib.resources
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from schemas.base import Record, UsageError
from schemas.config import PACKAGED_SPACES
from schemas.documents import write_yaml
from schemas.loader import read_mapping, validate
from schemas.problems import Fits, Key, quote_key
from schemas.records import Text

Slug = Annotated[
    str,
    Field(pattern=r"^[a-z][a-z0-9_]*$"),
    Fits("a text of small letters, digits and '_' that begins with a letter, such as 'likes_music'"),
]


class Pole(Record):
    """One end of a dimension."""

    label: Text = Field(description="Interchange name; `profile` strings consist of these.")
    description: Text = Field(description="Completes 'This person ...' in portraits.")
    hint: Text = Field(description="Instruction to the model: how a reply shows this pole.")
    service: str = Field(
        "", description="Instruction to the model: how an assistant serves a person of this pole (`style: assistant`)."
    )


class Dimension(Record):
    """One axis of preference."""

    slug: Slug
    name: Text
    group: Text
    source: Text
    topical: bool = Field(
        False, description="True for an interest tag, which is active only for posts with that topic."
    )
    question: Text = Field(description="Question to the annotator, whose answers are the two poles or 'cannot tell'.")
    positive: Pole
    negative: Pole

    def pole(self, level: int) -> Pole:
        """Return the pole of an active level (1 or -1)."""
        return self.positive if level > 0 else self.negative


class PreferenceSpace(Record):
    """An ordered list of dimensions. A direction is one level (-1, 0, 1) for each, in this order."""

    name: Text
    dimensions: Annotated[tuple[Dimension, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _unique(self) -> PreferenceSpace:
        slugs = [dimension.slug for dimension in self.dimensions]
        labels = [pole.label for d in self.dimensions for pole in (d.positive, d.negative)]
        for what, values, each in (("slug", slugs, 1), ("label", labels, 2)):
            first: dict[str, int] = {}
            for position, value in enumerate(values):
                if value in first:
                    both = f"dimensions {first[value]} and {position // each}"
                    raise ValueError(f"'{what}': '{value}' is used more than once, by {both}")
                first[value] = position // each
        return self

    def __len__(self) -> int:
        return len(self.dimensions)

    @cached_property
    def index(self) -> dict[str, int]:
        """Return the position of each slug."""
        return {dimension.slug: position for position, dimension in enumerate(self.dimensions)}

    @cached_property
    def fingerprint(self) -> str:
        """Return a hash of the whole space."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]

    @cached_property
    def plain(self) -> list[dict[str, Any]]:
        """Return the dimensions as plain data for templates."""
        dimensions: list[dict[str, Any]] = self.model_dump(mode="json")["dimensions"]
        return dimensions

    @cached_property
    def _traits(self) -> dict[int, list[dict[str, str]]]:
        """Return the trait of each dimension for both levels, as plain data for templates."""
        return {
            level: [
                {"slug": d.slug, "name": d.name, "group": d.group, **d.pole(level).model_dump()}
                for d in self.dimensions
            ]
            for level in (1, -1)
        }

    def traits(self, direction: npt.NDArray[np.int8]) -> list[dict[str, str]]:
        """Return a direction as plain data for templates, one entry for each active dimension."""
        return [self._traits[int(direction[d])][d] for d in np.flatnonzero(direction)]

    def require(self, slug: str, key: str) -> None:
        """Raise `UsageError` for an unknown dimension. `key` is the configuration key that names it."""
        if slug not in self.index:
            near = difflib.get_close_matches(slug, self.index, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise UsageError(f"{key}: space '{self.name}' has no dimension '{slug}'{hint}")

    def select(self, names: Sequence[str] | None, key: str) -> npt.NDArray[np.int64]:
        """Return the positions of the dimensions in `names` (slugs and groups), in the space's order; all for None."""
        groups = {dimension.group for dimension in self.dimensions}
        chosen = set(groups if names is None else names)
        for slug in sorted(chosen - groups):
            self.require(slug, key)
        return np.flatnonzero([bool({d.slug, d.group} & chosen) for d in self.dimensions])

    def to_yaml(self) -> str:
        """Return the space as YAML that `load_space` reads back."""
        return write_yaml(self.model_dump(mode="json"))


class _SpaceFile(PreferenceSpace):
    """A space as written: the dimensions of another space may come before its own."""

    extends: Text | None = Field(None, description="A packaged space, or a file beside this one.")


def load_space(source: str | Path) -> PreferenceSpace:
    """Return a packaged space, such as `alignx` (the 90 dimensions), or the one in a YAML file.

    Raises:
        UsageError: Names the file, the dimension and the field.
    """
    return _load(source, ())


def _load(source: str | Path, extending: tuple[Path, ...]) -> PreferenceSpace:
    """Return a space. `extending` are the files that extend it, as absolute paths, the outermost first."""
    if source in PACKAGED_SPACES:
        with importlib.resources.as_file(importlib.resources.files("preference_space") / f"{source}.yaml") as path:
            return _load(path, extending)
    path = Path(source)
    if path.resolve() in extending:
        raise UsageError(f"{extending[-1]}: 'extends' leads back to {path}; name another space")
    file = _read(path, f"{path} (extended by {extending[-1]})" if extending else str(path))
    if file.extends is None:
        return PreferenceSpace(name=file.name, dimensions=file.dimensions)
    extended = file.extends if file.extends in PACKAGED_SPACES else path.parent / file.extends
    base = _load(extended, (*extending, path.resolve()))
    own = {dimension.slug: dimension for dimension in file.dimensions}
    merged = [own.pop(dimension.slug, dimension) for dimension in base.dimensions] + list(own.values())
    document = {"name": file.name, "dimensions": [dimension.model_dump() for dimension in merged]}
    return validate(PreferenceSpace, document, f"{path} (with the dimensions of '{base.name}')")


def _read(path: Path, origin: str) -> _SpaceFile:
    document = read_mapping(path, origin)
    dimensions = document.get("dimensions")

    def where(key: Key) -> tuple[str, str]:
        if len(key) < 2 or not isinstance(dimensions, list) or not isinstance(key[1], int):
            return quote_key(key)
        entry = dimensions[key[1]]
        dimension = (
            f"dimension {key[1]} ({entry.get('slug', 'no slug') if isinstance(entry, dict) else 'not a mapping'})"
        )
        return (f"{dimension}: ", quote_key(key[2:])[1]) if key[2:] else ("", dimension)

    return validate(_SpaceFile, document, origin, where)
