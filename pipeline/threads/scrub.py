"""Personal data in forum text: e-mail addresses, links, phone numbers and user names give way to placeholders."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

import regex

# One pattern, so that what begins first wins: `joe@www.example.org` is an address, `https://joe@example.org` a link.
# Each part is linear: runs are possessive, and an address can only begin where a run of its characters does.
# With `regex`, as a name goes on after a mark on one of its letters.
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

# What the phone library can take for a number: at least seven digits, up to four other characters between two of them.
_DIGITS = re.compile(r"\d(?:[\Wx]{0,4}\d){6}", re.IGNORECASE)

# A user name that is no word, be it capitalised or shouted: digits, `_`, `-` or a capital letter further in.
_TELLING = re.compile(r".*[\d_-]|(?=.*[a-z]).+[A-Z]")
_SHORTEST_NAME = 5


def scrub(text: str, names: Collection[str] = ()) -> str:
    """`text` with placeholders for personal data; `names` are user names, replaced where they can be no plain word."""
    # What a placeholder has replaced may have hidden something: what comes out has nothing left to find.
    while (cleaned := _scrub_once(text, names)) != text:
        text = cleaned
    return text


def _scrub_once(text: str, names: Collection[str]) -> str:
    lower = text.lower()
    if any(hint in lower for hint in _HINTS):
        text = _PERSONAL.sub(_placeholder, text)
    found = [name for name in names if name.lower() in lower and len(name) >= _SHORTEST_NAME and _TELLING.match(name)]
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
    # Only texts with a run of digits need its tables.
    from phonenumbers import Leniency, PhoneNumberMatcher

    for number in PhoneNumberMatcher(text, "US", leniency=Leniency.VALID):
        parts += [text[end : number.start], "[phone]"]
        end = number.end
    return "".join((*parts, text[end:]))
