"""Cleaning: a model's raw text becomes the reply or portrait that is judged and stored.

Each step removes one thing that a model writes around a reply. Steps repeat until none finds anything, as a fence may
hold a lead-in, which holds quotation marks. Time is linear in the text, however hostile.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from pipeline.quality.endings import cut_at_sentence, strip_postscript, strip_sign_off
from pipeline.quality.lead_ins import strip_lead_in, strip_speaker
from schemas.answers import split_thinking
from schemas.config import CleaningConfig

CUT_OFF = frozenset({"length", "max_tokens", "max_output_tokens"})
"""Finish reasons, in lower case, of a text that the limit of tokens cut off."""


class Cleaned(NamedTuple):
    """A cleaned text, its finish reason, and the steps that changed it.

    A text that was cut off and ends at a whole sentence counts as finished: `stop`.
    """

    text: str
    finish_reason: str
    steps: tuple[str, ...]


NOTHING = Cleaned("", "", ())
"""What is left of a request without a text."""

Steps = tuple[tuple[str, Callable[[str], str]], ...]
"""Steps by name: a key of the configuration, and a count of the manifest. Each returns its text, or less of it."""

_MOST_LAYERS = 20
"""Rounds of steps. More layers are no reply, and each round of a long text takes time."""

_SPACE = "".join(c for c in map(chr, range(0x3001)) if c.isspace()) + "\ufeff\u200b\u2060"
_ENCLOSING = (
    *((mark, mark) for mark in ("***", "**", "*", "___", "__", "_", "```", "`", '"', "''", "'")),
    *(("\u201c", "\u201d"), ("\u2018", "\u2019"), ("\u00ab", "\u00bb"), ("\u2039", "\u203a")),
    # Quotation marks of German, Polish, Danish, Chinese and Japanese.
    *(("\u201e", "\u201c"), ("\u201e", "\u201d"), ("\u201a", "\u2018"), ("\u201a", "\u2019"), ("\u00bb", "\u00ab")),
    *(("\u300c", "\u300d"), ("\u300e", "\u300f")),
    *((f"<{tag}>", f"</{tag}>") for tag in ("answer", "reply", "response", "output", "comment", "text")),
)
"""Marks before and after a whole text."""
_FENCE_LANGUAGE = re.compile(r"[\w+-]{0,20}\n")
_APOSTROPHE = re.compile(r"(?<=\w)'(?=\w)")


def clean(text: str, config: CleaningConfig, finish_reason: str = "stop") -> Cleaned:
    """Return the cleaned text of a model. Cleaning a cleaned text changes nothing.

    Args:
        text: Raw text.
        config: The steps that apply.
        finish_reason: As the server gave it.
    """
    found: dict[str, None] = {}
    first, repeated = _enabled(config)
    text = _apply(first, text, found)
    if config.cut_at_sentence and finish_reason.lower() in CUT_OFF:
        whole = cut_at_sentence(text, config.min_cut_share)
        if whole is not None:
            found["cut_at_sentence"] = None
            text, finish_reason = _without_open_mark(whole), "stop"
    for _ in range(_MOST_LAYERS):
        before, text = text, _apply(repeated, text, found)
        if text == before:
            break
    return Cleaned(text, finish_reason, tuple(found))


def _apply(steps: Steps, text: str, found: dict[str, None]) -> str:
    """Return the text after each step in turn. Add the names of those that changed it."""
    for name, step in steps:
        changed = step(text)
        if changed != text:
            found[name] = None
            text = changed.strip(_SPACE)
    return text


def _reply_of(text: str) -> str:
    return split_thinking(text)[1]


def _tidy(text: str) -> str:
    """Return a text without space at its ends and at those of lines, and with at most one empty line in a row."""
    lines = [line.rstrip() for line in text.replace("\r\n", "\n").strip(_SPACE).split("\n")]
    return "\n".join(line for line, last in zip(lines, ["x", *lines], strict=False) if line or last)


def _unwrap(text: str) -> str:
    """Return a text without the marks that enclose the whole of it."""
    if text[:1].isalnum():
        return text
    for opening, closing in _ENCLOSING:
        if text.startswith(opening) and text.endswith(closing) and len(text) >= len(opening) + len(closing):
            inner = text[len(opening) : -len(closing)]
            plain = _APOSTROPHE.sub("", inner) if opening == "'" else inner
            if opening not in plain and closing not in plain:
                return _FENCE_LANGUAGE.sub("", inner, count=1) if opening == "```" else inner
    lines = text.split("\n") if text.startswith(">") else ()
    if lines and all(line.startswith(">") for line in lines if line):
        return "\n".join(line.lstrip("> ") for line in lines)
    return text


def _without_open_mark(text: str) -> str:
    """Return a text that was cut, without the first character if its closing mark was cut off."""
    for opening, closing in _ENCLOSING:
        rest = text.removeprefix(opening)
        if rest != text and closing not in rest:
            return rest.strip(_SPACE)
    return text


_FIRST: Steps = (("reasoning", _reply_of), ("whitespace", _tidy))
_REPEATED: Steps = (
    ("wrapping", _unwrap),
    ("postscript", strip_postscript),
    ("sign_off", strip_sign_off),
    ("lead_in", strip_lead_in),
    ("speaker", strip_speaker),
)


@lru_cache
def _enabled(config: CleaningConfig) -> tuple[Steps, Steps]:
    """Return the steps that apply once, and those that repeat. Cached, as every text needs them."""
    keys = config.model_dump()
    first, repeated = (tuple(step for step in steps if keys.get(step[0], True)) for steps in (_FIRST, _REPEATED))
    return first, repeated
