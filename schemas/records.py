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

Margins = tuple[Annotated[float, Field(ge=-2, le=2), "float32"] | None, ...]
"""Margins of a verified pair, one for each dimension, null where the judge was not asked. Empty for other pairs.

The score of a reply is the judge's probability of the positive pole less that of the negative one; the margin is the
chosen reply's score less the rejected one's.
"""

Quality = Annotated[float, Field(ge=0, le=1)] | None
"""Quality of a reply by the judge, from 0 (poor) to 1 (good); null where nobody asked."""

Source = Literal["sampled", "mined"]

Kind = Literal["opposite", "near", "restraint", "mined"]
"""What the rejected reply of a pair is: that of the opposite person, of a near neighbour, of the same person where a
plain answer is better; or any other one of the thread."""


class SeedPost(Record):
    """A post to reply to. `topics` are slugs of topical dimensions (interest tags)."""

    id: Text
    title: str = ""
    text: str = ""
    topics: tuple[str, ...] = ()
    impersonal: bool = False
    """Whether the person should not matter for an answer, as for a question of fact."""

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
    A verified pair has what the judge said of it. `asked_direction` is the one its replies were written for, of which
    filtering keeps a part in `direction`.
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
    asked_direction: Levels = ()
    direction_margin: Margins = ()
    order_agreement: Annotated[float, Field(ge=0, le=1)] | None = None
    """Share of the questions about a dimension of a reply whose likeliest answer is the same in all orders of options.

    Null where nobody asked, or in one order alone.
    """
    quality_chosen: Quality = None
    quality_rejected: Quality = None
    judge: str = ""
    kind: Kind = "opposite"
    traits: Levels = ()
    """Near pairs: what the chosen reply was written for, of which `direction` holds the flipped dimensions."""
    user_id: str = ""
    user_direction: Levels = ()
    """Direction of the user, of which `direction` is a part; empty without users, as `user_id` is."""

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
        description="The person, of a user the part that the row is about: one number for each dimension of "
        "`preference_space.yaml`, in its order; 1 positive, 0 negative, 0.5 neutral.",
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
    direction_margin: Margins = Field(
        (),
        description="Verified pairs: for each dimension of `preference_space.yaml`, how much more `chosen` shows the "
        "positive pole than `rejected` does, from -2 to 2 by the judge's probabilities; null where the judge was not "
        "asked.",
    )
    verified: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None,
        description="Verified pairs: share of the dimensions the replies were written for that the judge recovered.",
    )
    quality_chosen: Quality = Field(
        None, description="Verified pairs: quality of `chosen` for any reader, from 0 (poor) to 1 (good)."
    )
    quality_rejected: Quality = Field(None, description="Verified pairs: the same of `rejected`.")
    judge: str = Field("", description="Model that verified the pair; empty where none did.")
    kind: Kind = Field(
        description="What `rejected` is. `opposite`: a reply of the opposite person. `near`: of a person who differs "
        "in the dimensions of the direction and in no others. `restraint`: a reply that shows the person where a plain "
        "answer, `chosen`, is better. `mined`: another reply of the thread."
    )
    user_id: str = Field(
        "", description="Identifier of the user, whose other rows the history is made of; empty without users."
    )
    user_direction: ReleasedDirection = Field(
        (), description="The whole direction of the user, of which the row's direction is a part; empty without users."
    )
    user_pairs: Annotated[int, Field(ge=0)] = Field(0, description="Pairs of the user in this split; 0 without users.")

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
        if len(self.direction_margin) not in (0, len(self.preference_direction)):
            raise ValueError("the margins have another number of dimensions than the row")
        if any(len(item.preference_direction) != len(self.preference_direction) for item in items):
            raise ValueError("a history item has another number of dimensions than the row")
        if len(set(posts)) != len(posts):
            raise ValueError("a post is repeated in the row")
        if len(set(replies)) != len(replies):
            raise ValueError("a reply is repeated in the row")
        return self

    @model_validator(mode="after")
    def _is_of_its_user(self) -> Example:
        if self.mirrored and self.kind == "restraint":
            raise ValueError("a restraint pair has a mirror image")
        if self.user_direction:
            levels = {*zip(self.preference_direction, self.user_direction, strict=True)}
            if any(level not in (0.5, whole) for level, whole in levels):
                raise ValueError("the direction is no part of the user's direction")
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
    annotated, `texts` are the response and the annotator's answers. `direction_margin` is what the judge found.
    """

    record_id: Text
    stage: Literal["sample", "annotate", "mine", "generate", "validate", "verify", "assemble", "portrait"]
    reason: Text
    detail: str
    attempt: Annotated[int, Field(ge=0)]
    final: bool
    post_id: str
    prompt: str
    direction: Levels
    texts: tuple[str, ...]
    cleaned: tuple[str, ...] = ()
    direction_margin: Margins = ()
    kind: Kind = "opposite"
    may_pass: bool = False
    """Whether a failed request (a timeout, a 500) is the cause, which `--retry-lost` sends again."""
