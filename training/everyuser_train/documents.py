"""YAML within bounds: of a bounded size, depth and number of values, aliases counted as what they stand for.

It gives what JSON has: texts, numbers, truth values, null, lists, and maps with each key once. A date stays a text, and
so does what only YAML takes for a number. The building package has the same file.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, ClassVar

import yaml

MAX_BYTES = 1 << 23
"""The largest document. A space of 2,000 dimensions has about 2 MB."""
_MAX_DEPTH = 64
_MAX_SIZE = 10_000_000
"""Most values and characters, when every alias is replaced by what it stands for."""

# The C loader reads the 90 dimensions ten times faster; it is not in every build of PyYAML.
_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TAG = "tag:yaml.org,2002:"


class _Loader(_SafeLoader):  # type: ignore[misc] # which of the two it is, is known at run time only
    """A safe loader of what JSON has, to which a key given twice is an error."""

    yaml_constructors: ClassVar[dict[str | None, Any]] = {
        tag: constructor
        for tag, constructor in _SafeLoader.yaml_constructors.items()
        if tag is None or tag.removeprefix(_TAG) in ("null", "bool", "int", "float", "str", "seq", "map")
    }
    yaml_implicit_resolvers: ClassVar[dict[str, list[Any]]] = {
        first: [
            (tag, pattern) for tag, pattern in resolvers if tag.removeprefix(_TAG) not in ("timestamp", "int", "float")
        ]
        for first, resolvers in _SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping, its keys checked."""
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key is no text", key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key '{key.value}' is there twice", key.start_mark)
            seen.add(key.value)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        return mapping


class _Dumper(yaml.SafeDumper):
    """Writes what `_Loader` reads back."""


# YAML 1.1, which PyYAML reads, takes 5e-7 for a text, and 010, 1:30 and 1_0 for the numbers 8, 90 and 10.
for _end in (_Loader, _Dumper):
    _end.add_implicit_resolver(f"{_TAG}int", re.compile(r"-?(0|[1-9][0-9]*)$"), list("-0123456789"))
    _end.add_implicit_resolver(
        f"{_TAG}float",
        re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+([eE][-+]?[0-9]+)?|[eE][-+]?[0-9]+)$"),
        list("-0123456789"),
    )


def read_yaml(path: Path) -> Any:
    """The document in a file. Raises `ValueError` as `parse_yaml` does, and `OSError`."""
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"is larger than {MAX_BYTES} bytes")
    return parse_yaml(content.decode())


def parse_yaml(text: str) -> Any:
    """The document in a text. Raises `ValueError` that says in one line what is wrong, and where."""
    try:
        _measure(text)
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a safe loader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ValueError(where + " ".join(str(error.problem).split())) from None
    except yaml.reader.ReaderError as error:
        raise ValueError(f"{error.reason} (character {error.position + 1})") from None
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None
    except UnicodeEncodeError:
        raise ValueError("holds bytes that are no UTF-8 text") from None
    except ValueError as error:
        # Python's own bound on the digits of a number, in words that name no function of Python.
        raise ValueError("holds a number of too many digits" if "digits" in str(error) else str(error)) from None


def write_yaml(value: Any) -> str:
    """A value as YAML that `parse_yaml` reads back."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


def _measure(text: str) -> None:
    """Raise `ValueError` for a document beyond the bounds, before anything is made of it."""
    sizes: dict[str, int] = {}
    opened: list[tuple[str | None, int]] = []
    size = 0
    for event in yaml.parse(text, Loader=_SafeLoader):
        mark = event.start_mark
        line = f"line {mark.line + 1}: " if mark else ""
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise ValueError(f"{line}alias '*{event.anchor}' stands for nothing, or for what it is in")
            size += sizes[event.anchor]
        elif isinstance(event, yaml.ScalarEvent):
            size += 1 + len(event.value)
            if event.anchor:
                sizes[event.anchor] = 1 + len(event.value)
        elif isinstance(event, yaml.CollectionStartEvent):
            # Within itself an alias stands for nothing yet.
            sizes.pop(event.anchor or "", None)
            opened.append((event.anchor, size))
            size += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = opened.pop()
            if anchor:
                sizes[anchor] = size - before
        if len(opened) > _MAX_DEPTH:
            raise ValueError(f"{line}holds more than {_MAX_DEPTH} lists or maps within one another")
        if size > _MAX_SIZE:
            raise ValueError(f"{line}holds more than {_MAX_SIZE} values and characters, aliases counted in full")
