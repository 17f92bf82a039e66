"""The records of `everyuser review`: the sheet in the page, the labels that come back, and their score.

A *sheet* is a blind sample of a build: it does not say which reply is the chosen one, or what the dataset says. A
*question* is about one pair and one dimension. A *reviewer* answers questions; the answers of one file are *labels*.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from schemas.base import Record
from schemas.report import Estimate

REVIEW_VERSION = 1

Answer = Literal["first", "second", "cannot tell"]
"""The reply that shows more of the pole in question."""

Name = Annotated[str, StringConstraints(max_length=100)]


class ReviewSettings(Record):
    """Settings that determine the sheet of a build."""

    pairs: Annotated[int, Field(ge=1, le=5_000)] = 30
    """Pairs on the page; thirty take about ten minutes."""
    seed: Annotated[int, Field(ge=0, lt=1 << 53)] = 0
    """Below 2**53, so that the page's script keeps it exactly."""
    before: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of the pairs that are drawn and asked about as they were before verification filtered them."""


class SheetPole(Record):
    """One end of a dimension."""

    label: str
    description: str


class SheetDimension(Record):
    """A dimension of the questions."""

    name: str
    question: str
    positive: SheetPole
    negative: SheetPole


class SheetPair(Record):
    """A post and two replies, ordered by their texts alone. `questions` has the pole in question by dimension."""

    id: str
    prompt: str
    replies: tuple[str, str]
    questions: dict[str, Literal["positive", "negative"]]


class Sheet(Record):
    """The content of a review page."""

    name: str
    fingerprint: str
    style: Literal["peer", "assistant"]
    """Whether a question is about the replies' writer, or about the person whom an assistant answers."""
    settings: ReviewSettings
    dimensions: dict[str, SheetDimension]
    pairs: tuple[SheetPair, ...]

    @property
    def digest(self) -> str:
        """Return a hash of the content, by which labels name their page."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]


class ReviewPage(Record):
    """The data in the page."""

    review_version: int = REVIEW_VERSION
    digest: str
    sheet: Sheet


class Labels(Record):
    """The answers of one reviewer, by pair and dimension, as the page exports them.

    A reviewer is known by the name, whatever its case. Of two answers of a reviewer to the same question, that of the
    later export counts.
    """

    review_version: Literal[1]
    fingerprint: Name
    digest: Name
    settings: ReviewSettings
    reviewer: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100)]
    exported: Annotated[int, Field(ge=0, lt=1 << 53)] = 0
    """Milliseconds since 1970, by the reviewer's clock; 0 in labels that no page exported."""
    answers: Annotated[dict[Name, dict[Name, Answer]], Field(max_length=5_000)]


class Agreement(Record):
    """Agreement of reviewers with the levels of another source; statistics are None where they are not defined.

    `share` is of the answers that name a reply. `kappa` has "cannot tell" as a category, `decided_kappa` is of the
    answers in which both sides name a reply.
    """

    answers: int
    agree: int
    disagree: int
    unclear: int
    """Answers in which either side cannot tell."""
    posts: int
    share: Estimate | None
    kappa: Estimate | None
    decided_kappa: Estimate | None


class BetweenReviewers(Record):
    """Agreement among reviewers about the questions that several answered."""

    questions: int
    alpha: Estimate | None
    """Krippendorff's alpha for nominal data, with "cannot tell" as a category."""


class ReviewerScore(Record):
    """One reviewer. `share` is the agreement with what was asked, of the answers that name a reply."""

    reviewer: str
    files: int
    questions: int
    """Questions of the pages in these files."""
    answers: int
    cannot_tell: int
    share: float | None


class DimensionScore(Record):
    """Agreement of all reviewers with what was asked in one dimension."""

    slug: str
    name: str
    agree: int
    disagree: int
    cannot_tell: int


class Disagreement(Record):
    """An answer that opposes what was asked of the pair. Poles are named by their labels."""

    reviewer: str
    pair: str
    """Id of the pair, with the attempt where verification refused it."""
    post: str
    chosen: str
    rejected: str
    dimension: str
    asked: str
    """Pole that the chosen reply should show more."""
    seen: str
    """Pole that the reviewer found more in it."""
    was_dropped: bool
    """Whether verification had dropped the dimension or the pair."""
    margin: float | None
    """Margin of the judge towards the positive pole."""


class ReviewScore(Record):
    """What reviewers found in a build."""

    name: str
    fingerprint: str
    judge: str
    reviewers: tuple[ReviewerScore, ...]
    before: Agreement | None
    """With what was asked, in pairs drawn before filtering; None where nothing was filtered."""
    after: Agreement | None
    """With the direction of the dataset."""
    dropped: Agreement | None
    """With what was asked, where verification dropped the dimension or the whole pair."""
    with_judge: Agreement | None
    """With the sign of the judge's margin; None where there is no margin."""
    between: BetweenReviewers | None
    dimensions: tuple[DimensionScore, ...]
    """Worst first."""
    disagreements: tuple[Disagreement, ...]
