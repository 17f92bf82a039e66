"""An OpenAI-compatible server for tests: real HTTP, replies that are good or bad as a test asks.

In a test:     `with StubServer(answer) as stub: ... stub.url ... stub.bodies`
As a process:  `python -m tests.stub --port 8000 --log FILE [--delay SECONDS] [--die-after N]`, which takes
               (and ignores) vLLM's server arguments, so that it can stand in for `engine.command`.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import math
import os
import random
import re
import sys
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from aiohttp import web

from tests.servers import Server

_TEXT = """
again almost always autumn balcony basket before bicycle bottle bread brother candle carpet chance cheese city corner
cousin evening family field forest friend garden gentle harbour honest kitchen lantern letter library little market
"""
_WORDS = _TEXT.split()

IS_STREAMED = web.RequestKey("is_streamed", bool)
"""Key of a request: whether it asks for a stream."""

Answer = Callable[[web.Request, dict[str, Any]], Awaitable[web.StreamResponse]]


def good_text(body: dict[str, Any]) -> str:
    """A reply that passes validation: the same for the same request, another for any other; JSON where it is asked."""
    digest = hashlib.blake2b(repr(body).encode(), digest_size=8)
    if "response_format" in body:
        schema = body["response_format"]["json_schema"]["schema"]
        return json.dumps(_value(schema, random.Random(digest.digest())))
    return f"Reply {digest.hexdigest()} says {words_of(digest.digest(), 24)}."


def words_of(seed: bytes, count: int) -> str:
    """Some words, the same for the same seed."""
    return " ".join(random.Random(seed).choices(_WORDS, k=count))


def _value(schema: Mapping[str, Any], draw: random.Random) -> Any:
    """Something that fits a JSON schema (of those that the pipeline sends). 'unclear' is drawn half of the time."""
    if "enum" in schema:
        unclear = "unclear" in schema["enum"] and draw.random() < 0.5
        return "unclear" if unclear else draw.choice([value for value in schema["enum"] if value != "unclear"])
    if schema["type"] == "object":
        kept = [name for name in schema["properties"] if name in schema.get("required", ()) or draw.random() < 0.3]
        return {name: _value(schema["properties"][name], draw) for name in kept}
    if schema["type"] == "array":
        count = draw.randint(0, schema.get("maxItems", 3))
        return [*dict.fromkeys(_value(schema["items"], draw) for _ in range(count))]
    return f"This person says {' '.join(draw.choices(_WORDS, k=24))}."


def completion(text: str, finish_reason: str = "stop", prompt_tokens: int = 100, **message: Any) -> web.Response:
    """A chat completion as vLLM sends it. `message` are further fields of the message."""
    return web.json_response(
        {
            "object": "chat.completion",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": text, **message},
                    "finish_reason": finish_reason,
                }
            ],
            "usage": {
                "prompt_tokens": prompt_tokens,
                "completion_tokens": 30,
                "total_tokens": prompt_tokens + 30,
            },
        }
    )


Piece = bytes | str | dict[str, Any]


async def stream(
    request: web.Request, pieces: Iterable[Piece] | AsyncIterable[Piece], pause: float = 0.0, ends: bool = True
) -> web.StreamResponse:
    """A streamed chat completion as vLLM sends it: a piece is text, a whole chunk, or bytes.

    `pause`: seconds before each piece. `ends`: a finish reason, the token counts and the end mark follow.
    """
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
    await response.prepare(request)
    async for piece in _later(pieces, pause):
        chunk = {"choices": [{"index": 0, "delta": {"content": piece}}]} if isinstance(piece, str) else piece
        await response.write(chunk if isinstance(chunk, bytes) else event(chunk))
    if ends:
        usage = {"prompt_tokens": 100, "completion_tokens": 30, "total_tokens": 130}
        last = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
        await response.write(event(last) + event({"choices": [], "usage": usage}) + b"data: [DONE]\n\n")
    return response


async def _later(pieces: Iterable[Piece] | AsyncIterable[Piece], pause: float) -> AsyncIterator[Piece]:
    if isinstance(pieces, AsyncIterable):
        async for piece in pieces:
            yield piece
    else:
        for piece in pieces:
            await asyncio.sleep(pause)
            yield piece


def event(chunk: object) -> bytes:
    """A server-sent event."""
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


async def _streamed(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
    """Send a chat completion as a stream, and anything else as it is."""
    if not isinstance(response, web.Response) or response.content_type != "application/json":
        return response
    body = json.loads(response.text or "")
    if body.get("object") != "chat.completion":
        return response
    (choice,) = body["choices"]
    text = choice["message"]["content"]
    beginning = {"choices": [{"index": 0, "delta": choice["message"] | {"content": ""}}]}
    end = {"choices": [{"index": 0, "delta": {}, "finish_reason": choice["finish_reason"]}]}
    halves = [text[: len(text) // 2], text[len(text) // 2 :]]
    usage = {"choices": [], "usage": body["usage"]}
    return await stream(request, [beginning, *halves, end, usage, b"data: [DONE]\n\n"], ends=False)


def option_texts(prompt: str) -> dict[str, str]:
    """The options of a prompt's last question: letter to text."""
    return dict(re.findall(r"^\(([A-Z])\) (.*)$", prompt.rpartition("\nQuestion: ")[2], re.MULTILINE))


def option_shares(prompt: str) -> dict[str, float]:
    """How sure the default answer is of each option: the same for the same prompt, other numbers for any other.

    About half of all prompts favour 'cannot tell'. The favourite gets between 0.4 and 0.95.
    """
    draw = random.Random(hashlib.blake2b(prompt.encode(), digest_size=8).digest())
    options = option_texts(prompt) or dict.fromkeys("ABC", "")
    unclear = [letter for letter, text in options.items() if "cannot tell" in text]
    telling = [letter for letter in options if letter not in unclear]
    favourite = draw.choice(unclear if unclear and draw.random() < 0.5 else telling)
    sure, split = draw.uniform(0.4, 0.95), draw.uniform(0.2, 0.8)
    rest = [letter for letter in options if letter != favourite]
    return dict(zip([favourite, *rest], [sure, (1 - sure) * split, (1 - sure) * (1 - split)], strict=True))


def choice_of(index: int, tokens: Mapping[str, float], text: str | None = None) -> dict[str, Any]:
    """One prompt's choice as vLLM sends it; `tokens` are probabilities; the likeliest token is the text."""
    logprobs = {token: math.log(share) if share > 0 else -9999.0 for token, share in tokens.items()}
    best = max(tokens, key=lambda token: tokens[token]) if text is None else text
    return {
        "index": index,
        "text": best,
        "logprobs": {
            "text_offset": [0],
            "tokens": [best],
            "token_logprobs": [logprobs.get(best, 0.0)],
            "top_logprobs": [logprobs],
        },
        "finish_reason": "length",
    }


def choices(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Good choices for a list of prompts: see `option_shares`. Some other tokens come along, as they do from vLLM."""
    result = []
    for index, prompt in enumerate(body["prompt"]):
        shares = option_shares(prompt)
        if "structured_outputs" in body:
            tokens = shares | {"!": 0.0, "The": 0.0}
        else:
            tokens = {letter: 0.9 * share for letter, share in shares.items()} | {"The": 0.06, "1": 0.04}
        result.append(choice_of(index, tokens))
    return result


def completions(found: Sequence[Mapping[str, Any]]) -> web.Response:
    """The answer to a list of prompts as vLLM sends it."""
    usage = {"prompt_tokens": 100 * len(found), "completion_tokens": len(found), "total_tokens": 101 * len(found)}
    return web.json_response({"object": "text_completion", "choices": [*found], "usage": usage})


def vote(
    shares: Mapping[str, float], has_numbers: bool, text: str | None = None, prompt_tokens: int = 100
) -> web.Response:
    """One answer by chat, with or without log-probabilities: the likeliest option, unless another text is given."""
    best = max(shares, key=lambda letter: shares[letter])
    answer: dict[str, Any] = {"role": "assistant", "content": best if text is None else text}
    choice: dict[str, Any] = {"index": 0, "message": answer, "finish_reason": "stop"}
    if has_numbers:
        tops = [{"token": letter, "logprob": math.log(share)} for letter, share in shares.items() if share > 0]
        choice["logprobs"] = {"content": [{"token": best, "logprob": math.log(shares[best]), "top_logprobs": tops}]}
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": 1, "total_tokens": prompt_tokens + 1}
    return web.json_response({"object": "vote", "choices": [choice], "usage": usage})


def chat_alone(has_numbers: bool, shares_of: Callable[[str], Mapping[str, float]] = option_shares) -> Answer:
    """A judge that knows no completions, and says the same of a prompt as `choices` does where that is the default."""

    async def answer(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        if "prompt" in body:
            return await refuse(404, "this model knows chat alone")(request, body)
        tokens = len(prompt_of(body).split()) if is_trial(body) else 100
        shares = shares_of(body["messages"][-1]["content"])
        return vote(shares, has_numbers and "logprobs" in body, prompt_tokens=tokens)

    return answer


async def good(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    """The default: a good reply at once. A trial request's prompt is counted, a row's is 100 tokens."""
    if "prompt" in body:
        return completions(choices(body))
    return completion(good_text(body), prompt_tokens=len(prompt_of(body).split()) if is_trial(body) else 100)


def refuse(status: int, message: str = "not for you") -> Answer:
    """Return an answer that is an error."""

    async def answer(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return web.json_response({"error": {"message": message}}, status=status)

    return answer


def delayed(seconds: float, answer: Answer = good) -> Answer:
    """Return an answer that is some seconds late."""

    async def later(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        await asyncio.sleep(seconds)
        return await answer(request, body)

    return later


def budget_of(requests: int, afterwards: Answer) -> Answer:
    """Good answers to so many requests, and then others."""
    served = 0

    async def answer(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        nonlocal served
        served += 1
        return await (good if served <= requests else afterwards)(request, body)

    return answer


def log_line(body: Mapping[str, Any]) -> str:
    """What identifies a request in a log: a chat's seed, or a hash of the prompts."""
    if "prompt" in body:
        return hashlib.blake2b("\x1f".join(body["prompt"]).encode(), digest_size=8).hexdigest()
    return str(body["seed"])


def prompt_of(body: Mapping[str, Any]) -> str:
    """All texts of a request."""
    return "\n".join(body["prompt"] if "prompt" in body else (str(turn["content"]) for turn in body["messages"]))


def is_trial(body: Mapping[str, Any]) -> bool:
    """Whether a request is a trial request (of `pipeline.generation.trial`), which belongs to no row."""
    return "Say hello." in prompt_of(body)


class StubServer(Server):
    """Serves on a free port of the loopback interface, on a thread of its own. `bodies` are the requests it saw.

    Trial questions go to `on_trial`, and into `trials`. A chat completion is streamed where a request asks for that,
    unless `streams` is false; `bodies` lack what asks for it, and `streamed` says which did.
    """

    def __init__(
        self,
        answer: Answer = good,
        models: tuple[str, ...] = ("stub",),
        port: int = 0,
        on_trial: Answer = good,
        streams: bool = True,
        owner: str = "vllm",
        is_healthy: bool = True,
    ) -> None:
        self.streamed: list[bool] = []
        self.bodies: list[dict[str, Any]] = []
        self.trials: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        super().__init__(port)
        self._answer = answer
        self._on_trial = on_trial
        self._models = models
        self._streams = streams
        self._owner = owner
        self._is_healthy = is_healthy

    @property
    def url(self) -> str:
        """The base URL, up to and with /v1."""
        return f"{super().url}/v1"

    def app(self) -> web.Application:
        """Return what answers as a model server does."""
        app = web.Application(client_max_size=2**28)
        app.router.add_get("/health", self._health)
        app.router.add_get("/v1/models", self._list_models)
        app.router.add_post("/v1/chat/completions", self._complete)
        app.router.add_post("/v1/completions", self._complete)
        return app

    async def _health(self, request: web.Request) -> web.Response:
        return web.Response()

    async def _list_models(self, request: web.Request) -> web.Response:
        if not self._is_healthy:
            return web.Response(status=502)
        return web.json_response({"data": [{"id": model, "owned_by": self._owner} for model in self._models]})

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        body: dict[str, Any] = await request.json()
        is_streamed = request[IS_STREAMED] = bool(body.pop("stream", False))
        body.pop("stream_options", None)
        if is_trial(body):
            self.trials.append(body)
            answer = self._on_trial
        else:
            self.bodies.append(body)
            self.streamed.append(is_streamed)
            self.headers.append(dict(request.headers))
            answer = self._answer
        response = await answer(request, body)
        return await _streamed(request, response) if is_streamed and self._streams else response


def serve(answer: Answer = good, on_trial: Answer = good) -> None:
    """Be a model server process, on the port that the command line names, until somebody ends it."""

    async def run() -> None:
        await StubServer(answer, port=int(sys.argv[sys.argv.index("--port") + 1]), on_trial=on_trial).start()
        await asyncio.Event().wait()

    asyncio.run(run())


def main() -> None:
    """Stand in for a model server process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--log", type=Path, required=True, help="one line a request, when it came in: its seed")
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--die-after", type=int, default=0, help="exit at the Nth request this process sees")
    arguments, _ = parser.parse_known_args()
    served = 0

    async def answer(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        nonlocal served
        served += 1
        with arguments.log.open("a") as log:
            log.write(f"{log_line(body)}\n")
        if served == arguments.die_after:
            os._exit(1)
        await asyncio.sleep(arguments.delay)
        return await good(request, body)

    serve(answer)


if __name__ == "__main__":
    main()
