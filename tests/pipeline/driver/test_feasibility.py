from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.io.manifests import MANIFEST
from preference_space.space import load_space
from schemas.base import UsageError
from tests.pipeline.helpers import DUMMY, mining, prepared, tiny, write_posts, write_threads

SLUGS = [dimension.slug for dimension in load_space("alignx").dimensions if not dimension.topical][:2]
EITHER = [{slug: pole} for slug in SLUGS for pole in ("positive", "negative")]
TOPICAL = [dimension.slug for dimension in load_space("alignx").dimensions if dimension.topical]


def refused(folder: Path, match: str, **keys: Any) -> None:
    with pytest.raises(UsageError, match=match):
        prepared(folder / "out", tiny(**keys))
    assert not (folder / "out" / MANIFEST).exists()


def test_sampling_that_forbids_everything_is_refused(tmp_path: Path) -> None:
    sampling = {"dimensions": SLUGS, "min_active": 1, "max_active": 2, "forbidden": EITHER}

    refused(
        tmp_path,
        "none of the first 36 points of 'train' has an active dimension; see sampling.forbidden",
        sampling=sampling,
    )


def test_posts_that_fit_no_dimension_are_refused(tmp_path: Path) -> None:
    seeds = {"path": str(write_posts(tmp_path / "posts.jsonl", 40))}

    refused(tmp_path, "has an active dimension; .* give posts topics", seeds=seeds, sampling={"dimensions": TOPICAL})


def test_points_whose_histories_cannot_be_found_are_refused(tmp_path: Path) -> None:
    sampling = {"min_active": 40, "max_active": 60}

    refused(
        tmp_path,
        r"history: none of the first 12 pairs of 'train' can have a history \(history_too_short\): use more pairs",
        sampling=sampling,
    )


def test_support_that_no_history_reaches_is_refused(tmp_path: Path) -> None:
    history = {"ugc": 1, "pair": 0, "min_support": 1, "blocks": 0}
    sampling = {"min_active": 12, "max_active": 12}

    refused(tmp_path, r"\(history_(without_support|too_short)\)", history=history, sampling=sampling)


def test_build_without_histories_may_have_any_points(tmp_path: Path) -> None:
    history = {"ugc": 0, "pair": 0, "min_support": 0}

    prepared(tmp_path / "out", tiny(history=history, sampling={"min_active": 40, "max_active": 60}))


@pytest.mark.parametrize("shard_pairs", [12, 1024, 65536])
def test_what_can_be_built_is_not_refused(tmp_path: Path, shard_pairs: int) -> None:
    prepared(tmp_path / "out", tiny(pairs=60 if shard_pairs == 12 else 70_000, shard_pairs=shard_pairs))


def test_dummy_engine_is_not_asked_for_json(tmp_path: Path) -> None:
    threads = write_threads(tmp_path / "threads.jsonl", 20)
    section = mining(threads, annotation={"mode": "json"})

    refused(tmp_path, "mining.annotation.mode: engine 'dummy' writes no JSON", **DUMMY, pairs=None, mining=section)
    refused(tmp_path, "portrait: engine 'dummy' writes no JSON", **DUMMY, portrait="paper")
    prepared(tmp_path / "out", tiny(**DUMMY))
