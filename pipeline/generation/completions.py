"""Completion requests and their outcomes, as plain values."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import orjson

from pipeline.runtime.results import NO_TOKENS, Tokens
from schemas.answers import first_logprobs, read_reply
from schemas.config import GenerationConfig


class AnyRequest(Protocol):
    """A request of any kind.

    `body` is the HTTP body for `path`, and `key` identifies the request in journals. `sequences` counts against the
    limit of requests in flight.
    """

    @property
    def path(self) -> str:
        """Path below the base URL."""

    @property
    def key(self) -> str:
        """Key of the outcome in journals."""

    @property
    def body(self) -> bytes:
        """HTTP body."""

    @property
    def sequences(self) -> int:
        """Number of sequences that the server generates."""

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of what a server may refuse and the build itself, not `generation.extra`, sends. See `Dialect`."""

    def read(self, response: Any) -> tuple[str, str]:
        """Return text and finish reason of a parsed response. Raises `ValueError` and the like for other shapes."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request for one chat completion.

    `key` is a hash of `body`. A reply must not copy from `texts`, the texts of the messages.
    """

    path: ClassVar[str] = "/chat/completions"
    sequences: ClassVar[int] = 1

    key: str
    body: bytes
    texts: tuple[str, ...]
    fields: tuple[str, ...] = ()
    """Of `reasoning`, `system` and `response_format`."""

    def read(self, response: Any) -> tuple[str, str]:
        """Return text and finish reason of a parsed response. Raises `ValueError` and the like for other shapes."""
        return read_reply(response["choices"][0])


OPTIONS = ("A", "B", "C")
"""The one-token answers of a choice. Which level an option means differs between questions."""

PROBABILITIES, VOTES = "stop", "votes"
"""Finish reasons of an answered choice: by log-probabilities, or by what the model said, once or several times."""


@dataclass(frozen=True, slots=True)
class ChoiceRequest:
    """A request for many one-token choices in one call: each of `questions` follows `prefix`.

    The body is made when it is sent, as the bodies of a shard repeat each prefix many times. `key` is a hash of the
    parts.
    """

    path: ClassVar[str] = "/completions"

    key: str
    head: Mapping[str, Any]
    prefix: str
    questions: tuple[str, ...]

    @property
    def fields(self) -> tuple[str, ...]:
        """Return what a server may refuse, as in `Request`."""
        return ("structured_outputs",) if "structured_outputs" in self.head else ()

    @property
    def sequences(self) -> int:
        """Number of prompts, which counts against the limit of requests in flight."""
        return len(self.questions)

    @property
    def body(self) -> bytes:
        """HTTP body."""
        return orjson.dumps({**self.head, "prompt": [self.prefix + question for question in self.questions]})

    def read(self, response: Any) -> tuple[str, str]:
        """Return the probabilities of the options, as `encode_probabilities` does, and how they were had."""
        choices = sorted(response["choices"], key=lambda choice: int(choice["index"]))
        if [choice["index"] for choice in choices] != list(range(len(self.questions))):
            raise ValueError("not one choice for each prompt")
        has_numbers = all(first_logprobs(choice) for choice in choices)
        return encode_probabilities(map(_option_shares, choices)), PROBABILITIES if has_numbers else VOTES


def encode_probabilities(shares: Iterable[Iterable[float]]) -> str:
    """Return the options' shares of each question in hexadecimal, a byte each: the text of an answered choice."""
    return bytes(round(255 * share) for question in shares for share in question).hex()


def decode_probabilities(encoded: str) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    """Return what `encode_probabilities` encoded, shape (questions, options): 255 is certain, all zeros no answer."""
    return np.frombuffer(bytes.fromhex(encoded), dtype=np.uint8).reshape(-1, len(OPTIONS))


def _option_shares(choice: Any) -> list[float]:
    """Return each option's share of the probability of all options; zeros where none of them is known.

    Without log-probabilities the option in the text gets everything. With them the text alone counts for nothing: where
    the options are unlikely, a constrained text is a guess. Where the option in the text has no log-probability, the
    others' numbers are no basis either.
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
    """Return a token without the leading space, which some servers show as their tokenizer's mark."""
    return token.strip().lstrip("\u2581\u0120")


@dataclass(frozen=True, slots=True)
class Completion:
    """A reply and its token counts.

    `text` is as the server sent it, with the thinking that it contains. `reasoning` is thinking that the server
    returned apart. `reasoning_tokens` counts both kinds; they are among `completion_tokens`.
    """

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    reasoning: str = ""
    reasoning_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Failure:
    """A request without a reply. `reason` is counted, `detail` is for people.

    `may_pass`: the circumstances were the cause (a timeout, a 500), so a resumed run sends the request again. Otherwise
    the request itself was, and the response would be the same.
    """

    reason: str
    detail: str
    may_pass: bool


Outcome = Completion | Failure


def is_voted(outcome: Outcome) -> bool:
    """Return whether a choice was answered by what the model said, without probabilities of all options."""
    return isinstance(outcome, Completion) and outcome.finish_reason == VOTES


def count_tokens(outcomes: Iterable[Outcome]) -> Tokens:
    """Return the tokens of outcomes."""
    found = [outcome for outcome in outcomes if isinstance(outcome, Completion)]
    counts = (Tokens(reply.prompt_tokens, reply.completion_tokens, reply.reasoning_tokens) for reply in found)
    return sum(counts, NO_TOKENS)


NO_REASONING: dict[str, Any] = {
    "chat_template_kwargs": {"enable_thinking": False, "thinking": False},
    "reasoning_effort": "none",
}
"""Fields that switch reasoning off. Templates ignore variables that they lack: DeepSeek's knows `thinking`, the others
`enable_thinking`."""


def make_request(
    config: GenerationConfig, messages: Mapping[str, str], seed_parts: tuple[object, ...], **changes: object
) -> Request:
    """Return the request for one chat completion.

    Args:
        config: Model and sampling parameters. Its `extra` replaces fields of the body.
        messages: Text by role. Empty texts are left out.
        seed_parts: Identifies the request within its build. The sampling seed is a hash of it.
        **changes: Replace fields of the body; None removes one. A field that `extra` removes stays removed.
    """
    digest = hashlib.blake2b("\x1f".join(str(part) for part in seed_parts).encode(), digest_size=4).digest()
    body = {
        "model": config.model,
        "messages": [{"role": role, "content": text} for role, text in messages.items() if text],
        "temperature": config.temperature,
        "top_p": config.top_p,
        "max_tokens": config.token_limit(config.max_tokens),
        "seed": int.from_bytes(digest, "little") >> 1,
    }
    if config.stop:
        body["stop"] = config.stop
    asks_not_to_reason = config.reasoning == "off" and not config.extra.keys() & NO_REASONING.keys()
    if asks_not_to_reason:
        body |= NO_REASONING
    removed = {name: None for name, value in config.extra.items() if value is None}
    sent = {name: value for name, value in (body | config.extra | changes | removed).items() if value is not None}
    # Copied, as orjson returns a buffer that is much larger, and whole shards of bodies are in memory.
    encoded = bytes(memoryview(orjson.dumps(sent)))
    key = hashlib.blake2b(encoded, digest_size=16).hexdigest()
    fields = {
        "reasoning": asks_not_to_reason,
        "system": bool(messages.get("system")),
        "response_format": "response_format" in changes and "response_format" in sent,
    }
    return Request(key, encoded, tuple(messages.values()), tuple(name for name, is_sent in fields.items() if is_sent))


def choice_head(model: str, structured_outputs: bool) -> dict[str, Any]:
    """Return the fields that all choice requests of a build share."""
    head: dict[str, Any] = {"model": model, "max_tokens": 1, "temperature": 0.0, "logprobs": TOP_LOGPROBS}
    return head | {"structured_outputs": {"choice": OPTIONS}} if structured_outputs else head


def make_choice_request(
    head: Mapping[str, Any], prefix: str, questions: tuple[str, ...], digest: bytes
) -> ChoiceRequest:
    """Return a request for one token to each question.

    Args:
        head: Fields of the body, of `choice_head`.
        prefix: Text before each question.
        questions: Ends of the prompts.
        digest: Identifies head and questions, which are too long to be hashed for every request.
    """
    key = hashlib.blake2b(prefix.encode(), key=hashlib.blake2b(digest, digest_size=32).digest(), digest_size=16)
    return ChoiceRequest(key.hexdigest(), head, prefix, questions)


TOP_LOGPROBS = 5
"""Log-probabilities per choice: the three options, and some with a space before them."""
