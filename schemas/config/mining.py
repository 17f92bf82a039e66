"""Section `mining`: pairs from real threads."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from schemas.base import Record
from schemas.config.choices import ChoicesConfig, Protocol
from schemas.config.fields import Share, compile_patterns, with_defaults
from schemas.config.sources import MinedSource

_BY_CHOICE = ("protocol", "votes", "prompts_per_call", "option_order")
_UNREAD: dict[str | None, tuple[str, ...]] = {
    "choice": ("max_tokens",),
    "json": _BY_CHOICE,
    None: (*_BY_CHOICE, "structured_outputs", "max_tokens"),
}
"""Keys of `annotation` that nothing reads, by the annotator."""


class AnnotationConfig(ChoicesConfig):
    """Annotation of responses with a level on each dimension: positive, negative, or cannot tell.

    `protocol`, `votes` and `prompts_per_call` are about mode `choice`.
    """

    mode: Literal["choice", "json", "given"] = Field(
        "choice",
        description="`choice`: a choice of one token for each dimension, with probabilities. "
        "`json`: one structured reply for all dimensions, without probabilities (chat). `given`: the threads bring "
        "levels, and no model is asked. Responses that bring levels are never sent to a model, but `dimensions` and "
        "`min_confidence` apply to them.",
    )
    # Not `auto`: by chat the questions about a response cost several times as much as one reply of mode `json`.
    protocol: Protocol = "completions"
    dimensions: Annotated[tuple[str, ...], Field(min_length=1)] | None = Field(
        None, description="Slugs and groups to ask about; null: all. Others count as 'cannot tell'."
    )
    option_order: Literal["shuffled", "fixed"] = Field(
        "shuffled",
        description="Order of the three options: `shuffled` for each response and dimension against position bias, or "
        "always positive, negative, cannot tell.",
    )
    min_confidence: Share = Field(
        0.5, description="Smallest probability of an answer; below it the answer counts as 'cannot tell'."
    )
    max_tokens: int = Field(2048, ge=16, description="Most tokens of a structured reply (`json`).")


class MiningConfig(Record):
    """Pairs from real threads: the paper's Algorithm 1."""

    source: MinedSource = Field(description="Where the threads come from.")
    share: float = Field(1.0, gt=0, le=1, description="Share of `pairs` that is mined; the rest is sampled.")
    limit: int | None = Field(None, ge=1, description="Most threads to use, chosen by the seed.")
    min_words: int = Field(5, ge=1, description="Fewest words of a response.")
    max_words: int = Field(300, ge=1, description="Most words of a response.")
    max_post_words: int = Field(600, ge=1, description="Most words of a post.")
    min_responses: int = Field(2, ge=2, description="Fewest responses of a thread after all filters.")
    max_responses: int = Field(16, ge=2, description="Most responses of a thread to use, chosen by the seed.")
    one_per_author: bool = Field(True, description="Keep only one response of each author in a thread.")
    bots: tuple[str, ...] = Field(
        (r"bot$", r"^automoderator$"), description="Regular expressions (any case) of authors that are bots."
    )
    scrub: bool = Field(
        True, description="Replace user names, e-mail addresses, phone numbers and links in posts and responses."
    )
    annotation: AnnotationConfig = Field(default_factory=lambda: AnnotationConfig())
    clusters: int = Field(3, ge=2, le=64, description="K of K-means, less where a thread has fewer distinct responses.")
    pairs_per_post: int = Field(
        1, ge=1, le=64, description="Pairs from each thread; `pairs` is rounded up to whole threads."
    )
    min_margin: float = Field(
        0.0,
        ge=-1,
        le=1,
        description="Smallest margin of a pair: the distance of the replies on the dimensions of the direction, minus "
        "that on the others, from the annotator's probabilities.",
    )
    max_margin: float = Field(1.0, ge=-1, le=1, description="Largest margin of a pair.")

    @property
    def annotator(self) -> Literal["choice", "json"] | None:
        """Return how a model annotates responses; None where their levels are given, or follow from ratings."""
        mode = self.annotation.mode if self.source.kind in ("dump", "threads") else "given"
        return None if mode == "given" else mode

    def as_read(self) -> MiningConfig:
        """Return the section with defaults where the annotator makes no use of a key."""
        annotation = with_defaults(self.annotation.without_unread_votes(), *_UNREAD[self.annotator])
        return self.model_copy(update={"annotation": annotation})

    @field_validator("bots")
    @classmethod
    def _compile_bots(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        return compile_patterns(patterns)

    @model_validator(mode="after")
    def _ranges(self) -> MiningConfig:
        for low, high in (("min_margin", "max_margin"), ("min_responses", "max_responses"), ("min_words", "max_words")):
            if getattr(self, low) > getattr(self, high):
                raise ValueError(
                    f"{low} ({getattr(self, low)}) is larger than {high} ({getattr(self, high)}); lower it"
                )
        return self
