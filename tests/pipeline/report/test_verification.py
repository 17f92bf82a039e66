from __future__ import annotations

import itertools
import random
from typing import Any

import pyarrow as pa
import pytest

from pipeline.report.verification import REJECTED_COLUMNS, VerificationTally
from schemas.report import VerificationFigures, VerifiedDimension
from tests.pipeline.report.builds import SLUGS, SPACE, sent

Row = dict[str, Any]

SCHEMA = pa.schema(
    {
        "post_id": pa.string(),
        "direction": pa.list_(pa.int8()),
        "asked_direction": pa.list_(pa.int8()),
        "direction_margin": pa.list_(pa.float32()),
        "order_agreement": pa.float64(),
        "quality_chosen": pa.float64(),
        "quality_rejected": pa.float64(),
        "judge": pa.string(),
        "kind": pa.string(),
    }
)


def verified(margins: dict[str, float], asked: dict[str, int], kept: dict[str, int] | None = None, **keys: Any) -> Row:
    """Return a pair of the pool, with levels and margins by slug."""
    return {
        "post_id": "post",
        "direction": [(asked if kept is None else kept).get(slug, 0) for slug in SLUGS],
        "asked_direction": [asked.get(slug, 0) for slug in SLUGS],
        "direction_margin": [margins.get(slug) for slug in SLUGS],
        "order_agreement": 1.0,
        "quality_chosen": None,
        "quality_rejected": None,
        "judge": "a judge",
        "kind": "opposite",
    } | keys


UNVERIFIED = verified({}, {}, {"tone": 1}, judge="", asked_direction=[], direction_margin=[], order_agreement=0.0)


def tally_of(*rows: Row, drift_margin: float = 0.5) -> VerificationTally:
    tally = VerificationTally(SPACE, drift_margin)
    tally.add(pa.Table.from_pylist([*rows], schema=SCHEMA))
    return tally


def figures(*rows: Row, drift_margin: float = 0.5) -> VerificationFigures:
    found = tally_of(*rows, drift_margin=drift_margin).result()
    assert found is not None
    return found


def of_dimension(found: VerificationFigures, slug: str) -> VerifiedDimension:
    return next(dimension for dimension in found.dimensions if dimension.slug == slug)


def test_an_unverified_build_has_no_figures() -> None:
    assert tally_of().result() is None
    assert tally_of(UNVERIFIED).result() is None


def test_a_dimension_is_recovered_if_its_margin_has_the_asked_sign() -> None:
    found = figures(
        verified({"tone": 0.5, "risk": -0.1}, {"tone": 1, "risk": 1}),
        verified({"tone": -0.2}, {"tone": -1}),
        verified({"tone": 0.0}, {"tone": 1}),
        UNVERIFIED,
    )

    assert (found.judge, found.pairs) == ("a judge", 3)
    assert (found.recovery.value, found.recovery.number) == (0.5, 4)
    tone, risk = of_dimension(found, "tone"), of_dimension(found, "risk")
    assert tone.positive is not None
    assert (tone.positive.recovery.value, tone.positive.recovery.number) == (0.5, 2)
    assert tone.negative is not None
    assert (tone.negative.recovery.value, tone.negative.recovery.number) == (1.0, 1)
    assert risk.positive is not None
    assert risk.positive.recovery.value == 0.0
    assert risk.negative is None
    assert [dimension.slug for dimension in found.dimensions] == ["tone", "risk"]


def test_an_asked_dimension_without_an_answer_is_not_recovered() -> None:
    found = figures(verified({}, {"tone": 1}), verified({"tone": 1.0}, {"tone": 1}))

    assert (found.recovery.value, found.recovery.number) == (0.5, 2)
    assert [(one.asked, one.recovered) for one in found.calibration] == [(1, 0), (1, 1)]


def test_the_margin_of_a_pole_is_towards_it_and_an_answer_that_is_missing_adds_nothing() -> None:
    found = of_dimension(
        figures(
            verified({"tone": 0.5}, {"tone": 1}, post_id="one"),
            verified({"tone": -0.1}, {"tone": 1}, post_id="two"),
            verified({}, {"tone": 1}, post_id="three"),
            verified({"tone": -0.75}, {"tone": -1}),
        ),
        "tone",
    )

    assert found.positive is not None
    assert found.negative is not None
    assert found.positive.margin.value == pytest.approx(0.4 / 3)
    assert found.positive.margin.number == 3
    assert found.positive.margin.low is not None
    assert found.positive.margin.low < 0 < found.positive.recovery.value
    assert (found.negative.margin.value, found.negative.margin.low) == (0.75, None)


def test_posts_and_not_pairs_decide_the_interval() -> None:
    right, wrong = verified({"tone": 0.5}, {"tone": 1}), verified({"tone": -0.5}, {"tone": 1})

    alike = figures(*[right | {"post_id": "one"}] * 10, *[wrong | {"post_id": "two"}] * 10)
    apart = figures(*({**row, "post_id": f"{row is right} {k}"} for k in range(10) for row in (right, wrong)))

    assert alike.recovery.value == apart.recovery.value == 0.5
    assert alike.recovery.low is not None
    assert apart.recovery.low is not None
    assert alike.recovery.low < apart.recovery.low < 0.5


def test_dimensions_made_neutral_are_counted() -> None:
    found = figures(
        verified({"tone": 0.5, "risk": -0.1, "order": -0.9}, {"tone": 1, "risk": 1, "order": -1}, {"order": -1}),
    )

    assert found.made_neutral == 2
    tone, order = of_dimension(found, "tone"), of_dimension(found, "order")
    assert tone.positive is not None
    assert order.negative is not None
    assert (tone.positive.kept, order.negative.kept) == (0, 1)
    # Recovery is that before filtering.
    assert found.recovery.value == pytest.approx(2 / 3)
    assert found.recovery_after is not None
    assert (found.recovery_after.value, found.recovery_after.number) == (1.0, 1)


def test_rejected_pairs_count_before_filtering_and_not_after() -> None:
    tally = tally_of(verified({"tone": 0.5}, {"tone": 1}))
    rejected = [
        {"post_id": "other", "direction": one["asked_direction"], "direction_margin": one["direction_margin"]}
        for one in (
            verified({"tone": -0.5, "risk": 0.9}, {"tone": 1}),
            UNVERIFIED | {"asked_direction": [1, 0, 0, 0, 0]},
        )
    ]
    tally.add_rejected(pa.Table.from_pylist(rejected, schema=pa.schema([SCHEMA.field(n) for n in REJECTED_COLUMNS])))

    total = tally_of()
    total.merge(tally)

    found = total.result()

    assert found is not None
    assert (found.pairs, found.recovery.value, found.recovery.number, found.made_neutral) == (2, 0.5, 2, 0)
    assert found.recovery_after is not None
    assert (found.recovery_after.value, found.recovery_after.number) == (1.0, 1)
    assert found.drift is not None and found.drift.value == 1.0
    tone = of_dimension(found, "tone").positive
    assert tone is not None and tone.kept == 1


def test_drift_is_a_margin_beyond_the_bound_where_nobody_asked() -> None:
    found = figures(
        verified({"tone": 0.9, "risk": 0.6, "order": -0.7}, {"tone": 1}),
        verified({"tone": 0.9, "risk": 0.5}, {"tone": 1}),
    )

    assert found.drift is not None
    assert found.drift.value == pytest.approx(2 / 3)
    assert found.drift.number == 3
    risk = of_dimension(found, "risk")
    assert (risk.undirected, risk.drifted) == (2, 1)
    assert risk.positive is risk.negative is None


def test_without_undirected_questions_there_is_no_drift() -> None:
    assert figures(verified({"tone": 0.9}, {"tone": 1})).drift is None


def test_larger_margins_are_in_later_bins() -> None:
    rows = [verified({"tone": k / 100 if k > 50 or k % 2 else -k / 100}, {"tone": 1}) for k in range(1, 101)]

    bins = figures(*rows).calibration

    assert [found.asked for found in bins] == [10] * 10
    assert [found.recovered for found in bins] == [5] * 5 + [10] * 5
    assert all(one.high == other.low for one, other in itertools.pairwise(bins))
    assert bins[0].low == 0.0
    assert bins[-1].low == pytest.approx(0.901)


def test_equal_margins_share_a_bin() -> None:
    rows = [verified({"tone": 2.0}, {"tone": 1})] * 30
    (only,) = figures(*rows).calibration
    assert (only.high, only.asked, only.recovered) == (2.0, 30, 30)


def test_agreement_of_orders_is_over_questions() -> None:
    # Four questions about two dimensions, three of them with one answer; two questions without; two in one order only.
    found = figures(
        verified({"tone": 0.5, "risk": 0.1}, {"tone": 1}, order_agreement=0.75),
        verified({"tone": 0.5}, {"tone": 1}, order_agreement=0.0),
        verified({"tone": 0.5}, {"tone": 1}, order_agreement=None),
    )
    assert found.order_agreement == 0.5
    assert figures(verified({"tone": 0.5}, {"tone": 1}, order_agreement=None)).order_agreement is None


def test_the_quality_of_both_replies_is_compared() -> None:
    found = figures(
        verified({"tone": 0.5}, {"tone": 1}, post_id="a", quality_chosen=0.9, quality_rejected=0.5),
        verified({"tone": 0.5}, {"tone": 1}, post_id="b", quality_chosen=0.5, quality_rejected=0.7),
        verified({"tone": 0.5}, {"tone": 1}, post_id="c"),
    )

    assert found.quality == pytest.approx(0.65)
    assert found.quality_distance == pytest.approx(0.3)
    assert found.quality_gap is not None
    assert found.quality_gap.value == pytest.approx(0.1)
    assert found.quality_gap.number == 2
    assert found.quality_gap.low is not None
    assert found.quality_gap.low < 0.1


def test_quality_that_was_not_asked_is_absent() -> None:
    found = figures(verified({"tone": 0.5}, {"tone": 1}))
    assert (found.quality, found.quality_gap, found.quality_distance) == (None, None, None)


def test_parts_and_their_order_do_not_matter() -> None:
    dice = random.Random(3)
    rows = [
        verified(
            {slug: dice.uniform(-2, 2) for slug in dice.sample(SLUGS, 3)},
            {slug: dice.choice((1, -1)) for slug in SLUGS[:2]},
            post_id=f"post {dice.randrange(9)}",
            quality_chosen=dice.random(),
            quality_rejected=dice.random(),
        )
        for _ in range(60)
    ]
    # A margin is there for each asked dimension.
    for row in rows:
        row["direction_margin"] = [
            margin if margin is not None else 0.25 * level or None
            for margin, level in zip(row["direction_margin"], row["asked_direction"], strict=True)
        ]

    parts = [tally_of(*rows[40:]), tally_of(UNVERIFIED), tally_of(*rows[:40])]
    total = tally_of()
    for part in parts:
        total.merge(sent(part))

    assert total.result() == figures(*rows)
