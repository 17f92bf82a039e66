"""Invented reports of realistic size, equal at every call."""

from __future__ import annotations

import importlib.resources
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, Literal, get_args

from preference_space.space import Dimension, load_space
from schemas import SCHEMA_VERSION
from schemas.manifest import Counts, Run, VerificationCounts
from schemas.records import Kind
from schemas.report import (
    REPORT_VERSION,
    ContaminationFigures,
    CopyFigures,
    CorrelatedPair,
    CorrelationFigures,
    CostFigures,
    DimensionFigures,
    DiversityFigures,
    DuplicateFigures,
    Estimate,
    ExampleItem,
    Histogram,
    HistoryFigures,
    KindFigures,
    LengthFigures,
    MarginBin,
    PacePoint,
    PoleRecovery,
    Report,
    SecondJudgeFigures,
    ShownExample,
    ShownRejection,
    SplitFigures,
    SplitUsers,
    SwapFigures,
    UserFigures,
    VerificationFigures,
    VerifiedDimension,
)

REASONS = {
    "validate/unfinished": 2931,
    "validate/length_ratio": 2210,
    "validate/too_short": 1204,
    "validate/refusal_or_meta": 655,
    "validate/copied": 412,
    "validate/language": 118,
    "validate/repeats": 74,
    "generate/http_400": 12,
    "generate/timeout": 9,
    "assemble/history_without_support": 186,
    "assemble/reply_in_another_split": 21,
    "portrait/unfinished": 14,
}

_SENTENCES = """
Honestly, give it a week before you decide anything.
I was in the same spot two winters ago and what helped was writing the whole thing down, line by line.
Call them.
My sister would tell you to laugh about it, and for once she would be right.
Make a list, put a date beside each item, and start with the one that scares you most.
You do not owe anybody an explanation for what you enjoy on a Sunday afternoon.
The numbers matter more than the mood here, so look at the numbers first.
Take a friend along, order something silly, and see how you feel on the way home.
I would keep the money where it is until spring, and only then think about moving.
There is a small library near the station that lends out exactly this kind of equipment for nothing.
Nobody at the table remembers the evening as badly as you do.
Ask what they need, then do that and no more.
It sounds as if you have already made up your mind and want somebody to say so out loud.
After thirty years in the trade I can tell you that the second attempt is always the better one.
Sleep on it, really, the answer is usually there in the morning next to the coffee.
""".strip().splitlines()

HOSTILE = (
    "</script><script>window.broken = 1</script>"
    "<img src=x onerror='window.broken = 2'><svg onload=\"window.broken = 3\">"
    "<!--<script> \" ' ` ${window.broken = 4} {{data}} &lt;b&gt; javascript:window.broken=5"
    "\x1b[31mred\x1b[0m \x9b2J \x00\x07\x08\r\x7f \u202eevil\u202c \u2066\u200b\ufeff\u2028\u2029 \U000e0041"
    + "z\u0336\u0337\u0338" * 40
    + "W" * 10_000
)
"""Markup, terminal escapes, bidi overrides, control, invisible and stacked characters, and a word without end."""


Made = Callable[[], Report]


@cache
def report() -> Report:
    """Return the report of a mirrored build of 90 dimensions. One never occurs, and one has a single pole."""
    dice = random.Random(7)
    dimensions = tuple(_dimension(d, dice) for d in load_space("alignx").dimensions)
    split = tuple(
        SplitFigures(name=name, examples=2 * pairs, pairs=pairs, posts=posts)
        for name, pairs, posts in (("train", 17_710, 251), ("validation", 981, 30), ("test", 990, 31))
    )
    pairs, accepted = sum(s.pairs for s in split), 19_902
    return Report(
        report_version=REPORT_VERSION,
        name="town-square",
        schema_version=SCHEMA_VERSION,
        fingerprint="d5a55edc20196ac1cc04552aa1e0d8e8495161d890c388cc3e4269985607f63f",
        files_digest="8f0a1c4be2d39a7755de8c6e0b1f6f0a4fd2c9b7a81e35d60c94b2fa7e13d5c8",
        model="Qwen/Qwen3-32B",
        created="2026-11-24T13:04:04+00:00",
        examples=2 * pairs,
        pairs=pairs,
        posts=312,
        splits=split,
        dimensions=dimensions,
        correlation=_correlation(dimensions, dice),
        active=(0, 0, 4_020, 8_114, 12_236, 9_020, 4_412, 1_560),
        lengths=_lengths(dice),
        counts=Counts(
            pairs_asked=20_000,
            pairs_accepted=accepted,
            pairs_lost=319,
            pairs_unanswered=12,
            examples=2 * pairs,
            rejected=REASONS,
            prompt_tokens=31_204_118,
            completion_tokens=6_120_554,
            threads={
                "posts/read": 9_240,
                "responses/read": 81_402,
                "responses/deleted": 6_210,
                "responses/bot": 1_944,
                "responses/too_short": 12_006,
                "posts/too_few_responses": 3_114,
                "threads": 5_204,
                "threads/used": 5_000,
                "responses": 44_120,
                "responses/annotated": 43_870,
            },
            verification=VerificationCounts(
                pairs=21_300,
                asked=90_000,
                recovered=73_800,
                verified=72_100,
                drift_asked=42_600,
                drifted=4_770,
                pairs_accepted=accepted,
                kept=70_324,
                neutral=13_796,
                questions=960_000,
                prompt_tokens=8_204_118,
                completion_tokens=960_000,
            ),
        ),
        attempts=(14_118, 3_960, 1_233, 411, 180),
        duplicates=DuplicateFigures(
            replies=2 * pairs,
            exact_within=212,
            exact_across=0,
            near_sampled=20_000,
            near_threshold=0.7,
            near_within=431,
            near_across=17,
            posts_across=0,
            examples=tuple((_reply(dice), _reply(dice)) for _ in range(4)),
        ),
        history=HistoryFigures(
            items=(0, 0, 210, 1_302, 37_850),
            support=_histogram((0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0), dice, 0.78, 0.16, 0.75),
            contradicting=0,
            repeated=0,
        ),
        users=_users(dimensions, dice),
        kinds=_kinds(pairs),
        diversity=DiversityFigures(
            distinct=(0.041, 0.284, 0.571),
            compression_ratio=2.84,
            self_bleu=0.312,
            vendi=61.4,
            sampled=20_000,
            self_bleu_sampled=1_000,
            vendi_sampled=2_000,
            embedder="all-MiniLM-L6-v2",
            distinct_directions=31_870,
        ),
        contamination=(
            ContaminationFigures(
                file="alignx_test.jsonl",
                rows=12_000,
                words=13,
                posts=2,
                replies=3,
                examples=("i have never told anyone this but i think about it every single day and",),
            ),
            ContaminationFigures(file="held_out.parquet", rows=800, words=13, posts=0, replies=0, examples=()),
        ),
        copies=CopyFigures(label=0.0042, portrait=0.0137, examples=("keeps belongings and plans neatly arranged",)),
        verification=_verification(dimensions),
        second_judge=_second_judge(),
        pace=_pace(accepted),
        runs=(
            _run("2026-11-24T13:04:04+00:00", 2_110.5, "interrupted", 14_020, 0, 11_020_400, 2_104_331),
            _run("2026-11-24T13:52:40+00:00", 4_022.1, "complete", 27_118, 96, 20_183_718, 4_016_223),
        ),
        cost=CostFigures(
            prompt_tokens=31_204_118,
            completion_tokens=6_120_554,
            reasoning_tokens=412_230,
            tokens_per_example=948.2,
            seconds=6_132.6,
            tokens_per_second=998.0,
            currency="EUR",
            prompt_price=0.15,
            completion_price=0.6,
            total=8.35,
        ),
        shown=tuple(_example(number, dimensions, dice) for number in range(240)),
        rejections=tuple(_rejection(number, dimensions, dice) for number in range(120)),
        missed_gates=(),
        notes=("Vendi score: of 2,000 replies, as the embedder is slow on this machine.",),
    )


@cache
def empty() -> Report:
    """Return the report with the fewest figures that the record allows."""
    none = Histogram(edges=(0.0, 1.0), counts=(0,), mean=0.0, median=0.0, p95=0.0, largest=0.0)
    lengths = report().lengths.model_copy(
        update={"prompt": none, "chosen": none, "rejected": none, "portrait": none, "comment": None}
    )
    dimensions = [
        d.model_copy(update={"positive": 0, "negative": 0, "positive_length_auc": None, "negative_length_auc": None})
        for d in report().dimensions
    ]
    changed = {
        "examples": 0,
        "pairs": 0,
        "posts": 0,
        "splits": (),
        "dimensions": tuple(dimensions),
        "correlation": CorrelationFigures(slugs=(), matrix=(), below_half=None, strongest=()),
        "active": (),
        "lengths": lengths.model_copy(update={"length_ratio": none}),
        "counts": Counts(),
        "attempts": (),
        "duplicates": report().duplicates.model_copy(
            update={"replies": 0, "exact_within": 0, "near_sampled": 0, "near_within": 0, "near_across": 0}
            | {"examples": ()}
        ),
        "history": HistoryFigures(items=(), support=none, contradicting=0, repeated=0),
        "diversity": report().diversity.model_copy(
            update={"self_bleu": None, "vendi": None, "embedder": None, "sampled": 0, "distinct": ()}
        ),
        "users": None,
        "kinds": (),
        "contamination": (),
        "copies": CopyFigures(label=0.0, portrait=0.0, examples=()),
        "verification": None,
        "second_judge": None,
        "pace": (),
        "runs": (),
        "cost": report().cost.model_copy(
            update={"tokens_per_second": None, "currency": None, "total": None}
            | {"prompt_price": None, "completion_price": None}
        ),
        "shown": (),
        "rejections": (),
        "notes": (),
    }
    return report().model_copy(update=changed)


@cache
def hostile() -> Report:
    """Return a report of ten examples and ten rejections with `HOSTILE` before every text."""
    few = report().model_copy(update={"shown": report().shown[:10], "rejections": report().rejections[:10]})
    return Report.model_validate_json(json.dumps(_poisoned(few.model_dump(mode="json"))))


def _poisoned(value: Any) -> Any:
    """Return `value` with every text made hostile, equal texts in the same way, so that names still match."""
    if isinstance(value, str):
        return HOSTILE + value
    if isinstance(value, list):
        return [_poisoned(entry) for entry in value]
    if isinstance(value, dict):
        # The contract itself checks what a run's status is, and the kind of a pair.
        return {
            key if key in _GIVEN else HOSTILE + key: entry if key in ("status", "kind") else _poisoned(entry)
            for key, entry in value.items()
        }
    return value


def field_names(model: Any) -> Iterator[str]:
    """Return the fields of a record and of its inner records."""
    for name, field in model.model_fields.items():
        yield name
        for part in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if hasattr(part, "model_fields"):
                yield from field_names(part)


_GIVEN = frozenset([*field_names(Report), *get_args(Kind)])
"""Keys that no dataset chooses."""


def _dimension(dimension: Dimension, dice: random.Random) -> DimensionFigures:
    usual = 420 if dimension.topical else 2_600
    positive = round(usual * dice.uniform(0.6, 1.5))
    negative = round(positive * dice.uniform(0.75, 1.3))
    longer = dice.gauss(0.5, 0.03)
    if dimension.slug == "communication_style":
        longer = 0.21
    if dimension.slug in ("weddings", "fashion"):
        positive = 0
    if dimension.slug == "fashion":
        negative = 0
    return DimensionFigures(
        slug=dimension.slug,
        name=dimension.name,
        group=dimension.group,
        positive_label=dimension.positive.label,
        negative_label=dimension.negative.label,
        positive=positive,
        negative=negative,
        positive_length_auc=longer if positive else None,
        negative_length_auc=1 - longer if negative else None,
    )


def _correlation(dimensions: Sequence[DimensionFigures], dice: random.Random) -> CorrelationFigures:
    dimensions = [d for d in dimensions if d.negative]
    slugs = tuple(d.slug for d in dimensions)
    size = len(slugs)
    matrix = [[1.0] * size for _ in slugs]
    pairs = []
    for i in range(size):
        for j in range(i):
            same = dimensions[i].group == dimensions[j].group
            value = round(max(-1.0, min(1.0, dice.gauss(0.02 if same else 0.0, 0.05 if same else 0.02))), 4)
            if {slugs[i], slugs[j]} == {"need_for_order", "conscientiousness"}:
                value = 0.47
            if {slugs[i], slugs[j]} == {"need_for_seclusion", "extraversion"}:
                value = -0.52
            matrix[i][j] = matrix[j][i] = value
            pairs.append(CorrelatedPair(a=slugs[j], b=slugs[i], correlation=value))
    pairs.sort(key=lambda pair: -abs(pair.correlation))
    below = sum(abs(pair.correlation) < 0.5 for pair in pairs) / len(pairs)
    return CorrelationFigures(
        slugs=slugs, matrix=tuple(map(tuple, matrix)), below_half=below, strongest=tuple(pairs[:20])
    )


def _histogram(edges: Sequence[float], dice: random.Random, mean: float, spread: float, median: float) -> Histogram:
    counts = [0] * (len(edges) - 1)
    values = sorted(min(max(dice.gauss(mean, spread), edges[0]), edges[-1] * 1.4) for _ in range(4_000))
    for value in values:
        at = next((k for k in range(len(counts)) if value < edges[k + 1]), len(counts) - 1)
        counts[at] += 1
    return Histogram(
        edges=tuple(edges),
        counts=tuple(counts),
        mean=sum(values) / len(values),
        median=median,
        p95=values[3_800],
        largest=values[-1],
    )


def _lengths(dice: random.Random) -> LengthFigures:
    words = tuple(float(k) for k in range(0, 201, 10))
    chosen = _histogram(words, dice, 71, 27, 70.0)
    return LengthFigures(
        prompt=_histogram(words, dice, 62, 18, 61.0),
        chosen=chosen,
        rejected=chosen,
        portrait=_histogram(words, dice, 48, 14, 47.0),
        comment=_histogram(words, dice, 70, 26, 69.0),
        length_ratio=_histogram([1 + k / 10 for k in range(16)], dice, 1.4, 0.35, 1.36),
        length_auc=0.5,
        longer_chosen_unmirrored=0.5121,
    )


def _second_judge() -> SecondJudgeFigures:
    share = Estimate(value=0.881, low=0.842, high=0.912, number=312)
    found = _verification(()).model_copy(
        update={"judge": "mistralai/Mistral-Small", "pairs": 190, "recovery": share, "recovery_after": share}
    )
    return SecondJudgeFigures(
        files_digest="8f0a1c4be2d39a7755de8c6e0b1f6f0a4fd2c9b7a81e35d60c94b2fa7e13d5c8",
        sampled=200,
        unanswered=10,
        found=found,
        agreement=share,
        recovery_by_kind={"near": share, "opposite": share, "restraint": share},
        swap=SwapFigures(preferred=share, both=share, undecided=0.12, order_agreement=0.74),
        restraint=14,
    )


def _verification(dimensions: Sequence[DimensionFigures]) -> VerificationFigures:
    dice = random.Random(11)

    def estimate(value: float, number: int) -> Estimate:
        half = min(0.4, 2.5 * (value * (1 - value) / number) ** 0.5)
        return Estimate(value=value, low=max(0.0, value - half), high=min(1.0, value + half), number=number)

    def pole(asked: int) -> PoleRecovery | None:
        share = min(0.99, max(0.02, dice.gauss(0.83, 0.1)))
        if not asked:
            return None
        margin = Estimate(value=share - 0.4, low=share - 0.45, high=share - 0.35, number=asked)
        return PoleRecovery(recovery=estimate(share, asked), margin=margin, kept=round(share * asked))

    return VerificationFigures(
        judge="Qwen/Qwen3-32B",
        pairs=19_902,
        recovery=estimate(0.836, 84_120),
        recovery_after=estimate(1.0, 70_324),
        made_neutral=13_796,
        dimensions=tuple(
            VerifiedDimension(
                slug=d.slug,
                positive=pole(d.positive),
                negative=pole(d.negative),
                undirected=400,
                drifted=dice.randrange(90),
            )
            for d in dimensions
        ),
        calibration=tuple(
            MarginBin(low=k / 5, high=(k + 1) / 5, asked=8_412, recovered=4_200 + 400 * k) for k in range(10)
        ),
        order_agreement=0.714,
        drift=estimate(0.112, 36_000),
        drift_margin=0.5,
        quality=0.683,
        quality_gap=Estimate(value=-0.004, low=-0.009, high=0.001, number=19_902),
        quality_distance=0.117,
    )


def _users(dimensions: Sequence[DimensionFigures], dice: random.Random) -> UserFigures:
    edges = [k / 20 for k in range(21)]
    return UserFigures(
        users=2_500,
        shared=248,
        leaked=0,
        splits=(
            SplitUsers(name="train", users=2_250, fewest=3, mean=7.87, most=8),
            SplitUsers(name="validation", users=125, fewest=6, mean=7.85, most=8),
            SplitUsers(name="test", users=125, fewest=5, mean=7.92, most=8),
            SplitUsers(name="test_seen_users", users=250, fewest=6, mean=7.9, most=8),
        ),
        positive=tuple(d.positive // 9 for d in dimensions),
        negative=tuple(d.negative // 9 for d in dimensions),
        active=(0, 0, 0, 0, 0, 0, 0, 0, 270, 281, 277, 266, 290, 280, 274, 281, 281),
        distinct_directions=2_499,
        similarity=_histogram(edges, dice, 0.52, 0.06, 0.52),
        similarity_sampled=2_000,
        shown=(0.0, 0.31, 0.52, 0.66, 0.76, 0.83, 0.88, 0.91),
    )


def _kinds(pairs: int) -> tuple[KindFigures, ...]:
    def figures(kind: Kind, share: float, longer: float, recovered: float) -> KindFigures:
        number = round(share * pairs)
        found = Estimate(value=recovered, low=recovered - 0.02, high=recovered + 0.02, number=3 * number)
        return KindFigures(
            kind=kind,
            examples=number * (1 if kind == "restraint" else 2),
            pairs=number,
            longer_chosen=longer,
            recovery=found,
            drift=Estimate(value=0.11, low=0.1, high=0.12, number=2 * number),
            quality_gap=Estimate(value=0.01, low=-0.01, high=0.03, number=number),
        )

    return (
        figures("opposite", 0.7, 0.505, 0.85),
        figures("near", 0.2, 0.51, 0.62),
        figures("restraint", 0.1, 0.29, 0.78),
    )


def _pace(pairs: int) -> tuple[PacePoint, ...]:
    points = []
    for k in range(40):
        share = k / 39
        seconds = 6_132 * share + (800 if share > 0.35 else 0)
        done = round(pairs * (share**1.1))
        points.append(PacePoint(seconds=seconds, pairs=done, prompt_tokens=done * 1_568, completion_tokens=done * 307))
    return tuple(points)


def _run(
    started: str,
    seconds: float,
    status: Literal["complete", "interrupted"],
    sent: int,
    replayed: int,
    prompt: int,
    completion: int,
) -> Run:
    return Run(
        started=started,
        seconds=seconds,
        status=status,
        requests_sent=sent,
        requests_replayed=replayed,
        prompt_tokens=prompt,
        completion_tokens=completion,
        server_restarts=0,
    )


@cache
def _posts() -> tuple[str, ...]:
    lines = importlib.resources.files("pipeline.sampling").joinpath("seed_posts.jsonl").read_text("utf-8").splitlines()
    posts = [json.loads(line) for line in lines if line.strip()]
    return tuple(f"{post['title']}\n\n{post['text']}" for post in posts)


def _reply(dice: random.Random) -> str:
    return " ".join(dice.sample(_SENTENCES, dice.randint(2, 7)))


def _direction(dimensions: Sequence[DimensionFigures], dice: random.Random) -> dict[str, Literal[1, -1]]:
    active = [d for d in dimensions if d.negative]
    return {d.slug: dice.choice((1, -1)) for d in dice.sample(active, dice.randint(2, 5))}


def _profile(direction: Mapping[str, int], dimensions: Sequence[DimensionFigures]) -> str:
    by_slug = {d.slug: d for d in dimensions}
    return ", ".join(
        by_slug[slug].positive_label if level > 0 else by_slug[slug].negative_label for slug, level in direction.items()
    )


def _split(number: int) -> str:
    return ("train", "train", "train", "validation", "test")[number % 5]


def _user(number: int, dimensions: Sequence[DimensionFigures]) -> dict[str, Literal[1, -1]]:
    dice = random.Random(number)
    active = [d.slug for d in dimensions if d.negative]
    return {slug: dice.choice((1, -1)) for slug in dice.sample(active, 12)}


def _opposite(levels: Mapping[str, int]) -> dict[str, Literal[1, -1]]:
    return {slug: 1 if level < 0 else -1 for slug, level in levels.items()}


def _example(number: int, dimensions: Sequence[DimensionFigures], dice: random.Random) -> ShownExample:
    # Ten rows a user; mined rows have none.
    is_mined = number % 7 == 0
    split = _split(number)
    user = {} if is_mined else _user(number // 10, dimensions)
    direction = _direction(dimensions, dice)
    if user:
        direction = {slug: user[slug] for slug in dice.sample([*user], dice.randint(2, 5))}
    history = tuple(
        ExampleItem(
            prompt=dice.choice(_posts()),
            chosen=_reply(dice),
            rejected=_reply(dice) if k % 2 else "",
            profile=_profile(_direction(dimensions, dice), dimensions),
        )
        for k in range(4)
    )
    mirrored = number % 2 == 1
    side = "b" if mirrored else "a"
    kind: Kind = "restraint" if number % 10 == 4 else "near" if number % 5 == 3 else "opposite"
    if mirrored:
        user, direction = _opposite(user), _opposite(direction)
    return ShownExample(
        id=f"d5a55edc-{split}-{number * 83:07}-{side}",
        split=split,
        mirrored=mirrored,
        source="mined" if is_mined else "sampled",
        prompt=dice.choice(_posts()),
        chosen=_reply(dice),
        rejected=_reply(dice),
        portrait="This person keeps belongings and plans neatly arranged; laughs easily; and asks rather than guesses.",
        profile=_profile(direction, dimensions),
        direction=direction,
        history=history,
        history_support=dice.choice((0.5, 0.667, 0.75, 1.0)),
        kind="mined" if is_mined else kind,
        user_id="" if is_mined else f"d5a55edc-u{number // 10:07}-{side}",
        user_direction=user,
        user_pairs=0 if is_mined else 8,
    )


def _rejection(number: int, dimensions: Sequence[DimensionFigures], dice: random.Random) -> ShownRejection:
    reason = dice.choice(list(REASONS))
    split = _split(number)
    texts = () if reason.startswith("generate") else (_reply(dice), _reply(dice))
    return ShownRejection(
        id=f"d5a55edc-{split}-{number * 41:07}",
        split=split,
        reason=reason,
        detail="" if reason.startswith("assemble") else "244 against 74 characters",
        attempt=number % 5,
        final=number % 5 == 4,
        prompt=dice.choice(_posts()),
        texts=tuple(f"Reply: {text}" for text in texts),
        cleaned=texts,
        direction=_direction(dimensions, dice),
    )
