from __future__ import annotations

import math
import random
import zlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.report.diversity import EMBEDDER, ReplySample, distinct_share, self_bleu, vendi_score
from pipeline.report.settings import ReportSettings
from pipeline.report.texts import Words, words_of
from schemas.report import DiversityFigures
from tests.pipeline.report.builds import Row, merged, pair


def words(*texts: str) -> Words:
    return words_of(pa.array(texts, pa.string()))


def grams(text: Sequence[str], size: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(text[k : k + size]) for k in range(len(text) - size + 1))


def plain_bleu(text: list[str], references: list[list[str]]) -> float:
    """Return the BLEU-4 of a sentence by its definition: every n-gram against every reference."""
    logarithms, smoothing, matches = [], 1.0, 0
    for size in range(1, 5):
        own = grams(text, size)
        if not own:
            break
        matched = sum(min(times, max(grams(other, size)[gram] for other in references)) for gram, times in own.items())
        matches += matched
        if not matched:
            smoothing *= 2
        logarithms.append(math.log(matched / own.total() if matched else 1 / (smoothing * own.total())))
    nearest = min((len(other) for other in references), key=lambda length: (abs(length - len(text)), length))
    penalty = min(1.0, math.exp(1 - nearest / len(text)))
    return penalty * math.exp(sum(logarithms) / len(logarithms)) if matches else 0.0


def plain_self_bleu(texts: list[str]) -> float:
    listed = [text.lower().split() for text in texts]
    return sum(plain_bleu(text, listed[:k] + listed[k + 1 :]) for k, text in enumerate(listed)) / len(listed)


def some_texts(number: int, vocabulary: int) -> list[str]:
    rng = random.Random(vocabulary)
    return [" ".join(f"w{rng.randrange(vocabulary)}" for _ in range(rng.randint(2, 25))) for _ in range(number)]


@pytest.mark.parametrize("vocabulary", [3, 10, 40, 400])
def test_self_bleu_is_the_mean_of_each_text_against_all_others(vocabulary: int) -> None:
    texts = some_texts(30, vocabulary)

    assert self_bleu(words(*texts), 100) == pytest.approx(plain_self_bleu(texts))


def test_self_bleu_is_of_the_first_texts() -> None:
    texts = some_texts(30, 20)

    assert self_bleu(words(*texts), 10) == pytest.approx(plain_self_bleu(texts[:10]))


def test_self_bleu_goes_from_zero_to_one() -> None:
    assert self_bleu(words("the same text again", "the same text again"), 10) == pytest.approx(1)
    assert self_bleu(words("nothing in common", "with that one here"), 10) == 0


@pytest.mark.parametrize("texts", [[], ["one alone"], ["one and", "..."]])
def test_self_bleu_needs_two_texts(texts: list[str]) -> None:
    assert self_bleu(words(*texts), 10) is None


@pytest.mark.parametrize("size", [1, 2, 3])
def test_distinct_n_grams_are_a_share_of_all(size: int) -> None:
    texts = some_texts(40, 15)
    listed = [gram for text in texts for gram in grams(text.split(), size).elements()]

    assert distinct_share(words(*texts), size) == len(set(listed)) / len(listed)


def test_no_n_gram_is_none_distinct() -> None:
    assert distinct_share(words("one two"), 3) == 0


def test_vendi_score_counts_different_texts() -> None:
    different = ["apples and pears", "motors run hot", "violins sing softly", "winter snow falls"]

    assert vendi_score(["the very same text"] * 5) == pytest.approx(1)
    assert vendi_score(different * 5) == pytest.approx(4, rel=0.3)
    assert vendi_score(different * 5) == vendi_score(different * 5)


def test_vendi_score_is_the_entropy_of_the_cosines() -> None:
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts = some_texts(40, 30)
    vectors = TruncatedSVD(29, random_state=0).fit_transform(TfidfVectorizer(sublinear_tf=True).fit_transform(texts))
    cosines = np.array([[a @ b / np.linalg.norm(a) / np.linalg.norm(b) for b in vectors] for a in vectors])
    values = np.linalg.eigvalsh(cosines / len(texts))
    values = values[values > 1e-12]

    assert vendi_score(texts) == pytest.approx(math.exp(-sum(v * math.log(v) for v in values)), rel=0.02)


@pytest.mark.parametrize("texts", [[], ["one text"], ["!", "?"], ["same"] * 3])
def test_vendi_score_needs_texts_with_words(texts: list[str]) -> None:
    assert vendi_score(texts) is None


def figures_of(*parts: Sequence[Row], **settings: Any) -> DiversityFigures:
    chosen = ReportSettings(**settings)
    pairs = sum(not row["mirrored"] for part in parts for row in part)
    return merged(lambda: ReplySample(pairs, chosen), *parts).result(7)


def test_all_replies_are_sampled_where_they_are_few(rows: list[Row]) -> None:
    figures = figures_of(rows)
    replies = [row[name] for row in rows if not row["mirrored"] for name in ("chosen", "rejected")]
    size = len("\n".join(replies).encode())

    assert figures.sampled == figures.self_bleu_sampled == figures.vendi_sampled == len(replies)
    assert figures.distinct == tuple(distinct_share(words(*replies), size) for size in (1, 2, 3))
    # The order of the replies is another one.
    assert figures.compression_ratio == pytest.approx(size / len(zlib.compress("\n".join(replies).encode())), rel=0.05)
    assert figures.embedder == EMBEDDER
    assert figures.distinct_directions == 7


def test_samples_have_the_size_that_is_asked_for(rows: list[Row]) -> None:
    figures = figures_of(rows, diversity_replies=50, self_bleu_replies=20, vendi_replies=30)

    assert (figures.sampled, figures.self_bleu_sampled, figures.vendi_sampled) == (50, 20, 30)


def test_samples_do_not_depend_on_the_order(rows: list[Row]) -> None:
    sizes = {"diversity_replies": 50, "self_bleu_replies": 20, "vendi_replies": 30}

    assert figures_of(rows[100:], rows[:60], rows[60:100], **sizes) == figures_of(rows, **sizes)


def test_the_seed_chooses_the_sample(rows: list[Row]) -> None:
    assert figures_of(rows, diversity_replies=50, seed=1) != figures_of(rows, diversity_replies=50, seed=2)


def test_equal_replies_compress_well() -> None:
    rows = [row for k in range(50) for row in pair(f"p{k}", chosen="Call them tonight." * 3, rejected="No, wait.")]

    assert figures_of(rows).compression_ratio > 20


def test_nothing_sampled_is_nothing_measured(rows: list[Row]) -> None:
    figures = figures_of(rows, diversity_replies=0)

    assert (figures.sampled, figures.self_bleu, figures.vendi, figures.embedder) == (0, None, None, None)
    assert (figures.self_bleu_sampled, figures.vendi_sampled) == (0, 0)
