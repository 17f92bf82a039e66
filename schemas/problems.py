"""What is wrong with a document, in words: the key, what was given, what is expected.

Pydantic finds where a document fails its model; the words are ours, from the model's annotations. The training package
has the same file.
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
"""The keys, and indices of lists, that lead to a place in a document."""

_LONGEST_VALUE = 60
"""Characters of a given text that a message repeats."""
_MOST = 3
"""Problems that one line reports."""


@dataclass(frozen=True)
class Fits:
    """Metadata of a text that has a pattern: what fits, in words that follow "expected"."""

    words: str


@dataclass(frozen=True)
class Hidden:
    """Metadata of a key whose value no message repeats, as people put secrets there."""


def quoted(path: Key) -> tuple[str, str]:
    """Return the words for a place: no prefix, and the dotted key in quotes."""
    return "", f"'{'.'.join(str(part) for part in path)}'"


def explain(
    model: type[BaseModel], document: Any, error: ValidationError, where: Callable[[Key], tuple[str, str]] = quoted
) -> str:
    """Return one line about the first problems of a document.

    Args:
        model: What the document was to be.
        document: The document as read from JSON.
        error: What pydantic found.
        where: The words for a place: a prefix, such as that of a list's entry, and the key.
    """
    found: dict[Key, str] = {}
    for problem in error.errors(include_url=False):
        path = _path(document, problem)
        found.setdefault(path, _sentence(model, document, path, problem, where))
    # Each alternative of a union has its problem; the innermost one helps.
    sentences = [
        sentence
        for path, sentence in found.items()
        if not path or not any(other[: len(path)] == path for other in found if other != path)
    ]
    return "; ".join(sentences[:_MOST]) + (f"; and {len(sentences) - _MOST} more" if len(sentences) > _MOST else "")


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint at what was meant by an unknown `name`."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean '{near[0]}'?" if near else f"known here: {', '.join(names)}"


def given(value: Any) -> str:
    """Return the words for what a document holds; passwords and queries within addresses are left out."""
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
        text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}...", ensure_ascii=False
    )


class _Spot(NamedTuple):
    """A place in a model: its annotation, and the constraints on it."""

    annotation: Any
    constraints: tuple[Any, ...] = ()

    def bare(self) -> _Spot:
        """Return the annotation without `Annotated`, whose metadata join the constraints."""
        annotation, constraints = self
        while get_origin(annotation) is Annotated:
            annotation, *metadata = get_args(annotation)
            constraints += (*metadata, *(inner for outer in metadata for inner in getattr(outer, "metadata", ())))
        return _Spot(annotation, constraints)

    def alternatives(self) -> list[_Spot]:
        """Return the parts of a union; anything else is its own only part."""
        annotation, constraints = self.bare()
        if get_origin(annotation) in (tuple, list, dict, Literal) or not get_args(annotation):
            return [_Spot(annotation, constraints)]
        return [one for part in get_args(annotation) for one in _Spot(part, constraints).alternatives()]

    def models(self, document: Any = None) -> list[type[BaseModel]]:
        """Return the models that may stand here; where the document has a kind, those of that kind."""
        models = [one.annotation for one in self.alternatives() if isinstance(one.annotation, type)]
        models = [model for model in models if issubclass(model, BaseModel)]
        kind = document.get("kind") if isinstance(document, dict) else None
        return [model for model in models if kind in _kinds(model)] or models

    def inside(self, part: str | int, document: Any) -> list[_Spot]:
        """Return the places that a key or a list's index leads to."""
        fields = [
            field
            for model in self.models(document)
            for name, field in model.model_fields.items()
            if part in (name, field.alias)
        ]
        found = [_Spot(field.annotation, tuple(field.metadata)) for field in fields]
        for annotation, _ in self.alternatives():
            if get_origin(annotation) in (tuple, list) and isinstance(part, int):
                found.append(_Spot(get_args(annotation)[0]))
            if get_origin(annotation) is dict:
                found.append(_Spot(get_args(annotation)[1]))
        return found

    def choices(self) -> list[str]:
        """Return the texts that fit, where they are a closed list."""
        return [str(c) for one in self.alternatives() if get_origin(one[0]) is Literal for c in get_args(one[0])]

    def expected(self) -> str:
        """Return what fits here, in words."""
        return _one_of([one._expected() for one in self.alternatives()])

    def _expected(self) -> str:
        annotation, constraints = self
        for constraint in constraints:
            if isinstance(constraint, Fits):
                return constraint.words
        arguments = get_args(annotation)
        filled = any(getattr(constraint, "min_length", None) for constraint in constraints)
        if get_origin(annotation) is Literal:
            return _one_of([f"'{argument}'" for argument in arguments])
        if get_origin(annotation) in (tuple, list):
            words = _Spot(arguments[0]).expected()
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
    return _Spot(annotation, tuple(constraints)).expected()


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


def _one_of(words: Sequence[str]) -> str:
    *others, last = dict.fromkeys(words)
    comma = "," if any("," in word or " that " in word for word in others) else ""
    return f"{', '.join(others)}{comma} or {last}" if others else last


def _kinds(model: type[BaseModel]) -> tuple[str, ...]:
    return get_args(model.model_fields["kind"].annotation) if "kind" in model.model_fields else ()


def _path(document: Any, problem: Any) -> Key:
    """Return the keys that lead to a problem, without pydantic's names for the alternatives of a union."""
    path: list[str | int] = []
    for part in problem["loc"]:
        if _has(document, part):
            document = document[part]
            path.append(part)
    return (*path, problem["loc"][-1]) if problem["type"] == "missing" else tuple(path)


def _has(document: Any, part: Any) -> bool:
    if isinstance(document, list):
        return isinstance(part, int) and part < len(document)
    return isinstance(document, dict) and part in document


def _sentence(
    model: type[BaseModel], document: Any, path: Key, problem: Any, where: Callable[[Key], tuple[str, str]]
) -> str:
    prefix, key = where(path)
    if problem["type"] in ("value_error", "assertion_error"):
        return f"{prefix}{key + ': ' if path else ''}{problem['ctx']['error']}"
    spots, parents, value, parent = [_Spot(model)], [_Spot(model)], document, document
    for part in path:
        parents, parent = spots, value
        spots = [inner for spot in spots for inner in spot.inside(part, value)]
        value = value[part] if _has(value, part) else None
    if problem["type"] == "extra_forbidden":
        if path[-1] in [kind for spot in parents for one in spot.models() for kind in _kinds(one)]:
            return f"{prefix}unknown key {key}; did you mean 'kind: {path[-1]}'?"
        names = {name for spot in parents for one in spot.models(parent) for name in one.model_fields}
        return f"{prefix}unknown key {key}; {nearest(str(path[-1]), names)}"
    if problem["loc"][-1:] == ("[key]",):
        keys = [
            name for spot in parents for one, _ in spot.alternatives() for name in _Spot(get_args(one)[0]).choices()
        ]
        return f"{prefix}unknown key {key}; {nearest(str(path[-1]), keys)}"
    fits = _one_of([spot.expected() for spot in spots])
    choices = [choice for spot in spots for choice in spot.choices()]
    if problem["type"] in ("union_tag_not_found", "union_tag_invalid"):
        prefix, key = where((*path, "kind"))
        choices = [kind for spot in spots for one in spot.models() for kind in _kinds(one)]
        fits = _one_of([f"'{choice}'" for choice in choices])
        value = value.get("kind")
    if problem["type"] in ("missing", "union_tag_not_found"):
        return f"{prefix}{key} is required: {fits}"
    if not path:
        return f"{prefix}expected keys and values, found {given(value)}"
    if any(isinstance(constraint, Hidden) for spot in spots for one in spot.alternatives() for constraint in one[1]):
        return f"{prefix}{key} is not {fits} (its value is not shown, as it may be a secret)"
    near = difflib.get_close_matches(value, choices, n=1, cutoff=0.5) if isinstance(value, str) else []
    hint = f"; did you mean '{near[0]}'?" if near else ""
    return f"{prefix}{key} is {given(value)}; expected {fits}{hint}"
