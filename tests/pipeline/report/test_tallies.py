from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from pipeline.report.tallies import Distribution, Excerpts, HashCounts, RowSample, TextSample
from pipeline.report.texts import Hashes, mix
from tests.pipeline.report.builds import sent


def hashes(*numbers: int) -> Hashes:
    return mix(np.array(numbers, dtype=np.uint64))


def counted(*values: float, steps: int = 1, limit: int = 1 << 14) -> Distribution:
    distribution = Distribution(steps, limit)
    distribution.add(np.array(values))
    return distribution


def test_distribution_has_the_moments_of_its_values() -> None:
    values = np.random.default_rng(0).integers(0, 500, 1001)
    histogram = counted(*values).result()

    assert histogram is not None
    assert histogram.mean == pytest.approx(values.mean())
    assert histogram.median == np.quantile(values, 0.5, method="inverted_cdf")
    assert histogram.p95 == np.quantile(values, 0.95, method="inverted_cdf")
    assert histogram.largest == values.max()


def test_histogram_counts_values_between_its_edges() -> None:
    values = np.random.default_rng(0).integers(0, 97, 500)
    histogram = counted(*values).result()

    assert histogram is not None
    expected, _ = np.histogram(values, [*histogram.edges[:-1], np.inf])
    assert histogram.counts == tuple(expected)
    assert len(histogram.edges) == len(histogram.counts) + 1 <= 31


def test_what_is_rare_and_long_is_counted_in_the_last_bin() -> None:
    histogram = counted(*[3] * 1000, 100_000).result()

    assert histogram is not None
    assert histogram.edges[-1] == 4
    assert histogram.counts[-1] == 1001
    assert histogram.largest == 100_000
    assert histogram.mean == pytest.approx((3000 + 100_000) / 1001)


def test_shares_fill_the_bins_from_zero_to_one() -> None:
    histogram = counted(0, 0.5, 1, 1, steps=1000, limit=1).result(highest=1.0)

    assert histogram is not None
    assert (histogram.edges[0], histogram.edges[-1]) == (0, 1)
    assert (histogram.counts[0], histogram.counts[10], histogram.counts[-1]) == (1, 1, 2)


def test_ratios_begin_at_one() -> None:
    histogram = counted(1, 1.1, 2.5, steps=100, limit=100).result(lowest=1.0)

    assert histogram is not None
    assert histogram.edges[0] == 1
    assert sum(histogram.counts) == 3
    assert histogram.median == 1.1


def test_nothing_counted_is_no_histogram() -> None:
    assert Distribution().result() is None


def test_merged_distributions_are_the_distribution_of_all() -> None:
    merged = counted(1, 2, 300)
    merged.merge(counted(4, 5))

    assert merged.result() == counted(5, 4, 300, 2, 1).result()


def test_things_are_counted_by_their_hashes() -> None:
    numbers = np.random.default_rng(0).integers(0, 50, 200)
    counts = HashCounts(expected=200, limit=1000)
    for part in np.array_split(numbers, 7):
        counts.add(hashes(*part))

    assert counts.distinct == len(set(numbers.tolist()))
    assert counts.repeats == 200 - len(set(numbers.tolist()))


def test_what_several_hold_is_found() -> None:
    parts = [HashCounts(9, 9) for _ in range(3)]
    for part, numbers in zip(parts, ([1, 2, 3], [3, 4, 4], [5, 3, 2]), strict=True):
        part.add(hashes(*numbers))

    assert HashCounts.across(parts) == (5, 2)


def test_many_things_are_counted_by_a_share_of_them() -> None:
    numbers = np.arange(100_000) % 40_000
    counts = HashCounts(expected=100_000, limit=10_000)
    counts.add(hashes(*numbers))

    assert len(counts._hashes) + sum(len(new) for new, _ in counts._new) < 20_000
    assert counts.distinct == pytest.approx(40_000, rel=0.05)
    assert counts.repeats == pytest.approx(60_000, rel=0.05)


def test_counts_do_not_depend_on_order_or_on_being_sent() -> None:
    parts = []
    for start in (0, 30, 60):
        part = HashCounts(200, 100)
        part.add(hashes(*range(start, start + 50)))
        part.add(hashes(*range(start, start + 10)))
        parts.append(part)
    results = set()
    for order in ((0, 1, 2), (2, 0, 1)):
        total = HashCounts(200, 100)
        for k in order:
            total.merge(sent(parts[k]))
        results.add((total.distinct, total.repeats))

    assert len(results) == 1


def test_lowest_keys_are_drawn() -> None:
    keys = hashes(*range(100))
    drawn = RowSample(5)
    for part in np.array_split(np.arange(100), 9):
        drawn.add(keys[part], part)

    assert drawn.result() == np.argsort(keys)[:5].tolist()


def texts_of(drawn: TextSample, numbers: range, text: Callable[[int], str] = str) -> TextSample:
    keys = hashes(*numbers)
    for k in np.flatnonzero(drawn.admits(keys)):
        drawn.add(int(keys[k]), text(numbers[k]))
    return drawn


def test_texts_of_the_lowest_keys_are_drawn() -> None:
    drawn = texts_of(TextSample(20, 10_000, 5000), range(5000))

    assert drawn.result() == [str(k) for k in np.argsort(hashes(*range(5000)))[:20]]


def test_few_texts_are_all_drawn() -> None:
    assert len(texts_of(TextSample(20, 10_000, 7), range(7)).result()) == 7


def test_no_texts_are_drawn_where_none_are_wanted() -> None:
    assert texts_of(TextSample(0, 10_000, 7), range(7)).result() == []


def test_drawn_texts_fit_the_budget_whatever_the_order() -> None:
    def text(number: int) -> str:
        return "é" * (number % 40)

    results = []
    for parts in ((range(500), range(500, 1000)), (range(700, 1000), range(300), range(300, 700))):
        total = TextSample(200, 2000, 1000)
        for part in parts:
            total.merge(sent(texts_of(TextSample(200, 2000, 1000), part, text)))
        results.append(total.result())

    assert results[0] == results[1]
    assert 1800 < sum(len(text.encode()) for text in results[0]) <= 2000


def test_one_text_cannot_take_all_of_the_budget() -> None:
    drawn = texts_of(TextSample(50, 2000, 100), range(100), lambda k: "x" * 1500 if k % 2 else "short")

    assert drawn.result() == ["short"] * 50


def test_excerpts_of_the_lowest_keys_are_kept() -> None:
    one, other = Excerpts(3), Excerpts(3)
    for excerpts, keys in ((one, (9, 4, 7, 5)), (other, (4, 8, 1))):
        for key in keys:
            excerpts.add(key, f"text {key}")
    one.merge(other)

    assert one.result() == ("text 1", "text 4", "text 5")
    assert one.admits(np.array([0, 5, 6], dtype=np.uint64)).tolist() == [True, True, False]


def test_of_two_texts_of_a_key_the_first_in_the_alphabet_is_kept() -> None:
    excerpts = Excerpts()
    for text, counter in Counter("bac").items():
        excerpts.add(1, text * counter)

    assert excerpts.result() == ("a",)
