from __future__ import annotations

import numpy as np
import pytest

from pipeline.reading.text import count_words
from pipeline.report.lengths import LengthTally
from schemas.report import Histogram, LengthFigures
from tests.pipeline.report.builds import Row, merged, pair


def figures_of(*parts: list[Row]) -> LengthFigures:
    return merged(LengthTally, *parts).result()


def test_words_are_those_of_all_texts(rows: list[Row]) -> None:
    figures = figures_of(rows)
    once = [row for row in rows if not row["mirrored"]]
    expected: list[tuple[Histogram | None, list[str]]] = [
        (figures.prompt, [row["prompt"] for row in once]),
        (figures.chosen, [row["chosen"] for row in once]),
        (figures.rejected, [row["rejected"] for row in once]),
        (figures.portrait, [row["Demographic Information"] for row in rows]),
        (figures.comment, [item["comment"] for row in rows for item in row["User-Generated Content"]]),
    ]
    for histogram, texts in expected:
        counts = [count_words(text) for text in texts]
        assert histogram is not None
        assert sum(histogram.counts) == len(texts)
        assert histogram.mean == pytest.approx(np.mean(counts))
        assert histogram.median == np.quantile(counts, 0.5, method="inverted_cdf")
        assert histogram.p95 == np.quantile(counts, 0.95, method="inverted_cdf")
        assert histogram.largest == max(counts)


def test_ratio_is_of_the_longer_reply_to_the_shorter(rows: list[Row]) -> None:
    sizes = [sorted((len(row["chosen"]), len(row["rejected"]))) for row in rows if not row["mirrored"]]
    ratio = figures_of(rows).length_ratio

    assert ratio.mean == pytest.approx(np.mean([longer / shorter for shorter, longer in sizes]), abs=0.01)
    assert ratio.largest == pytest.approx(max(longer / shorter for shorter, longer in sizes), abs=0.01)
    assert ratio.edges[0] == 1


def test_mirrored_pairs_have_no_length_bias(rows: list[Row]) -> None:
    def score(row: Row) -> float:
        return 0.5 + 0.5 * float(np.sign(len(row["chosen"]) - len(row["rejected"])))

    rows = [row for row in rows if row["kind"] != "restraint"]
    figures = figures_of(rows)
    assert figures.length_auc == 0.5
    assert figures.longer_chosen_unmirrored == pytest.approx(np.mean([score(r) for r in rows if not r["mirrored"]]))
    assert figures.longer_chosen_unmirrored != 0.5


def test_unmirrored_pairs_show_their_length_bias() -> None:
    rows = [
        *pair("a", chosen="long, long", rejected="short", mirror=False),
        *pair("b", chosen="long, long", rejected="short", mirror=False),
        *pair("c", chosen="short", rejected="long, long", mirror=False),
        *pair("d", chosen="even", rejected="odd!", mirror=False),
    ]

    assert figures_of(rows).length_auc == figures_of(rows).longer_chosen_unmirrored == pytest.approx(2.5 / 4)


def test_no_comments_have_no_histogram() -> None:
    assert figures_of(pair("p")).comment is None


def test_merged_figures_are_those_of_all(rows: list[Row]) -> None:
    assert figures_of(rows[:50], rows[50:]) == figures_of(rows[150:], rows[:150]) == figures_of(rows)
