"""What is asked of a model, and what comes back: plain values."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import orjson

from schemas.answers import first_logprobs, read_reply
from schemas.config import GenerationConfig


@dataclass(frozen=True, slots=True)
class Request:
    """One chat completion. `body` is the HTTP body, `key` its hash: the same question has the same key for ever.

    `texts` are the messages' texts, from which a reply must not copy. `sequences` is what it takes of the window.
    """

    path: ClassVar[str] = "/chat/completions"
    sequences: ClassVar[int] = 1

    key: str
    body: bytes
    texts: tuple[str, ...]

    def read(self, answer: Any) -> tuple[str, str]:
        """Text and finish reason of a parsed answer. Raises `ValueError` and the like for anything else."""
        return read_reply(answer["choices"][0])


OPTIONS = ("A", "B", "C")
"""The one-token answers of a choice. They stand for other levels where options are shuffled."""


@dataclass(frozen=True, slots=True)
class ChoiceRequest:
    """Many one-token choices in one completion call: `prefix` before each of `questions`.

    The body is made when it is sent: a shard's would take a gigabyte. `key` is a hash of all that it is made of.
    """

    path: ClassVar[str] = "/completions"

    key: str
    head: Mapping[str, Any]
    prefix: str
    questions: tuple[str, ...]

    @property
    def sequences(self) -> int:
        """What it takes of the window."""
        return len(self.questions)

    @property
    def body(self) -> bytes:
        """The HTTP body."""
        return orjson.dumps({**self.head, "prompt": [self.prefix + question for question in self.questions]})

    def read(self, answer: Any) -> tuple[str, str]:
        """Probabilities of the options, a byte each in hexadecimal, question by question; see `probabilities`."""
        choices = sorted(answer["choices"], key=lambda choice: int(choice["index"]))
        if [choice["index"] for choice in choices] != list(range(len(self.questions))):
            raise ValueError("not one choice for each prompt")
        return bytes(round(255 * share) for choice in choices for share in _option_shares(choice)).hex(), "stop"


def probabilities(text: str) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    """What `ChoiceRequest.read` wrote, shape (questions, options): bytes, 255 for certainty; zeros for no answer."""
    return np.frombuffer(bytes.fromhex(text), dtype=np.uint8).reshape(-1, len(OPTIONS))


def _option_shares(choice: Any) -> list[float]:
    """Each option's share of what the model gives to all options; zeros if it is not seen to give them anything.

    An endpoint without log-probabilities is taken at its word. One with them is not: where the options are far down,
    what it was made to say is a guess. So is every other option where the one that it said has no number.
    """
    tokens = first_logprobs(choice)
    weights = [0.0] * len(OPTIONS)
    for token, logprob in tokens:
        option = _as_option(token)
        if option in OPTIONS and logprob is not None:
            weights[OPTIONS.index(option)] += math.exp(min(float(logprob), 0.0))
    said = _as_option(choice["text"])
    if said in OPTIONS:
        position = OPTIONS.index(said)
        if not tokens:
            weights[position] = 1.0
        elif not weights[position]:
            weights = [0.0] * len(OPTIONS)
    total = sum(weights)
    return [weight / total if total else 0.0 for weight in weights]


def _as_option(token: str) -> str:
    """A token without the space before it, which some servers show as their tokenizer marks it."""
    return token.strip().lstrip("\u2581\u0120")


AnyRequest = Request | ChoiceRequest


@dataclass(frozen=True, slots=True)
class Completion:
    """A reply, with what it cost."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Failure:
    """A request that got no reply. `reason` is counted, `detail` is for people.

    `may_pass`: the cause was the circumstances (a timeout, a 500), so a resumed run asks again. Otherwise it was the
    request itself, and the answer would be the same.
    """

    reason: str
    detail: str
    may_pass: bool


Outcome = Completion | Failure


def make_request(
    config: GenerationConfig, messages: Mapping[str, str], counter: tuple[object, ...], **changes: object
) -> Request:
    """The request for `messages` (role to text). Its sampling seed is a hash of `counter`, so it never changes.

    `changes` replace fields of the body, and so does the configuration's `extra`; None takes one out.
    """
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
    fields = {name: value for name, value in (body | config.extra | changes).items() if value is not None}
    encoded = bytes(memoryview(orjson.dumps(fields)))
    return Request(hashlib.blake2b(encoded, digest_size=16).hexdigest(), encoded, tuple(messages.values()))


def choice_head(model: str, structured_outputs: bool) -> dict[str, Any]:
    """The fields that all choice requests of a build share."""
    head: dict[str, Any] = {"model": model, "max_tokens": 1, "temperature": 0.0, "logprobs": _TOP_LOGPROBS}
    return head | {"structured_outputs": {"choice": OPTIONS}} if structured_outputs else head


def make_choice_request(
    head: Mapping[str, Any], prefix: str, questions: tuple[str, ...], known: bytes
) -> ChoiceRequest:
    """A request for one token to each question. `known` identifies head and questions: hashing them anew would cost."""
    key = hashlib.blake2b(prefix.encode(), key=hashlib.blake2b(known, digest_size=32).digest(), digest_size=16)
    return ChoiceRequest(key.hexdigest(), head, prefix, questions)


_TOP_LOGPROBS = 5
"""Asked for with each choice: three options, and some in another spelling (with a space before it)."""
