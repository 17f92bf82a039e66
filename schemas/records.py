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

    @property
    def plain(self) -> dict[str, str | list[str]]:
        """What templates see of it, as plain data."""
        return {"title": self.title, "text": self.text, "topics": list(self.topics)}


Shares32 = tuple[Annotated[float, Field(ge=0, le=1), "float32"], ...]


class Response(Record):
    """One response of a thread. `levels` is empty until it is annotated.

    `positive` and `negative` are the annotator's probabilities of both poles, one number a dimension; what is left is
    that of 'cannot tell'. They are empty where levels were given without them.
    """

    id: Text
    text: Text
    levels: Levels = ()
    positive: Shares32 = ()
    negative: Shares32 = ()


class Thread(Record):
    """A post with the responses of different people."""

    id: Text
    title: str
    text: str
    topics: tuple[str, ...]
    responses: tuple[Response, ...]


class Pair(Record):
    """A post and two replies; `direction` points from `rejected` to `chosen`.

    A mined pair has the `levels` of both replies, of which the direction is the sign of the difference, and its margin.
    """

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
    chosen_levels: Levels = ()
    rejected_levels: Levels = ()
    margin: float = 0.0

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

    prompt: Text = Field(description="The post that is replied to.")
    chosen: Text = Field(description="The reply that this person prefers.")
    rejected: Text = Field(description="The other reply.")
    preference_direction: ReleasedDirection = Field(
        alias="Preference Direction",
        description="The person: one number a dimension of `preference_space.yaml`, in its order; 1 positive, "
        "0 negative, 0.5 neutral.",
    )
    demographic_information: Text = Field(
        alias="Demographic Information", description="A portrait of the person in words (P_DEMO)."
    )
    user_generated_content: tuple[UgcItem, ...] = Field(
        alias="User-Generated Content",
        description="Comments that the person left on other posts, each with its direction (P_UGC).",
    )
    pairwise_feedback: tuple[PairItem, ...] = Field(
        alias="Pair-wise Comparative Feedback",
        description="Preferences of the person on other posts, each with its direction (P_PAIR).",
    )
    profile: Text = Field(description="The direction in words: labels of the active poles, joined by commas.")
    id: Text = Field(description="Names the row.")
    pair_id: Text = Field(description="Names the pair, which a row shares with its mirror image.")
    post_id: Text = Field(description="Names the post; no post is in two splits.")
    mirrored: bool = Field(description="Whether the row is the mirror image: replies swapped, direction turned round.")
    source: Source = Field(
        description="`sampled`: replies were written for a direction; `mined`: the direction was found in real replies."
    )
    topics: tuple[str, ...] = Field(description="Interest tags of the post, slugs of the space.")
    history_support: Annotated[float, Field(ge=0, le=1)] = Field(
        description="Share of the active dimensions that at least one history item shows."
    )
    model: str = Field(description="Who wrote the replies, or annotated them; `given`: levels came with the threads.")

    @model_validator(mode="after")
    def _holds_nothing_twice(self) -> Example:
        """The rules of docs/design.md that one row can break by itself."""
        if self.chosen == self.rejected:
            raise ValueError("chosen and rejected are equal")
        posts = [self.prompt]
        replies = [self.chosen, self.rejected]
        for ugc in self.user_generated_content:
            replies.append(ugc.comment)
            posts.append(ugc.prompt)
        for pair in self.pairwise_feedback:
            replies.extend((pair.chosen, pair.rejected))
            posts.append(pair.prompt)
        items: tuple[UgcItem | PairItem, ...] = (*self.user_generated_content, *self.pairwise_feedback)
        if any(len(item.preference_direction) != len(self.preference_direction) for item in items):
            raise ValueError("a history item has another number of dimensions than the row")
        if len(set(posts)) != len(posts):
            raise ValueError("a post is repeated in the row")
        if len(set(replies)) != len(replies):
            raise ValueError("a reply is repeated in the row")
        return self

    @property
    def is_consistent(self) -> bool:
        """Whether no history item contradicts the row in any dimension: all rows but those of `consistency: paper`."""
        target = [(d, value) for d, value in enumerate(self.preference_direction) if value != 0.5]
        items: tuple[UgcItem | PairItem, ...] = (*self.user_generated_content, *self.pairwise_feedback)
        return not any(item.preference_direction[d] == 1.0 - value for item in items for d, value in target)


class Rejection(Record):
    """A row that did not pass, kept with its reason: `texts` are the raw replies, where there were any.

    Of a response that could not be annotated it is the response, and what the annotator said.
    """

    record_id: Text
    stage: Literal["sample", "annotate", "mine", "generate", "validate", "assemble", "portrait"]
    reason: Text
    detail: str
    attempt: Annotated[int, Field(ge=0)]
    final: bool
    post_id: str
    prompt: str
    direction: Levels
    texts: tuple[str, ...]
    may_pass: bool = False
    """Whether circumstances (a timeout, a 500) are to blame and not the row: `--retry-lost` asks again."""
