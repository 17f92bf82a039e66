"""Errors of a document in plain words: the key, the given value, and what was expected.

Pydantic finds where a document fails its model. The words come from the model's annotations.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

from pydantic import BaseModel, ValidationError

Key = tuple[str | int, ...]
"""Keys and list indices that lead to a place in a document."""

_MAX_VALUE_LENGTH = 60
"""Most characters of a given text that a message repeats."""
_MAX_PROBLEMS = 3
"""Most problems in a message."""


@dataclass(frozen=True)
class Fits:
    """Metadata of a text with a pattern: what fits it, in words that follow "expected"."""

    words: str


@dataclass(frozen=True)
class Hidden:
    """Metadata of a key whose value no message repeats, since people put secrets there."""


def quote_key(path: Key) -> tuple[str, str]:
    """Return the words for a place: no prefix, and the dotted key in quotes."""
    return "", f"'{'.'.join(str(part) for part in path)}'"


def describe_errors(
    model: type[BaseModel], document: Any, error: ValidationError, where: Callable[[Key], tuple[str, str]] = quote_key
) -> str:
    """Return one line about the first problems of a document.

    Args:
        model: The model that the document fails.
        document: The document as read from JSON.
        error: The errors that pydantic found.
        where: Returns the words for a place: a prefix, such as a list's entry, and the key.
    """
    found: dict[Key, str] = {}
    for problem in error.errors(include_url=False):
        path = _document_path(document, problem)
        found.setdefault(path, _describe_problem(model, document, path, problem, where))
    # Each member of a union reports a problem; only the innermost one helps.
    sentences = [
        sentence
        for path, sentence in found.items()
        if not path or not any(other[: len(path)] == path for other in found if other != path)
    ]
    more = f"; and {len(sentences) - _MAX_PROBLEMS} more" if len(sentences) > _MAX_PROBLEMS else ""
    return "; ".join(sentences[:_MAX_PROBLEMS]) + more


def suggest_name(name: str, known: Iterable[str]) -> str:
    """Return a hint at the name that was meant by an unknown `name`."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean '{near[0]}'?" if near else f"known: {', '.join(names)}"


def describe_value(value: Any) -> str:
    """Return the words for a given value, without passwords and queries in addresses."""
    if isinstance(value, list):
        return f"a list of {len(value)}" if value else "an empty list"
    if isinstance(value, dict):
        return "keys and values" if value else "an empty map"
    if value is None or isinstance(value, bool | int | float):
        return json.dumps(value)
    if not isinstance(value, str):
        return f"of type {type(value).__name__}"
    text = re.sub(r"(?s)(//[^?]*\?).+", r"\1***", re.sub(r"(?<=//)[^/\s]*@", "***@", value))
    return "the text " + json.dumps(
        text if len(text) <= _MAX_VALUE_LENGTH else f"{text[:_MAX_VALUE_LENGTH]}...", ensure_ascii=False
    )


class _Location(NamedTuple):
    """A place in a model: its annotation, and the constraints on it."""

    annotation: Any
    constraints: tuple[Any, ...] = ()

    def unwrapped(self) -> _Location:
        """Return the location without `Annotated`, whose metadata become constraints."""
        annotation, constraints = self
        while get_origin(annotation) is Annotated:
            annotation, *metadata = get_args(annotation)
            constraints += (*metadata, *(inner for outer in metadata for inner in getattr(outer, "metadata", ())))
        return _Location(annotation, constraints)

    def union_members(self) -> list[_Location]:
        """Return the members of a union, or the location itself."""
        annotation, constraints = self.unwrapped()
        if get_origin(annotation) in (tuple, list, dict, Literal) or not get_args(annotation):
            return [_Location(annotation, constraints)]
        return [one for part in get_args(annotation) for one in _Location(part, constraints).union_members()]

    def models(self, document: Any = None) -> list[type[BaseModel]]:
        """Return the models allowed here; where the document has a kind, only those of that kind."""
        models = [one.annotation for one in self.union_members() if isinstance(one.annotation, type)]
        models = [model for model in models if issubclass(model, BaseModel)]
        kind = document.get("kind") if isinstance(document, dict) else None
        return [model for model in models if kind in _kind_values(model)] or models

    def children(self, part: str | int, document: Any) -> list[_Location]:
        """Return the locations of a key or of an index."""
        fields = [
            field
            for model in self.models(document)
            for name, field in model.model_fields.items()
            if part in (name, field.alias)
        ]
        found = [_Location(field.annotation, tuple(field.metadata)) for field in fields]
        for annotation, _ in self.union_members():
            if get_origin(annotation) in (tuple, list) and isinstance(part, int):
                found.append(_Location(get_args(annotation)[0]))
            if get_origin(annotation) is dict:
                found.append(_Location(get_args(annotation)[1]))
        return found

    def literals(self) -> list[str]:
        """Return the allowed texts, where they are a closed list."""
        annotations = [one.annotation for one in self.union_members()]
        return [str(c) for a in annotations if get_origin(a) is Literal for c in get_args(a)]

    def expected(self) -> str:
        """Return what fits here, in words."""
        return _join_with_or([one._expected() for one in self.union_members()])

    def _expected(self) -> str:
        annotation, constraints = self
        for constraint in constraints:
            if isinstance(constraint, Fits):
                return constraint.words
        arguments = get_args(annotation)
        filled = any(getattr(constraint, "min_length", None) for constraint in constraints)
        if get_origin(annotation) is Literal:
            return _join_with_or([f"'{argument}'" for argument in arguments])
        if get_origin(annotation) in (tuple, list):
            words = _Location(arguments[0]).expected()
            plurals = {"a text": "texts", "a whole number": "whole numbers", "a number": "numbers"}
            if filled:
                return f"a list with at least one entry, each {words}"
            return f"a list of {plurals.get(words) or f'entries, each {words}'}"
        if get_origin(annotation) is dict:
            return "keys and values" + (", at least one" if filled else "")
        if self.models():
            return "keys and values" + (", with a 'kind'" if "kind" in self.models()[0].model_fields else "")
        if annotation is type(None):
            return "null"
        kinds = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}
        longest = [bound for c in constraints if (bound := getattr(c, "max_length", None))]
        return (
            kinds.get(annotation, "any value")
            + (" that is not empty" if filled else "")
            + "".join(f" of at most {bound} characters" for bound in longest[:1])
            + _bounds(constraints)
        )


def expected(annotation: Any, constraints: Iterable[Any] = ()) -> str:
    """Return what fits an annotation, in words."""
    return _Location(annotation, tuple(constraints)).expected()


def _bounds(constraints: Iterable[Any]) -> str:
    bounds = {
        name: bound
        for constraint in constraints
        for name in ("ge", "gt", "le", "lt")
        if isinstance(bound := getattr(constraint, name, None), int | float)
    }
    if {"ge", "le"} <= bounds.keys():
        return f" from {bounds['ge']} to {bounds['le']}"
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    found = [f"{word} {bounds[name]}" for name, word in words.items() if name in bounds]
    return f"{' of' if found[0].startswith('at ') else ''} {' and '.join(found)}" if found else ""


def _join_with_or(words: Sequence[str]) -> str:
    *others, last = dict.fromkeys(words)
    comma = "," if any("," in word or " that " in word for word in others) else ""
    return f"{', '.join(others)}{comma} or {last}" if others else last


def _kind_values(model: type[BaseModel]) -> tuple[str, ...]:
    return get_args(model.model_fields["kind"].annotation) if "kind" in model.model_fields else ()


def _document_path(document: Any, problem: Any) -> Key:
    """Return the keys that lead to a problem, without pydantic's names for the members of a union."""
    path: list[str | int] = []
    for part in problem["loc"]:
        if _contains(document, part):
            document = document[part]
            path.append(part)
    return (*path, problem["loc"][-1]) if problem["type"] == "missing" else tuple(path)


def _contains(document: Any, part: Any) -> bool:
    if isinstance(document, list):
        return isinstance(part, int) and part < len(document)
    return isinstance(document, dict) and part in document


def _describe_problem(
    model: type[BaseModel], document: Any, path: Key, problem: Any, where: Callable[[Key], tuple[str, str]]
) -> str:
    prefix, key = where(path)
    if problem["type"] in ("value_error", "assertion_error"):
        return f"{prefix}{key + ': ' if path else ''}{problem['ctx']['error']}"
    locations, parents, value, parent = [_Location(model)], [_Location(model)], document, document
    for part in path:
        parents, parent = locations, value
        locations = [inner for location in locations for inner in location.children(part, value)]
        value = value[part] if _contains(value, part) else None
    if problem["type"] == "extra_forbidden":
        if path[-1] in [kind for location in parents for one in location.models() for kind in _kind_values(one)]:
            return f"{prefix}unknown key {key}; did you mean 'kind: {path[-1]}'?"
        names = {name for location in parents for one in location.models(parent) for name in one.model_fields}
        return f"{prefix}unknown key {key}; {suggest_name(str(path[-1]), names)}"
    if problem["loc"][-1:] == ("[key]",):
        keys = [
            name
            for location in parents
            for one, _ in location.union_members()
            for name in _Location(get_args(one)[0]).literals()
        ]
        return f"{prefix}unknown key {key}; {suggest_name(str(path[-1]), keys)}"
    fits = _join_with_or([location.expected() for location in locations])
    literals = [choice for location in locations for choice in location.literals()]
    if problem["type"] in ("union_tag_not_found", "union_tag_invalid"):
        prefix, key = where((*path, "kind"))
        literals = [kind for location in locations for one in location.models() for kind in _kind_values(one)]
        fits = _join_with_or([f"'{choice}'" for choice in literals])
        value = value.get("kind")
    if problem["type"] in ("missing", "union_tag_not_found"):
        return f"{prefix}{key} is required: {fits}"
    if not path:
        return f"{prefix}expected keys and values, found {describe_value(value)}"
    if any(
        isinstance(constraint, Hidden)
        for location in locations
        for one in location.union_members()
        for constraint in one[1]
    ):
        return f"{prefix}{key} is not {fits} (its value is not shown, as it may be a secret)"
    near = difflib.get_close_matches(value, literals, n=1, cutoff=0.5) if isinstance(value, str) else []
    hint = f"; did you mean '{near[0]}'?" if near else ""
    return f"{prefix}{key} is {describe_value(value)}; expected {fits}{hint}"
