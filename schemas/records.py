"""The records of the pipeline and of the shards (AlignX: section 3 of the paper, and its README)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from schemas.base import Record

Text = Annotated[str, StringConstraints(min_length=1, pattern=r"\S")]
"""A text with at least one visible character."""

Level = Annotated[int, Field(ge=-1, le=1), "int8"]
"""Level of a dimension: 1 positive, -1 negative, 0 neutral."""

Levels = tuple[Level, ...]
ReleasedDirection = tuple[Annotated[float, Field(ge=0, le=1, multiple_of=0.5)], ...]
"""A direction as AlignX publishes it, one number for each dimension: 1 positive, 0 negative, 0.5 neutral."""

Source = Literal["sampled", "mined"]


class SeedPost(Record):
    """A post to reply to. `topics` are slugs of topical dimensions (interest tags)."""

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
        """Return the post as one string, the dataset's `prompt` column."""
        return "\n\n".join(part for part in (self.title.strip(), self.text.strip()) if part)

    @property
    def plain(self) -> dict[str, str | list[str]]:
        """Return the post as plain data for templates."""
        return {"title": self.title, "text": self.text, "topics": list(self.topics)}


Shares32 = tuple[Annotated[float, Field(ge=0, le=1), "float32"], ...]


class Response(Record):
    """One response of a thread. `levels` is empty before annotation.

    `positive` and `negative` are the annotator's probabilities of the poles, one number for each dimension; the rest
    is the probability of 'cannot tell'. They are empty where levels were given without them.
    """

    id: Text
    text: Text
    levels: Levels = ()
    positive: Shares32 = ()
    negative: Shares32 = ()


class Thread(Record):
    """A post with responses of different people."""

    id: Text
    title: str
    text: str
    topics: tuple[str, ...]
    responses: tuple[Response, ...]


class Pair(Record):
    """A post and two replies; `direction` points from `rejected` to `chosen`.

    A mined pair has the levels of both replies and a margin. Its direction is the sign of the difference of the levels.
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
    """One item of P_UGC: a post of the history and the persona's comment on it."""

    prompt: Text
    comment: Text
    preference_direction: ReleasedDirection = Field(alias="Preference Direction")


class PairItem(Record):
    """One item of P_PAIR: a post of the history, the reply that the persona preferred, and the other one."""

    prompt: Text
    chosen: Text
    rejected: Text
    preference_direction: ReleasedDirection = Field(alias="Preference Direction")


class Example(Record):
    """One row of the finished dataset: AlignX's columns with their exact names, then this project's in snake_case."""

    prompt: Text = Field(description="The post to reply to.")
    chosen: Text = Field(description="The reply that this person prefers.")
    rejected: Text = Field(description="The other reply.")
    preference_direction: ReleasedDirection = Field(
        alias="Preference Direction",
        description="The person: one number for each dimension of `preference_space.yaml`, in its order; 1 positive, "
        "0 negative, 0.5 neutral.",
    )
    demographic_information: Text = Field(
        alias="Demographic Information", description="A portrait of the person in words (P_DEMO)."
    )
    user_generated_content: tuple[UgcItem, ...] = Field(
        alias="User-Generated Content",
        description="Comments of the person on other posts, each with its direction (P_UGC).",
    )
    pairwise_feedback: tuple[PairItem, ...] = Field(
        alias="Pair-wise Comparative Feedback",
        description="Preferences of the person on other posts, each with its direction (P_PAIR).",
    )
    profile: Text = Field(description="The direction in words: the labels of the active poles, joined by commas.")
    id: Text = Field(description="Identifier of the row.")
    pair_id: Text = Field(description="Identifier of the pair, which a row shares with its mirror image.")
    post_id: Text = Field(description="Identifier of the post; no post is in two splits.")
    mirrored: bool = Field(description="True for the mirror image: replies swapped, direction inverted.")
    source: Source = Field(
        description="`sampled`: replies written for a direction; `mined`: a direction found in real replies."
    )
    topics: tuple[str, ...] = Field(description="Interest tags of the post, slugs of the space.")
    history_support: Annotated[float, Field(ge=0, le=1)] = Field(
        description="Share of the active dimensions that at least one history item supports."
    )
    model: str = Field(description="Model that wrote or annotated the replies; `given`: levels came with the threads.")

    @model_validator(mode="after")
    def _holds_nothing_twice(self) -> Example:
        """Check the rules of docs/design.md that a single row can break."""
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
        """Return whether no history item contradicts the row in any dimension; rows of `consistency: paper` may not."""
        target = [(d, value) for d, value in enumerate(self.preference_direction) if value != 0.5]
        items: tuple[UgcItem | PairItem, ...] = (*self.user_generated_content, *self.pairwise_feedback)
        return not any(item.preference_direction[d] == 1.0 - value for item in items for d, value in target)


class Rejection(Record):
    """A rejected row with its reason. `texts` are the model's raw texts, where there are any.

    `cleaned` are these texts as the rules judged them; empty where none was judged. For a response that could not be
    annotated, `texts` are the response and the annotator's answers.
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
    cleaned: tuple[str, ...] = ()
    may_pass: bool = False
    """Whether a failed request (a timeout, a 500) is the cause, which `--retry-lost` sends again."""
