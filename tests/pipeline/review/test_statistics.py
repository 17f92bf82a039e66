from __future__ import annotations

import numpy as np
import pytest

from pipeline.review import statistics

TABLE = np.array([[20.0, 0.0, 5.0], [0.0, 0.0, 0.0], [10.0, 0.0, 15.0]])
"""Two raters of 50 grants, the usual example of kappa: 0.7 observed, 0.5 by chance."""


def test_kappa_is_the_agreement_beyond_chance() -> None:
    assert statistics.kappa(TABLE) == pytest.approx(0.4)


def test_cannot_tell_is_a_category_unless_only_decided_cases_count() -> None:
    table = TABLE + np.array([[0, 5, 0], [5, 10, 0], [0, 0, 0]])
    by_chance = (30 * 35 + 15 * 15 + 25 * 20) / 70**2
    assert statistics.kappa(table) == pytest.approx((45 / 70 - by_chance) / (1 - by_chance))
    assert statistics.kappa(statistics.decided(table)) == pytest.approx(0.4)
    share = statistics.share(statistics.decided(table[None]))
    assert share is not None
    assert share.value == pytest.approx(0.7)
    assert share.number == 50


def test_tables_count_levels_by_post() -> None:
    counts = statistics.tables(["b", "a", "b"], [1, -1, 0], [1, 1, -1])
    assert counts.shape == (2, 3, 3)
    assert counts[0].tolist() == [[0, 0, 1], [0, 0, 0], [0, 0, 0]]
    assert counts[1].tolist() == [[0, 0, 0], [1, 0, 0], [0, 0, 1]]


def test_alpha_is_that_of_krippendorffs_example() -> None:
    # Krippendorff 2011, section A: two observers, ten units of two categories, alpha 0.095.
    first, second = [0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]
    units = [str(unit) for unit in range(10)]
    matrices = statistics.coincidences(units, [*zip(first, second, strict=True)])
    assert statistics.alpha(matrices.sum(axis=0)) == pytest.approx(0.095, abs=5e-4)


def test_alpha_weighs_questions_of_more_reviewers() -> None:
    matrices = statistics.coincidences(["a", "b"], [[1, 1, -1], [0, 0]])
    # Three pairs of the first question, each in both orders, over two.
    assert matrices[0].tolist() == [[0, 0, 1], [0, 0, 0], [1, 0, 1]]
    assert matrices[1].tolist() == [[0, 0, 0], [0, 2, 0], [0, 0, 0]]


def test_an_interval_resamples_posts_not_answers() -> None:
    # Kappa 0.5 of 400 answers, once about 400 posts, once about eight, whose answers are alike.
    ours = [1, 1, -1, -1] * 100
    theirs = [1, 1, -1, 1] * 50 + [1, -1, -1, -1] * 50
    alone = statistics.tables([str(k) for k in range(400)], ours, theirs)
    in_eight = statistics.tables([f"{k // 200} {k % 4}" for k in range(400)], ours, theirs)
    widths = []
    for counts in (alone, in_eight):
        found = statistics.bootstrap(counts, statistics.kappa)
        assert found is not None and found.low is not None and found.high is not None
        assert found.value == pytest.approx(0.5)
        assert found.number == 400
        assert found.low < 0.5 < found.high
        widths.append(found.high - found.low)
    # The error of a mean grows with the square root of the answers about a post, fifty here.
    assert widths[0] == pytest.approx(2 * 1.96 * 2 * (0.75 * 0.25 / 400) ** 0.5, rel=0.1)
    assert widths[1] > 5 * widths[0]


def test_estimates_repeat_to_the_bit() -> None:
    counts = statistics.tables([str(k) for k in range(9)], [1, 0, -1] * 3, [1, 1, -1] * 3)
    assert statistics.bootstrap(counts, statistics.kappa) == statistics.bootstrap(counts, statistics.kappa)


def test_a_statistic_that_is_not_defined_is_none() -> None:
    nobody_decides = statistics.decided(statistics.tables(["a", "b"], [0, 0], [1, -1]))
    assert statistics.share(nobody_decides) is None
    assert statistics.bootstrap(nobody_decides, statistics.kappa) is None
    all_alike = statistics.tables(["a", "b"], [1, 1], [1, 1])
    assert statistics.bootstrap(all_alike, statistics.kappa) is None


def test_one_post_gives_no_bootstrap() -> None:
    found = statistics.bootstrap(statistics.tables(["a", "a", "a"], [1, -1, -1], [1, 1, -1]), statistics.kappa)
    assert found is not None
    assert found.value == pytest.approx(0.4)
    assert (found.low, found.high) == (None, None)
