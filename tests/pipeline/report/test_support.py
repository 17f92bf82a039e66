from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipeline.report.support import HistoryTally, contradicting, repeated
from schemas.report import HistoryFigures
from tests.pipeline.report.builds import Row, batch_of, comment, direction, feedback, merged, pair

TARGET = direction(tone=1, length=-1)


def figures_of(*parts: list[Row]) -> HistoryFigures:
    return merged(HistoryTally, *parts).result()


def items_of(row: Row) -> list[Row]:
    return [*row["User-Generated Content"], *row["Pair-wise Comparative Feedback"]]


def test_items_and_support_are_counted(rows: list[Row]) -> None:
    figures = figures_of(rows)

    assert figures.items == tuple(np.bincount([len(items_of(row)) for row in rows]))
    assert figures.support.mean == pytest.approx(np.mean([row["history_support"] for row in rows]))
    assert sum(figures.support.counts) == len(rows)


def test_contradictions_and_repetitions_are_those_of_the_rows(rows: list[Row]) -> None:
    def contradicts(row: Row) -> bool:
        own = row["Preference Direction"]
        items = [item["Preference Direction"] for item in items_of(row)]
        return any(own[d] != 0.5 and item[d] == 1 - own[d] for item in items for d in range(len(own)))

    def repeats(row: Row) -> bool:
        posts = [row["prompt"], *(item["prompt"] for item in items_of(row))]
        replies = [row["chosen"], row["rejected"]]
        replies += [item[name] for item in items_of(row) for name in ("comment", "chosen", "rejected") if name in item]
        return len(set(posts)) < len(posts) or len(set(replies)) < len(replies)

    figures = figures_of(rows)
    assert 0 < figures.contradicting < len(rows)
    assert 0 < figures.repeated < len(rows)
    assert figures.contradicting == sum(map(contradicts, rows))
    assert figures.repeated == sum(map(repeats, rows))


@pytest.mark.parametrize(
    ("items", "is_contradicted"),
    [
        ({}, False),
        ({"comments": [comment(direction(tone=1))], "pairs": [feedback(direction(length=-1, risk=1))]}, False),
        ({"comments": [comment(direction(risk=-1, order=1))]}, False),
        ({"comments": [comment(direction(tone=-1))]}, True),
        ({"pairs": [feedback(direction(tone=1, length=1))]}, True),
        ({"comments": [comment(TARGET)], "pairs": [feedback(TARGET), feedback(direction(tone=-1))]}, True),
    ],
)
def test_an_item_with_the_opposite_pole_contradicts(items: dict[str, Any], is_contradicted: bool) -> None:
    rows = [*pair("before"), *pair("p", TARGET, **items)]

    assert contradicting(batch_of(rows)).tolist() == ([2, 3] if is_contradicted else [])


@pytest.mark.parametrize(
    ("items", "is_repeated"),
    [
        ({"comments": [comment(TARGET)], "pairs": [feedback(TARGET)]}, False),
        ({"comments": [comment(TARGET, prompt="Own post")]}, True),
        ({"comments": [comment(TARGET, text="Own reply")]}, True),
        ({"pairs": [feedback(TARGET, rejected="Own reply")]}, True),
        ({"comments": [comment(TARGET, prompt="x")], "pairs": [feedback(TARGET, prompt="x")]}, True),
        ({"comments": [comment(TARGET, text="x")], "pairs": [feedback(TARGET, chosen="x")]}, True),
        # A post may read like a reply.
        ({"comments": [comment(TARGET, prompt="Own reply")]}, False),
    ],
)
def test_a_post_or_reply_that_occurs_twice_is_repeated(items: dict[str, Any], is_repeated: bool) -> None:
    rows = [*pair("before"), *pair("p", TARGET, prompt="Own post", chosen="Own reply", **items)]

    assert repeated(batch_of(rows)).tolist() == ([2, 3] if is_repeated else [])


def test_merged_figures_are_those_of_all(rows: list[Row]) -> None:
    assert figures_of(rows[120:], rows[:120]) == figures_of(rows)
