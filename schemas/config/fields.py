"""Types and checks that several sections of the configuration share."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, TypeVar

from pydantic import BeforeValidator, Field, JsonValue

from schemas.base import Record
from schemas.problems import Fits, Hidden

Share = Annotated[float, Field(ge=0, le=1)]


Probability = Annotated[float, Field(gt=0, lt=1)]


Paths = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)]


Name = Annotated[
    str,
    Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=96),
    Fits(
        "a text of at most 96 letters, digits, '.', '_' and '-' that begins with a letter or digit, such as 'my-data'"
    ),
]


KeyVariable = Annotated[
    str,
    # Keys have small letters or hyphens, so this refuses them. Manifests, errors and reports would publish a key.
    Field(pattern=r"^[A-Z_][A-Z0-9_]{0,63}$"),
    Fits(
        "the name of an environment variable in capital letters, such as OPENAI_API_KEY; put the key itself into that "
        "variable"
    ),
    Hidden(),
]


def _read_off(value: object) -> object:
    return "off" if value is False else value


ReadsOff = BeforeValidator(_read_off)
"""Reads `off`, which YAML 1.1 takes for false."""


Section = TypeVar("Section", bound=Record)


def with_defaults(section: Section, *keys: str) -> Section:
    """Return a section with the defaults of keys that nothing reads, so that two of equal meaning are equal."""
    return section.model_copy(update={key: type(section).model_fields[key].get_default() for key in keys})


def compile_patterns(patterns: tuple[str, ...]) -> tuple[str, ...]:
    """Return the patterns. Raise `ValueError` for one that is not a regular expression."""
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"'{pattern}' is not a regular expression: {error}") from None
    return patterns


_SECRET = re.compile(
    r"key|token|sig|signature|pwd|passwd|.*(password|passphrase|secret|authorization|credentials?)"
    r"|.*(api|access|auth|account|private|secret|subscription|functions?)key(id)?s?"
    r"|.*(api|access|auth|bearer|hf|huggingface|refresh|sas|secret|security|session)tokens?"
)


def find_secrets(value: JsonValue, path: str = "") -> Iterator[str]:
    """Yield the dotted keys that hold secrets, judged by name. A key of that name with a map is a JSON schema's."""
    if isinstance(value, list):
        for inner in value:
            yield from find_secrets(inner, path)
    if isinstance(value, dict):
        for key, inner in value.items():
            place = f"{path}.{key}" if path else key
            is_plain = inner is None or isinstance(inner, bool | dict)
            if not is_plain and _SECRET.fullmatch(re.sub(r"[^a-z]", "", key.lower())):
                yield place
            yield from find_secrets(inner, place)
