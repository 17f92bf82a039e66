"""`report.json`: what a dataset holds and how good it is, as `everyuser report` measures it.

Figures are of all examples unless they say `sampled`: then they are of that many, drawn by a hash of their ids.
"""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from schemas.base import Record
from schemas.manifest import Counts, Run

REPORT_VERSION = "1"

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]


class SplitFigures(Record):
    """The size of one split."""

    name: str
    examples: Count
    pairs: Count
    posts: Count


class DimensionFigures(Record):
    """One dimension: in how many examples each pole is active, and what length alone tells there.

    `length_auc` is the probability that the longer reply, in characters, is the one a person of that pole prefers (ties
    count half); None where no example has the pole.
    """

    slug: str
    name: str
    group: str
    positive_label: str
    negative_label: str
    positive: Count
    negative: Count
    positive_length_auc: Share | None
    negative_length_auc: Share | None


class CorrelatedPair(Record):
    """Two dimensions and the Pearson correlation of their levels (1, 0, -1), over all examples."""

    a: str
    b: str
    correlation: Annotated[float, Field(ge=-1, le=1)]


class CorrelationFigures(Record):
    """Correlations of the dimensions' levels. `matrix` is (K, K), of the K `slugs` that vary; symmetric, ones on it."""

    slugs: tuple[str, ...]
    matrix: tuple[tuple[float, ...], ...]
    below_half: Share | None
    """Share of the pairs of dimensions whose correlation is below 0.5 in size (AlignX: 0.9965)."""
    strongest: tuple[CorrelatedPair, ...]


class Histogram(Record):
    """Counts between `edges`, of which there is one more, with mean and quantiles.

    What lies beyond the last edge is counted in the last bin.
    """

    edges: tuple[float, ...]
    counts: tuple[Count, ...]
    mean: float
    median: float
    p95: float
    largest: float


class LengthFigures(Record):
    """Words of each kind of text. Posts and replies of a mirrored pair are counted once, by the row that is no mirror.

    Portraits and comments are counted in every row.
    """

    prompt: Histogram
    chosen: Histogram
    rejected: Histogram
    portrait: Histogram
    comment: Histogram | None
    """Of history items; None where there are none."""
    length_ratio: Histogram
    """Characters of the longer reply divided by those of the shorter, of each pair."""
    length_auc: Share
    """As in `DimensionFigures`, over all examples: 0.5 exactly where every pair is mirrored."""
    longer_chosen_unmirrored: Share
    """The same over the rows that are not mirror images."""


class DuplicateFigures(Record):
    """Replies that occur more than once. A text that is chosen in one row and rejected in its mirror image is one."""

    replies: Count
    """Distinct pairs' replies: two a pair."""
    exact_within: Count
    """Replies equal to an earlier one of the same split."""
    exact_across: Count
    """Distinct replies that two splits share."""
    near_sampled: Count
    """Distinct replies of each split, of three words or more, that were compared: all, or of many a sample.

    The sample is drawn so that near-duplicates are drawn together, with a probability of their similarity.
    """
    near_threshold: Share
    """Replies are near-duplicates at this Jaccard similarity of word trigrams or more, as MinHash estimates it."""
    near_within: Count
    """Of the sampled replies, those with a near-duplicate (not equal) earlier in the same split."""
    near_across: Count
    """Of the sampled replies, those with a near-duplicate in another split."""
    posts_across: Count
    """Posts (by text) that two splits share."""
    examples: tuple[tuple[str, str], ...]
    """Up to ten pairs of near-duplicates, shortened."""


class HistoryFigures(Record):
    """What the persona's history says about the target."""

    items: tuple[Count, ...]
    """Examples with 0, 1, 2 ... history items."""
    support: Histogram
    """Share of the target's dimensions that an item supports (`history_support`)."""
    contradicting: Count
    """Examples with an item that contradicts a dimension of the target."""
    repeated: Count
    """Examples in which a post or a reply occurs twice."""


class DiversityFigures(Record):
    """How much replies differ from each other."""

    distinct: tuple[Share, ...]
    """Distinct 1-, 2- and 3-grams divided by all, of the sampled replies."""
    compression_ratio: float
    """Bytes of the sampled replies divided by their size under zlib: higher is more repetitive."""
    self_bleu: Share | None
    """Mean BLEU-4 of each of the sampled replies against all others, from 0 to 1; lower is more diverse."""
    vendi: float | None
    """Vendi score of sampled replies: the effective number of different ones. None where they cannot be embedded.

    The embedding has 256 dimensions, so the score is 256 at most.
    """
    sampled: Count
    self_bleu_sampled: Count
    vendi_sampled: Count
    embedder: str | None
    distinct_directions: Count
    """Distinct directions of all examples."""


class ContaminationFigures(Record):
    """Overlap with a file that the user names: texts that share a run of `words` words with it."""

    file: str
    rows: Count
    words: Annotated[int, Field(ge=1)]
    posts: Count
    """Distinct posts of the dataset that overlap."""
    replies: Count
    """Rows of the dataset whose chosen or rejected reply overlaps."""
    examples: tuple[str, ...]
    """Up to ten of the shared runs."""


class CopyFigures(Record):
    """Replies that repeat what the model was told of the person: a reader would not need to understand them."""

    label: Share
    """Share of pairs in which a reply contains a label that its person has.

    Without what a label explains in brackets, and only labels of two words or more: one word says nothing.
    """
    portrait: Share
    """Share of pairs in which a reply shares a run of six words with the portrait of either side."""
    examples: tuple[str, ...]


class PacePoint(Record):
    """How far the build was after so many seconds of work (the time between runs is left out): what was done by then.

    `pairs` are those that were settled, accepted or lost.
    """

    seconds: Annotated[float, Field(ge=0)]
    pairs: Count
    prompt_tokens: Count
    completion_tokens: Count


class CostFigures(Record):
    """What the build used. `price` is what the user said a million tokens cost; without it there is no `total`."""

    prompt_tokens: Count
    completion_tokens: Count
    tokens_per_example: float
    seconds: float
    tokens_per_second: float | None
    currency: str | None
    prompt_price: float | None
    completion_price: float | None
    total: float | None


class ExampleItem(Record):
    """A history item, shown in the report. `rejected` is empty for a comment."""

    prompt: str
    chosen: str
    rejected: str
    profile: str


class ShownExample(Record):
    """An example that the report shows whole. `direction` holds `slug: level` of the active dimensions."""

    id: str
    split: str
    mirrored: bool
    source: str
    prompt: str
    chosen: str
    rejected: str
    portrait: str
    profile: str
    direction: dict[str, Literal[1, -1]]
    history: tuple[ExampleItem, ...]
    history_support: Share


class ShownRejection(Record):
    """A rejected row that the report shows. `reason` is "stage/reason"."""

    id: str
    split: str
    reason: str
    detail: str
    attempt: Count
    final: bool
    prompt: str
    texts: tuple[str, ...]
    direction: dict[str, Literal[1, -1]]


class Report(Record):
    """`report.json`, and what `report.html` is drawn from."""

    report_version: str
    name: str
    schema_version: str
    fingerprint: str
    files_digest: str
    """A hash of the shards' hashes: tells whether the report is about these very files."""
    model: str
    created: str
    examples: Count
    pairs: Count
    posts: Count
    splits: tuple[SplitFigures, ...]
    dimensions: tuple[DimensionFigures, ...]
    correlation: CorrelationFigures
    active: tuple[Count, ...]
    """Examples with 0, 1, 2 ... active dimensions."""
    lengths: LengthFigures
    counts: Counts
    """The funnel, from the manifest."""
    attempts: tuple[Count, ...]
    """Accepted pairs by the attempt that gave them: first, second ..."""
    duplicates: DuplicateFigures
    history: HistoryFigures
    diversity: DiversityFigures
    contamination: tuple[ContaminationFigures, ...]
    copies: CopyFigures
    pace: tuple[PacePoint, ...]
    runs: tuple[Run, ...]
    cost: CostFigures
    shown: tuple[ShownExample, ...]
    rejections: tuple[ShownRejection, ...]
    notes: tuple[str, ...]
    """What could not be measured, and why."""


class Figure(NamedTuple):
    """A picture: its path, relative to the dataset's folder, and the plain text that stands for it."""

    path: str
    alt: str
