from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.plan import ShardSpec, cut_shards
from pipeline.sampling.assignment import (
    assign_posts,
    kinds_of,
    most_restraint_pairs,
    numbers_of,
    restraint_numbers,
    users_of_shard,
)
from pipeline.sampling.posts import read_posts
from preference_space.sampling import Sampler
from preference_space.space import load_space
from schemas.config import BuildConfig, SeedsConfig
from schemas.records import SeedPost
from tests.pipeline.helpers import of_users, tiny

ALIGNX = load_space("alignx")
OWN = [*read_posts(SeedsConfig(), Counter(), 0.1)]
FACTS = [SeedPost(id=f"fact-{k}", text=f"What is {k} squared?", impersonal=True) for k in range(9)]
NUMBERS = np.arange(20_000)


def assigned(config: BuildConfig, spec: ShardSpec, own: list[SeedPost] = OWN) -> list[SeedPost]:
    sampler = Sampler(ALIGNX, config.sampling, config.seed)
    users = users_of_shard(config, sampler, spec)
    personal, impersonal = (
        lambda numbers, posts=posts: [posts[number % len(posts)] for number in numbers.tolist()]
        for posts in (own, FACTS)
    )
    return assign_posts(spec, config, sampler, users, personal, impersonal)


def by_user(config: BuildConfig, spec: ShardSpec, own: list[SeedPost] = OWN) -> list[list[SeedPost]]:
    posts, each = assigned(config, spec, own), config.pairs_per_person
    return [posts[start : start + each] for start in range(0, spec.count, each)]


def first_shard(config: BuildConfig) -> ShardSpec:
    return cut_shards(config, {})[0]


def test_kinds_have_their_shares() -> None:
    kinds = kinds_of(tiny(kinds={"near": 0.2, "restraint": 0.1}), "train", NUMBERS)

    assert {kind: round(count / len(NUMBERS), 2) for kind, count in Counter(kinds.tolist()).items()} == {
        "opposite": 0.7,
        "near": 0.2,
        "restraint": 0.1,
    }


def test_kind_depends_on_the_split_and_the_number_of_the_pair_alone() -> None:
    config = tiny(kinds={"near": 0.3, "restraint": 0.3})
    kinds = kinds_of(config, "train", NUMBERS)

    assert (kinds_of(config, "train", NUMBERS[70:80]) == kinds[70:80]).all()
    assert (kinds_of(config, "test", NUMBERS) != kinds).any()
    assert (kinds_of(tiny(), "train", NUMBERS) == "opposite").all()
    assert (kinds_of(tiny(kinds={"near": 1.0}), "train", NUMBERS) == "near").all()


def test_pair_of_a_matched_build_has_the_post_of_its_number() -> None:
    spec = ShardSpec("train", 1, 2, 300, 40)

    posts = assigned(tiny(), spec)

    assert posts == [OWN[number % len(OWN)] for number in range(300, 340)]


def test_restraint_pairs_alone_have_impersonal_posts() -> None:
    config = tiny(kinds={"near": 0.2, "restraint": 0.4})
    spec = ShardSpec("train", 1, 2, 300, 40)

    posts = assigned(config, spec)

    kinds = kinds_of(config, "train", numbers_of(spec))
    assert [post.impersonal for post in posts] == (kinds == "restraint").tolist()
    for number, post in zip(range(300, 340), posts, strict=True):
        assert post == (FACTS if post.impersonal else OWN)[number % (9 if post.impersonal else len(OWN))]


def test_users_of_a_shard_are_those_of_its_pairs_in_every_split() -> None:
    config = of_users(count=20, each=4, splits={"train": 0.5, "validation": 0.2, "test": 0.2, "test_seen_users": 0.1})
    sampler = Sampler(ALIGNX, config.sampling, config.seed)
    found: dict[str, set[int]] = {}
    directions: dict[int, bytes] = {}
    for spec in cut_shards(config, {}):
        users = users_of_shard(config, sampler, spec)
        assert users is not None
        assert users.numbers.shape == users.directions[:, 0].shape == (spec.count,)
        found.setdefault(spec.split, set()).update(users.numbers.tolist())
        for number, direction in zip(users.numbers.tolist(), users.directions, strict=True):
            assert directions.setdefault(number, direction.tobytes()) == direction.tobytes()

    assert found["train"] | found["validation"] | found["test"] == set(range(20))
    assert sum(map(len, found.values())) - len(found["test_seen_users"]) == 20
    assert found["test_seen_users"] <= found["train"]
    assert found["test_seen_users"]


@settings(max_examples=25)
@given(
    st.integers(2, 12),
    st.integers(1, 12),
    st.sampled_from([0.0, 0.3, 0.5, 1.0]),
    st.sampled_from([0.0, 0.2]),
    st.integers(12, 60),
    st.integers(0, 5),
)
def test_no_user_has_a_post_twice(
    each: int, users: int, topical: float, restraint: float, posts: int, first: int
) -> None:
    config = of_users(
        count=users + first,
        each=each,
        users={"topical_posts": topical},
        kinds={"restraint": restraint},
        shard_pairs=4096,
    )
    spec = ShardSpec("train", 0, 1, first * each, users * each)

    for mine in by_user(config, spec, OWN[:posts]):
        assert len({post.id for post in mine}) == each


def test_posts_of_a_shard_are_used_equally_often() -> None:
    config = of_users(count=50, each=6, users={"topical_posts": 0.0})

    uses = Counter(post.id for post in assigned(config, ShardSpec("train", 0, 1, 0, 300), OWN[:40]))

    assert len(uses) == 40
    assert max(uses.values()) - min(uses.values()) <= 1


def test_first_pairs_of_a_user_prefer_posts_about_what_the_user_likes_or_dislikes() -> None:
    def topical(share: float) -> Any:
        config = of_users(count=40, each=6, users={"topical_posts": share}, shard_pairs=240)
        spec = first_shard(config)
        users = users_of_shard(config, Sampler(ALIGNX, config.sampling, config.seed), spec)
        assert users is not None
        directions = users.directions[:: config.pairs_per_person]
        return np.array(
            [
                [any(direction[ALIGNX.index[topic]] for topic in post.topics if topic in ALIGNX.index) for post in mine]
                for direction, mine in zip(directions, by_user(config, spec), strict=True)
            ]
        ).mean(axis=0)

    none, half = topical(0.0), topical(0.5)
    assert half[:3].min() > 0.9
    assert half[3:].max() < 0.6
    assert none.max() < 0.6


def test_user_without_a_post_of_such_topics_has_other_posts() -> None:
    plain = [post.model_copy(update={"topics": ()}) for post in OWN[:30]]
    config = of_users(count=5, each=6, users={"topical_posts": 1.0})

    posts = assigned(config, first_shard(config), plain)

    assert len(posts) == first_shard(config).count


def test_user_of_interests_alone_has_posts_about_these_first() -> None:
    tags = [dimension.slug for dimension in ALIGNX.dimensions if dimension.topical]
    own = [
        SeedPost(id=f"{k}", text=f"Post {k}.", topics=(tags[k // 2 % len(tags)],) if k % 2 else ()) for k in range(360)
    ]
    config = of_users(
        count=30, each=4, shard_pairs=480, sampling={"dimensions": tags}, users={"topical_posts": 0, "min_items": 0}
    )
    spec = first_shard(config)
    users = users_of_shard(config, Sampler(ALIGNX, config.sampling, config.seed), spec)
    assert users is not None

    posts = assigned(config, spec, own)

    active = [
        direction[ALIGNX.index[post.topics[0]]] if post.topics else 0
        for post, direction in zip(posts, users.directions, strict=True)
    ]
    assert np.count_nonzero(active) > 0.8 * len(posts)


def test_posts_of_a_shard_are_near_each_other_in_the_file() -> None:
    config = of_users(count=100, each=4, shard_pairs=40)
    spec = ShardSpec("train", 3, 10, 120, 40)

    posts = assigned(config, spec)

    assert {OWN.index(post) for post in posts} <= set(range(120, 160))


@settings(max_examples=40)
@given(st.integers(2, 12), st.integers(1, 20), st.floats(0, 1), st.integers(0, 9))
def test_restraint_posts_of_a_person_have_consecutive_numbers(each: int, people: int, share: float, first: int) -> None:
    config = of_users(count=50, each=each, users={"min_items": 0}, kinds={"restraint": share})
    numbers = np.arange(first * each, (first + people) * each)

    found = restraint_numbers(config, "train", numbers)

    owners = numbers[kinds_of(config, "train", numbers) == "restraint"] // each
    largest = 0
    for person in range(first, first + people):
        mine = found[owners == person].tolist()
        assert mine == list(range(person, person + len(mine)))
        largest = max(largest, len(mine))
    assert most_restraint_pairs(config, "train", numbers) == largest
