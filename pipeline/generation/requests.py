"""What is asked of a model, and what comes back: plain values."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import orjson

from schemas.config import GenerationConfig


@dataclass(frozen=True, slots=True)
class Request:
    """One chat completion. `body` is the HTTP body, `key` its hash: the same question has the same key for ever.

    `texts` are the messages' texts, from which a reply must not copy.
    """

    key: str
    body: bytes
    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Completion:
    """A reply, with what it cost."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Failure:
    """A request that got no reply and will not be asked again; `reason` is counted, `detail` is for people."""

    reason: str
    detail: str

    @property
    def may_pass(self) -> bool:
        """Whether it lay in the circumstances: then a resumed run asks again. A 4xx answer would be the same."""
        return not self.reason.startswith("http_4")


Outcome = Completion | Failure


def make_request(config: GenerationConfig, messages: Mapping[str, str], counter: tuple[object, ...]) -> Request:
    """The request for `messages` (role to text). Its sampling seed is a hash of `counter`, so it never changes."""
    digest = hashlib.blake2b("\x1f".join(str(part) for part in counter).encode(), digest_size=4).digest()
    body = {
        "model": config.model,
        "messages": [{"role": role, "content": text} for role, text in messages.items() if text],
        "temperature": config.temperature,
        "top_p": config.top_p,
        "max_tokens": config.max_tokens,
        "seed": int.from_bytes(digest, "little") >> 1,
    }
    if config.stop:
        body["stop"] = config.stop
    # A copy, as orjson hands out a buffer of nine kilobytes for one: with shards of requests in memory that counts.
    encoded = bytes(memoryview(orjson.dumps(body | config.extra)))
    return Request(hashlib.blake2b(encoded, digest_size=16).hexdigest(), encoded, tuple(messages.values()))
