"""Parsers of values from outside. A value of an unexpected type is an error; no value becomes a text by `str()`."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import orjson

from pipeline.reading.text import is_blank, to_slug

_MAX_EXACT = 1 << 53
"""Largest float below which every integer is exact."""
_SHOWN = 60
_FLAGS = dict.fromkeys(("true", "yes", "1", "1.0"), True) | dict.fromkeys(("false", "no", "0", "0.0", ""), False)
_CHAT = re.compile(r"""\s*\[\s*\{\s*['"](?:role|content)['"]\s*:.*\]\s*""", re.DOTALL)
"""A text that encodes a chat, as in a cell of a CSV file."""


class UnreadableError(ValueError):
    """A row, or a value in it, that cannot be parsed. The message gives the reason, not the place."""


Row = Mapping[str, Any] | UnreadableError
"""A row of a file, or the reason why it cannot be read."""
Rows = Iterator[tuple[int, Row]]
"""Rows with their numbers from 1: line numbers in the decompressed text, or row numbers in formats without lines."""


def texts_in(value: Any) -> Iterator[str]:
    """Yield every text in a value of nested lists and maps."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from texts_in(inner)


def is_missing(value: Any) -> bool:
    """Return whether a value is None or NaN, which pandas writes for None."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def parse_text(value: Any, name: str) -> str:
    """Return a text; '' if the value is missing. Raise `UnreadableError` for other types and for invalid Unicode."""
    if is_missing(value):
        return ""
    if not isinstance(value, str):
        raise UnreadableError(f"'{name}' is not a text: {short_repr(value)}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UnreadableError(f"'{name}' holds bytes that are not UTF-8, or half of a surrogate pair") from None
    return value


def parse_post(value: Any, name: str) -> str:
    """Return the text of a post. The post of a chat (a list of messages) is what its user says, in all turns.

    A text may encode a chat, as JSON or as a Python literal. Raises `UnreadableError` for anything else.
    """
    if isinstance(value, str) and _CHAT.fullmatch(value):
        value = parse_list(value, name)
    if not isinstance(value, (list, tuple)) or not value or not all(map(_is_message, value)):
        return parse_text(value, name)
    turns = [_message_text(turn["content"], f"{name}.content") for turn in value if turn["role"] == "user"]
    return "\n\n".join(text for text in turns if not is_blank(text))


def parse_id(value: Any, name: str) -> str:
    """Return an id as text; '' if it is missing or blank. Raise `UnreadableError` for a value that cannot be an id.

    Integers keep all digits. A float is accepted if it is an exact integer, as pandas makes floats of integers.
    """
    if isinstance(value, float) and value.is_integer() and abs(value) <= _MAX_EXACT:
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not is_missing(value) and not isinstance(value, str):
        raise UnreadableError(f"'{name}' is neither a text nor an integer: {short_repr(value)}")
    return parse_text(value, name).strip()


def parse_list(value: Any, name: str) -> list[Any]:
    """Return a list; [] if the value is missing or blank. A text may encode a list, as in a cell of a CSV file.

    An object of equally long lists becomes a list of objects, as `datasets` stores these by column. Raises
    `UnreadableError` for anything else.
    """
    if isinstance(value, str):
        value = _parse_written_list(parse_text(value, name).strip(), name)
    if is_missing(value):
        return []
    if isinstance(value, (list, tuple)):
        return list(value)
    if isinstance(value, Mapping) and value and all(isinstance(column, (list, tuple)) for column in value.values()):
        lengths = {key: len(column) for key, column in value.items()}
        if len(set(lengths.values())) > 1:
            raise UnreadableError(f"the lists in '{name}' differ in length: {short_repr(lengths)}")
        return [dict(zip(value, entry, strict=True)) for entry in zip(*value.values(), strict=True)]
    raise UnreadableError(f"'{name}' is not a list: {short_repr(value)}")


def parse_topics(value: Any, name: str) -> list[str]:
    """Return topics as slugs, of a list or of a text with commas. Raise `UnreadableError` for anything else."""
    if isinstance(value, str) and not value.strip().startswith("["):
        value = value.split(",")
    found = (to_slug(parse_text(topic, name)) for topic in parse_list(value, name))
    return [topic for topic in found if topic]


def parse_flag(value: Any, name: str) -> bool:
    """Return a truth value, also one written as 0 or 1 or in words; False if it is missing or blank.

    Raises `UnreadableError` for anything else.
    """
    if is_missing(value):
        return False
    flag = _FLAGS.get(str(value).strip().casefold())
    if flag is None or not isinstance(value, bool | int | float | str):
        raise UnreadableError(f"'{name}' is neither true nor false: {short_repr(value)}")
    return flag


def short_repr(value: Any) -> str:
    """Return a value as messages show it: short, in one line."""
    text = " ".join(repr(value).split())
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def missing_column(wanted: str, found: Iterable[str], key: str = "") -> UnreadableError:
    """Return the error of a row without a column.

    Args:
        wanted: The column, or several, as the message shows them: `'title' or 'text'`.
        found: Names of the row's columns.
        key: Configuration key that maps columns, if there is one.
    """
    names = ", ".join(map(str, found))[:200] or "nothing"
    return UnreadableError(f"no {wanted}; found: {names}" + (f"; set {key} to use another column" if key else ""))


def _is_message(turn: Any) -> bool:
    return isinstance(turn, Mapping) and isinstance(turn.get("role"), str) and "content" in turn


def _message_text(content: Any, name: str) -> str:
    """Return the text of a chat message, whose content may be in parts. Raise `UnreadableError` for an image."""
    if not isinstance(content, (list, tuple)):
        return parse_text(content, name)
    if not all(isinstance(part, Mapping) and part.get("type") == "text" for part in content):
        raise UnreadableError(f"'{name}' holds more than texts: {short_repr(content)}")
    return "\n\n".join(parse_text(part.get("text"), name) for part in content)


def _parse_written_list(text: str, name: str) -> Any:
    """Parse a list, as JSON or as a Python literal; None for a blank text."""
    if not text:
        return None
    if text.startswith(("[", "{")):
        try:
            return orjson.loads(text)
        except orjson.JSONDecodeError:
            pass
        # numpy writes arrays without commas, and Python would concatenate their texts.
        if not re.search(r"""['"]\s+['"]""", text):
            try:
                return ast.literal_eval(text)
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                pass
    raise UnreadableError(f"'{name}' is not a list: {short_repr(text)}")
