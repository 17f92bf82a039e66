"""Checks that find a build certain to fail before any request: of its points and of their histories."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import NamedTuple

import numpy as np

from pipeline.assembly.examples import block_of
from pipeline.assembly.history import History, Pool, choose_histories
from pipeline.assembly.user_histories import choose_user_histories, order_items
from pipeline.driver.losses import REMEDIES
from pipeline.plan import ShardSpec, cut_shards
from pipeline.runtime.inputs import impersonal
from pipeline.sampling.assignment import Posts, assign_posts, most_restraint_pairs, numbers_of, users_of_shard
from pipeline.sampling.points import Points, draw_points
from preference_space.philox import stream_key, uniforms
from preference_space.sampling import Sampler
from preference_space.space import PreferenceSpace
from schemas.base import UsageError
from schemas.config import BuildConfig, DummyEngine
from schemas.records import SeedPost

_TRIED = 64
"""Pairs of a split whose histories are tried. Where none of them has one, hardly any other pair will."""
_LARGEST_BLOCK = 20_000
"""Most pairs that are drawn as a source of histories: more take seconds, and have enough pairs."""


def check_engine(config: BuildConfig) -> None:
    """Raise `UsageError` where the dummy engine would have to write JSON, which it cannot do."""
    if not isinstance(config.engine, DummyEngine):
        return
    if config.mining is not None and config.mining.annotator == "json":
        raise UsageError(
            "mining.annotation.mode: engine 'dummy' writes no JSON; use 'choice', or an engine with a model"
        )
    if config.portrait == "paper":
        raise UsageError(
            "portrait: engine 'dummy' writes no JSON; use 'template' or 'model', or an engine with a model"
        )


def check_style(config: BuildConfig, space: PreferenceSpace) -> None:
    """Raise `UsageError` where an assistant does not know how to serve a pole."""
    if config.style != "assistant":
        return
    for dimension in space.dimensions:
        for name in ("positive", "negative"):
            if not getattr(dimension, name).service:
                raise UsageError(
                    f"style: 'assistant' needs the field 'service' of each pole, and space '{space.name}' has none for "
                    f"'{dimension.slug}', {name}; write how an assistant serves such a person, or use style: peer"
                )


def check_users(config: BuildConfig, sampler: Sampler) -> None:
    """Raise `UsageError` where users are to have more active dimensions than there are."""
    if config.users is not None and config.users.active.max > sampler.eligible:
        raise UsageError(
            f"users.active.max is {config.users.active.max}, but only {sampler.eligible} dimensions can be active; "
            "lower it or add dimensions"
        )


def restraint_posts(config: BuildConfig) -> dict[str, int]:
    """Return how many impersonal posts each split with sampled pairs needs, so that nobody answers one twice."""
    people = {split: number for split, number in config.people.items() if number}
    each = config.pairs_per_person
    return {split: most_restraint_pairs(config, split, np.arange(number * each)) for split, number in people.items()}


def check_supply(config: BuildConfig, posts: Mapping[str, Sequence[SeedPost]]) -> None:
    """Raise `UsageError` where a split has too few posts for a person.

    Args:
        config: The build's configuration.
        posts: Posts by the names of `seed_paths`.
    """
    each, marks = config.pairs_per_person, config.kinds.reads_marks
    own = "posts that are not marked as impersonal" if marks else "posts"
    more_plain = "mark more posts (seeds.columns.impersonal)" if marks else "use kinds.restraint_posts: marked"
    for split, restraint in restraint_posts(config).items():
        ways_out = f"raise splits.{split}, or set it to 0"
        if len(posts[split]) < each:
            raise UsageError(
                f"splits: '{split}' gets {len(posts[split])} {own}, but a user has {each} pairs on different posts; "
                f"use more posts, {ways_out}, or lower users.pairs_per_user"
            )
        if restraint > (found := len(posts[impersonal(split)])):
            raise UsageError(
                f"kinds.restraint: '{split}' gets {found} impersonal posts, but a person has up to {restraint} "
                f"restraint pairs on different ones; {more_plain}, {ways_out}, or lower kinds.restraint"
            )


def check_histories(
    config: BuildConfig, split: str, posts: int, shards: Sequence[ShardSpec], each: int = 1, unit: str = "post"
) -> None:
    """Raise `UsageError` where no history of a split can be filled.

    Args:
        config: The build's configuration.
        split: Name of the split.
        posts: Number of posts of the split, each a thread's where pairs are mined.
        shards: Shards of all splits.
        each: Pairs of a shard with the same post.
        unit: Name of one of `posts` in the message.
    """
    items = config.history.ugc + config.history.pair
    sizes = [spec.count for spec in shards if spec.split == split]
    if sizes and not posts:
        raise UsageError(f"splits: '{split}' gets pairs but no {unit}; use more {unit}s, or set splits.{split} to 0")
    if not sizes or not items:
        return
    reach = min(sizes) // each * min(len(sizes), 1 + config.history.blocks)
    if min(posts, reach) > items:
        return
    if posts <= reach:
        found, way_out = f"{posts} {unit}{'s' * (posts != 1)}", f"use more {unit}s, raise splits.{split}"
    elif len(sizes) > 1:
        found, way_out = f"shards that reach {reach} pairs", "raise shard_pairs or history.blocks"
    else:
        found, way_out = f"{reach} pairs", f"raise pairs or splits.{split}"
    raise UsageError(
        f"splits: '{split}' gets {found}, but a history of {items} items needs {items + 1} different {unit}s there; "
        f"{way_out}, set splits.{split} to 0, or lower history.ugc and history.pair"
    )


def check_points(config: BuildConfig, sampler: Sampler, posts: Mapping[str, Sequence[SeedPost]]) -> None:
    """Raise `UsageError` where none of a split's first points is active, or none can have a history.

    Args:
        config: The build's configuration.
        sampler: Draws the points, which are those of the build's first attempts.
        posts: Posts by the names of `seed_paths`.
    """
    shards = [spec for spec in cut_shards(config, {}) if spec.source == "sampled"]
    for split in {spec.split: None for spec in shards}:
        first = next(spec for spec in shards if spec.split == split)
        block = block_of(first, shards, config)
        if sum(spec.count for spec in block) > _LARGEST_BLOCK:
            block = [first if first.count <= _LARGEST_BLOCK else replace(first, count=_TRIED)]
        drawn = [_first_points(config, sampler, posts, spec) for spec in block]
        _check_split(config, first, drawn)


class _Drawn(NamedTuple):
    """Points of a shard's pairs, and the ids of their posts."""

    points: Points
    posts: Sequence[str]


def _first_points(
    config: BuildConfig, sampler: Sampler, posts: Mapping[str, Sequence[SeedPost]], spec: ShardSpec
) -> _Drawn:
    def posts_in(name: str) -> Posts:
        return lambda numbers: [posts[name][number % len(posts[name])] for number in numbers.tolist()]

    users = users_of_shard(config, sampler, spec)
    own = assign_posts(spec, config, sampler, users, posts_in(spec.split), posts_in(impersonal(spec.split)))
    topics, directions = [post.topics for post in own], None if users is None else users.directions
    points = draw_points(config, sampler, spec.split, 0, numbers_of(spec), topics, directions)
    return _Drawn(points, [post.id for post in own])


def _check_split(config: BuildConfig, first: ShardSpec, drawn: Sequence[_Drawn]) -> None:
    """Check the points of a split's first shard, and of the shards that its histories may use."""
    split = first.split
    directions = np.concatenate([points.directions for points, _ in drawn])
    active = np.any(directions != 0, axis=1)
    if not active.any():
        raise UsageError(
            f"sampling: none of the first {len(directions)} points of '{split}' has an active dimension; see "
            f"sampling.forbidden, and {REMEDIES['sample/no_dimension']}"
        )
    if first.count > len(directions):
        return
    kinds = np.concatenate([points.kinds for points, _ in drawn])
    usable = active & (kinds != "restraint")
    own = int(usable[: first.count].sum())
    if not own:
        return
    posts = np.unique(np.concatenate([ids for _, ids in drawn]), return_inverse=True)[1][usable]
    pool = Pool.of_kinds(kinds[usable], directions[usable], posts, np.arange(2 * len(posts)))
    histories: Iterator[History | str]
    if config.users is None:
        order = uniforms(config.seed, stream_key("order", split), np.array([first.index]), len(pool))[0]
        histories = choose_histories(pool, min(own, _TRIED), config.history, order, np.zeros(own))
    else:
        items = order_items(split, config.users, config.seed, numbers_of(first)[usable])
        histories = choose_user_histories(pool, items, config.history, config.users.min_items)
    found = list(islice(histories, _TRIED))
    reasons = [history for history in found if isinstance(history, str)]
    if len(reasons) == len(found):
        commonest = max(reasons, key=reasons.count)
        raise UsageError(
            f"history: none of the first {len(found)} pairs of '{split}' can have a history ({commonest}): "
            f"{REMEDIES[commonest]}"
        )
