from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from pipeline.report.kinds import KindTally
from pipeline.report.verification import REJECTED_COLUMNS
from schemas.report import KindFigures
from tests.pipeline.report.builds import SPACE, Row, batch_of, direction, merged, pair, sent
from tests.pipeline.report.test_verification import SCHEMA, verified


def new() -> KindTally:
    return KindTally(SPACE, 0.5)


def by_kind(tally: KindTally) -> dict[str, KindFigures]:
    return {figures.kind: figures for figures in tally.result()}


def judged(*rows: Row, rejected: tuple[Row, ...] = ()) -> KindTally:
    """Return the tally of pairs of the pool and rejected ones, with a row of each kind."""
    tally, other = new(), new()
    tally.add(batch_of([row for kind in ("opposite", "near", "restraint") for row in pair(kind, kind=kind)]))
    tally.add_pool(pa.Table.from_pylist([*rows], schema=SCHEMA))
    other.add_rejected(pa.Table.from_pylist([*rejected], schema=SCHEMA).select(REJECTED_COLUMNS))
    tally.merge(sent(other))
    return tally


def test_rows_and_pairs_are_counted_by_kind(rows: list[Row]) -> None:
    figures = by_kind(merged(new, rows[:77], rows[77:]))

    assert [*figures] == ["opposite", "near", "restraint"]
    for kind, found in figures.items():
        of_kind = [row for row in rows if row["kind"] == kind]
        assert found.examples == len(of_kind) > 0
        assert found.pairs == sum(not row["mirrored"] for row in of_kind)
    assert figures["restraint"].examples == figures["restraint"].pairs
    assert figures["near"].examples == 2 * figures["near"].pairs


def test_length_is_that_of_pairs_and_not_of_their_mirror_images() -> None:
    long: dict[str, Any] = {"chosen": "a long reply", "rejected": "short"}
    rows = [*pair("a", **long), *pair("b", kind="restraint", **long), *pair("c", kind="restraint")]
    figures = by_kind(merged(new, rows))

    assert figures["opposite"].longer_chosen == 1.0
    assert figures["restraint"].longer_chosen == 0.75


def test_a_judge_is_counted_by_kind_also_of_rejected_pairs() -> None:
    tally = judged(
        verified({"tone": 0.5}, {"tone": 1}),
        verified({"tone": 0.5, "risk": 0.9}, {"tone": -1}, kind="near", quality_chosen=0.5, quality_rejected=0.25),
        rejected=(verified({"tone": 0.5}, {"tone": 1}, kind="near"), verified({}, {"tone": 1}, kind=None)),
    )
    figures = by_kind(tally)

    assert figures["opposite"].recovery is not None
    assert (figures["opposite"].recovery.value, figures["opposite"].recovery.number) == (1.0, 1)
    assert figures["near"].recovery is not None
    assert (figures["near"].recovery.value, figures["near"].recovery.number) == (0.5, 2)
    assert figures["near"].drift is not None
    assert figures["near"].drift.value == 1.0
    assert figures["near"].quality_gap is not None
    assert figures["near"].quality_gap.value == pytest.approx(0.25)
    assert figures["restraint"].recovery is None
    whole = tally.verification()
    assert whole is not None
    assert (whole.pairs, whole.recovery.number) == (3, 3)


def test_the_rejected_reply_of_a_restraint_pair_shows_the_person() -> None:
    shown = verified({"tone": -0.5}, {"tone": 1}, kind="restraint")
    not_shown = verified({"tone": 0.25}, {"tone": 1}, kind="restraint")
    rejected = verified({"tone": -0.5}, {"tone": 1}, kind="restraint")
    tally = judged(shown, not_shown, rejected=(rejected,))
    found, whole = by_kind(tally)["restraint"].recovery, tally.verification()

    assert found is not None
    assert found.value == pytest.approx(2 / 3)
    assert found.number == 3
    assert whole is not None
    (tone,) = whole.dimensions
    assert tone.positive is not None
    assert tone.positive.margin.value == pytest.approx(0.25)
    assert tone.negative is None


def test_a_build_without_a_judge_has_no_findings() -> None:
    tally = merged(new, pair("p", direction(tone=1)))

    assert by_kind(tally)["opposite"].recovery is None
    assert tally.verification() is None
