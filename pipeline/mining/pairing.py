"""Mined pairs, as pure functions of a shard: load threads, cluster their responses, draw and check pairs, store."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from pipeline.io.shards import write_shard
from pipeline.mining.annotate import MinedShard, filter_given_levels, unanswered_responses
from pipeline.plan import BuildPlan, ShardSpec
from pipeline.quality.rules import Violation, check_pair, schema_violation
from pipeline.runtime.results import better_stored, store_pool
from pipeline.threads.batch import THREAD_SCHEMA, ThreadBatch
from pipeline.threads.index import read_threads
from preference_space.direction import Direction
from preference_space.levels import one_hot
from preference_space.philox import stream_key, uniforms
from schemas.records import Pair, Rejection


class DrawnPair(NamedTuple):
    """The responses of a pair, by their rows in the shard."""

    chosen: int
    rejected: int


def load_threads(spec: ShardSpec, plan: BuildPlan) -> MinedShard:
    """Return a shard with its threads, before annotation."""
    per_thread = plan.mining.pairs_per_post
    first = plan.first_thread(spec.split) + spec.start // per_thread
    return MinedShard(spec, filter_given_levels(read_threads(plan, first, spec.count // per_thread), plan))


def select_pairs(shard: MinedShard, plan: BuildPlan) -> MinedShard:
    """Cluster the responses of every thread and draw its pairs. A pair that breaks a rule is drawn again."""
    indices = np.arange(shard.spec.start, shard.spec.start + shard.spec.count)
    streams = [stream_key("mine", shard.spec.split, attempt) for attempt in range(plan.config.attempts)]
    draws = np.stack([uniforms(plan.config.seed, stream, indices, 4) for stream in streams], axis=1)
    pairs: list[Pair] = []
    rejections = [*shard.rejections]
    unanswered = unanswered_responses(shard)
    with _one_thread():
        for thread in range(len(shard.threads.posts)):
            found, refused = _mine_thread(shard, thread, draws, plan)
            pairs += found
            # An unanswered response might have given the pair: another run then tries again.
            may_pass = not unanswered.isdisjoint(shard.threads.rows(thread))
            rejections += [refusal.model_copy(update={"may_pass": may_pass}) for refusal in refused]
    return replace(shard, pairs=pairs, rejections=rejections)


def store_mined(shard: MinedShard, plan: BuildPlan) -> dict[str, Any]:
    """Write the annotated threads, then the pool shard; return its footer."""
    unanswered = len(unanswered_responses(shard))
    stored = better_stored(plan, "pool", shard.spec, {"fingerprint": plan.fingerprint, "open": unanswered})
    if stored is not None:
        return stored
    meta = {
        "fingerprint": plan.fingerprint,
        "annotated": int(shard.threads.annotated.sum()),
        "unanswered": unanswered,
    }
    write_shard(plan.path("annotated", shard.spec), THREAD_SCHEMA, [shard.threads.to_table()], meta)
    return store_pool(
        shard.spec,
        plan,
        shard.pairs,
        shard.rejections,
        shard.tokens,
        unanswered,
    )


def cluster(levels: Direction, max_clusters: int, seed: int) -> npt.NDArray[np.int64]:
    """Cluster responses by K-means over their one-hot levels.

    Args:
        levels: Levels of N responses, shape (N, D).
        max_clusters: K. Where fewer rows are distinct, each distinct row is a cluster.
        seed: Seed of K-means.

    Returns:
        Cluster numbers from 0 in the order of first appearance, shape (N,).
    """
    numbers: dict[bytes, int] = {}
    labels = np.array([numbers.setdefault(row.tobytes(), len(numbers)) for row in levels], dtype=np.int64)
    if len(numbers) <= max_clusters:
        return labels
    # Imported here, as it takes much memory and only builds that mine need it.
    from sklearn.cluster import KMeans

    means = KMeans(n_clusters=max_clusters, n_init=1, random_state=seed)
    found = means.fit_predict(one_hot(levels).astype(np.float64))
    order: dict[int, int] = {}
    return np.array([order.setdefault(label, len(order)) for label in found.tolist()], dtype=np.int64)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Run K-means on one thread, so that its sums are reproducible and worker processes do not compete for cores."""
    from sklearn import config_context
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1), config_context(assume_finite=True, skip_parameter_validation=True):
        yield


def draw_pair(labels: npt.NDArray[np.int64], uniform: npt.NDArray[np.float64]) -> tuple[int, int]:
    """Draw two clusters, then one member of each.

    Args:
        labels: Cluster numbers of N responses, shape (N,); at least two clusters.
        uniform: Uniform numbers in [0, 1), shape (4,).

    Returns:
        Positions of the chosen and the rejected response.
    """
    clusters = int(labels.max()) + 1
    first, second = int(uniform[0] * clusters), int(uniform[1] * (clusters - 1))
    second += second >= first
    members = [np.flatnonzero(labels == number) for number in (first, second)]
    chosen, rejected = (int(found[int(u * len(found))]) for found, u in zip(members, uniform[2:], strict=True))
    return chosen, rejected


def margin(chosen: npt.NDArray[np.float32], rejected: npt.NDArray[np.float32], direction: Direction) -> float:
    """Return the mean distance of two replies in the active dimensions, less that in the others.

    The distance in a dimension is half the difference of expected levels, in [0, 1].

    Args:
        chosen: Probabilities of both poles, shape (D, 2).
        rejected: The same of the other reply.
        direction: Levels, shape (D,); at least one is not 0.

    Returns:
        The margin, in [-1, 1].
    """
    distance = np.abs((chosen[:, 0] - chosen[:, 1]) - (rejected[:, 0] - rejected[:, 1])) / 2
    active = direction != 0
    elsewhere = distance[~active].mean(dtype=np.float64) if (~active).any() else 0.0
    return float(distance[active].mean(dtype=np.float64) - elsewhere)


def cluster_seed(seed: int, post: str) -> int:
    """Return the seed of K-means for a thread."""
    return int.from_bytes(hashlib.blake2b(f"cluster\x1f{seed}\x1f{post}".encode(), digest_size=4).digest(), "big") >> 1


def _mine_thread(
    shard: MinedShard, thread: int, draws: npt.NDArray[np.float64], plan: BuildPlan
) -> tuple[list[Pair], list[Rejection]]:
    """Draw the pairs of a thread. `draws` has four numbers for each pair of the shard and attempt, shape (P, A, 4)."""
    threads, mining = shard.threads, plan.mining
    rows = [row for row in threads.rows(thread) if threads.annotated[row]]
    labels = cluster(threads.levels[rows], mining.clusters, cluster_seed(plan.config.seed, threads.posts[thread].id))
    unusable = None
    if len(rows) < 2:
        unusable = Violation("too_few_responses", f"{len(rows)} annotated responses")
    elif labels.max() == 0:
        unusable = Violation("one_cluster", f"all {len(rows)} responses have the same levels")
    pairs: list[Pair] = []
    rejections: list[Rejection] = []
    used: set[frozenset[int]] = set()
    for slot in range(thread * mining.pairs_per_post, (thread + 1) * mining.pairs_per_post):
        pair_id = shard.spec.record_id(plan.fingerprint, shard.spec.start + slot)
        if unusable:
            rejections.append(_rejection(shard, thread, pair_id, None, unusable, 0, True))
            continue
        for attempt, uniform in enumerate(draws[slot]):
            drawn = DrawnPair(*(rows[position] for position in draw_pair(labels, uniform)))
            pair = _make_pair(threads, thread, drawn, pair_id, attempt, used, plan)
            if isinstance(pair, Pair):
                pairs.append(pair)
                used.add(frozenset(drawn))
                break
            last = attempt + 1 == plan.config.attempts
            rejections.append(_rejection(shard, thread, pair_id, drawn, pair, attempt, last))
    return pairs, rejections


def _make_pair(
    threads: ThreadBatch,
    thread: int,
    drawn: DrawnPair,
    pair_id: str,
    attempt: int,
    used: set[frozenset[int]],
    plan: BuildPlan,
) -> Pair | Violation:
    if frozenset(drawn) in used:
        return Violation("repeated", "the thread has this pair already")
    chosen, rejected = (threads.texts[row] for row in drawn)
    levels = tuple(threads.levels[row] for row in drawn)
    direction = np.sign(levels[0] - levels[1]).astype(np.int8)
    score = margin(threads.probabilities[drawn.chosen], threads.probabilities[drawn.rejected], direction)
    post, mining = threads.posts[thread], plan.mining
    if not mining.min_margin <= score <= mining.max_margin:
        return Violation("margin", f"{score:.3f} is not within {mining.min_margin:g} to {mining.max_margin:g}")
    if violation := check_pair(chosen, rejected, plan.config.rules):
        return violation
    try:
        return Pair(
            pair_id=pair_id,
            post_id=post.id,
            prompt=post.prompt,
            chosen=chosen,
            rejected=rejected,
            direction=tuple(direction.tolist()),
            topics=post.topics,
            source="mined",
            kind="mined",
            model="given" if mining.annotator is None else plan.config.generation.model,
            attempt=attempt,
            prompt_tokens=0,
            completion_tokens=0,
            chosen_levels=tuple(levels[0].tolist()),
            rejected_levels=tuple(levels[1].tolist()),
            margin=score,
        )
    except ValidationError as error:
        return schema_violation(error)


def _rejection(
    shard: MinedShard,
    thread: int,
    pair_id: str,
    drawn: DrawnPair | None,
    violation: Violation,
    attempt: int,
    final: bool,
) -> Rejection:
    threads, post = shard.threads, shard.threads.posts[thread]
    direction = np.zeros(threads.levels.shape[1], dtype=np.int8)
    if drawn:
        direction = np.sign(threads.levels[drawn.chosen] - threads.levels[drawn.rejected]).astype(np.int8)
    return Rejection(
        record_id=pair_id,
        stage="mine",
        reason=violation.reason,
        detail=violation.detail,
        attempt=attempt,
        final=final,
        post_id=post.id,
        prompt=post.prompt,
        direction=tuple(direction.tolist()),
        texts=tuple(threads.texts[row] for row in drawn or ()),
        kind="mined",
    )
