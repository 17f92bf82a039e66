"""Reading of response bodies: at most `MAX_BYTES`, and without the key that the server was sent."""

from __future__ import annotations

from collections.abc import Callable

import aiohttp

from schemas.mask import Mask

MAX_BYTES = 8 * 2**20
"""Size after decompression. Even a call of 1,024 choices with their log-probabilities takes far less."""


class TooLargeError(ValueError):
    """A body of more than `MAX_BYTES`."""


async def read_payload(response: aiohttp.ClientResponse, mask: Mask) -> bytes:
    """Read a body. Raises `TooLargeError` once it exceeds `MAX_BYTES`, and errors of aiohttp."""
    payload = bytearray()
    await receive(response, payload)
    return mask(bytes(payload))


async def receive(
    response: aiohttp.ClientResponse, payload: bytearray, on_piece: Callable[[bytes], None] | None = None
) -> None:
    """Append a body to `payload`, and pass on each piece as it comes. Raises as `read_payload` does."""
    # Decompressed piece by piece, so that a small body never unpacks to gigabytes.
    while piece := await response.content.readany():
        payload += piece
        if len(payload) > MAX_BYTES:
            response.close()
            raise TooLargeError(f"the response is larger than {MAX_BYTES // 2**20} MiB")
        if on_piece is not None:
            on_piece(piece)
