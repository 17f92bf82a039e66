from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest

from pipeline.report.near_duplicates import NearPairs, NearSample, Replies, find_near
from pipeline.report.source import Batch
from tests.pipeline.report.builds import batch_of, pair, sent

VOCABULARY = [f"w{k}" for k in range(5000)]


def reply(seed: int, words: int = 60) -> list[str]:
    return random.Random(seed).sample(VOCABULARY, words)


def jaccard(one: str, other: str) -> float:
    """Return the exact Jaccard similarity of word trigrams."""
    sets = [{tuple(text.split()[k : k + 3]) for k in range(len(text.split()) - 2)} for text in (one, other)]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def with_tail(words: Sequence[str], changed: int) -> str:
    """Return the text with its last words changed."""
    return " ".join([*words[: len(words) - changed], *(f"other{k}" for k in range(changed))])


def batch(texts: Sequence[str], split: int = 0, shard: int | None = None) -> Batch:
    """Return pairs with the texts as chosen replies and unrelated rejected replies."""
    shard = split if shard is None else shard
    rows = []
    for k, text in enumerate(texts):
        unlike = " ".join(reply(10_000 * (split + 1) + 1000 * shard + k, 40))
        rows += pair(f"p{split}{shard}{k}", chosen=text, rejected=unlike)
    return batch_of(rows, split, shard)


def sample_of(*batches: Batch, expected: int = 10, limit: int = 10_000) -> NearSample:
    sample = NearSample(expected, limit, 0)
    for one in batches:
        sample.add(one)
    return sample


def numbers(pairs: NearPairs) -> tuple[int, int]:
    return int((pairs.within >= 0).sum()), int((pairs.across >= 0).sum())


def found(*batches: Batch) -> tuple[int, int]:
    return numbers(find_near(sample_of(*batches).result()))


def test_replies_that_are_alike_are_found_and_others_are_not() -> None:
    texts = []
    for seed in range(30):
        words = reply(seed)
        texts += [" ".join(words), with_tail(words, 3)]
    unlike = [text for seed in range(30, 60) for text in (" ".join(reply(seed)), with_tail(reply(seed), 22))]

    assert jaccard(texts[0], texts[1]) == pytest.approx(0.9, abs=0.02)
    assert jaccard(unlike[0], unlike[1]) == pytest.approx(0.45, abs=0.03)
    assert found(batch(texts)) == (30, 0)
    assert found(batch(unlike)) == (0, 0)


def test_equal_replies_are_no_near_duplicates() -> None:
    text = " ".join(reply(0))

    assert found(batch([text, text])) == (0, 0)
    assert found(batch([text]), batch([text], split=1)) == (0, 0)


def test_case_and_punctuation_make_a_near_duplicate() -> None:
    text = " ".join(reply(0))

    assert found(batch([text, text.upper() + "!"])) == (1, 0)


def test_near_duplicates_of_two_splits_are_found_on_both_sides() -> None:
    words = reply(0)

    assert found(batch([" ".join(words)]), batch([with_tail(words, 2)], split=1)) == (0, 2)


def test_the_first_of_a_split_is_no_duplicate() -> None:
    words = reply(0)

    assert found(batch([with_tail(words, k) for k in range(5)])) == (4, 0)


def test_many_alike_are_all_found() -> None:
    words = reply(0, 200)
    texts = [with_tail(words, k % 8) + f" {k}" for k in range(100)]

    assert found(batch(texts), batch([*texts[:50], "another one, quite short"], split=2)) == (99 + 49, 100 + 50)


def test_replies_of_two_words_are_left_out() -> None:
    sample = sample_of(batch(["One two", "One two!", "One"]))

    assert len(sample.result().keys) == 3


def test_many_replies_are_sampled_so_that_near_duplicates_stay_together() -> None:
    texts = [text for seed in range(1000) for text in (" ".join(reply(seed, 30)), with_tail(reply(seed, 30), 1))]
    sample = sample_of(batch(texts), expected=4000, limit=1000)

    replies = sample.result()
    within, _ = numbers(find_near(replies))

    assert len(replies.keys) == pytest.approx(1000, rel=0.15)
    # A quarter of 1000; of replies drawn one by one it would be a sixteenth.
    assert within == pytest.approx(250, rel=0.2)


def test_sample_stays_small_where_all_share_their_smallest_trigram() -> None:
    texts = [f"{'same words again ' * 40}{k}" for k in range(300)]
    sample = sample_of(batch(texts), expected=100, limit=100)

    assert sum(len(part.keys) for part in sample._parts) <= 200
    assert len(sample.result().keys) <= 200


def test_nothing_is_sampled_where_nothing_is_wanted() -> None:
    assert found(batch([])) == (0, 0)
    assert len(sample_of(batch(["a b c d"]), limit=0).result().keys) == 0


def test_merging_in_any_order_gives_the_same_sample() -> None:
    batches = [
        batch([with_tail(reply(s % 20), s % 5) for s in range(k, k + 40)], shard=k // 40) for k in range(0, 160, 40)
    ]
    whole = sample_of(*batches, expected=320, limit=100)
    results = [whole.result()]
    for order in ((0, 1, 2, 3), (3, 1, 0, 2)):
        total = NearSample(320, 100, 0)
        for k in order:
            total.merge(sent(sample_of(batches[k], expected=320, limit=100)))
        results.append(total.result())

    for other in results[1:]:
        assert all(np.array_equal(getattr(results[0], name), getattr(other, name)) for name in Replies._fields)


def test_no_replies_have_no_near_duplicates() -> None:
    empty: Replies = sample_of().result()

    assert numbers(find_near(empty)) == (0, 0)
