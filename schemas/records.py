"""The records that flow through the pipeline and into the shards (AlignX, section 3 of the paper; README there)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from schemas.base import Record

Text = Annotated[str, StringConstraints(min_length=1, pattern=r"\S")]
"""A text with at least one visible character."""

Level = Annotated[int, Field(ge=-1, le=1), "int8"]
"""One dimension of a direction: 1 positive, -1 negative, 0 neutral."""

Levels = tuple[Level, ...]
ReleasedDirection = tuple[Annotated[float, Field(ge=0, le=1, multiple_of=0.5)], ...]
"""A direction as AlignX publishes it: 1 positive, 0 negative, 0.5 neutral; one number a dimension."""

Source = Literal["sampled", "mined"]


class SeedPost(Record):
    """A post that asks for replies. `topics` are slugs of topical dimensions (interest tags)."""

    id: Text
    title: str = ""
    text: str = ""
    topics: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _has_text(self) -> SeedPost:
        if not self.title.strip() and not self.text.strip():
            raise ValueError("the post has neither a title nor a text")
        return self

    @property
    def prompt(self) -> str:
        """The post as one string: the dataset's `prompt` column."""
        return "\n\n".join(part for part in (self.title.strip(), self.text.strip()) if part)


class Pair(Record):
    """A post and two replies; `direction` points from `rejected` to `chosen`."""

    pair_id: Text
    post_id: Text
    prompt: Text
    chosen: Text
    rejected: Text
    direction: Levels
    topics: tuple[str, ...]
    source: Source
    model: str
    attempt: Annotated[int, Field(ge=0)]
    prompt_tokens: int
    completion_tokens: int

    @model_validator(mode="after")
    def _is_a_preference(self) -> Pair:
        if self.chosen == self.rejected:
            raise ValueError("chosen and rejected are equal")
        if not any(self.direction):
            raise ValueError("the direction is neutral in every dimension")
        return self


class UgcItem(Record):
    """One item of P_UGC: a post of the persona's history and the comment that the persona left there."""

    prompt: Text
    comment: Text
    preference_direction: ReleasedDirection = Field(alias="Preference Direction")


class PairItem(Record):
    """One item of P_PAIR: a post of the persona's history, the reply they preferred and the one they did not."""

    prompt: Text
    chosen: Text
    rejected: Text
    preference_direction: ReleasedDirection = Field(alias="Preference Direction")


class Example(Record):
    """One row of the finished dataset: AlignX's columns, to the letter, then this project's own in snake_case."""

    prompt: Text
    chosen: Text
    rejected: Text
    preference_direction: ReleasedDirection = Field(alias="Preference Direction")
    demographic_information: Text = Field(alias="Demographic Information")
    user_generated_content: tuple[UgcItem, ...] = Field(alias="User-Generated Content")
    pairwise_feedback: tuple[PairItem, ...] = Field(alias="Pair-wise Comparative Feedback")
    profile: Text
    id: Text
    pair_id: Text
    post_id: Text
    mirrored: bool
    source: Source
    topics: tuple[str, ...]
    history_support: Annotated[float, Field(ge=0, le=1)]
    model: str

    @model_validator(mode="after")
    def _persona_is_consistent(self) -> Example:
        """The rules of docs/design.md that one row can break by itself."""
        if self.chosen == self.rejected:
            raise ValueError("chosen and rejected are equal")
        posts = [self.prompt]
        replies = [self.chosen, self.rejected]
        target = [(d, v) for d, v in enumerate(self.preference_direction) if v != 0.5]
        for ugc in self.user_generated_content:
            replies.append(ugc.comment)
            posts.append(ugc.prompt)
        for pair in self.pairwise_feedback:
            replies.extend((pair.chosen, pair.rejected))
            posts.append(pair.prompt)
        items: tuple[UgcItem | PairItem, ...] = (*self.user_generated_content, *self.pairwise_feedback)
        for item in items:
            if len(item.preference_direction) != len(self.preference_direction):
                raise ValueError("a history item has another number of dimensions than the row")
            if any(item.preference_direction[d] == 1.0 - value for d, value in target):
                raise ValueError("a history item contradicts the row's direction")
        if len(set(posts)) != len(posts):
            raise ValueError("a post is repeated in the row")
        if len(set(replies)) != len(replies):
            raise ValueError("a reply is repeated in the row")
        return self


class Rejection(Record):
    """A row that did not pass, kept with its reason: `texts` are the raw replies, where there were any."""

    record_id: Text
    stage: Literal["sample", "generate", "validate", "assemble", "portrait"]
    reason: Text
    detail: str
    attempt: Annotated[int, Field(ge=0)]
    final: bool
    post_id: str
    prompt: str
    direction: Levels
    texts: tuple[str, ...]
