"""The account of the engine's time against the truth of a stub: `python -m benchmarks.idle [--seconds 20]`.

The stub keeps a window of eight full for a third of the time. Then it refuses with 429 for a third. Then two requests
are left, fewer than the window holds, and it takes a third of the time to answer them. It notes when each part began.
The build notes where its time went. Prints both, as shares of the time between first request and last answer.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from aiohttp import web

from benchmarks.machine import describe, free_port
from benchmarks.stub_server import completion, write
from pipeline.build import build
from schemas.config import BuildConfig
from schemas.loader import validate

_IN_FLIGHT, _PAIRS = 8, 40
_PARTS = {"busy": "saturated", "limited": "rate limits", "few": "too few requests"}


class Server:
    """The stub. `moments` are those of the first request and of the ends of its three parts."""

    def __init__(self, seconds: float) -> None:
        self.moments: list[float] = []
        self._seconds = seconds
        self._arrived = self._answered = 0
        self._limited_until = 0.0

    async def answer(self, request: web.Request) -> web.Response:
        """Answer a request as its turn has it."""
        body = await request.read()
        if b"Say hello." in body:
            return _reply(body, write(body))
        now = time.monotonic()
        self.moments = self.moments or [now]
        self._arrived += 1
        number, first = self._arrived, 2 * _PAIRS
        if number <= first:
            await asyncio.sleep(self._seconds * _IN_FLIGHT / first)
            self._answered += 1
            if self._answered == first:
                self.moments.append(time.monotonic())
            # One reply breaks a rule, so that one pair is asked for again.
            return _reply(body, "no" if number == 1 else write(body))
        self._limited_until = self._limited_until or now + self._seconds
        if now < self._limited_until:
            wait = f"{max(1.0, self._limited_until - now):.0f}"
            return web.json_response({"error": {"message": "slow down"}}, status=429, headers={"Retry-After": wait})
        if len(self.moments) == 2:
            self.moments.append(now)
        await asyncio.sleep(self._seconds)
        self.moments[3:] = [time.monotonic()]
        return _reply(body, write(body))

    def run(self, port: int) -> None:
        """Serve on a thread of its own."""

        async def serve() -> None:
            app = web.Application()
            app.router.add_post("/v1/chat/completions", self.answer)
            runner = web.AppRunner(app)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", port).start()
            await asyncio.Event().wait()

        threading.Thread(target=lambda: asyncio.run(serve()), daemon=True).start()


def _reply(body: bytes, text: str) -> web.Response:
    # A stream would need events; the client takes a whole body too.
    return web.Response(body=completion(body, text), content_type="application/json")


def compare(folder: Path, seconds: float) -> dict[str, tuple[float, float]]:
    """Build against the stub; return by state the stub's share of the time and the build's."""
    posts = folder / "posts.jsonl"
    texts = (hashlib.sha256(str(number).encode()).hexdigest() for number in range(_PAIRS))
    posts.write_text("".join(f'{{"text": "What about {text}?"}}\n' for text in texts))
    port, server = free_port(), Server(seconds)
    server.run(port)
    keys: dict[str, Any] = {
        "pairs": _PAIRS,
        "attempts": 2,
        "seeds": {"path": str(posts)},
        "splits": {"train": 1.0, "validation": 0.0, "test": 0.0},
        "history": {"ugc": 1, "pair": 1, "min_support": 0.0},
        "generation": {"model": "stub"},
        "engine": {"kind": "openai", "base_urls": [f"http://127.0.0.1:{port}/v1"], "in_flight": _IN_FLIGHT},
    }
    manifest = build(validate(BuildConfig, keys, "idle"), folder / "out")
    begin, *ends = server.moments
    truth = [(end - start) / (ends[-1] - begin) for start, end in zip([begin, *ends], ends, strict=False)]
    found = manifest.runs[-1].time["generation"].seconds
    return {state: (share, found[state] / (ends[-1] - begin)) for state, share in zip(_PARTS, truth, strict=True)}


def main() -> None:
    """Build and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each part")
    arguments = parser.parse_args()
    print(describe())
    with tempfile.TemporaryDirectory() as scratch:
        found = compare(Path(scratch), arguments.seconds)
    print("| part | stub | account | difference, points |\n|---|---|---|---|")
    for state, (truth, said) in found.items():
        print(f"| {_PARTS[state]} | {truth:.1%} | {said:.1%} | {100 * (said - truth):+.1f} |")


if __name__ == "__main__":
    main()
