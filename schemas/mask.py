"""Replaces a secret key in texts from outside, in every form in which a server may quote it."""

from __future__ import annotations

import re
from html.entities import codepoint2name

_MIN_KEY_LENGTH = 8
"""Characters. Placeholders for servers without keys, such as EMPTY or none, are words that a reply may hold."""


class Mask:
    """Replacement of a key by `***`, also where it is escaped for JSON, a URL or HTML."""

    def __init__(self, key: str) -> None:
        """Prepare the search for `key`. An empty key masks nothing."""
        forms = b"".join(b"(?:%b)" % b"|".join(_forms(char)) for char in key)
        self._pattern = re.compile(forms) if len(key) >= _MIN_KEY_LENGTH else None

    def __call__(self, payload: bytes) -> bytes:
        """Return the payload without the key."""
        return self._pattern.sub(b"***", payload) if self._pattern else payload

    def text(self, text: object) -> str:
        """Return a message from outside without the key, as one line of at most 300 characters."""
        return " ".join(self(str(text).encode(errors="replace")).decode(errors="replace").split())[:300]


def _forms(char: str) -> list[bytes]:
    """Return patterns of a character of the key. Each begins with a literal byte, so that the search skips fast."""
    plain = re.escape(char.encode())
    escaped = [] if char.isalnum() else [rb"\\\\*" + plain]
    in_json = rb"\\\\*u(?i:%b)" % b"".join(b"%02x" % byte for byte in char.encode("utf-16-be"))
    in_url = b"".join(b"%%(?:25)*(?i:%02x)" % byte for byte in char.encode())
    name = codepoint2name.get(ord(char))
    in_html = rb"&(?:amp;)*(?:#0*%d|#[xX]0*(?i:%x)%b);" % (ord(char), ord(char), b"|" + name.encode() if name else b"")
    return [plain, *escaped, in_json, in_url, in_html]
