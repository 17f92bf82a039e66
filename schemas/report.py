"""The records of `report.json`, the figures of a dataset that `everyuser report` measures.

Figures are of all examples, or of a sample drawn by a hash of their ids where they have a field `sampled`.
"""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from schemas.base import Record
from schemas.manifest import Counts, Run
from schemas.records import Kind

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
    """One dimension: examples with each pole, and the length bias of each pole.

    A length AUC is the probability that people of the pole prefer the reply with more characters, with ties as half.
    It is None where no example has the pole.
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
    """Two dimensions and the Pearson correlation of their levels (1, 0, -1) over all examples."""

    a: str
    b: str
    correlation: Annotated[float, Field(ge=-1, le=1)]


class CorrelationFigures(Record):
    """Correlations of levels. `matrix` has shape (K, K) for the K `slugs` that vary, and a diagonal of ones."""

    slugs: tuple[str, ...]
    matrix: tuple[tuple[float, ...], ...]
    below_half: Share | None
    """Share of the pairs of dimensions with an absolute correlation below 0.5 (AlignX: 0.9965)."""
    strongest: tuple[CorrelatedPair, ...]


class Histogram(Record):
    """Counts between N + 1 `edges`, with mean and quantiles. The last bin also counts all larger values."""

    edges: tuple[float, ...]
    counts: tuple[Count, ...]
    mean: float
    median: float
    p95: float
    largest: float


class LengthFigures(Record):
    """Words of each kind of text. Posts and replies are counted once a pair, portraits and comments in every row."""

    prompt: Histogram
    chosen: Histogram
    rejected: Histogram
    portrait: Histogram
    comment: Histogram | None
    """Words of history items; None where there are none."""
    length_ratio: Histogram
    """Characters of the longer reply divided by those of the shorter."""
    length_auc: Share
    """Length AUC over all examples: exactly 0.5 where every pair is mirrored."""
    longer_chosen_unmirrored: Share
    """Length AUC over the rows that are not mirrored."""


class DuplicateFigures(Record):
    """Replies that occur more than once. A pair and its mirror image count once."""

    replies: Count
    """Number of replies, two for each pair."""
    exact_within: Count
    """Replies equal to an earlier one of the same split."""
    exact_across: Count
    """Distinct replies in two splits."""
    near_sampled: Count
    """Distinct replies of three words or more that were compared: all of each split, or a sample.

    The sample includes near-duplicates together, with a probability equal to their similarity.
    """
    near_threshold: Share
    """Smallest Jaccard similarity of word trigrams of near-duplicates, estimated by MinHash."""
    near_within: Count
    """Compared replies with an unequal near-duplicate earlier in the same split."""
    near_across: Count
    """Compared replies with a near-duplicate in another split."""
    posts_across: Count
    """Posts, by text, in two splits."""
    examples: tuple[tuple[str, str], ...]
    """Up to ten pairs of near-duplicates, cut to a few hundred characters."""


class HistoryFigures(Record):
    """Relation of the persona's history to the target."""

    items: tuple[Count, ...]
    """Examples with 0, 1, 2 ... history items."""
    support: Histogram
    """Shares of the target's dimensions that an item supports (`history_support`)."""
    contradicting: Count
    """Examples with an item that contradicts the target in a dimension."""
    repeated: Count
    """Examples in which a post or a reply occurs twice."""


class SplitUsers(Record):
    """The users of one split, and the pairs that a user has in it."""

    name: str
    users: Count
    fewest: Count
    mean: float
    most: Count


class UserFigures(Record):
    """People with several pairs. A user and the opposite person, who has the mirrored rows, count as one.

    Users of `test_seen_users` count among the users of train, and not again in the figures of directions.
    """

    users: Count
    """Different users of all splits."""
    shared: Count
    """Users of `test_seen_users` who are in train too, as they should be."""
    leaked: Count
    """Users in two of the other splits, which must be 0."""
    splits: tuple[SplitUsers, ...]
    positive: tuple[Count, ...]
    """Users with the positive pole of each dimension, in the space's order."""
    negative: tuple[Count, ...]
    active: tuple[Count, ...]
    """Users with 0, 1, 2 ... active dimensions."""
    distinct_directions: Count
    similarity: Histogram | None
    """Cosine of a sampled user's direction with that of the nearest other one of the sample; below 0 counts as 0.

    None where the sample has fewer than two users.
    """
    similarity_sampled: Count
    shown: tuple[Share, ...]
    """Mean share of a user's active dimensions that the first 0, 1, 2 ... history items of a row show.

    Pairs and comments of the history count in turn. A row with fewer items counts with all of them.
    """


class DiversityFigures(Record):
    """Diversity of the replies."""

    distinct: tuple[Share, ...]
    """Distinct 1-, 2- and 3-grams of the sampled replies divided by all."""
    compression_ratio: float
    """Bytes of the sampled replies divided by their size under zlib: higher is more repetitive."""
    self_bleu: Share | None
    """Mean BLEU-4 of each sampled reply against all others, from 0 to 1; lower is more diverse."""
    vendi: float | None
    """Vendi score: the effective number of different replies. None where they cannot be embedded.

    The embedding has 256 dimensions, so the score is at most 256.
    """
    sampled: Count
    self_bleu_sampled: Count
    vendi_sampled: Count
    embedder: str | None
    distinct_directions: Count
    """Distinct directions of all examples."""


class ContaminationFigures(Record):
    """Overlap with a benchmark file: texts that share a run of `words` words with it."""

    file: str
    rows: Count
    words: Annotated[int, Field(ge=1)]
    posts: Count
    """Distinct posts of the dataset that overlap."""
    replies: Count
    """Rows of the dataset whose chosen or rejected reply overlaps."""
    examples: tuple[str, ...]
    """Up to ten shared runs."""


class CopyFigures(Record):
    """Replies that repeat the description of the person, so that a model can match words instead of the persona."""

    label: Share
    """Share of pairs with a reply that contains a label of its person.

    Explanations in brackets and labels of one word are left out.
    """
    portrait: Share
    """Share of pairs with a reply that shares six consecutive words with a portrait of either side."""
    examples: tuple[str, ...]


class Estimate(Record):
    """A share or mean over `number` cases, with its 95 % confidence interval by post.

    The bounds are None for a mean over fewer than two posts.
    """

    value: float
    low: float | None
    high: float | None
    number: Count


class PoleRecovery(Record):
    """Recovery of a pole that the replies were asked to show. `kept` counts those that accepted pairs keep."""

    recovery: Estimate
    margin: Estimate
    """Mean margin towards this pole. Recovery counts signs, so that differences of next to nothing look like some."""
    kept: Count


class VerifiedDimension(Record):
    """One dimension: recovery of each pole, and drift. A pole that was never asked for is None."""

    slug: str
    positive: PoleRecovery | None
    negative: PoleRecovery | None
    undirected: Count
    """Pairs whose direction was neutral here, and that the judge was asked about all the same."""
    drifted: Count
    """Those whose margin is beyond `VerificationFigures.drift_margin`."""


class MarginBin(Record):
    """Asked dimensions whose margin has an absolute value from `low` to `high`, and those of the right sign."""

    low: float
    high: float
    asked: Count
    recovered: Count


class VerificationFigures(Record):
    """What a judge found in the replies of all pairs that it was asked about, also of rejected ones.

    The margin of a dimension is score(chosen) - score(rejected), in [-2, 2], where the score of a reply is the
    judge's P(positive pole) - P(negative pole). An asked dimension is recovered if its margin has the asked sign.
    """

    judge: str
    pairs: Count
    recovery: Estimate
    """Share of the asked dimensions that are recovered, before filtering."""
    recovery_after: Estimate | None
    """The same of the dimensions that accepted pairs keep: 1 by construction where the same judge has filtered."""
    made_neutral: Count
    """Asked dimensions of accepted pairs that filtering made neutral."""
    dimensions: tuple[VerifiedDimension, ...]
    """Those that were asked about, in the space's order."""
    calibration: tuple[MarginBin, ...]
    """Bins with about equal numbers of asked dimensions."""
    order_agreement: Share | None
    """Share of the questions about a dimension of a reply whose likeliest answer is the same in all option orders.

    This and the figures of quality are of accepted pairs.
    """
    drift: Estimate | None
    """Share of the undirected dimensions whose margin is beyond `drift_margin`; None where none was asked about."""
    drift_margin: float
    quality: float | None
    """Mean quality of both replies, from 0 to 1, judged without the persona; None where it was not asked."""
    quality_gap: Estimate | None
    """Mean of the chosen reply's quality less that of the rejected one; 0 means no bias."""
    quality_distance: float | None
    """Mean absolute difference in quality of a pair's replies."""


class KindFigures(Record):
    """The pairs of one kind. Figures of a judge are None where none was asked."""

    kind: Kind
    examples: Count
    pairs: Count
    longer_chosen: Share
    """Length AUC over the rows that are not mirrored."""
    recovery: Estimate | None
    """Share of the asked dimensions that are recovered, before filtering.

    In a restraint pair the rejected reply shows the person, so that its margin counts with the opposite sign.
    """
    drift: Estimate | None
    quality_gap: Estimate | None


class SwapFigures(Record):
    """Persona swap: given a portrait, which of the two replies does the judge prefer? Asked in both orders.

    A reply is preferred if its probability is the larger one, averaged over the orders.
    """

    preferred: Estimate
    """Share of the portraits whose own reply is preferred; a judge without a preference at all counts as wrong."""
    both: Estimate | None
    """Share of the pairs for which that holds under the portrait and the opposite one; None without mirror images."""
    undecided: Share
    """Share of the portraits for which "no preference" is the likeliest answer, or both replies are equally likely."""
    order_agreement: Share
    """Share of the portraits for which both orders give the same likeliest answer."""


class SecondJudgeFigures(Record):
    """What a judge found in a sample of a finished build (`everyuser report --judge`)."""

    files_digest: str
    """That of the build that was judged."""
    sampled: Count
    unanswered: Count
    """Sampled pairs that the judge did not answer about; they are in no figure."""
    found: VerificationFigures | None
    agreement: Estimate | None
    """Share of the asked dimensions whose margin has the same sign as the first judge's; None without a first judge."""
    recovery_by_kind: dict[Kind, Estimate]
    """Of the asked dimensions, by kind of pair."""
    swap: SwapFigures | None
    restraint: Count
    """Judged restraint pairs, which persona swap leaves out."""


class PacePoint(Record):
    """Progress of the build after some seconds of work, without the time between runs.

    `pairs` are those accepted or lost by then.
    """

    seconds: Annotated[float, Field(ge=0)]
    pairs: Count
    prompt_tokens: Count
    completion_tokens: Count


class CostFigures(Record):
    """Tokens, time and cost of the build. Prices are per million tokens; without them there is no `total`."""

    prompt_tokens: Count
    completion_tokens: Count
    reasoning_tokens: Count
    tokens_per_example: float
    seconds: float
    tokens_per_second: float | None
    currency: str | None
    prompt_price: float | None
    completion_price: float | None
    total: float | None


class ExampleItem(Record):
    """A history item of a shown example. `rejected` is empty for a comment."""

    prompt: str
    chosen: str
    rejected: str
    profile: str


class ShownExample(Record):
    """An example that the report shows whole. Directions map the slugs of active dimensions to levels."""

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
    kind: Kind
    user_id: str
    """Empty without users, as the two below."""
    user_direction: dict[str, Literal[1, -1]]
    user_pairs: Count


class ShownRejection(Record):
    """A rejected row that the report shows. `reason` is "stage/reason"; `cleaned` are the texts as they were judged."""

    id: str
    split: str
    reason: str
    detail: str
    attempt: Count
    final: bool
    prompt: str
    texts: tuple[str, ...]
    cleaned: tuple[str, ...] = ()
    direction: dict[str, Literal[1, -1]]


class Report(Record):
    """The content of `report.json` and the data of `report.html`."""

    report_version: str
    name: str
    schema_version: str
    fingerprint: str
    files_digest: str
    """A hash of the shards' hashes, which identifies the files of the report."""
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
    """Accepted pairs by attempt: first, second ..."""
    duplicates: DuplicateFigures
    history: HistoryFigures
    users: UserFigures | None
    """None without users."""
    kinds: tuple[KindFigures, ...]
    """Those that occur."""
    diversity: DiversityFigures
    contamination: tuple[ContaminationFigures, ...]
    copies: CopyFigures
    verification: VerificationFigures | None
    """None where no judge was asked."""
    second_judge: SecondJudgeFigures | None
    """None where `everyuser report --judge` was never used on these files."""
    pace: tuple[PacePoint, ...]
    runs: tuple[Run, ...]
    cost: CostFigures
    shown: tuple[ShownExample, ...]
    rejections: tuple[ShownRejection, ...]
    missed_gates: tuple[str, ...]
    """A sentence for each gate that the build misses."""
    notes: tuple[str, ...]
    """Which gates of the build are missed, then what could not be measured, and why."""


class Figure(NamedTuple):
    """A picture: its path relative to the dataset's folder, and its alternative text."""

    path: str
    alt: str
