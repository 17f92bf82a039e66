"""Reads the body of an answer: no more than a bound, and without the key that the server was sent."""

from __future__ import annotations

import aiohttp

from schemas.mask import Mask

LARGEST = 8 * 2**20
"""Bytes of an answer, after decompression. A thousand choices with their log-probabilities take half a megabyte."""


class TooLargeError(ValueError):
    """An answer that is larger than the bound."""


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
