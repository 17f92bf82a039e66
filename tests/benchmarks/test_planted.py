"""The dataset of planted truth: its language, two small builds by the real pipeline, and the aims."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq
import pytest
import yaml
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

from benchmarks.planted import build as planted
from benchmarks.planted.aims import aims
from benchmarks.planted.grammar import Half, poles_of, posts, reply, turns
from benchmarks.planted.oracle import accuracies
from preference_space.space import load_space
from tests import ROOT

_COMMON = ENGLISH_STOP_WORDS | {"away", "let", "make", "way"}
"""Words that say nothing of a person."""


@pytest.fixture(scope="module", params=["matched", "users"])
def data(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small dataset."""
    folder = tmp_path_factory.mktemp("planted") / str(request.param)
    planted.build(folder, request.param, planted.SMALL)
    return folder


def rows_of(data: Path, split: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(sorted((data / "data").glob(f"{split}-*.parquet"))).to_pylist()
    return rows


def replies_of(row: dict[str, Any]) -> list[str]:
    """Return all replies of a row, those of its history too."""
    pairs = [row, *row["Pair-wise Comparative Feedback"]]
    return [text for pair in pairs for text in (pair["chosen"], pair["rejected"])] + [
        item["comment"] for item in row["User-Generated Content"]
    ]


def test_no_two_turns_share_a_word_that_says_something() -> None:
    said = Counter(
        word
        for halves in turns().values()
        for half in halves.values()
        for turn in half
        for word in {*re.findall(r"[a-z']+", turn.lower())} - _COMMON
    )

    assert [word for word, count in said.items() if count > 1] == []


def test_the_poles_of_a_dimension_are_about_equally_long() -> None:
    lengths = {
        (slug, level, half): sum(len(turn.split()) for turn in found) / len(found)
        for (slug, level), halves in turns().items()
        for half, found in halves.items()
    }

    far = {key for key, length in lengths.items() if abs(length - lengths[key[0], -key[1], key[2]]) > 1}
    assert far == set()


def test_every_turn_is_of_a_dimension_that_is_sampled() -> None:
    config = yaml.safe_load((ROOT / "benchmarks/planted/dataset.yaml").read_text())

    assert {slug for slug, _ in turns()} == set(config["sampling"]["dimensions"])
    assert {(len(found["known"]), len(found["held_out"])) for found in turns().values()} == {(5, 3)}


def test_opposite_people_say_the_same_but_for_their_turns() -> None:
    post = posts(1)[0]
    poles = [("openness", 1), ("need_for_play", -1), ("neuroticism", 1)]

    one, other = (reply(post, [(slug, side * level) for slug, level in poles], "known") for side in (1, -1))

    assert poles_of(one) == dict(poles)
    assert poles_of(other) == {slug: -level for slug, level in poles}
    assert list(poles_of(one)) == list(poles_of(other))
    assert one.partition(",")[0] == other.partition(",")[0]


@pytest.mark.parametrize(("split", "half"), [("train", "known"), ("validation", "known"), ("test", "held_out")])
def test_a_split_has_the_turns_of_its_half(data: Path, split: str, half: Half) -> None:
    said = " ".join(text.lower() for row in rows_of(data, split) for text in replies_of(row))
    heard = {h for halves in turns().values() for h, found in halves.items() for t in found if t.lower() in said}

    assert heard == {half}


def test_replies_show_the_direction_of_their_row(data: Path) -> None:
    slugs = [dimension.slug for dimension in load_space("alignx").dimensions]

    for row in rows_of(data, "test"):
        levels = {slug: int(2 * x - 1) for slug, x in zip(slugs, row["Preference Direction"], strict=True) if x != 0.5}
        assert poles_of(row["chosen"]) == levels
        assert poles_of(row["rejected"]) == {slug: -level for slug, level in levels.items()}
        assert len(row["User-Generated Content"]) == len(row["Pair-wise Comparative Feedback"]) == 4


def test_reworded_histories_say_the_same_in_no_turn_of_the_replies(data: Path, tmp_path: Path) -> None:
    planted.write_reworded(data, tmp_path / "reworded.jsonl")

    rows = [orjson.loads(line) for line in (tmp_path / "reworded.jsonl").read_bytes().splitlines()]
    for row, old in zip(rows, rows_of(data, "test"), strict=True):
        assert {name: row[name] for name in ("chosen", "rejected")} == {
            name: old[name] for name in ("chosen", "rejected")
        }
        assert [poles_of(text) for text in replies_of(row)] == [poles_of(text) for text in replies_of(old)]
        history = " ".join(replies_of(row)[2:]).lower()
        held_out = [turn.lower() for halves in turns().values() for turn in halves["held_out"]]
        assert not any(turn in history for turn in held_out)


def test_the_history_tells_a_reader_all(data: Path) -> None:
    none, one, whole = accuracies(data, "test", [0, 1, 8])

    assert none == 0.5 < one <= whole
    assert whole == 1.0


def report(method: str, **changes: float) -> dict[str, Any]:
    """Return a report whose figures are `changes`, by kind of persona, or good ones."""
    good = {"persona": 0.9, "shuffled": 0.5, "none": 0.5, "flip": 0.8} | changes
    estimates = {kind: {name: {"value": value} for name in _METRICS} for kind, value in good.items()}
    curve = [{"kind": "length", "items": n, "metrics": {"alignment": {"value": v}}} for n, v in ((0, 0.5), (4, 0.9))]
    results = [{"kind": kind, "metrics": estimates[kind]} for kind in ("persona", "shuffled", "none")]
    return {"method": method, "results": [*results, *curve], "flips": [{"metrics": estimates["flip"]}]}


_METRICS = ("alignment", "absolute", "reversed")


@pytest.mark.parametrize(
    ("changes", "missed"),
    [
        ({}, 0),
        ({"persona": 0.84}, 2),
        ({"shuffled": 0.56}, 2),
        ({"shuffled": 0.55}, 0),
        ({"none": 0.44}, 2),
        ({"flip": 0.6}, 1),
    ],
)
def test_an_aim_of_ica_is_missed_by_the_figure_that_is_off(changes: dict[str, float], missed: int) -> None:
    lines = [aim.line for aim in aims(report("ica", **changes))]

    assert sum(line.endswith("| no |") for line in lines) == missed
    assert len(lines) == 8


def test_pba_has_one_aim() -> None:
    (aim,) = aims(report("pba", persona=0.89))

    assert aim.line == "| alignment, true direction | 89.0 | 90 to 100 | no |"
