"""An instant OpenAI-compatible server: `python benchmarks/stub_server.py PORT`. Costs as little as a server can.

A reply is made from the request's hash, so it is the same at every run and differs from every other. `Stub` also serves
the replies of another writer.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import sys
from collections.abc import Callable
from typing import cast

import orjson
import uvloop

_TEXT = """
again almost always autumn balcony basket before bicycle bottle bread brother candle carpet chance cheese city corner
cousin evening family field forest friend garden gentle harbour honest kitchen lantern letter library little market
meadow morning mountain music narrow neighbour often paper patient pocket quiet rather river road season silver simple
slowly sometimes song station story street summer table teacher travel village walk water weather window winter wonder
"""
WORDS = _TEXT.split()
_BODIES = [" ".join(random.Random(k).choices(WORDS, k=30 + k % 25)) for k in range(4096)]


def write(body: bytes) -> str:
    """Return a reply to a request body."""
    digest = hashlib.blake2b(body, digest_size=8).digest()
    number = int.from_bytes(digest, "little")
    return f"Reply {digest.hex()} says: {_BODIES[number % len(_BODIES)]}."


def completion(body: bytes, text: str) -> bytes:
    """Return a chat completion for a request body."""
    message = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    # Counted, since a server that counts the same for any prompt seems to drop the system message.
    prompt = len(body) // 4
    usage = {"prompt_tokens": prompt, "completion_tokens": 60, "total_tokens": prompt + 60}
    return orjson.dumps({"id": "stub", "object": "chat.completion", "choices": [message], "usage": usage})


class Stub(asyncio.Protocol):
    """HTTP/1.1 with keep-alive, as far as our client speaks it. `writer` returns the reply to a request body."""

    def __init__(self, writer: Callable[[bytes], str] = write) -> None:
        self._writer = writer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport of a new connection."""
        self._transport = cast(asyncio.Transport, transport)
        self._buffer = b""

    def data_received(self, data: bytes) -> None:
        """Answer each request that has arrived whole."""
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self._buffer) < end + 4 + length:
                return
            body = self._buffer[end + 4 : end + 4 + length]
            self._buffer = self._buffer[end + 4 + length :]
            is_chat = head.startswith(b"post")
            payload = completion(body, self._writer(body)) if is_chat else b'{"data":[{"id":"stub"}]}'
            self._transport.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
                % (len(payload), payload)
            )


async def main(port: int) -> None:
    """Serve on loopback until killed."""
    server = await asyncio.get_running_loop().create_server(Stub, "127.0.0.1", port, backlog=512)
    print(f"listening on {port}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.install()
    asyncio.run(main(int(sys.argv[1])))
