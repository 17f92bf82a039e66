"""Replaces personal data in forum texts (e-mail addresses, links, phone numbers, user names) by placeholders."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

import regex

# One pattern, so that the leftmost match wins: `joe@www.example.org` is an address, `https://joe@example.org` a link.
# Each part takes linear time: runs are possessive, and an address starts only where a run of its characters does.
# `regex`, as `re` would end a name at a combining mark.
_PERSONAL = regex.compile(
    r"""
    (?P<link>
        (?: (?:https?|ftp):// | (?<!\w)www\. ) \w
        (?: [^\s<>"()\[\]]++ | \([^\s<>"()]*+\) | \[[^\s<>"()\[\]]*+\] )*+
      | (?<=\]\() / (?!r/\w++/?\)) [^\s()]++                         # [words](/path) on the forum's own site
    )
  | (?P<email> (?<![\w.%+-]) [\w.%+-]++ @ (?:[\w-]++\.)+ [^\W\d_]\w++ )
  | (?P<user>
        (?: / | (?<!\w) ) u(?:ser)?+/ [a-z0-9_-]{2,}+
      | (?<!\w) @ _*+ [^\W\d_] \w*+ (?: [.@-]\w++ )*+                # with @name.bsky.social, @name@mastodon.example
    )
    """,
    regex.VERBOSE | regex.IGNORECASE,
)
_HINTS = ("@", "://", "www.", "u/", "user/", "](/")
_AFTER_LINK = ".,;:!?'*_~`"

# What the phone library may take for a number: seven digits or more, at most four other characters between two.
_DIGITS = re.compile(r"\d(?:[\Wx]{0,4}\d){6}", re.IGNORECASE)

# A user name that cannot be a plain word: it has a digit, `_`, `-` or an inner capital letter.
_DISTINCTIVE = re.compile(r".*[\d_-]|(?=.*[a-z]).+[A-Z]")
_MIN_NAME_LENGTH = 5


def scrub(text: str, names: Collection[str] = ()) -> str:
    """Replace personal data by placeholders, and those user names in `names` that cannot be plain words."""
    # A replacement may expose another match. Repeated until nothing is left, so that scrubbing is idempotent.
    while (cleaned := _scrub_once(text, names)) != text:
        text = cleaned
    return text


def _scrub_once(text: str, names: Collection[str]) -> str:
    lower = text.lower()
    if any(hint in lower for hint in _HINTS):
        text = _PERSONAL.sub(_placeholder, text)
    found = [
        name for name in names if name.lower() in lower and len(name) >= _MIN_NAME_LENGTH and _DISTINCTIVE.match(name)
    ]
    if found:
        longest_first = "|".join(map(re.escape, sorted(found, key=len, reverse=True)))
        text = regex.sub(rf"(?<!\w)(?:{longest_first})(?!\w)", "[user]", text, flags=regex.IGNORECASE)
    return _without_phones(text) if _DIGITS.search(text) else text


def _placeholder(match: Any) -> str:
    if match.lastgroup != "link":
        return f"[{match.lastgroup}]"
    link: str = match[0]
    return "[link]" + link[len(link.rstrip(_AFTER_LINK)) :]


def _without_phones(text: str) -> str:
    parts, end = [], 0
    # Imported here, as few texts need its large tables.
    from phonenumbers import Leniency, PhoneNumberMatcher

    for number in PhoneNumberMatcher(text, "US", leniency=Leniency.VALID):
        parts += [text[end : number.start], "[phone]"]
        end = number.end
    return "".join((*parts, text[end:]))
