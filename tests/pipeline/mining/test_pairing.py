from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.cluster import KMeans

from pipeline.mining.annotate import MinedShard
from pipeline.mining.pairing import cluster, cluster_seed, draw_pair, margin, select_pairs
from pipeline.runtime.results import Tokens
from preference_space.direction import Direction
from preference_space.levels import one_hot
from preference_space.philox import stream_key, uniforms
from schemas.records import Pair, Rejection
from tests import ROOT
from tests.pipeline.mining.levels import FINGERPRINT, WORDS, plan_of, shard_of, text_of
from tests.pipeline.mining.reference import Slot, direction_of, draw, margin_of, mine, partition

Floats = npt.NDArray[np.float64]


def random_levels(seed: int, rows: int = 12, size: int = 90) -> Direction:
    """Return responses of a few kinds of people, mostly neutral, with noise; some are equal."""
    numbers = np.random.default_rng(seed)
    kinds = numbers.choice([-1, 0, 0, 0, 1], size=(5, size))
    levels = kinds[numbers.integers(0, len(kinds), rows)]
    noise = numbers.random(levels.shape) < numbers.choice([0, 0.02, 0.1])
    return np.where(noise, numbers.integers(-1, 2, levels.shape), levels).astype(np.int8)


def groups(labels: Sequence[int]) -> set[frozenset[int]]:
    """Return a partition that does not depend on cluster numbers."""
    return {frozenset(k for k, label in enumerate(labels) if label == number) for number in set(labels)}


def random_shard(seed: int, count: int, each: int, first: int = 0) -> MinedShard:
    """Return threads of one to eight responses: some of the same levels, of very different length, or nearly equal."""
    levels, texts = [], []
    for thread in range(first, first + count):
        numbers = np.random.default_rng([seed, thread])
        found = random_levels(int(numbers.integers(1 << 30)), int(numbers.integers(1, 9)), 12)
        levels.append(found[:1].repeat(len(found), axis=0) if thread % 13 == 5 else found)
        texts.append([text_of(numbers, int(numbers.choice([4, 12, 14, 40]))) for _ in found])
        if thread % 5 == 2:
            texts[-1] = [texts[-1][0] + " " + WORDS[k] for k in range(len(found))]
    numbers = np.random.default_rng([seed, first, count])
    flat = np.concatenate(levels)
    confidence = numbers.choice([0.4, 0.6, 1.0], size=flat.shape).astype(np.float32)
    shares = np.stack([confidence * (flat > 0), confidence * (flat < 0)], axis=-1).astype(np.float32)
    return shard_of(
        *([tuple(row) for row in thread.tolist()] for thread in levels),
        texts=texts,
        shares=shares,
        each=each,
        first=first,
    )


def final(rejections: Sequence[Rejection]) -> list[tuple[str, str]]:
    return [(rejection.record_id, rejection.reason) for rejection in rejections if rejection.final]


def texts_of(pairs: Sequence[Pair]) -> list[set[str]]:
    return [{pair.chosen, pair.rejected} for pair in pairs]


# Clusters


def test_clusters_are_numbered_in_the_order_of_first_appearance() -> None:
    for seed in range(60):
        labels = cluster(random_levels(seed), 3, seed).tolist()
        assert [label for k, label in enumerate(labels) if label not in labels[:k]] == [*range(max(labels) + 1)]
        assert max(labels) == 2


@pytest.mark.parametrize("most", [2, 3, 5])
def test_fewer_distinct_responses_than_clusters_are_a_cluster_each(most: int) -> None:
    a, b = [1, 0, -1], [0, 0, 1]

    assert cluster(np.array([a], dtype=np.int8), most, 0).tolist() == [0]
    assert cluster(np.array([b, b, b], dtype=np.int8), most, 0).tolist() == [0, 0, 0]
    assert cluster(np.array([b, a, a, b], dtype=np.int8), most, 0).tolist() == [0, 1, 1, 0]


def test_as_many_distinct_responses_as_clusters_are_a_cluster_each() -> None:
    levels = np.array([[1, 0], [0, 0], [1, 0], [0, 1], [0, 0]], dtype=np.int8)

    assert cluster(levels, 3, 0).tolist() == [0, 1, 0, 2, 1]


def test_no_responses_make_no_clusters() -> None:
    assert cluster(np.empty((0, 5), dtype=np.int8), 3, 0).tolist() == []


def test_equal_responses_are_in_one_cluster() -> None:
    for seed in range(100):
        levels = random_levels(seed, 16)
        labels = cluster(levels, 3, seed)
        assert len({(row.tobytes(), label) for row, label in zip(levels, labels.tolist(), strict=True)}) == len(
            {row.tobytes() for row in levels}
        )


def test_obvious_clusters_are_found() -> None:
    found = 0
    for seed in range(40):
        numbers = np.random.default_rng(seed)
        kinds = numbers.integers(-1, 2, size=(3, 90))
        truth = [0, 1, 2, *numbers.integers(0, 3, 9).tolist()]
        levels = kinds[truth]
        levels[np.arange(12), numbers.integers(0, 90, 12)] = 0
        found += groups(cluster(levels.astype(np.int8), 3, seed).tolist()) == groups(truth)
    # One start of K-means may be an unlucky one.
    assert found >= 36


def test_clusters_are_those_of_a_plain_call_of_k_means() -> None:
    for seed, most in product(range(40), (2, 3, 4)):
        levels = np.random.default_rng(seed).integers(-1, 2, size=(most + 1 + seed % 12, 90)).astype(np.int8)
        hot = [[int(level == pole) for level in row for pole in (1, 0, -1)] for row in levels.tolist()]
        plain = KMeans(n_clusters=most, n_init=1, random_state=seed).fit(np.array(hot, dtype=np.float64)).labels_
        assert groups(cluster(levels, most, seed).tolist()) == groups(plain.tolist())


def test_clusters_are_those_of_the_reference() -> None:
    for seed, most in product(range(40), (2, 3, 4)):
        levels = random_levels(seed)
        assert cluster(levels, most, seed).tolist() == partition([tuple(row) for row in levels.tolist()], most, seed)


def test_every_response_is_nearest_to_the_mean_of_its_own_cluster() -> None:
    for seed in range(60):
        levels = random_levels(seed)
        labels = cluster(levels, 3, seed)
        hot = one_hot(levels)
        means = np.stack([hot[labels == number].mean(axis=0) for number in range(3)])
        distances = ((hot[:, None, :] - means[None]) ** 2).sum(axis=2)
        own = distances[np.arange(len(labels)), labels]
        assert (own <= distances.min(axis=1) + 1e-4).all()


def test_seed_decides_where_k_means_begins() -> None:
    levels = np.random.default_rng(0).integers(-1, 2, size=(16, 90)).astype(np.int8)

    assert len({tuple(cluster(levels, 3, seed).tolist()) for seed in range(10)}) > 1
    assert len({tuple(cluster(levels, 3, 7).tolist()) for _ in range(5)}) == 1


def test_clusters_are_the_same_in_other_threads_and_processes() -> None:
    here = [cluster(random_levels(seed), 3, seed).tolist() for seed in range(30)]

    with ThreadPoolExecutor(4) as pool:
        in_threads = [*pool.map(lambda seed: cluster(random_levels(seed), 3, seed).tolist(), range(30))]
    code = (
        "import json, sys; sys.path[:0] = sys.argv[1:];"
        "from pipeline.mining.pairing import cluster; from tests.pipeline.mining.test_pairing import random_levels;"
        "print(json.dumps([cluster(random_levels(seed), 3, seed).tolist() for seed in range(30)]))"
    )
    command = [sys.executable, "-W", "ignore", "-c", code, str(ROOT)]
    alone = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    output = subprocess.run(command, env=os.environ | alone, capture_output=True, text=True, check=True).stdout

    assert in_threads == here
    assert json.loads(output.splitlines()[-1]) == here


def test_seed_of_a_threads_clusters_depends_on_build_and_post() -> None:
    seeds = {cluster_seed(seed, post) for seed in range(20) for post in ("a", "b", "1")}

    assert len(seeds) == 60
    assert all(0 <= seed < 2**31 for seed in seeds)


# Draws


def draws(count: int, stream: str = "test") -> Floats:
    return uniforms(0, stream_key(stream), np.arange(count), 4)


def test_replies_of_a_pair_are_never_of_the_same_cluster() -> None:
    for seed in range(30):
        numbers = np.random.default_rng(seed)
        labels = np.concatenate([np.arange(seed % 4 + 2), numbers.integers(0, seed % 4 + 2, seed % 9)])
        for four in draws(100, f"{seed}"):
            chosen, rejected = draw_pair(labels, four)
            assert labels[chosen] != labels[rejected]


def test_drawn_pair_is_that_of_the_reference() -> None:
    for seed in range(20):
        labels = cluster(random_levels(seed), 3, seed)
        for four in draws(50, f"{seed}"):
            assert draw_pair(labels, four) == draw(labels.tolist(), four.tolist())


@pytest.mark.parametrize("labels", [[0, 1], [0, 0, 0, 0, 1], [0, 0, 0, 1, 1, 2], [0, 1, 2, 0, 3, 3, 3, 1, 0, 4]])
def test_pairs_are_uniform_over_clusters_and_then_over_members(labels: list[int]) -> None:
    count = 20000
    sizes = Counter(labels)

    found = Counter(draw_pair(np.array(labels), four) for four in draws(count))

    share = 1 / (len(sizes) * (len(sizes) - 1))
    expected = {
        (a, b): count * share / sizes[labels[a]] / sizes[labels[b]]
        for a, b in product(range(len(labels)), repeat=2)
        if labels[a] != labels[b]
    }
    assert found.keys() == expected.keys()
    statistic = sum((found[pair] - number) ** 2 / number for pair, number in expected.items())
    freedom = len(expected) - 1
    assert statistic < freedom + 5 * (2 * freedom) ** 0.5


@pytest.mark.parametrize("clusters", [2, 3, 5, 7, 64])
@pytest.mark.parametrize("number", [2.0**-53, 1 - 2.0**-53])
def test_smallest_and_largest_number_stay_within_the_thread(clusters: int, number: float) -> None:
    labels = np.repeat(np.arange(clusters), 3)

    chosen, rejected = draw_pair(labels, np.full(4, number))

    assert (chosen, rejected) == ((0, 3) if number < 0.5 else (len(labels) - 1, len(labels) - 4))


# Margins


def shares(*rows: tuple[float, float]) -> npt.NDArray[np.float32]:
    return np.array(rows, dtype=np.float32)


@pytest.mark.parametrize(
    ("chosen", "rejected", "direction", "expected"),
    [
        # 0.8 against -0.8 is 0.8 apart; elsewhere 0 against 0.2, twice, is 0.1.
        ([(0.9, 0.1), (0.5, 0.5), (0, 0)], [(0.1, 0.9), (0.5, 0.3), (0.2, 0)], [1, 0, 0], 0.7),
        ([(1, 0), (0, 1)], [(0, 1), (1, 0)], [1, -1], 1.0),
        ([(1, 0), (0, 0)], [(0, 0), (0, 0)], [1, 0], 0.5),
        ([(1, 0), (0, 0), (0, 1)], [(0, 0), (0, 0), (1, 0)], [1, 0, -1], 0.75),
        ([(0.5, 0.5), (0.6, 0)], [(0.5, 0.5), (0, 0.6)], [0, 1], 0.6),
        ([(0.4, 0), (1, 0)], [(0.4, 0), (0, 1)], [1, 0], -1.0),
        ([(0.6, 0), (0.4, 0)], [(0.4, 0), (0.6, 0)], [1, 0], 0.0),
    ],
)
def test_margin_by_hand(
    chosen: list[tuple[float, float]], rejected: list[tuple[float, float]], direction: list[int], expected: float
) -> None:
    found = margin(shares(*chosen), shares(*rejected), np.array(direction, dtype=np.int8))

    assert found == pytest.approx(expected, abs=1e-6)


def test_margin_is_that_of_the_reference_within_its_bounds_and_the_same_for_the_mirrored_pair() -> None:
    numbers = np.random.default_rng(0)
    for size in (1, 2, 5, 90) * 50:
        chosen, rejected = numbers.dirichlet([0.3] * 3, size=(2, size))[..., :2].astype(np.float32)
        direction = numbers.choice([-1, 0, 1], size).astype(np.int8)
        direction[0] = 1
        found = margin(chosen, rejected, direction)
        assert -1 <= found <= 1
        assert found == pytest.approx(
            margin_of(chosen.tolist(), rejected.tolist(), tuple(direction.tolist())), abs=1e-5
        )
        assert margin(rejected, chosen, np.negative(direction)) == found


# Pairs


def test_direction_is_the_sign_of_the_difference_of_levels() -> None:
    chosen_or_rejected = [(1, 0, -1, 1, 0, 1, -1), (0, 0, 1, -1, 1, 1, -1)]

    for first in range(8):
        shard = select_pairs(shard_of(chosen_or_rejected, first=first), plan_of())
        (pair,) = shard.pairs
        assert {pair.chosen_levels, pair.rejected_levels} == {*chosen_or_rejected}
        assert pair.direction == ((1, 0, -1, 1, -1, 0, 0) if pair.chosen_levels[0] else (-1, 0, 1, -1, 1, 0, 0))


def test_each_pair_carries_the_levels_of_its_replies_and_facts_of_its_post() -> None:
    plan = plan_of()
    shard = random_shard(0, 60, 1)

    selected = select_pairs(shard, plan)

    assert len(selected.pairs) > 20
    posts = {post.id: (thread, post) for thread, post in enumerate(shard.threads.posts)}
    for pair in selected.pairs:
        thread, post = posts[pair.post_id]
        rows = {shard.threads.texts[row]: row for row in shard.threads.rows(thread)}
        chosen, rejected = rows[pair.chosen], rows[pair.rejected]
        assert (pair.prompt, pair.topics, pair.source, pair.model) == (post.prompt, ("food",), "mined", "given")
        assert (pair.prompt_tokens, pair.completion_tokens) == (0, 0)
        assert list(pair.chosen_levels) == shard.threads.levels[chosen].tolist()
        assert list(pair.rejected_levels) == shard.threads.levels[rejected].tolist()
        assert pair.direction == direction_of(pair.chosen_levels, pair.rejected_levels)
        assert pair.margin == pytest.approx(
            margin_of(
                shard.threads.probabilities[chosen].tolist(),
                shard.threads.probabilities[rejected].tolist(),
                pair.direction,
            ),
            abs=1e-6,
        )


def test_model_of_a_pair_is_the_annotator() -> None:
    plan = plan_of(mining={"annotation": {"mode": "choice"}}, generation={"model": "judge"})

    assert select_pairs(shard_of([(1,), (0,)]), plan).pairs[0].model == "judge"


def test_ids_are_those_of_the_shards_numbers() -> None:
    shard = shard_of(*[[(1, 0), (0, 0), (0, 1)]] * 3, first=50, each=2)

    selected = select_pairs(shard, plan_of(mining={"pairs_per_post": 2}, attempts=16))

    assert shard.spec.start == 100
    assert [pair.pair_id for pair in selected.pairs] == [f"01234567-train-mined-{k:07d}" for k in range(100, 106)]
    assert [pair.post_id for pair in selected.pairs] == ["p50", "p50", "p51", "p51", "p52", "p52"]


@pytest.mark.parametrize("each", [1, 3])
@pytest.mark.parametrize("keys", [{}, {"min_margin": 0.45}, {"max_margin": 0.6}, {"clusters": 2}])
def test_pairs_and_rejections_are_those_of_the_reference(each: int, keys: dict[str, Any]) -> None:
    plan = plan_of(mining={"pairs_per_post": each} | keys, seed=7, attempts=3)
    shard = random_shard(1, 60, each)
    mining, threads = plan.config.mining, shard.threads
    assert mining is not None
    numbers = [uniforms(7, stream_key("mine", "train", attempt), np.arange(60 * each), 4) for attempt in range(3)]
    pairs, rejections, seen = [], [], Counter[str]()
    for thread, post in enumerate(threads.posts):
        rows = threads.rows(thread)
        indices = range(thread * each, (thread + 1) * each)
        slots: list[Slot] = mine(
            [threads.texts[row] for row in rows],
            [tuple(threads.levels[row].tolist()) for row in rows],
            [threads.probabilities[row].tolist() for row in rows],
            [[four[index].tolist() for four in numbers] for index in indices],
            cluster_seed(7, post.id),
            mining,
            plan.config.rules,
        )
        for index, slot in zip(indices, slots, strict=True):
            identity = shard.spec.record_id(FINGERPRINT, index)
            seen.update(slot.refused)
            if slot.pair:
                pairs.append((identity, *(threads.texts[rows[position]] for position in slot.pair), slot.attempt))
            rejections += [
                (identity, reason, attempt, not slot.pair and attempt + 1 == len(slot.refused))
                for attempt, reason in enumerate(slot.refused)
            ]

    found = select_pairs(shard, plan)

    assert [(pair.pair_id, pair.chosen, pair.rejected, pair.attempt) for pair in found.pairs] == pairs
    assert [(r.record_id, r.reason, r.attempt, r.final) for r in found.rejections] == rejections
    expected = {"length_ratio", "near_equal", "one_cluster", "too_few_responses"}
    expected |= {"repeated"} if each > 1 else set()
    expected |= {"margin"} if keys.keys() & {"min_margin", "max_margin"} else set()
    assert seen.keys() >= expected


def test_pairs_do_not_depend_on_how_threads_are_cut_into_shards() -> None:
    plan = plan_of(mining={"pairs_per_post": 2})

    def everything(*starts_and_counts: tuple[int, int]) -> list[tuple[str, str, str]]:
        found = []
        for first, count in starts_and_counts:
            whole = random_shard(2, 30, 2)
            levels = [whole.threads.levels[[*whole.threads.rows(t)]].tolist() for t in range(first, first + count)]
            texts = [[whole.threads.texts[row] for row in whole.threads.rows(t)] for t in range(first, first + count)]
            shard = select_pairs(shard_of(*levels, texts=texts, each=2, first=first), plan)
            found += [(pair.pair_id, pair.chosen, pair.rejected) for pair in shard.pairs]
        return found

    assert everything((0, 30)) == everything((0, 7), (7, 1), (8, 22))


def test_splits_draw_independently() -> None:
    levels = [[(1, 0, 0), (0, 1, 0), (0, 0, 1)]] * 40

    train, test = (
        select_pairs(shard_of(*levels, texts=shard_texts(40, 3), split=split), plan_of()) for split in ("train", "test")
    )

    assert [pair.chosen for pair in train.pairs] != [pair.chosen for pair in test.pairs]


def shard_texts(threads: int, responses: int) -> list[list[str]]:
    numbers = np.random.default_rng(9)
    return [[text_of(numbers) for _ in range(responses)] for _ in range(threads)]


def test_response_without_levels_is_never_drawn() -> None:
    levels = [[(1, 0), (0, 1), (1, 1), (-1, 0)]] * 30
    known = [[True, False, True, False]] * 30

    selected = select_pairs(shard_of(*levels, known=known), plan_of())

    assert [{pair.chosen_levels, pair.rejected_levels} for pair in selected.pairs] == [{(1, 0), (1, 1)}] * 30


@pytest.mark.parametrize("known", [[False, False, False], [True, False, False]])
def test_thread_of_which_fewer_than_two_responses_have_levels_is_lost(known: list[bool]) -> None:
    shard = shard_of([(1, 0), (0, 1), (1, 1)], known=[known], each=2)

    selected = select_pairs(shard, plan_of(mining={"pairs_per_post": 2}))

    assert not selected.pairs
    assert [r.reason for r in selected.rejections] == ["too_few_responses"] * 2
    assert [(r.record_id[-1], r.attempt, r.final, r.texts) for r in selected.rejections] == [
        ("0", 0, True, ()),
        ("1", 0, True, ()),
    ]


def test_thread_of_which_all_responses_have_the_same_levels_is_lost() -> None:
    selected = select_pairs(shard_of([(1, 0)] * 4, [(1, 0), (0, 1)]), plan_of())

    assert [pair.post_id for pair in selected.pairs] == ["p1"]
    assert [(r.reason, r.final, r.attempt, r.post_id) for r in selected.rejections] == [("one_cluster", True, 0, "p0")]
    assert selected.rejections[0].direction == (0, 0)


def rejected_always(texts: list[str], reason: str, **keys: Any) -> None:
    """Check that a thread whose two replies break a rule is lost after all attempts, and that each is reported."""
    selected = select_pairs(shard_of([(1, 0), (0, 1)], texts=[texts]), plan_of(attempts=3, **keys))

    assert not selected.pairs
    assert [(r.stage, r.reason, r.attempt, r.final) for r in selected.rejections] == [
        ("mine", reason, 0, False),
        ("mine", reason, 1, False),
        ("mine", reason, 2, True),
    ]
    for rejection in selected.rejections:
        assert set(rejection.texts) == {*texts}
        assert rejection.direction == ((1, -1) if rejection.texts[0] == texts[0] else (-1, 1))
        assert rejection.record_id == "01234567-train-mined-0000000"
        assert rejection.post_id == "p0"


def test_replies_of_very_different_length_are_no_pair() -> None:
    rejected_always(["short words of one reply", "long words of the other reply " * 20], "length_ratio")


def test_length_ratio_is_inclusive() -> None:
    texts = [["a" * 10 + " b c d e", "f" * 50 + " g h i j"]]
    assert len(texts[0][1]) == 58
    assert len(texts[0][0]) == 18

    for ratio, accepted in ((58 / 18, 1), (3.2, 0)):
        plan = plan_of(rules={"max_length_ratio": ratio})
        assert len(select_pairs(shard_of([(1, 0), (0, 1)], texts=texts), plan).pairs) == accepted


def test_nearly_equal_replies_are_no_pair() -> None:
    rejected_always(["you could try to bake it for an hour", "you could try to bake it for two hours"], "near_equal")


def test_replies_that_differ_in_case_and_punctuation_alone_are_no_pair() -> None:
    rejected_always(["You could -- try", "you could try"], "equal")


@pytest.mark.parametrize("bounds", [{"min_margin": 0.51}, {"max_margin": 0.49}])
def test_margin_out_of_its_band_is_no_pair(bounds: dict[str, float]) -> None:
    # Both dimensions are half of their range apart.
    rejected_always(["some words of one reply", "that other answer here"], "margin", mining=bounds)


@pytest.mark.parametrize("bounds", [{"min_margin": 0.5}, {"max_margin": 0.5}, {"min_margin": 0.5, "max_margin": 0.5}])
def test_bounds_of_the_margin_are_inclusive(bounds: dict[str, float]) -> None:
    assert select_pairs(shard_of([(1, 0), (0, 1)]), plan_of(mining=bounds)).pairs[0].margin == 0.5


def test_margin_uses_the_annotators_probabilities() -> None:
    found = shares((0.7, 0.1), (0.2, 0.2)), shares((0.1, 0.3), (0.2, 0.0))
    shard = shard_of([(1, 0), (0, 0)], shares=np.stack(found))

    (pair,) = select_pairs(shard, plan_of()).pairs

    # 0.6 against -0.2 is 0.4 apart, 0 against 0.2 is 0.1.
    assert pair.margin == pytest.approx(0.3, abs=1e-6)


def test_rejected_draw_is_drawn_again_with_fresh_numbers() -> None:
    """The third reply is too long to be in a pair with any other."""
    texts = [[*found, "long words " * 90] for found in shard_texts(60, 2)]
    plan = plan_of(attempts=16)

    selected = select_pairs(shard_of(*[[(1, 0), (0, 1), (1, 1)]] * 60, texts=texts), plan)

    assert texts_of(selected.pairs) == [{*found[:2]} for found in texts]
    assert not final(selected.rejections)
    attempts = {pair.pair_id: pair.attempt for pair in selected.pairs}
    assert len({*attempts.values()}) > 3
    reported = [(r.record_id, r.attempt) for r in selected.rejections]
    assert reported == [(identity, attempt) for identity, last in attempts.items() for attempt in range(last)]
    for rejection in selected.rejections:
        attempt = uniforms(0, stream_key("mine", "train", rejection.attempt), np.arange(60), 4)
        index = int(rejection.record_id[-7:])
        chosen, rejected = draw([0, 1, 2], attempt[index].tolist())
        assert rejection.texts == (texts[index][chosen], texts[index][rejected])


def test_no_pair_of_a_thread_is_repeated_not_even_turned_round() -> None:
    plan = plan_of(mining={"pairs_per_post": 4}, attempts=16)

    selected = select_pairs(shard_of([(1, 0), (0, 1), (1, 1)], each=4), plan)

    found = texts_of(selected.pairs)
    assert len(found) == 3
    assert all(found.count(texts) == 1 for texts in found)
    assert final(selected.rejections) == [("01234567-train-mined-0000003", "repeated")]
    assert {r.reason for r in selected.rejections} == {"repeated"}


def test_other_threads_may_have_the_same_pair() -> None:
    texts = shard_texts(1, 2) * 2

    assert len(select_pairs(shard_of(*[[(1, 0), (0, 1)]] * 2, texts=texts), plan_of()).pairs) == 2


def test_pair_that_was_rejected_is_not_taken() -> None:
    plan = plan_of(mining={"pairs_per_post": 2, "min_margin": 0.9}, attempts=2)

    selected = select_pairs(shard_of([(1, 0), (0, 1)], each=2), plan)

    assert [r.reason for r in selected.rejections] == ["margin"] * 4


@pytest.mark.parametrize("each", [1, 2, 5])
def test_every_slot_ends_as_a_pair_or_as_a_final_rejection(each: int) -> None:
    selected = select_pairs(random_shard(3, 50, each), plan_of(mining={"pairs_per_post": each}))

    ended = [pair.pair_id for pair in selected.pairs] + [identity for identity, _ in final(selected.rejections)]
    assert sorted(ended) == [f"01234567-train-mined-{k:07d}" for k in range(50 * each)]
    by_post = Counter(pair.post_id for pair in selected.pairs)
    assert max(by_post.values()) <= each


def test_what_annotation_spent_and_rejected_is_kept() -> None:
    shard = shard_of([(1, 0), (0, 1)])
    earlier = select_pairs(shard_of([(1, 0)]), plan_of()).rejections
    annotated = MinedShard(shard.spec, shard.threads, rejections=earlier, tokens=Tokens(70, 9, 4))

    selected = select_pairs(annotated, plan_of())

    assert list(selected.rejections) == list(earlier)
    assert len(selected.pairs) == 1
    assert selected.tokens == Tokens(70, 9, 4)
