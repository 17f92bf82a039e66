from __future__ import annotations

import math

import numpy as np
import pytest

from everyuser_train.metrics import Cases, FloatArray, IntArray, by_dimension, estimates, flips, per_case


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
    found = estimates(per_case(same), np.arange(50), 0)
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
    found = estimates({"x": values}, posts, 0)["x"]
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


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    numbers = np.random.default_rng(2)
    covered = naive = 0
    for trial in range(300):
        values, posts = clustered(numbers, 60, 1.0)
        for clusters in (posts, np.arange(len(posts))):
            found = estimates({"x": values}, clusters, trial, replicates=300)["x"]
            assert found.low is not None
            assert found.high is not None
            hit = found.low <= 0.5 <= found.high
            covered, naive = (covered + hit, naive) if clusters is posts else (covered, naive + hit)
    assert 0.90 <= covered / 300 <= 0.98
    assert naive < covered - 15


def test_estimates_depend_on_the_seed_and_on_nothing_else() -> None:
    values, posts = clustered(np.random.default_rng(3), 40, 1.0)
    first = estimates({"x": values, "y": 1 - values}, posts, 5)
    assert estimates({"x": values}, posts, 5)["x"] == first["x"]
    assert estimates({"x": values}, posts, 6)["x"] != first["x"]
    order = np.random.default_rng(4).permutation(len(values))
    names = np.array([f"post {post:03}" for post in posts])
    assert estimates({"x": values[order]}, names[order], 5)["x"] == first["x"]
    assert first["x"].value == pytest.approx(values.mean())
    assert first["y"].value == pytest.approx(1 - values.mean())


def test_pieces_of_resamples_are_all_used(monkeypatch: pytest.MonkeyPatch) -> None:
    values, posts = clustered(np.random.default_rng(3), 40, 1.0)
    whole = estimates({"x": values}, posts, 5)
    monkeypatch.setattr("everyuser_train.metrics._MAX_WEIGHTS", 40 * 7)
    assert estimates({"x": values}, posts, 5) == whole


def test_one_post_has_no_interval() -> None:
    found = estimates({"x": np.array([0.0, 1.0, 1.0])}, ["a", "a", "a"], 0)["x"]
    assert found.value == pytest.approx(2 / 3)
    assert found.low is found.high is None


def test_dimensions_by_plain_loops() -> None:
    numbers = np.random.default_rng(0)
    directions = numbers.choice(np.array([-1, 0, 0, 1], dtype=np.int8), size=(80, 5))
    directions[:, 3] = 0
    directions[:, 4] = np.abs(directions[:, 4])
    cases, posts = per_case(random_cases(80, 2)), numbers.integers(0, 30, 80)
    found = {(pole.dimension, pole.level): pole for pole in by_dimension(cases, directions, posts, 0)}
    assert set(found) == {(0, 1), (0, -1), (1, 1), (1, -1), (2, 1), (2, -1), (4, 1)}
    for (dimension, level), pole in found.items():
        rows = [k for k in range(80) if directions[k, dimension] == level]
        assert pole.cases == len(rows)
        for name, values in cases.items():
            assert pole.metrics[name].value == pytest.approx(sum(values[k] for k in rows) / len(rows))
        assert pole.metrics == estimates({name: values[rows] for name, values in cases.items()}, posts[rows], 0)
