"""A model server of a given speed, for tests of the window: `python -m benchmarks.engine_stub PORT --rate 25`.

Each request is a reply of some 60 words, one token each. All replies under way share `--rate` tokens a second; none
gets more than `--sequence-rate`. At most `--places` are under way, the others wait in order. A request with `stream`
gets its words as they are made, any other the whole reply at its end. `GET /stats` returns what the server has seen.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import random
import statistics
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import orjson
import uvloop
from aiohttp import web

from benchmarks.stub_server import WORDS
from pipeline.generation.trial import TRIAL

_TICK = 0.02
"""Seconds between two steps of the engine."""
_CHUNK_SECONDS = 0.25
"""Shortest time between two chunks of a stream, so that a fast engine is not kept busy by writing."""


@dataclass(eq=False)
class _Reply:
    words: list[str]
    prompt_tokens: int
    made: float = 0.0
    """Tokens, of which the last may be a part."""
    sent: int = 0
    sent_at: float = 0.0
    news: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when there is something to send."""

    @property
    def is_done(self) -> bool:
        return self.made >= len(self.words)


class Engine:
    """Makes the tokens of all replies.

    Args:
        rate: Tokens a second in all.
        sequence_rate: Most tokens a second of one reply.
        places: Most replies under way at once.
        stall: Seconds after the first request at which the engine stands still, and for how long.
    """

    def __init__(self, rate: float, sequence_rate: float, places: int, stall: tuple[float, float]) -> None:
        self._rate, self._sequence_rate, self._places, self._stall = rate, sequence_rate, places, stall
        self._replies: list[_Reply] = []
        self._began = math.inf
        self._seen: Counter[int] = Counter()
        self._tokens = 0.0
        self._load: list[tuple[float, int]] = []
        """Seconds since the first request and requests here, ten times a second."""

    async def run(self) -> None:
        """Make tokens until cancelled."""
        last = time.monotonic()
        while True:
            await asyncio.sleep(_TICK)
            now = time.monotonic()
            self._step(now, now - last)
            last = now

    def _step(self, now: float, seconds: float) -> None:
        if not self._load or now - self._began > self._load[-1][0] + 0.1:
            self._load += [(now - self._began, len(self._replies))] if self._replies else []
        working = self._replies[: self._places]
        stalls_at, stalls_for = self._stall
        if not working or stalls_at <= now - self._began < stalls_at + stalls_for:
            return
        share = min(self._sequence_rate, self._rate / len(working)) * seconds
        for reply in working:
            reply.made += share
            if reply.is_done or (int(reply.made) > reply.sent and now - reply.sent_at > _CHUNK_SECONDS):
                reply.sent_at = now
                reply.news.set()
        self._tokens += share * len(working)
        self._replies = [reply for reply in self._replies if not reply.is_done]

    async def complete(self, request: web.Request) -> web.StreamResponse:
        """Answer a chat request."""
        body: dict[str, Any] = orjson.loads(await request.read())
        draw, prompt = random.Random(body["seed"]), "".join(message["content"] for message in body["messages"])
        reply = _Reply([f"Maybe{body['seed']}", *draw.choices(WORDS, k=draw.randint(45, 75))], len(prompt) // 4)
        if TRIAL in prompt:
            reply.words = ["Hello."]
        else:
            self._began = min(self._began, time.monotonic())
            self._seen[body["seed"]] += 1
        self._replies.append(reply)
        try:
            return await (self._stream(request, reply) if body.get("stream") else self._whole(reply))
        finally:
            # The client may have gone.
            self._replies = [other for other in self._replies if other is not reply]

    async def _whole(self, reply: _Reply) -> web.Response:
        while not reply.is_done:
            reply.news.clear()
            await reply.news.wait()
        message = {"role": "assistant", "content": " ".join(reply.words) + "."}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return _json({"object": "chat.completion", "choices": [choice], "usage": _usage(reply)})

    async def _stream(self, request: web.Request, reply: _Reply) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        while reply.sent < len(reply.words):
            await reply.news.wait()
            reply.news.clear()
            ready = min(int(reply.made), len(reply.words))
            text = "".join(f"{' ' if k else ''}{reply.words[k]}" for k in range(reply.sent, ready))
            reply.sent = ready
            await response.write(_event({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}))
        last = {"index": 0, "delta": {"content": "."}, "finish_reason": "stop"}
        await response.write(_event({"choices": [last]}) + _event({"choices": [], "usage": _usage(reply)}))
        await response.write(b"data: [DONE]\n\n")
        return response

    async def stats(self, request: web.Request) -> web.Response:
        """Answer with what this server has seen."""
        end = self._load[-1][0] if self._load else 0.0
        middle = [count for at, count in self._load if 0.4 * end <= at <= 0.8 * end]
        return _json(
            {
                "requests": self._seen.total(),
                "repeated": self._seen.total() - len(self._seen),
                "tokens": round(self._tokens),
                "seconds": end,
                "settled": statistics.median(middle) if middle else 0,
                "largest": max((count for _, count in self._load), default=0),
                "load": self._load,
            }
        )


def _usage(reply: _Reply) -> dict[str, int]:
    prompt, count = reply.prompt_tokens, len(reply.words)
    return {"prompt_tokens": prompt, "completion_tokens": count, "total_tokens": prompt + count}


def _event(content: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps({"object": "chat.completion.chunk", **content}) + b"\n\n"


def _json(content: dict[str, Any]) -> web.Response:
    return web.Response(body=orjson.dumps(content), content_type="application/json")


async def _list_models(request: web.Request) -> web.Response:
    return _json({"data": [{"id": "stub"}]})


async def serve(port: int, engine: Engine) -> None:
    """Serve on loopback until killed."""
    app = web.Application(client_max_size=2**28)
    app.router.add_post("/v1/chat/completions", engine.complete)
    app.router.add_get("/v1/models", _list_models)
    app.router.add_get("/stats", engine.stats)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=1024).start()
    print(f"listening on {port}", flush=True)
    await engine.run()


def main() -> None:
    """Serve as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--sequence-rate", type=float, default=math.inf)
    parser.add_argument("--places", type=int, default=1_000_000)
    parser.add_argument("--stall", type=float, nargs=2, default=(math.inf, 0.0), metavar=("AT", "SECONDS"))
    arguments = parser.parse_args()
    engine = Engine(arguments.rate, arguments.sequence_rate, arguments.places, tuple(arguments.stall))
    uvloop.install()
    asyncio.run(serve(arguments.port, engine))


if __name__ == "__main__":
    main()
