"""Keys of `verification` and of `mining.annotation`: how a model is asked questions that one token answers."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field

from schemas.base import Record
from schemas.config.fields import with_defaults

Protocol = Annotated[
    Literal["auto", "completions", "chat"],
    Field(
        description="`completions`: one token with log-probabilities (`/v1/completions`), many questions in a call. "
        "`chat`: one question in a call, for servers that know chat alone. `auto`: the first where the server can."
    ),
]


class ChoicesConfig(Record):
    """Questions with three options about a reply."""

    protocol: Protocol = "auto"
    votes: int = Field(
        3, ge=1, le=64, description="Times that each question is asked by a chat without log-probabilities."
    )
    prompts_per_call: int = Field(
        30, ge=1, le=1024, description="Most questions in one call, all about the same reply (`completions`)."
    )
    structured_outputs: bool = Field(
        True,
        description="Restrict answers to the options, by vLLM's `structured_outputs` or a JSON schema. A server that "
        "refuses this is asked without it.",
    )

    def without_unread_votes(self) -> Self:
        """Return the section with the default of `votes` where no chat votes."""
        return with_defaults(self, "votes") if self.protocol == "completions" else self
