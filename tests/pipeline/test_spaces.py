"""Builds with spaces that extend another."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.build import build
from preference_space.direction import from_released
from preference_space.space import load_space
from tests.pipeline.helpers import DUMMY, rows_of, tiny
from tests.schemas.records import DIRECTION

NEW = ("humor", "pragmatism")
SPACE = """\
name: mine
extends: alignx_plus
dimensions:
  - slug: thrift
    name: Thrift
    group: mine
    source: mine
    question: Does the writer save?
    positive: {label: Thrifty, description: saves, hint: Save.}
    negative: {label: Lavish, description: spends, hint: Spend.}
"""


def test_a_dataset_of_the_two_new_dimensions_alone(tmp_path: Path) -> None:
    sampling = {"dimensions": NEW, "min_active": 1, "max_active": 2}
    space = load_space("alignx_plus")

    manifest = build(tiny(space="alignx_plus", sampling=sampling, **DUMMY), tmp_path)

    directions = np.array([from_released(np.array(row[DIRECTION])) for row in rows_of(tmp_path / "data")])
    assert manifest.counts.pairs_accepted == 60
    assert directions.shape[1] == len(space) == 91
    active = np.flatnonzero(np.any(directions != 0, axis=0))
    assert [space.dimensions[d].slug for d in active] == [*NEW]
    assert {*np.abs(directions).sum(axis=1).tolist()} == {1, 2}


def test_the_space_in_a_build_needs_none_of_the_files_that_it_extends(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(SPACE, encoding="utf-8")
    space = load_space(tmp_path / "mine.yaml")

    build(tiny(space=str(tmp_path / "mine.yaml"), **DUMMY), tmp_path / "out")

    stored = tmp_path / "out" / "preference_space.yaml"
    assert "extends" not in stored.read_text(encoding="utf-8")
    assert load_space(stored) == space
