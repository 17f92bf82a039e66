from __future__ import annotations

from typing import Any

import pytest

from schemas.base import UsageError
from schemas.config import BuildConfig
from schemas.loader import validate

MINING: dict[str, Any] = {"source": {"kind": "threads", "path": ["threads.jsonl"]}}
SEEN = {"train": 0.6, "validation": 0.1, "test": 0.1, "test_seen_users": 0.2}


def config(**keys: Any) -> BuildConfig:
    """A configuration; that of users unless `pairs` or `persona` say otherwise."""
    users: dict[str, Any] = {"persona": "users", "users": {"count": 100, "pairs_per_user": 8}}
    return validate(BuildConfig, ({} if "pairs" in keys or "persona" in keys else users) | keys, "here")


def test_pairs_follow_from_the_users() -> None:
    assert (config().sampled_pairs, config().mined_pairs) == (800, 0)
    assert config().people == {"train": 90, "validation": 5, "test": 5, "test_seen_users": 0}


def test_seen_users_come_on_top_of_the_others() -> None:
    found = config(splits=SEEN)

    assert found.people == {"train": 75, "validation": 13, "test": 12, "test_seen_users": 25}
    assert found.sampled_pairs == 125 * 8


def test_seen_users_are_at_most_those_of_train() -> None:
    splits = {"train": 0.1, "validation": 0.0, "test": 0.1, "test_seen_users": 0.8}

    assert config(splits=splits).people == {"train": 50, "validation": 0, "test": 50, "test_seen_users": 50}


def test_people_of_a_matched_build_are_its_sampled_pairs() -> None:
    found = config(pairs=100, mining=MINING | {"share": 0.4})

    assert found.people == {"train": 54, "validation": 3, "test": 3}
    assert (found.pairs_per_person, found.mined_pairs) == (1, 40)


def test_mined_pairs_are_a_share_of_all_pairs() -> None:
    found = config(mining=MINING | {"share": 0.2})

    assert (found.sampled_pairs, found.mined_pairs, found.takes_all_threads) == (800, 200, False)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"persona": "users"}, r"persona 'users' needs the section 'users', such as users: \{count: 1000\}"),
        ({"pairs": 9, "users": {"count": 3}}, "'users' is read where persona is 'users' alone; set persona: users"),
        ({"pairs": 9, "persona": "users", "users": {"count": 3}}, "leave 'pairs' out where persona is 'users'"),
        ({"pairs": 9, "splits": SEEN}, "splits.test_seen_users needs persona 'users'; set it to 0"),
        (
            {"splits": {"train": 0, "validation": 0.4, "test": 0.4, "test_seen_users": 0.2}},
            "splits.test_seen_users has users of train, and splits.train is 0",
        ),
        (
            {"splits": {"train": 0, "validation": 0, "test": 0, "test_seen_users": 1}, "mining": MINING},
            "splits.test_seen_users has users of train, and splits.train is 0",
        ),
        ({"portrait": "paper"}, "portrait 'paper' is of one pair, and a user has several"),
        ({"mining": MINING}, "persona 'users' needs sampled pairs, and all are mined; lower mining.share"),
        ({"mining": MINING | {"share": 0.0005}}, "mining.share of all pairs is less than one pair"),
        ({"users": {"count": 3, "min_items": 8}}, r"users.min_items \(8\) is more than the other pairs of a user"),
        (
            {"history": {"ugc": 1, "pair": 0}},
            r"users.min_items \(2\) is more than history.ugc \+ history.pair; lower it",
        ),
        ({"kinds": {"restraint": 1}}, "no history holds restraint pairs; lower it, or set users.min_items to 0"),
        (
            {"pairs": 9, "kinds": {"restraint": 1}},
            "no history holds restraint pairs; lower it, or set history.ugc and history.pair to 0",
        ),
        ({"shard_pairs": 7}, r"shard_pairs \(7\) is less than users.pairs_per_user \(8\)"),
        ({"users": {"count": 3, "active": {"min": 5, "max": 4}}}, r"min \(5\) is larger than max \(4\)"),
        ({"users": {"count": 10**9}}, "8000000000 'pairs' in shards of 1024 .* lower users.count"),
        ({"kinds": {"near": 0.6, "restraint": 0.5}}, "near [+] restraint is 1.1, more than all pairs"),
        ({"pairs": 9, "kinds": {"near": 0.6}, "mining": MINING}, "kinds are of sampled pairs, and all pairs are mined"),
        (
            {"kinds": {"near": 0.1}, "sampling": {"min_active": 1, "max_active": 1}},
            "kinds.near needs a shared trait and a flipped one, and sampling.max_active is 1",
        ),
        (
            {"users": {"count": 3, "active": {"min": 2}}, "sampling": {"min_active": 3}},
            r"users.active.min \(2\) is less than sampling.min_active \(3\), and a pair shows a part of its user",
        ),
        (
            {
                "kinds": {"near": 0.1},
                "users": {"count": 3, "active": {"min": 1, "max": 1}},
                "sampling": {"min_active": 1},
            },
            "a flipped one, and users.active.max is 1",
        ),
    ],
)
def test_users_that_cannot_be_built_are_refused(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        config(**keys)


def test_shards_of_whole_users_are_counted() -> None:
    # A shard of 10 pairs at most has one user of 8.
    with pytest.raises(UsageError, match="are more than 99999 shards"):
        config(users={"count": 100_000, "pairs_per_user": 8}, shard_pairs=10)
    assert config(users={"count": 99_999, "pairs_per_user": 8}, shard_pairs=10).sampled_pairs == 8 * 99_999


def test_keys_of_a_kind_without_a_share_may_change() -> None:
    plain = config().fingerprinted()

    assert config(kinds={"max_flips": 1, "restraint_posts": "marked"}).fingerprinted() == plain
    near, restraint = (config(kinds={kind: 0.1}).fingerprinted() for kind in ("near", "restraint"))
    assert config(kinds={"near": 0.1, "restraint_posts": "marked"}).fingerprinted() == near
    assert config(kinds={"near": 0.1, "max_flips": 1}).fingerprinted() != near
    assert config(kinds={"restraint": 0.1, "max_flips": 1}).fingerprinted() == restraint
    assert config(kinds={"restraint": 0.1, "restraint_posts": "marked"}).fingerprinted() != restraint


@pytest.mark.parametrize(
    "keys",
    [
        {"users": {"count": 101}},
        {"users": {"count": 100, "active": {"min": 9}}},
        {"users": {"count": 100, "topical_posts": 0.6}},
        {"style": "assistant"},
        {"splits": SEEN},
        {"kinds": {"near": 0.1}},
    ],
)
def test_keys_that_decide_rows_are_fingerprinted(keys: dict[str, Any]) -> None:
    assert config(**keys).fingerprinted() != config().fingerprinted()
