from __future__ import annotations

import json

import numpy as np
import pytest

from preference_space.direction import Direction, aggregate, from_released, to_released, verbalise
from preference_space.space import load_space
from tests import ROOT

PROFILES = ROOT.parent / "shared" / "data" / "benchmarks" / "p_soups_style.json"

ALIGNX = load_space("alignx")


def levels(*values: int) -> Direction:
    return np.array(values, dtype=np.int8)


def parts(*rows: list[int]) -> Direction:
    return np.array(rows, dtype=np.int8)


def test_released_values_are_one_half_and_zero() -> None:
    assert to_released(levels(1, 0, -1)).tolist() == [1.0, 0.5, 0.0]


def test_from_released_gives_int8() -> None:
    assert from_released([1, 0.5, 0]).dtype == np.int8


@pytest.mark.parametrize("value", [0.25, -1.0, 2.0, 0.5000001, float("nan"), float("inf")])
def test_number_that_is_not_released_is_named(value: float) -> None:
    with pytest.raises(ValueError, match=rf"0, 0.5 and 1 only, found {value:g}"):
        from_released([0.5, value, 1.0])


def test_verbalise_joins_the_labels_of_active_dimensions_in_the_order_of_the_space() -> None:
    direction = np.zeros(90, dtype=np.int8)
    direction[[1, 0, 89]] = [-1, 1, 1]

    last = ALIGNX.dimensions[89].positive.label
    assert verbalise(ALIGNX, direction) == f"Young, Male, {last}"


def test_neutral_direction_has_no_words() -> None:
    assert verbalise(ALIGNX, np.zeros(90, dtype=np.int8)) == ""


def parsed(profile: str) -> Direction:
    """Return the direction of a profile. Labels contain commas, so the longest label that fits is taken."""
    labels = {
        dimension.pole(level).label: (d, level) for d, dimension in enumerate(ALIGNX.dimensions) for level in (1, -1)
    }
    direction = np.zeros(90, dtype=np.int8)
    while profile:
        label = max((label for label in labels if f"{profile}, ".startswith(f"{label}, ")), key=len)
        d, level = labels[label]
        direction[d] = level
        profile = profile[len(label) + 2 :]
    return direction


def test_profile_names_one_direction() -> None:
    directions = np.random.default_rng(1).integers(-1, 2, size=(200, 90)).astype(np.int8)

    for direction in directions:
        assert np.array_equal(parsed(verbalise(ALIGNX, direction)), direction)


def test_released_profiles_round_trip_to_the_letter() -> None:
    if not PROFILES.exists():
        pytest.skip(f"the benchmark file is not here: {PROFILES}")
    profiles = [case["profile"] for case in json.loads(PROFILES.read_text(encoding="utf-8"))]
    assert len(profiles) == 600

    for profile in profiles:
        assert verbalise(ALIGNX, parsed(profile)) == profile


def test_aggregate_is_the_mean_past_the_thresholds() -> None:
    persona = aggregate(parts([1, -1, 1], [1, -1, -1], [1, 0, 0]))

    assert persona.tolist() == [1, -1, 0]


def test_aggregate_of_one_part_is_that_part() -> None:
    assert aggregate(parts([1, 0, -1])).tolist() == [1, 0, -1]


@pytest.mark.parametrize("positives", [3, 6, 9, 12, 15])
def test_mean_of_exactly_six_tenths_is_neutral(positives: int) -> None:
    rows = [[1, 1]] * positives + [[-1, 1]] * (positives * 2 // 3)

    assert aggregate(np.array(rows, dtype=np.int8)).tolist() == [0, 1]


@pytest.mark.parametrize("positives", [2, 4, 6, 8, 10])
def test_mean_of_exactly_four_tenths_is_neutral(positives: int) -> None:
    rows = [[1, 1]] * positives + [[-1, 1]] * (positives * 3 // 2)

    assert aggregate(np.array(rows, dtype=np.int8)).tolist() == [0, 1]


def test_thresholds_with_neutral_parts() -> None:
    one_of_five = parts([1, -1, 1], [0, 0, 1], [0, 0, 1], [0, 0, 1], [0, 0, 1])

    assert aggregate(one_of_five).tolist() == [0, 0, 1]


def test_mean_just_past_the_thresholds_counts() -> None:
    one_of_four = parts([1, -1], [0, 0], [0, 0], [0, 0])

    assert aggregate(one_of_four).tolist() == [1, -1]


def test_fallback_keeps_the_dimensions_farthest_from_neutral() -> None:
    rows = np.zeros((11, 4), dtype=np.int8)
    rows[:2, 0] = 1
    rows[:2, 1] = -1
    rows[:1, 2] = 1

    assert aggregate(rows).tolist() == [1, -1, 0, 0]


def test_fallback_is_not_used_where_a_dimension_survives() -> None:
    rows = np.zeros((10, 2), dtype=np.int8)
    rows[:, 0] = 1
    rows[:1, 1] = 1

    assert aggregate(rows).tolist() == [1, 0]


def test_aggregate_of_neutral_parts_is_neutral() -> None:
    assert aggregate(np.zeros((4, 3), dtype=np.int8)).tolist() == [0, 0, 0]


def test_parts_that_cancel_out_are_neutral() -> None:
    assert aggregate(parts([1, -1], [-1, 1])).tolist() == [0, 0]


def test_aggregate_of_no_parts_is_neutral() -> None:
    assert aggregate(np.zeros((0, 3), dtype=np.int8)).tolist() == [0, 0, 0]


@pytest.mark.parametrize("rows", [0, 1, 11])
def test_aggregate_is_a_direction(rows: int) -> None:
    persona = aggregate(np.eye(max(rows, 1), 90, dtype=np.int8)[:rows])

    assert persona.dtype == np.int8
    assert persona.shape == (90,)
