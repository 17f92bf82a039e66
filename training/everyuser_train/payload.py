"""The bytes of an answer: no more than a bound, and without the key that the server was sent."""

from __future__ import annotations

import re
from html.entities import codepoint2name

import aiohttp

LARGEST = 8 * 2**20
"""Bytes of an answer, after decompression. A thousand choices with their log-probabilities take half a megabyte."""
_SHORTEST_KEY = 8
"""Characters. What servers without keys are given, such as EMPTY or none, are words that a reply may hold."""


class TooLargeError(ValueError):
    """An answer that is larger than the bound."""


class Mask:
    """Replaces a key by `***`, also where a server has escaped it: as JSON, in a URL or as HTML."""

    def __init__(self, key: str) -> None:
        """`key` may be empty: then there is nothing to replace."""
        forms = b"".join(b"(?:%b)" % b"|".join(_forms(char)) for char in key)
        self._pattern = re.compile(forms) if len(key) >= _SHORTEST_KEY else None

    def __call__(self, payload: bytes) -> bytes:
        """Return the payload without the key."""
        return self._pattern.sub(b"***", payload) if self._pattern else payload

    def text(self, text: object) -> str:
        """Return a message from outside without the key, in one short line."""
        return " ".join(self(str(text).encode(errors="replace")).decode(errors="replace").split())[:300]


async def read_payload(response: aiohttp.ClientResponse, mask: Mask) -> bytes:
    """Read the body of an answer. Raises `TooLargeError` as soon as it is, and what aiohttp raises."""
    payload = bytearray()
    # Decompressed piece by piece: a small body that would unpack to gigabytes is given up at the bound.
    async for piece in response.content.iter_any():
        payload += piece
        if len(payload) > LARGEST:
            response.close()
            raise TooLargeError(f"the answer is larger than {LARGEST // 2**20} MiB")
    return mask(bytes(payload))


def _forms(char: str) -> list[bytes]:
    """The ways to write a character of a key. Each begins with a plain byte, by which a search skips fast."""
    plain = re.escape(char.encode())
    escaped = [] if char.isalnum() else [rb"\\\\*" + plain]
    in_json = rb"\\\\*u(?i:%b)" % b"".join(b"%02x" % byte for byte in char.encode("utf-16-be"))
    in_url = b"".join(b"%%(?:25)*(?i:%02x)" % byte for byte in char.encode())
    name = codepoint2name.get(ord(char))
    in_html = rb"&(?:amp;)*(?:#0*%d|#[xX]0*(?i:%x)%b);" % (ord(char), ord(char), b"|" + name.encode() if name else b"")
    return [plain, *escaped, in_json, in_url, in_html]
