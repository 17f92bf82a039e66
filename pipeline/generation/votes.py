"""Votes: requests by chat for one answer to one question of a choice request."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import orjson

from pipeline.generation.completions import (
    NO_REASONING,
    OPTIONS,
    PROBABILITIES,
    TOP_LOGPROBS,
    VOTES,
    ChoiceRequest,
    encode_probabilities,
)
from schemas.answers import letter_logprobs, read_reply, split_thinking

SYSTEM = f"Answer the last question with one letter alone ({', '.join(OPTIONS)}), without any other word."
_TOKENS = 16
"""Most tokens of a vote: a letter in brackets, or in a JSON object."""


@dataclass(frozen=True, slots=True)
class Vote:
    """A request for one answer to one question of a choice request, by chat.

    With log-probabilities one vote tells all; without them it tells one letter, and several votes make shares
    (`Ballot`). `head` has the fields that all votes share.
    """

    path: ClassVar[str] = "/chat/completions"
    sequences: ClassVar[int] = 1

    key: str
    head: Mapping[str, Any]
    system: str
    prefix: str
    question: str
    seed: int | None

    @property
    def fields(self) -> tuple[str, ...]:
        """Return what a server may refuse, as in `Request`."""
        sent = {
            "max_tokens": "max_tokens" in self.head,
            "system": bool(self.system),
            "reasoning": self.head.keys() >= NO_REASONING.keys(),
            "seed": self.seed is not None,
            "logprobs": "logprobs" in self.head,
            "structured_outputs": "structured_outputs" in self.head,
        }
        return tuple(name for name, is_sent in sent.items() if is_sent)

    @property
    def body(self) -> bytes:
        """HTTP body."""
        turns = {"system": self.system, "user": self.prefix + self.question}
        messages = [{"role": role, "content": text} for role, text in turns.items() if text]
        seed = {} if self.seed is None else {"seed": self.seed}
        return orjson.dumps({**self.head, **seed, "messages": messages})

    def read(self, response: Any) -> tuple[str, str]:
        """Return the shares of the options, as `encode_probabilities` does, and how they were had."""
        choice = response["choices"][0]
        thinking, said = split_thinking(read_reply(choice)[0])
        # What the model thinks before it answers names options, too.
        tokens = [] if thinking else letter_logprobs(choice, lambda token: bool(_LETTER.fullmatch(token)))
        weights = [0.0] * len(OPTIONS)
        for token, logprob in tokens:
            if (found := _LETTER.fullmatch(token)) and logprob is not None:
                weights[OPTIONS.index(found[1])] += math.exp(min(float(logprob), 0.0))
        if total := sum(weights):
            return encode_probabilities([[weight / total for weight in weights]]), PROBABILITIES
        letter = _letter_in(said)
        return encode_probabilities([[float(option == letter) for option in OPTIONS]]), VOTES


_LETTER = re.compile(rf"[\W_\u0120]*([{''.join(OPTIONS)}])[\W_]*")
"""A token of a chat that is an option: alone, in brackets, or after the mark of a space."""


def _letter_in(text: str) -> str | None:
    """Return the option that a reply names: the only one in it, or the one with which it begins."""
    # Before another word "A" may be an article.
    letters: set[str] = {*re.findall(rf"(?<!\w)[{''.join(OPTIONS)}](?!\w)(?!(?<=A)\s+(?!or\b)[a-z])", text)}
    if len(letters) == 1:
        return letters.pop()
    first = re.match(rf"\W*([{''.join(OPTIONS)}])\s*[).:,]", text)
    return first[1] if first else None


def vote_head(head: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that all votes on a choice share, from those of its `choice_head`.

    At temperature 1 the shares of many votes are the model's probabilities.
    """
    constraint = {name: head[name] for name in ("structured_outputs",) if name in head}
    numbers = {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
    return {"model": head["model"], "temperature": 1.0, "max_tokens": _TOKENS} | NO_REASONING | numbers | constraint


def make_vote(request: ChoiceRequest, head: Mapping[str, Any], question: int, number: int) -> Vote:
    """Return the request for a vote on a question of a choice request.

    Args:
        request: The choice request.
        head: Fields of the body, of `vote_head`.
        question: Position of the question.
        number: Number of the vote, from 0; it decides the sampling seed.
    """
    digest = hashlib.blake2b(f"{request.key}\x1f{question}\x1f{number}".encode(), digest_size=16)
    seed = int.from_bytes(digest.digest()[:4], "little") >> 1
    return Vote(digest.hexdigest(), head, SYSTEM, request.prefix, request.questions[question], seed)
