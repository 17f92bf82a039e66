"""A choice request by chat: each of its questions is asked by itself, and the votes make one outcome.

A chat gives no answers to several prompts in one call. Where it gives log-probabilities, the first vote on a question
is the last one; else as many votes are cast as the build asks for. The outcome, its key and its decoding are those of
the same request by `/v1/completions`, so journals and rows know no protocol. The finish reason says whether
probabilities answered all questions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import numpy as np

from pipeline.generation.completions import (
    OPTIONS,
    PROBABILITIES,
    VOTES,
    AnyRequest,
    ChoiceRequest,
    Completion,
    Failure,
    Outcome,
    count_tokens,
    decode_probabilities,
    encode_probabilities,
)
from pipeline.generation.items import RequestBatch
from pipeline.generation.journal import JournalWriter
from pipeline.generation.votes import make_vote, vote_head

Submit = Callable[[Sequence[tuple[int, AnyRequest]], RequestBatch, JournalWriter, bool], None]
"""Sends votes with their positions in a batch; True for further ones, as `is_begun` of `Client.submit`."""


class Ballot(RequestBatch):
    """The votes on the questions of a choice request. It stands in for their batch and for their journal.

    The client's thread calls `append` before it counts a vote as done, so a further vote is pending in time. Only the
    outcome of the whole request is journaled: a line for each vote would make the journal some fifty times as long.
    Further votes are sent before first ones, so requests are decided one after another. A kill costs the answers in
    flight, and about those of one request.

    Args:
        request: The choice request.
        votes: Votes on a question without log-probabilities.
        position: Position of the request in `batch`.
        batch: Takes the outcome.
        journal: Keeps the outcome.
        submit: Sends votes.
    """

    def __init__(
        self,
        request: ChoiceRequest,
        votes: int,
        position: int,
        batch: RequestBatch,
        journal: JournalWriter,
        submit: Submit,
    ) -> None:
        super().__init__([], 0)
        self._request = request
        self._head = vote_head(request.head)
        self._votes = votes
        self._position = position
        self._batch = batch
        self._journal = journal
        self._submit = submit
        self._questions: dict[str, int] = {}
        self._cast: list[list[Outcome]] = [[] for _ in request.questions]

    def open(self) -> None:
        """Ask for the first vote on every question."""
        self._ask([(question, 0) for question in range(self._request.sequences)], is_begun=False)

    def append(self, key: str, outcome: Outcome) -> None:
        """Take a vote. Ask for further ones on its question, or settle the request by its last one."""
        question = self._questions[key]
        self._cast[question].append(outcome)
        if self._is_open(question):
            self._ask([(question, number) for number in range(1, self._votes)], is_begun=True)
        if self.pending == 1:
            whole = self._count()
            self._journal.append(self._request.key, whole)
            self._batch.outcomes[self._position] = whole
            self._batch.pending -= 1

    def close(self) -> None:
        """Do nothing: the journal of the shard is closed by its owner."""

    def _ask(self, places: Sequence[tuple[int, int]], is_begun: bool) -> None:
        votes = [make_vote(self._request, self._head, question, number) for question, number in places]
        self._questions |= {vote.key: question for vote, (question, _) in zip(votes, places, strict=True)}
        start = len(self.outcomes)
        self.outcomes += [None] * len(votes)
        self.pending += len(votes)
        self._submit([*enumerate(votes, start)], self, self, is_begun)

    def _is_open(self, question: int) -> bool:
        """Return whether the first vote on a question is there, and is but a letter."""
        has_failed = any(isinstance(vote, Failure) for votes in self._cast for vote in votes)
        first, *others = cast("list[Completion]", self._cast[question])
        return not has_failed and not others and self._votes > 1 and first.finish_reason == VOTES

    def _count(self) -> Outcome:
        """Return the outcome of the request: a failure where a vote failed, and rather one that will not pass."""
        outcomes = [vote for votes in self._cast for vote in votes]
        failures = [outcome for outcome in outcomes if isinstance(outcome, Failure)]
        if failures:
            return min(failures, key=lambda failure: failure.may_pass)
        replies = cast("list[Completion]", outcomes)
        tokens = count_tokens(replies)
        is_counted = any(reply.finish_reason == VOTES for reply in replies)
        return Completion(
            "".join(_encoded_shares(cast("list[Completion]", votes)) for votes in self._cast),
            VOTES if is_counted else PROBABILITIES,
            tokens.prompt,
            tokens.completion,
            reasoning_tokens=tokens.reasoning,
        )


def _encoded_shares(votes: Sequence[Completion]) -> str:
    """Return each option's share of the votes that name an option, encoded; zeros where none does."""
    if len(votes) == 1:
        # Rounded once: the same bytes as by completions.
        return votes[0].text
    total = np.zeros(len(OPTIONS))
    for vote in votes:
        total += decode_probabilities(vote.text)[0]
    return encode_probabilities([(total / max(1.0, total.sum())).tolist()])
