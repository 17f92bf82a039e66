from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.driver.feasibility import restraint_posts
from pipeline.io.manifests import MANIFEST
from pipeline.io.shards import read_shard
from pipeline.runtime.inputs import impersonal, seed_paths
from preference_space.space import load_space
from schemas.base import UsageError
from tests.pipeline.helpers import DUMMY, mining, of_users, prepared, tiny, write_jsonl, write_posts, write_threads

SLUGS = [dimension.slug for dimension in load_space("alignx").dimensions if not dimension.topical][:2]
EITHER = [{slug: pole} for slug in SLUGS for pole in ("positive", "negative")]
TOPICAL = [dimension.slug for dimension in load_space("alignx").dimensions if dimension.topical]


def refused(folder: Path, match: str, **keys: Any) -> None:
    with pytest.raises(UsageError, match=match):
        prepared(folder / "out", tiny(**keys))
    assert not (folder / "out" / MANIFEST).exists()


def test_an_assistant_needs_to_know_how_to_serve_each_pole(tmp_path: Path) -> None:
    text = load_space("alignx").to_yaml()
    service = load_space("alignx").dimensions[2].negative.service
    (tmp_path / "space.yaml").write_text(text.replace(f"service: {service}\n", "service: ''\n", 1))

    refused(
        tmp_path,
        r"^style: 'assistant' needs the field 'service' of each pole, and space 'alignx' has none for 'neuroticism', "
        "negative; ",
        space=str(tmp_path / "space.yaml"),
        style="assistant",
    )
    prepared(tmp_path / "peer", tiny(space=str(tmp_path / "space.yaml")))


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


def refused_users(folder: Path, match: str, **keys: Any) -> None:
    with pytest.raises(UsageError, match=match):
        prepared(folder / "out", of_users(**keys))
    assert not (folder / "out" / MANIFEST).exists()


def test_users_with_more_dimensions_than_the_space_are_refused(tmp_path: Path) -> None:
    refused_users(
        tmp_path,
        r"users.active.max is 16, but only 2 dimensions can be active; lower it or add dimensions",
        sampling={"dimensions": SLUGS, "min_active": 1},
    )


def test_split_with_too_few_posts_for_a_user_is_refused(tmp_path: Path) -> None:
    seeds = {"path": str(write_posts(tmp_path / "posts.jsonl", 17))}

    refused_users(
        tmp_path,
        r"splits: 'test' gets 3 posts, but a user has 4 pairs on different posts; use more posts",
        seeds=seeds,
    )
    prepared(tmp_path / "out", of_users(each=3, seeds=seeds))


def test_split_whose_posts_are_all_impersonal_is_refused(tmp_path: Path) -> None:
    rows = [{"text": f"Question number {k}?", "impersonal": True} for k in range(60)]

    refused_users(
        tmp_path,
        "splits: 'train' gets 0 posts that are not marked as impersonal",
        seeds={"path": str(write_jsonl(tmp_path / "posts.jsonl", rows))},
        kinds={"restraint": 0.5, "restraint_posts": "marked"},
    )


def test_restraint_pairs_without_enough_impersonal_posts_are_refused(tmp_path: Path) -> None:
    rows = [{"text": f"Question number {k}?", "impersonal": k < 2} for k in range(60)]
    seeds = {"path": str(write_jsonl(tmp_path / "posts.jsonl", rows))}
    kinds = {"restraint": 0.5, "restraint_posts": "marked"}
    splits = {"train": 1, "validation": 0, "test": 0}

    refused_users(
        tmp_path,
        r"'train' gets 2 impersonal posts, but a person has up to 4 restraint pairs on different ones; mark more posts",
        seeds=seeds,
        kinds=kinds,
        splits=splits,
    )
    refused(
        tmp_path,
        "kinds.restraint: 'test' gets 0 impersonal posts, but a person has up to 1",
        seeds=seeds,
        kinds=kinds,
    )
    prepared(tmp_path / "out", tiny(seeds=seeds, kinds=kinds, splits=splits))


def test_a_small_split_has_the_questions_of_fact_that_a_user_needs(tmp_path: Path) -> None:
    # One in a hundred of 120 questions is one, and the user of the split has more restraint pairs.
    config = of_users(
        count=100,
        users={"min_items": 0},
        kinds={"restraint": 0.9},
        splits={"train": 0.98, "validation": 0.01, "test": 0.01},
        seeds={"path": str(write_posts(tmp_path / "posts.jsonl", 600))},
    )

    plan = prepared(tmp_path / "out", config)

    needed = restraint_posts(config)
    assert needed["test"] > 1
    assert all(read_shard(seed_paths(plan)[impersonal(split)]).num_rows >= needed[split] for split in needed)


def test_matched_pairs_of_every_kind_are_not_refused(tmp_path: Path) -> None:
    prepared(tmp_path / "out", tiny(kinds={"near": 0.3, "restraint": 0.3}))


def test_users_whose_dimensions_fit_no_post_are_refused(tmp_path: Path) -> None:
    seeds = {"path": str(write_posts(tmp_path / "posts.jsonl", 40))}

    refused_users(
        tmp_path, "none of the first 16 points of 'train' has an active", seeds=seeds, sampling={"dimensions": TOPICAL}
    )


def test_users_of_whom_no_pair_can_have_a_history_are_refused(tmp_path: Path) -> None:
    history = {"ugc": 1, "pair": 0, "min_support": 1}

    refused_users(
        tmp_path,
        r"history: none of the first 16 pairs of 'train' can have a history \(history_without_support\)",
        history=history,
        users={"active": {"min": 60, "max": 60}},
        sampling={"min_active": 12, "max_active": 12},
    )
