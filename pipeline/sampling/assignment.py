"""What a pair has in all of its attempts, as functions of its number: a kind, a user and a post."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import groupby
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.plan import ShardSpec, first_user
from preference_space.direction import Direction
from preference_space.philox import stream_key, uniforms
from preference_space.sampling import Sampler
from schemas.config import BuildConfig, UsersConfig
from schemas.records import SeedPost

Posts = Callable[[npt.NDArray[np.int64]], list[SeedPost]]
"""Posts by number. After the last post, numbers begin again with the first."""


class Users(NamedTuple):
    """The user of each of N pairs: `numbers` (N,) and `directions` (N, D)."""

    numbers: npt.NDArray[np.int64]
    directions: Direction


class Fits(NamedTuple):
    """Dimensions that can bear on each of W posts: those that its topics name, and any; both of shape (W, D)."""

    topical: npt.NDArray[np.bool_]
    fitting: npt.NDArray[np.bool_]


def numbers_of(spec: ShardSpec) -> npt.NDArray[np.int64]:
    """Return the numbers of a shard's pairs."""
    return np.arange(spec.start, spec.start + spec.count)


def kinds_of(config: BuildConfig, split: str, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.str_]:
    """Return the kind of each pair of a split: `opposite`, `near` or `restraint`."""
    u = uniforms(config.seed, stream_key("kind", split), numbers, 1)[:, 0]
    kinds = config.kinds
    return np.select([u < kinds.restraint, u < kinds.restraint + kinds.near], ["restraint", "near"], "opposite")


def users_of_shard(config: BuildConfig, sampler: Sampler, spec: ShardSpec) -> Users | None:
    """Return the users of a shard's pairs; None for a build without users."""
    if config.users is None:
        return None
    numbers = first_user(config, spec.split) + numbers_of(spec) // config.pairs_per_person
    first = np.arange(numbers[0], numbers[-1] + 1)
    active = config.users.active
    directions = sampler.users(first, active.min, active.max)
    return Users(numbers, directions[numbers - first[0]])


def restraint_numbers(config: BuildConfig, split: str, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the number of the impersonal post of each restraint pair among `numbers`, which are of whole people.

    The posts of a person have consecutive numbers: none comes twice.
    """
    people = _people_of_restraint_pairs(config, split, numbers)
    return people + _rank(people)


def count_restraint_pairs(config: BuildConfig) -> int:
    """Return the number of restraint pairs that a build asks for."""
    pairs = {split: np.arange(people * config.pairs_per_person) for split, people in config.people.items()}
    return sum(len(_people_of_restraint_pairs(config, split, numbers)) for split, numbers in pairs.items())


def most_restraint_pairs(config: BuildConfig, split: str, numbers: npt.NDArray[np.int64]) -> int:
    """Return the largest number of restraint pairs that a person has among `numbers`."""
    return int(_rank(_people_of_restraint_pairs(config, split, numbers)).max(initial=-1)) + 1


def _people_of_restraint_pairs(
    config: BuildConfig, split: str, numbers: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    if not config.kinds.restraint:
        # Not one of what may be millions.
        return numbers[:0]
    restraint = numbers[kinds_of(config, split, numbers) == "restraint"]
    people: npt.NDArray[np.int64] = restraint // config.pairs_per_person
    return people


def _rank(people: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return for each entry of an ascending sequence how many equal ones come before."""
    return np.arange(len(people)) - np.searchsorted(people, people)


def assign_posts(
    spec: ShardSpec, config: BuildConfig, sampler: Sampler, users: Users | None, personal: Posts, impersonal: Posts
) -> list[SeedPost]:
    """Return the post of each pair of a shard.

    A restraint pair has an impersonal post. Another pair i of a build without users has personal post i.

    Args:
        spec: The shard.
        config: The build's configuration.
        sampler: Knows which dimensions a post's topics name.
        users: Users of the shard's pairs.
        personal: Posts of the split on which the person matters.
        impersonal: The others.
    """
    numbers = numbers_of(spec)
    is_plain = kinds_of(config, spec.split, numbers) == "restraint"
    plain = iter(impersonal(restraint_numbers(config, spec.split, numbers)) if is_plain.any() else [])
    numbers = numbers[~is_plain]
    if users is None or config.users is None:
        own = iter(personal(numbers))
    else:
        window = [*{post.id: post for post in personal(numbers_of(spec))}.values()]
        topics = [post.topics for post in window]
        fits = Fits(sampler.on_topic(topics), sampler.fits(topics))
        draws = uniforms(config.seed, stream_key("user posts", spec.split), numbers, 1)[:, 0]
        chosen = _balanced(config.users, numbers, users.directions[~is_plain], fits, draws)
        own = iter([window[post] for post in chosen])
    return [next(plain) if is_restraint else next(own) for is_restraint in is_plain.tolist()]


def _balanced(
    users: UsersConfig,
    numbers: npt.NDArray[np.int64],
    directions: Direction,
    fits: Fits,
    draws: npt.NDArray[np.float64],
) -> list[int]:
    """Return the number of a post for each of N pairs. A user has none twice, and W posts are used about equally often.

    The first pairs of a user, `topical_posts` of all, prefer posts with a topic that is active in the user. All prefer
    posts that an active dimension of the user can bear on, which a user of interests alone does not have everywhere.

    Args:
        users: Section of the configuration.
        numbers: Numbers of the pairs, those of a user together; shape (N,).
        directions: Direction of each pair's user, shape (N, D).
        fits: Dimensions that can bear on each of the W posts.
        draws: Uniform numbers in (0, 1), shape (N,). They break ties.
    """
    each = users.pairs_per_user
    topical = math.ceil(round(users.topical_posts * each, 9))
    uses = np.zeros(len(fits.fitting), dtype=np.int64)
    chosen: list[int] = []
    for _, pairs in groupby(range(len(numbers)), lambda pair: numbers[pair] // each):
        mine = list(pairs)
        is_free = np.ones(len(uses), dtype=bool)
        is_active = directions[mine[0]] != 0
        is_topical, is_fitting = ((dimensions & is_active).any(axis=1) for dimensions in fits)
        for pair in mine:
            wishes = [is_topical, is_fitting] if numbers[pair] % each < topical else [is_fitting]
            free = (is_free & is_wished for is_wished in wishes)
            candidates = np.flatnonzero(next((found for found in free if found.any()), is_free))
            rarest = candidates[uses[candidates] == uses[candidates].min()]
            post = int(rarest[int(draws[pair] * len(rarest))])
            uses[post] += 1
            is_free[post] = False
            chosen.append(post)
    return chosen
