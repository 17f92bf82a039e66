from __future__ import annotations

import numpy as np
import pytest

from pipeline.report.intervals import GROUPS, estimate_mean, estimate_share, group_of
from pipeline.report.texts import Integers


def groups(**counts: int) -> Integers:
    """Return counts of the first groups of posts."""
    result = np.zeros(GROUPS, dtype=np.int64)
    result[: len(counts)] = list(counts.values())
    return result


def test_a_post_is_in_one_group() -> None:
    posts = np.array([5, 5 + GROUPS, 6], dtype=np.uint64)
    assert group_of(posts).tolist() == [5, 5, 6]


def test_no_cases_give_no_estimate() -> None:
    nothing = groups()
    assert estimate_share(nothing, nothing) is None
    assert estimate_mean(nothing, nothing, 0.1) is None


def test_a_share_of_single_cases_has_the_interval_of_wilson() -> None:
    cases = np.ones(GROUPS, dtype=np.int64)
    hits = (np.arange(GROUPS) % 4 > 0).astype(np.int64)

    found = estimate_share(hits, cases)

    assert found is not None
    assert (found.value, found.number) == (0.75, GROUPS)
    # Wilson for 384 of 512, with a variance for GROUPS - 1 degrees of freedom.
    assert found.low == pytest.approx(0.7107, abs=2e-4)
    assert found.high == pytest.approx(0.7856, abs=2e-4)


def test_a_share_of_one_has_an_interval() -> None:
    found = estimate_share(groups(a=3, b=3), groups(a=3, b=3))

    assert found is not None
    # As if each post were one case: two of two.
    assert (found.value, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(0.3424, abs=1e-4)


def test_no_interval_is_narrower_than_that_of_independent_cases() -> None:
    # Groups differ far less than chance would have them.
    hits = groups(**{f"g{k}": 2 if k else 3 for k in range(50)})
    found = estimate_share(hits, groups(**{f"g{k}": 4 for k in range(50)}))

    assert found is not None
    assert found.low is not None
    # Wilson for 101 of 200.
    assert found.low == pytest.approx(0.4362, abs=2e-4)


def test_equal_answers_within_posts_widen_the_interval() -> None:
    mixed = estimate_share(np.full(GROUPS, 5), np.full(GROUPS, 10))
    alike = estimate_share(np.arange(GROUPS) % 2 * 10, np.full(GROUPS, 10))

    assert mixed is not None
    assert alike is not None
    assert mixed.low is not None
    assert alike.low is not None
    assert alike.value == mixed.value == 0.5
    assert 0.5 - alike.low > 0.9 * (0.5 - mixed.low)


@pytest.mark.parametrize("share", [0.6, 0.84, 0.97])
def test_intervals_of_shares_cover_the_truth(share: float) -> None:
    dice = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        # Forty posts of their own shares, with different numbers of cases.
        cases = np.zeros(GROUPS, dtype=np.int64)
        cases[:40] = dice.integers(1, 30, 40)
        hits = dice.binomial(cases, dice.beta(8 * share, 8 * (1 - share), GROUPS))
        found = estimate_share(hits, cases)
        assert found is not None
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= share <= found.high
    assert 0.91 < covered / 400 < 0.99


def test_intervals_of_means_cover_the_truth() -> None:
    dice = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        cases = np.zeros(GROUPS, dtype=np.int64)
        cases[:60] = dice.integers(1, 20, 60)
        post = dice.normal(0, 0.2, GROUPS)
        sums = [np.rint(1000 * dice.normal(0.1 + post[k], 0.3, cases[k])).sum() for k in range(GROUPS)]
        found = estimate_mean(np.array(sums, dtype=np.int64), cases, 0.001)
        assert found is not None
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 0.1 <= found.high
    assert 0.9 < covered / 400 < 0.99


def test_the_interval_of_a_mean_comes_from_the_differences_between_posts() -> None:
    found = estimate_mean(groups(a=100, b=300), groups(a=1, b=1), 0.001)

    assert found is not None
    assert found.value == pytest.approx(0.2)
    assert found.low == pytest.approx(0.2 - 1.96 * 0.1, abs=1e-4)


def test_a_mean_over_one_post_has_no_interval() -> None:
    found = estimate_mean(groups(a=250), groups(a=2), 0.001)
    assert found is not None
    assert (found.value, found.low, found.high, found.number) == (0.125, None, None, 2)
