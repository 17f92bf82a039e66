"""Typed readers of values from outside: a value of an unexpected shape is refused, and never made a text by `str()`."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

from pipeline.reading.text import is_blank, slug

_EXACT = 1 << 53
"""Above this, neighbouring integers are the same float."""
_SHOWN = 60
_CHAT = re.compile(r"""\s*\[\s*\{\s*['"](?:role|content)['"]\s*:.*\]\s*""", re.DOTALL)
"""A text that holds a chat, as in a cell of a CSV file."""


class UnreadableError(ValueError):
    """A row, or a value in it, that cannot be used. Its text says why, without the place."""


Row = Mapping[str, Any] | UnreadableError
"""A row of a file, or why it is none."""
Rows = Iterator[tuple[int, Row]]
"""Rows with their numbers, from 1: of lines in the (decompressed) text, or of rows where there are no lines."""


def is_missing(value: Any) -> bool:
    """Return whether nothing is there: None, or NaN, which pandas writes for it."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def as_text(value: Any, name: str) -> str:
    """Return a text; '' where the value is missing. Raises `UnreadableError` for any other kind of value."""
    if is_missing(value):
        return ""
    if not isinstance(value, str):
        raise UnreadableError(f"'{name}' is not a text: {shown(value)}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UnreadableError(f"'{name}' holds bytes that are not UTF-8, or half of a surrogate pair") from None
    return value


def as_post(value: Any, name: str) -> str:
    """Return the text of a post. Of a chat, a list of messages, that is what its user says, all turns of it.

    A text may hold a chat, as JSON or as Python writes one. Raises `UnreadableError` for what is neither a text nor a
    chat, and for a chat in a text that cannot be read.
    """
    if isinstance(value, str) and _CHAT.fullmatch(value):
        value = as_list(value, name)
    if not isinstance(value, (list, tuple)) or not value or not all(map(_is_message, value)):
        return as_text(value, name)
    said = [_said(turn["content"], f"{name}.content") for turn in value if turn["role"] == "user"]
    return "\n\n".join(text for text in said if not is_blank(text))


def as_id(value: Any, name: str) -> str:
    """Return an id as exact text; '' where it is missing or blank. Raises `UnreadableError` for what cannot be one.

    Integers keep all digits. A float must be a whole number small enough to be exact: pandas makes such of integers.
    """
    if isinstance(value, float) and value.is_integer() and abs(value) <= _EXACT:
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not is_missing(value) and not isinstance(value, str):
        raise UnreadableError(f"'{name}' is neither a text nor an integer: {shown(value)}")
    return as_text(value, name).strip()


def as_list(value: Any, name: str) -> list[Any]:
    """Return a list; [] where the value is missing or a blank text. A text may hold one, as in a cell of a CSV file.

    An object of lists of the same length is the list of objects that it stands for, as `datasets` stores one. Raises
    `UnreadableError` for anything else.
    """
    if isinstance(value, str):
        value = _written(as_text(value, name).strip(), name)
    if is_missing(value):
        return []
    if isinstance(value, (list, tuple)):
        return list(value)
    if isinstance(value, Mapping) and value and all(isinstance(column, (list, tuple)) for column in value.values()):
        lengths = {key: len(column) for key, column in value.items()}
        if len(set(lengths.values())) > 1:
            raise UnreadableError(f"the lists in '{name}' differ in length: {shown(lengths)}")
        return [dict(zip(value, entry, strict=True)) for entry in zip(*value.values(), strict=True)]
    raise UnreadableError(f"'{name}' is not a list: {shown(value)}")


def as_topics(value: Any, name: str) -> list[str]:
    """Return topics: of a list, of a text that holds one, or of a text with commas. Raises `UnreadableError`."""
    if isinstance(value, str) and not value.strip().startswith("["):
        value = value.split(",")
    found = (slug(as_text(topic, name)) for topic in as_list(value, name))
    return [topic for topic in found if topic]


def shown(value: Any) -> str:
    """Return a value as an error shows it: short, in one line."""
    text = " ".join(repr(value).split())
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def named(columns: Sequence[Any] | Mapping[Any, Any]) -> str:
    """Return the names of the columns that were found, as an error lists them."""
    return ", ".join(map(str, columns))[:200] or "none"


def _is_message(turn: Any) -> bool:
    return isinstance(turn, Mapping) and isinstance(turn.get("role"), str) and "content" in turn


def _said(content: Any, name: str) -> str:
    """A message's text, which may be in parts; an image is none."""
    if not isinstance(content, (list, tuple)):
        return as_text(content, name)
    if not all(isinstance(part, Mapping) and part.get("type") == "text" for part in content):
        raise UnreadableError(f"'{name}' holds more than texts: {shown(content)}")
    return "\n\n".join(as_text(part.get("text"), name) for part in content)


def _written(text: str, name: str) -> Any:
    """The list that a text holds, as JSON or as Python writes one; None of a blank text."""
    if not text:
        return None
    if text.startswith(("[", "{")):
        try:
            return orjson.loads(text)
        except orjson.JSONDecodeError:
            pass
        # Without commas, as numpy writes an array, Python would join the texts.
        if not re.search(r"""['"]\s+['"]""", text):
            try:
                return ast.literal_eval(text)
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                pass
    raise UnreadableError(f"'{name}' is not a list: {shown(text)}")
