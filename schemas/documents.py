"""Safe reading of YAML: bounded size, depth and number of values, with aliases counted in full.

Documents hold what JSON has: texts, numbers, booleans, null, lists, and maps with unique keys. Dates and numbers that
only YAML knows stay texts.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, ClassVar

import yaml

MAX_BYTES = 1 << 23
"""Bytes of the largest document. A space of 2,000 dimensions has about 2 MB."""
_MAX_DEPTH = 64
_MAX_SIZE = 10_000_000
"""Most values and characters, with every alias replaced by its value."""

# The C loader is ten times faster, but not in every build of PyYAML.
_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TAG = "tag:yaml.org,2002:"


class _Loader(_SafeLoader):  # type: ignore[misc] # the base class is known at run time only
    """A safe loader of JSON's types that refuses repeated keys."""

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
        """Return a mapping after a check of its keys."""
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key is not a text", key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key '{key.value}' is given twice", key.start_mark)
            seen.add(key.value)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        return mapping


class _Dumper(yaml.SafeDumper):
    """A dumper of documents that `_Loader` reads back."""


# PyYAML follows YAML 1.1, which reads 5e-7 as a text and 010, 1:30 and 1_0 as the numbers 8, 90 and 10.
for _end in (_Loader, _Dumper):
    _end.add_implicit_resolver(f"{_TAG}int", re.compile(r"-?(0|[1-9][0-9]*)$"), list("-0123456789"))
    _end.add_implicit_resolver(
        f"{_TAG}float",
        re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+([eE][-+]?[0-9]+)?|[eE][-+]?[0-9]+)$"),
        list("-0123456789"),
    )


def read_yaml(path: Path) -> Any:
    """Return the document in a file. Raise `OSError`, and `ValueError` as `parse_yaml` does."""
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"is larger than {MAX_BYTES} bytes")
    return parse_yaml(content.decode())


def parse_yaml(text: str) -> Any:
    """Return the document in a text. Raise `ValueError` with one line that says what is wrong and where."""
    try:
        _check_bounds(text)
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
        raise ValueError("is not UTF-8 text") from None
    except ValueError as error:
        # Python's message about its limit of digits names a function, which does not help the user.
        raise ValueError("holds a number with too many digits" if "digits" in str(error) else str(error)) from None


def write_yaml(value: Any) -> str:
    """Return a value as YAML that `parse_yaml` reads back."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


def _check_bounds(text: str) -> None:
    """Raise `ValueError` for a document beyond the bounds, before it is constructed."""
    sizes: dict[str, int] = {}
    opened: list[tuple[str | None, int]] = []
    size = 0
    for event in yaml.parse(text, Loader=_SafeLoader):
        mark = event.start_mark
        line = f"line {mark.line + 1}: " if mark else ""
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise ValueError(f"{line}alias '*{event.anchor}' has no anchor before it, or is inside its own value")
            size += sizes[event.anchor]
        elif isinstance(event, yaml.ScalarEvent):
            size += 1 + len(event.value)
            if event.anchor:
                sizes[event.anchor] = 1 + len(event.value)
        elif isinstance(event, yaml.CollectionStartEvent):
            # Inside its own value an alias has no size yet.
            sizes.pop(event.anchor or "", None)
            opened.append((event.anchor, size))
            size += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = opened.pop()
            if anchor:
                sizes[anchor] = size - before
        if len(opened) > _MAX_DEPTH:
            raise ValueError(f"{line}holds more than {_MAX_DEPTH} nested lists or maps")
        if size > _MAX_SIZE:
            raise ValueError(f"{line}holds more than {_MAX_SIZE} values and characters, aliases counted in full")
