"""Checks that find a build certain to fail before any request: of its points and of their histories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.assembly.examples import block_of
from pipeline.assembly.history import Pool, choose_histories
from pipeline.driver.losses import REMEDIES
from pipeline.plan import ShardSpec, cut_shards
from preference_space.philox import stream_key, uniforms
from preference_space.sampling import Sampler
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


def check_points(config: BuildConfig, sampler: Sampler, posts: Mapping[str, Sequence[SeedPost]]) -> None:
    """Raise `UsageError` where none of a split's first points is active, or none can have a history.

    Args:
        config: The build's configuration.
        sampler: Draws the points, which are those of the build's first attempts.
        posts: Posts of each split.
    """
    shards = [spec for spec in cut_shards(config, {}) if spec.source == "sampled"]
    for split in {spec.split: None for spec in shards}:
        first = next(spec for spec in shards if spec.split == split)
        block = block_of(first, shards, config)
        if sum(spec.count for spec in block) > _LARGEST_BLOCK:
            block = [first]
        _check_split(config, sampler, posts[split], block)


def _check_split(config: BuildConfig, sampler: Sampler, posts: Sequence[SeedPost], block: Sequence[ShardSpec]) -> None:
    split, own = block[0].split, block[0].count
    numbers = np.concatenate([np.arange(spec.start, spec.start + spec.count) for spec in block])
    if len(numbers) > _LARGEST_BLOCK:
        numbers = numbers[:_TRIED]
    directions = sampler.draw(split, 0, numbers, [posts[number % len(posts)].topics for number in numbers.tolist()])
    active = np.any(directions != 0, axis=1)
    if not active.any():
        raise UsageError(
            f"sampling: none of the first {len(numbers)} points of '{split}' has an active dimension; see "
            f"sampling.forbidden, and {REMEDIES['sample/no_dimension']}"
        )
    if own > len(numbers) or not active[:own].any():
        return
    own = int(active[:own].sum())
    directions, numbers = directions[active], numbers[active]
    pairs = np.arange(len(numbers))
    pool = Pool(
        directions=directions,
        levels=np.concatenate([directions, -directions]),
        posts=numbers % len(posts),
        chosen=pairs,
        rejected=pairs + len(pairs),
    )
    order = uniforms(config.seed, stream_key("order", split), np.array([block[0].index]), len(pairs))[0]
    found = list(choose_histories(pool, min(own, _TRIED), config.history, order, np.zeros(own)))
    reasons = [history for history in found if isinstance(history, str)]
    if len(reasons) == len(found):
        commonest = max(reasons, key=reasons.count)
        raise UsageError(
            f"history: none of the first {len(found)} pairs of '{split}' can have a history ({commonest}): "
            f"{REMEDIES[commonest]}"
        )
