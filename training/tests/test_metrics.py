from __future__ import annotations

import math

import numpy as np
import pytest

from everyuser_train.metrics import (
    Cases,
    FloatArray,
    IntArray,
    _student,
    by_dimension,
    by_user,
    estimates,
    flips,
    per_case,
    worst_tenth,
)


def cases_of(*rows: tuple[float, float, float, float], tokens: tuple[int, int] = (1, 1)) -> Cases:
    """Policy's chosen and rejected, reference's chosen and rejected."""
    columns = np.array(rows, dtype=np.float64).T
    sizes = [np.full(len(rows), size, dtype=np.int64) for size in tokens]
    return Cases(columns[0], columns[1], columns[2], columns[3], sizes[0], sizes[1])


def random_cases(count: int, seed: int) -> Cases:
    """Whole numbers, so that there are ties."""
    numbers = np.random.default_rng(seed)
    logp = [numbers.integers(-4, 0, count).astype(np.float64) for _ in range(4)]
    return Cases(logp[0], logp[1], logp[2], logp[3], numbers.integers(0, 4, count), numbers.integers(0, 4, count))


def test_hand_computed() -> None:
    cases = cases_of(
        (-10, -30, -20, -30),  # margin 20 against 10: towards chosen, and preferred by both
        (-30, -20, -40, -20),  # -10 against -20: towards chosen, preferred by neither
        (-20, -40, -10, -40),  # 20 against 30: away
        (-10, -20, -20, -30),  # 10 against 10: a tie
        tokens=(10, 20),
    )
    values = per_case(cases)
    assert values["alignment"].tolist() == [1, 1, 0, 0.5]
    assert values["absolute"].tolist() == [1, 0, 1, 1]
    assert values["reference_absolute"].tolist() == [1, 0, 1, 1]
    assert values["margin"].tolist() == [10, 10, -10, 0]
    # Per token: policy 0.5, -2, 0, 0; reference -0.5, -3, 1, -0.5.
    assert values["alignment_per_token"].tolist() == [1, 1, 0, 1]
    assert values["absolute_per_token"].tolist() == [1, 0, 0.5, 0.5]
    assert values["reference_absolute_per_token"].tolist() == [0, 0, 1, 0]


def test_plain_loops() -> None:
    cases = random_cases(200, 0)
    values = per_case(cases)

    def credit(left: float, right: float) -> float:
        return 1.0 if left > right else 0.5 if left == right else 0.0

    for k in range(200):
        w, b, rw, rb, tw, tb = (column[k] for column in cases)
        tw, tb = max(tw, 1), max(tb, 1)
        assert values["alignment"][k] == credit(w - b, rw - rb)
        assert values["absolute"][k] == credit(w, b)
        assert values["reference_absolute"][k] == credit(rw, rb)
        assert values["margin"][k] == (w - b) - (rw - rb)
        assert values["alignment_per_token"][k] == credit(w / tw - b / tb, rw / tw - rb / tb)
        assert values["absolute_per_token"][k] == credit(w / tw, b / tb)


def test_a_model_against_itself_ties_everywhere() -> None:
    cases = random_cases(50, 1)
    same = cases._replace(reference_chosen=cases.policy_chosen, reference_rejected=cases.policy_rejected)
    found = estimates(per_case(same), np.arange(50))
    for name in ("alignment", "alignment_per_token"):
        assert (found[name].value, found[name].low, found[name].high) == (0.5, 0.5, 0.5)
    assert found["absolute"] == found["reference_absolute"]
    assert found["absolute"].value != 0.5
    assert found["margin"].value == 0


def test_flips_by_hand() -> None:
    before = cases_of((-1, -3, -2, -2), (-1, -3, -2, -2), (-3, -1, -2, -2), (-3, -1, -2, -2), (-2, -2, -2, -2))
    # The reversed case's chosen reply is the rejected one of before.
    after = cases_of((-1, -3, -2, -2), (-3, -1, -2, -2), (-3, -1, -2, -2), (-1, -3, -2, -2), (-1, -3, -2, -2))
    values = flips(before, after)
    assert values["reversed"].tolist() == [1, 0, 1, 0, 0.5]
    assert values["followed"].tolist() == [1, 0, 0, 0, 0]
    # A reference that leans decides what moves, and not what is preferred.
    leaning = [
        cases._replace(reference_chosen=cases.reference_chosen + sign * 9) for cases, sign in ((before, 1), (after, -1))
    ]
    assert flips(*leaning)["reversed"].tolist() == [0, 0, 0, 0, 0]
    assert flips(*leaning)["absolute_reversed"].tolist() == [1, 0, 1, 0, 0.5]
    assert flips(*leaning)["absolute_followed"].tolist() == [1, 0, 0, 0, 0]


def clustered(numbers: np.random.Generator, clusters: int, spread: float) -> tuple[FloatArray, IntArray]:
    """Right or wrong, more alike within a post the larger `spread`; half of all cases are right, in expectation."""
    sizes = numbers.integers(1, 8, clusters)
    chance = 0.5 + spread * (numbers.random(clusters) - 0.5)
    posts = np.repeat(np.arange(clusters), sizes)
    return (numbers.random(len(posts)) < chance[posts]).astype(np.float64), posts


def width(values: FloatArray, posts: IntArray) -> float:
    found = estimates({"x": values}, posts)["x"]
    assert found.low is not None
    assert found.high is not None
    return found.high - found.low


def test_correlated_cases_have_wider_intervals_than_naive_ones() -> None:
    numbers = np.random.default_rng(0)
    posts = np.repeat(np.arange(100), 6)
    same = np.repeat(numbers.integers(0, 2, 100), 6).astype(np.float64)
    apart = numbers.integers(0, 2, 600).astype(np.float64)
    ratio = width(same, posts) / width(same, np.arange(600))
    assert ratio == pytest.approx(math.sqrt(6), rel=0.15)
    assert width(apart, posts) / width(apart, np.arange(600)) == pytest.approx(1, rel=0.2)


def test_intervals_of_single_cases_are_those_of_a_proportion() -> None:
    values = (np.random.default_rng(1).random(400) < 0.7).astype(np.float64)
    deviation = math.sqrt(values.mean() * (1 - values.mean()) / 400)
    assert width(values, np.arange(400)) == pytest.approx(2 * 1.96 * deviation, rel=0.08)


@pytest.mark.parametrize(("clusters", "least"), [(10, 0.91), (20, 0.92), (60, 0.92)])
def test_intervals_cover_the_truth_about_as_often_as_they_say(clusters: int, least: float) -> None:
    numbers = np.random.default_rng(2)
    covered = 0
    for _ in range(600):
        values, posts = clustered(numbers, clusters, 1.0)
        found = estimates({"x": values}, posts)["x"]
        assert found.low is not None and found.high is not None
        covered += found.low <= 0.5 <= found.high
    assert least <= covered / 600 <= 0.98


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_shares_of_0_and_1_have_wilson_s_interval_for_the_posts(value: float) -> None:
    # 20 posts with three cases each, which may all be the same case. Student's t for 19 degrees is 2.093.
    found = estimates({"alignment": np.full(60, value)}, np.repeat(np.arange(20), 3))["alignment"]
    far = 2.093**2 / (20 + 2.093**2)
    expected = (0.0, far) if value == 0 else (1 - far, 1.0)
    assert (found.low, found.high) == pytest.approx(expected, abs=1e-4)


def test_intervals_of_shares_stay_within_0_and_1() -> None:
    values = np.ones(40)
    values[0] = 0
    share = estimates({"alignment": values}, np.arange(40))["alignment"]
    difference = estimates({"alignment": values}, np.arange(40), differences=True)["alignment"]
    assert share.low is not None and share.high is not None and difference.high is not None
    assert 0.8 < share.low < share.value < share.high < 1 < difference.high


def test_mirror_images_that_cancel_out_leave_no_doubt() -> None:
    # A policy blind for persons is right about one row of each pair.
    found = estimates({"alignment": np.tile([1.0, 0.0], 20)}, np.repeat(np.arange(20), 2))["alignment"]
    assert (found.value, found.low, found.high) == (0.5, 0.5, 0.5)


def test_margins_have_student_s_interval() -> None:
    values = np.random.default_rng(5).normal(3, 10, 25)
    found = estimates({"margin": values}, np.arange(25))["margin"]
    half = 2.0639 * values.std(ddof=1) / 5
    assert (found.low, found.high) == pytest.approx((values.mean() - half, values.mean() + half), rel=1e-4)


@pytest.mark.parametrize(("freedom", "quantile"), [(9, 2.2622), (19, 2.0930), (10**6, 1.9600)])
def test_student_s_quantiles(freedom: int, quantile: float) -> None:
    assert _student(freedom) == pytest.approx(quantile, abs=1e-3)


def test_estimates_depend_neither_on_the_order_nor_on_other_values() -> None:
    values, posts = clustered(np.random.default_rng(3), 40, 1.0)
    first = estimates({"x": values, "y": 1 - values}, posts)
    assert estimates({"x": values}, posts)["x"] == first["x"]
    order = np.random.default_rng(4).permutation(len(values))
    names = np.array([f"post {post:03}" for post in posts])
    assert estimates({"x": values[order]}, names[order])["x"] == first["x"]
    assert first["x"].value == pytest.approx(values.mean())
    assert first["y"].value == pytest.approx(1 - values.mean())


def test_fewer_than_ten_posts_have_no_interval() -> None:
    values, posts = np.tile([0.0, 1.0, 1.0], 10), np.repeat(np.arange(10), 3)
    nine, ten = estimates({"x": values[:27]}, posts[:27])["x"], estimates({"x": values}, posts)["x"]
    assert nine.value == ten.value == pytest.approx(2 / 3)
    assert nine.low is nine.high is None
    assert ten.low is not None


@pytest.mark.parametrize(("users", "worst"), [(5, 1.0), (10, 1.0), (40, 4.0), (25, 2.5), (12, 1.2)])
def test_the_worst_tenth_by_plain_sums(users: int, worst: float) -> None:
    values = np.random.default_rng(users).integers(0, 9, users) / 8
    left, expected = worst, 0.0
    for value in sorted(values):
        part = min(left, 1.0)
        expected, left = expected + part * value / worst, left - part
    assert worst_tenth(values).mean() == pytest.approx(expected)


def test_each_user_counts_the_same() -> None:
    values = np.array([1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 1.0])
    found = by_user({"x": values}, ["a", "a", "a", "a", "b", "c", "c"], [0, 0, 0, 0, 0, 1, 1])
    assert found.users == 3
    assert found.mean["x"].value == pytest.approx((1 + 0 + 0.5) / 3)
    assert found.worst["x"].value == 0


def test_a_user_and_its_mirror_image_are_one_cluster() -> None:
    means = np.repeat(np.random.default_rng(0).integers(0, 9, 50) / 8, 2)
    persons = np.arange(100)
    alike = by_user({"x": means}, persons, persons // 2).mean["x"]
    apart = by_user({"x": means}, persons, persons).mean["x"]
    assert alike.low is not None and alike.high is not None and apart.low is not None and apart.high is not None
    assert (alike.high - alike.low) / (apart.high - apart.low) == pytest.approx(math.sqrt(2), rel=0.05)


@pytest.mark.parametrize(("users", "known"), [(199, False), (200, True)])
def test_the_worst_tenth_of_few_users_has_no_interval(users: int, known: bool) -> None:
    found = by_user({"x": np.tile([0.0, 1.0], users)}, np.arange(2 * users), np.arange(2 * users) // 2)

    assert (found.worst["x"].low is not None) == known
    assert found.mean["x"].low is not None


def test_the_interval_of_the_worst_tenth_covers_it() -> None:
    # Means of eight cases each, of users who all have the same chance: what their worst tenth is by the binomial law.
    numbers = np.random.default_rng(1)
    truth = float(np.sort(numbers.binomial(8, 0.6, 10**6) / 8)[: 10**5].mean())
    users, covered = np.repeat(np.arange(200), 8), 0
    for _ in range(300):
        found = by_user({"x": (numbers.random(1600) < 0.6).astype(np.float64)}, users, users).worst["x"]
        assert found.low is not None and found.high is not None
        covered += found.low <= truth <= found.high
    assert 0.88 <= covered / 300 <= 0.99


def test_dimensions_by_plain_loops() -> None:
    numbers = np.random.default_rng(0)
    directions = numbers.choice(np.array([-1, 0, 0, 1], dtype=np.int8), size=(80, 5))
    directions[:, 3] = 0
    directions[:, 4] = np.abs(directions[:, 4])
    cases, posts = per_case(random_cases(80, 2)), numbers.integers(0, 30, 80)
    found = {(pole.dimension, pole.level): pole for pole in by_dimension(cases, directions, posts)}
    assert set(found) == {(0, 1), (0, -1), (1, 1), (1, -1), (2, 1), (2, -1), (4, 1)}
    for (dimension, level), pole in found.items():
        rows = [k for k in range(80) if directions[k, dimension] == level]
        assert pole.cases == len(rows)
        for name, values in cases.items():
            assert pole.metrics[name].value == pytest.approx(sum(values[k] for k in rows) / len(rows))
        assert pole.metrics == estimates({name: values[rows] for name, values in cases.items()}, posts[rows])
