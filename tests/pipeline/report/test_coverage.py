from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from pipeline.report.coverage import CoverageTally, hash_directions
from tests.pipeline.report.builds import SLUGS, SPACE, Row, batch_of, direction, pair, random_shards, rows_of


def tally_of(rows: list[Row]) -> CoverageTally:
    tally = CoverageTally(SPACE, len(rows), 1000)
    tally.add(batch_of(rows))
    return tally


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return [row for _, row in rows_of(random_shards(200))]


def levels(rows: list[Row]) -> Any:
    return np.array([row["Preference Direction"] for row in rows]) * 2 - 1


def test_poles_are_counted(rows: list[Row]) -> None:
    for d, figures in enumerate(tally_of(rows).dimensions()):
        assert figures.slug == SLUGS[d]
        assert figures.positive == (levels(rows)[:, d] == 1).sum()
        assert figures.negative == (levels(rows)[:, d] == -1).sum()


def test_length_is_judged_for_each_pole(rows: list[Row]) -> None:
    def auc(d: int, level: int) -> float | None:
        scores = [
            1.0 if len(row["chosen"]) > len(row["rejected"]) else 0.5 * (len(row["chosen"]) == len(row["rejected"]))
            for row, own in zip(rows, levels(rows), strict=True)
            if own[d] == level
        ]
        return sum(scores) / len(scores) if scores else None

    for d, figures in enumerate(tally_of(rows).dimensions()):
        assert figures.positive_length_auc == pytest.approx(auc(d, 1))
        assert figures.negative_length_auc == pytest.approx(auc(d, -1))
    assert tally_of(rows).dimensions()[4].positive_length_auc is None


def test_a_direction_that_prefers_length_stands_out() -> None:
    rows = [
        row
        for k in range(20)
        for row in pair(
            f"p{k}",
            direction(length=1, tone=1 if k % 2 else -1),
            chosen="a long reply, longer",
            rejected="short",
        )
    ]
    figures = {f.slug: (f.positive_length_auc, f.negative_length_auc) for f in tally_of(rows).dimensions()}

    assert figures["length"] == (1, 0)
    assert figures["tone"] == (0.5, 0.5)


def test_length_is_counted_in_characters() -> None:
    (row, _) = pair("p", direction(tone=1), chosen="猫犬", rejected="xyz")

    assert tally_of([row]).dimensions()[0].positive_length_auc == 0


def test_correlations_are_those_of_the_levels(rows: list[Row]) -> None:
    figures = tally_of(rows).correlation()
    expected = np.corrcoef(levels(rows)[:, :4].T)

    assert figures.slugs == SLUGS[:4]
    assert np.array(figures.matrix) == pytest.approx(expected, abs=1e-4)
    pairs = np.abs(expected[np.triu_indices(4, 1)])
    assert figures.below_half == pytest.approx((pairs < 0.5).mean())
    assert (figures.strongest[0].a, figures.strongest[0].b) == ("tone", "length")
    sizes = [abs(one.correlation) for one in figures.strongest]
    assert sizes == sorted(sizes, reverse=True)


def test_correlations_need_no_mirror_images(rows: list[Row]) -> None:
    some = [row for row in rows if not row["mirrored"]]
    some += [row for row in rows if row["Preference Direction"][0] == 1]

    assert np.array(tally_of(some).correlation().matrix) == pytest.approx(np.corrcoef(levels(some)[:, :4].T), abs=1e-4)


def test_dimensions_that_never_vary_have_no_correlation() -> None:
    rows = pair("p", direction(tone=1), mirror=False)
    figures = tally_of(rows).correlation()

    assert (figures.slugs, figures.matrix, figures.below_half, figures.strongest) == ((), (), None, ())


def test_planted_correlation_of_one_is_found() -> None:
    rows = [row for k, sign in enumerate((1, -1)) for row in pair(f"p{k}", direction(order=sign, risk=-sign))]
    figures = tally_of(rows).correlation()

    assert [(one.a, one.b, one.correlation) for one in figures.strongest] == [("order", "risk", -1)]
    assert figures.below_half == 0


def test_active_dimensions_are_counted(rows: list[Row]) -> None:
    active = (levels(rows) != 0).sum(axis=1)

    assert tally_of(rows).active == tuple(np.bincount(active))


def test_distinct_directions_are_counted(rows: list[Row]) -> None:
    assert tally_of(rows).directions.distinct == len({tuple(row["Preference Direction"]) for row in rows})


def test_directions_have_different_hashes() -> None:
    every = np.array([*itertools.product((-1, 0, 1), repeat=7)], dtype=np.int8)

    assert len(np.unique(hash_directions(every))) == 3**7


def test_merged_counts_are_those_of_all(rows: list[Row]) -> None:
    merged = tally_of(rows[:100])
    merged.merge(tally_of(rows[100:]))
    whole = tally_of(rows)

    assert merged.dimensions() == whole.dimensions()
    assert merged.correlation() == whole.correlation()
    assert merged.active == whole.active
    assert merged.directions.distinct == whole.directions.distinct
