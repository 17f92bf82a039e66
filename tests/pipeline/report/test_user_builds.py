"""The report of a whole build of users, against its rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.card.render import render_card
from pipeline.io.manifests import load_manifest
from pipeline.io.shards import read_shard
from schemas.report import Report
from tests.pipeline.helpers import DUMMY, run_build
from tests.pipeline.report.builds import report_of

USERS: dict[str, Any] = {
    "pairs": None,
    "persona": "users",
    "users": {"count": 24, "pairs_per_user": 5, "min_items": 1},
    "kinds": {"near": 0.3, "restraint": 0.2},
    "splits": {"train": 0.5, "validation": 0.125, "test": 0.25, "test_seen_users": 0.125},
    "history": {"ugc": 2, "pair": 2, "min_support": 0},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("users") / "out"
    run_build(folder, **USERS, **DUMMY)
    return folder


@pytest.fixture(scope="module")
def report(folder: Path) -> Report:
    return report_of(folder)


@pytest.fixture(scope="module")
def rows(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of each split."""
    return {
        split: [row for path in (folder / "data").glob(f"{split}-*") for row in read_shard(path).to_pylist()]
        for split in USERS["splits"]
    }


def users_of(rows: list[dict[str, Any]]) -> set[str]:
    return {row["user_id"][:-2] for row in rows}


def test_users_are_those_of_the_rows(report: Report, rows: dict[str, list[dict[str, Any]]]) -> None:
    found = report.users
    assert found is not None
    by_split = {split: users_of(of_split) for split, of_split in rows.items()}

    assert {s.name: s.users for s in found.splits} == {split: len(users) for split, users in by_split.items()}
    assert found.users == len(set.union(*by_split.values()))
    assert found.shared == len(by_split["train"] & by_split["test_seen_users"]) > 0
    assert found.leaked == 0
    pairs = {row["user_id"][:-2]: row["user_pairs"] for row in rows["train"]}
    assert found.splits[0].mean == pytest.approx(np.mean([*pairs.values()]))


def test_no_text_of_users_that_splits_share_is_a_leak(report: Report) -> None:
    assert report.duplicates.posts_across == 0
    assert report.duplicates.exact_across == 0


def test_directions_are_those_of_users_outside_test_seen_users(
    report: Report, rows: dict[str, list[dict[str, Any]]]
) -> None:
    assert report.users is not None
    directions = {
        row["user_id"][:-2]: np.array(row["user_direction"])
        for split, of_split in rows.items()
        for row in of_split
        if split != "test_seen_users" and not row["mirrored"]
    }
    levels = np.stack([*directions.values()])

    assert report.users.positive == tuple((levels == 1).sum(axis=0))
    assert report.users.negative == tuple((levels == 0).sum(axis=0))


def test_the_history_shows_what_its_items_are_about(report: Report, rows: dict[str, list[dict[str, Any]]]) -> None:
    def share(row: dict[str, Any]) -> float:
        own = np.array(row["user_direction"])
        items = [*row["User-Generated Content"], *row["Pair-wise Comparative Feedback"]]
        shown = [np.array(item["Preference Direction"]) == own for item in items]
        return float(np.any(shown, axis=0)[own != 0.5].mean())

    assert report.users is not None
    whole = [share(row) for of_split in rows.values() for row in of_split if not row["mirrored"]]
    assert report.users.shown[0] == 0
    assert report.users.shown[-1] == pytest.approx(np.mean(whole), abs=1e-5)
    assert list(report.users.shown) == sorted(report.users.shown)


def test_kinds_are_those_of_the_rows(report: Report, rows: dict[str, list[dict[str, Any]]], folder: Path) -> None:
    every = [row for of_split in rows.values() for row in of_split]
    figures = {found.kind: found for found in report.kinds}

    assert {*figures} == {"opposite", "near", "restraint"}
    for kind, found in figures.items():
        assert found.examples == sum(row["kind"] == kind for row in every)
        assert found.pairs == len({row["pair_id"] for row in every if row["kind"] == kind})
    assert report.pairs == len({row["pair_id"] for row in every})
    assert "**Users**: each of 24 users" in render_card(load_manifest(folder), None, report)
