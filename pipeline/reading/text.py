"""Text of any script: words, hashes, HTML entities, placeholders of deleted texts, control characters."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable
from html import unescape
from html.entities import html5

import numpy as np
import numpy.typing as npt
import regex

# Scripts without spaces between words. Each of their letters, with its marks, counts as a word.
_EAST = (
    "\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
)
_SOUTH_EAST = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u1950-\u19df\ua9e0-\ua9ff\uaa60-\uaadf"
# Marks and joiners continue a word. Neither starts one: an emoji's variation selector is not a word.
_MARK = r"\p{M}\u200c\u200d"
_ALONE = rf"[[{_EAST}{_SOUTH_EAST}]&&\p{{L}}]"
_WORD = regex.compile(
    rf"[\p{{L}}\p{{N}}_--{_ALONE}][\p{{L}}\p{{N}}_{_MARK}--{_ALONE}]*+|{_ALONE}[{_MARK}]*+", regex.VERSION1
)
# `re` does not know marks, but is faster than `regex`. It serves texts without these characters.
_NEEDS_REGEX = re.compile(
    "[\u0300-\u036f\u0483-\u0489\u0591-\u1dff\u200c\u200d\u20d0-\u20ff\u2cef-\u2cf1\u2d7f\u2de0-\u2dff\u302a-\u302f"
    "\u3099\u309a\ua66f-\ua6f1\ua802-\uabff\ufb1e\ufe00-\ufe2f\U00010000-\U0001efff\U000e0100-\U000e01ff]"
)
_FAST_WORD = re.compile(rf"[^\W{_EAST}]+|[{_EAST}](?<=\w)")

_BLANK = regex.compile(r"[\s\p{Cf}\u115f\u1160\u3164\uffa0]*+")

_ENTITY = re.compile(r"&(?:([a-z][a-z0-9]{1,31};)|#[0-9]{1,7};|#x[0-9a-f]{1,6};)", re.IGNORECASE)
# Reddit's editor puts these into empty lines. A dump escapes them once more.
_FILLER = re.compile(r"&(?:amp;)?#(?:x200b|8203);", re.IGNORECASE)
_HARD_SPACE = re.compile(r"&amp;(?:nbsp|#160|#xa0);", re.IGNORECASE)

_THING = r"(?:(?:this|the|your) )?(?:post|comment|content|submission|message|reply|answer|thread|text|account|user) "
_HINTS = ("deleted", "removed", "unavailable", "redacted")
_GONE = rf"(?:(?:was|has been|is) )?(?:{'|'.join(_HINTS)})"
_WHY = r"(?: (?:by|for|due|because|in|on|from|pending|as|post|comment|content|submission|account|user)\b.*)?"
_WHO = r"(?:the |an? )?(?:reddit|users?|moderators?|mods?|admins?|administrators?|authors?|owners?|staff|posters?)"
_PLACEHOLDER = re.compile(rf"\[ ?(?:{_THING})?{_GONE}{_WHY}\]|(?:{_THING})?{_GONE} by {_WHO}")
_LONGEST_PLACEHOLDER = 300

# Tabs and line breaks are text. A terminal command goes as a whole, with its escape character.
_COMMAND = re.compile(r"(?:\x1b\[|\x9b)[0-?]*+[ -/]*+[@-~]|\x1b\][^\x00-\x1f]{0,200}(?:\x07|\x1b\\)")
_BREAK = re.compile("[\x0b\x0c\x85]")
# Tags are invisible characters. After a black flag they make a regional flag, such as Scotland's.
_FLAG_TAG = "[\U000e0030-\U000e0039\U000e0061-\U000e007a\U000e007f]"
_CONTROL = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufffe\uffff\U000e0000-\U000e007f]"
    + "".join(f"(?<!\U0001f3f4{_FLAG_TAG * length})" for length in range(1, 7))
)
_SLUG_PART = regex.compile(rf"[\p{{L}}\p{{N}}_{_MARK}]+")
_BYTE_ORDER_MARK = "\ufeff"


def words(text: str) -> list[str]:
    """Return the case-folded words of a text: runs of letters, digits and their marks.

    In scripts without spaces between words, each letter is a word. Accents compare equal in either encoding.
    """
    return _find_words(unicodedata.normalize("NFC", text.casefold()))


def count_words(text: str) -> int:
    """Return the number of words of a text."""
    return len(_find_words(text))


def normalise(text: str) -> str:
    """Return a text without case, punctuation and spacing, for comparison."""
    return " ".join(words(text)) or text.strip()


def hash_texts(texts: Iterable[str]) -> npt.NDArray[np.uint64]:
    """Return a 64-bit hash of each text, shape (T,)."""
    digests = b"".join(hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts)
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64, copy=False)


def is_blank(text: str) -> bool:
    """Return whether a text has no visible character, only spaces, format characters or Hangul fillers."""
    return bool(_BLANK.fullmatch(text))


def to_slug(text: str) -> str:
    """Return a topic in the form of a dimension's slug: words in lower case, joined by `_`."""
    return "_".join(_SLUG_PART.findall(text.lower()))


def clean_text(text: str, escaped: bool | None = None) -> str:
    """Return a forum's text as its author wrote it: HTML entities unescaped once, control characters removed.

    `escaped` says whether the source escapes `&`, `<` and `>`, as Reddit's dumps do. By default, a text counts as
    escaped if it has entities and none of the three characters outside them.
    """
    if "&" in text:
        text = _FILLER.sub("", text)
        if _is_escaped(text) if escaped is None else escaped:
            text = _ENTITY.sub(_character, _HARD_SPACE.sub(" ", text))
    return remove_controls(text)


def is_placeholder(text: str) -> bool:
    """Return whether a text is a site's placeholder for a deleted text or author, such as `[deleted]`."""
    lower = text.casefold() if len(text) <= _LONGEST_PLACEHOLDER else ""
    if not any(hint in lower for hint in _HINTS):
        return False
    plain = " ".join(lower.replace("\\", "").split()).strip("*_.> ")
    # Spaces inside the brackets, and a full stop before the closing one, do not matter.
    plain = re.sub(r"(?<=\[) | ?\.? ?(?=\]$)", "", plain)
    return bool(_PLACEHOLDER.fullmatch(plain))


def find_control_character(text: str) -> str | None:
    """Return the first control character except tabs and line breaks, as `U+001B`; None if there is none.

    Controls of text direction count, and so do invisible tags, which a model reads.
    """
    found = _CONTROL.search(text)
    return f"U+{ord(found[0]):04X}" if found else None


def remove_controls(text: str) -> str:
    """Remove control characters and terminal commands; page breaks become line feeds."""
    return remove_byte_order_mark(_CONTROL.sub("", _BREAK.sub("\n", _COMMAND.sub("", text))))


def remove_byte_order_mark(text: str) -> str:
    """Remove leading byte order marks."""
    return text.lstrip(_BYTE_ORDER_MARK)


def _find_words(text: str) -> list[str]:
    pattern = _WORD if _NEEDS_REGEX.search(text) else _FAST_WORD
    found: list[str] = pattern.findall(text)
    return found


def _is_escaped(text: str) -> bool:
    return "<" not in text and ">" not in text and "&" not in _ENTITY.sub("", text)


def _character(entity: re.Match[str]) -> str:
    name = entity[1]
    # `html.unescape` would also unescape a prefix of an unknown name.
    return html5.get(name, entity[0]) if name else unescape(entity[0])
