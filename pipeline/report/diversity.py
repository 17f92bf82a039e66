"""Diversity of replies: distinct n-grams, compression, self-BLEU, and the Vendi score."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from threadpoolctl import threadpool_limits

from pipeline.report.settings import ReportSettings
from pipeline.report.source import Batch
from pipeline.report.tallies import TextSample
from pipeline.report.texts import Integers, Words, rehash, words_of
from schemas.report import DiversityFigures

EMBEDDER = "TF-IDF and truncated SVD (scikit-learn)"

_SAMPLE_BYTES = 16 << 20
_ORDERS = 4
_COMPONENTS = 256


class ReplySample:
    """A sample of replies drawn by a hash of the row's id, half of them chosen and half rejected."""

    def __init__(self, pairs: int, settings: ReportSettings) -> None:
        self._settings = settings
        self._sample = TextSample(settings.diversity_replies, _SAMPLE_BYTES, 2 * pairs)

    def add(self, batch: Batch) -> None:
        """Add a batch's replies that the sample admits."""
        ids, seed = batch.keys[batch.pairs], 2 * self._settings.seed
        keys = np.concatenate([rehash(ids, seed), rehash(ids, seed + 1)])
        taken = np.flatnonzero(self._sample.admits(keys))
        for key, text in zip(keys[taken].tolist(), batch.replies.take(pa.array(taken)).to_pylist(), strict=True):
            self._sample.add(key, text)

    def merge(self, other: ReplySample) -> None:
        """Add the replies of another sample."""
        self._sample.merge(other._sample)

    def result(self, distinct_directions: int) -> DiversityFigures:
        """Return the figures. The smaller samples are the first replies of the large one."""
        settings = self._settings
        texts = self._sample.result()
        words = words_of(pa.array(texts, pa.string()))
        overlap = self_bleu(words, settings.self_bleu_replies)
        score = vendi_score(texts[: settings.vendi_replies])
        joined = "\n".join(texts).encode()
        return DiversityFigures(
            distinct=tuple(distinct_share(words, size) for size in (1, 2, 3)),
            compression_ratio=len(joined) / len(zlib.compress(joined)),
            self_bleu=overlap,
            vendi=score,
            sampled=len(texts),
            self_bleu_sampled=0 if overlap is None else min(len(texts), settings.self_bleu_replies),
            vendi_sampled=0 if score is None else min(len(texts), settings.vendi_replies),
            embedder=None if score is None else EMBEDDER,
            distinct_directions=distinct_directions,
        )


def distinct_share(words: Words, size: int) -> float:
    """Return distinct n-grams divided by all n-grams (Li et al. 2016); 0 where there are none."""
    hashes = words.grams(size).hashes
    return len(np.unique(hashes)) / max(1, len(hashes))


class _MaxCounts(NamedTuple):
    """Counts of an n-gram: the most in one text, that text, and the most in any other text."""

    most: int
    text: int
    elsewhere: int

    def outside(self, text: int) -> int:
        """Return the most occurrences in one text other than `text`."""
        return self.elsewhere if self.text == text else self.most


def self_bleu(words: Words, count: int) -> float | None:
    """Return the mean BLEU-4 of each of the first `count` texts against the others; None for fewer than two.

    Self-BLEU is of Zhu et al. (2018). Sentences are scored as by sacreBLEU, with exponential smoothing and only the
    orders that the text has, on a scale of 0 to 1. The largest count of each n-gram is kept once for all texts, so the
    time is proportional to the number of words.
    """
    ends = np.cumsum(words.counts)[:count]
    starts = ends - words.counts[:count]
    texts = [words.hashes[start:end].tolist() for start, end in zip(starts, ends, strict=True) if start < end]
    if len(texts) < 2:
        return None
    counts = [[Counter(_runs(text, order)) for order in range(1, _ORDERS + 1)] for text in texts]
    most: dict[tuple[int, ...], _MaxCounts] = {}
    for number, orders in enumerate(counts):
        for gram, times in ((gram, times) for order in orders for gram, times in order.items()):
            best = most.get(gram)
            if best is None or times > best.most:
                most[gram] = _MaxCounts(times, number, best.most if best else 0)
            elif times > best.elsewhere:
                most[gram] = best._replace(elsewhere=times)
    lengths = np.sort([len(text) for text in texts])
    return float(np.mean([_bleu(number, orders, most, lengths) for number, orders in enumerate(counts)]))


def _runs(text: Sequence[int], order: int) -> zip[tuple[int, ...]]:
    return zip(*(text[k:] for k in range(order)), strict=False)


def _bleu(
    number: int, orders: list[Counter[tuple[int, ...]]], most: dict[tuple[int, ...], _MaxCounts], lengths: Integers
) -> float:
    """Return the BLEU of a text against all others; `lengths` are sorted and of all texts."""
    totals = [order.total() for order in orders if order]
    matches = [
        sum(min(times, most[gram].outside(number)) for gram, times in order.items()) for order in orders if order
    ]
    if not any(matches):
        return 0.0
    logarithms, smoothing = [], 1.0
    for matched, total in zip(matches, totals, strict=True):
        smoothing *= 1 if matched else 2
        logarithms.append(np.log((matched or 1 / smoothing) / total))
    own = orders[0].total()
    # The nearest length among the others; of two at equal distance the shorter.
    others = np.delete(lengths, np.searchsorted(lengths, own))
    nearest = min(others.tolist(), key=lambda length: (abs(length - own), length))
    return float(np.exp(np.mean(logarithms) + min(0.0, 1 - nearest / own)))


def vendi_score(texts: Sequence[str]) -> float | None:
    """Return the Vendi score (Friedman and Dieng 2023), from 1 to 256; None where there are too few words to embed.

    The score is the effective number of different texts: the exponential of the entropy of the eigenvalues of K / n,
    where K holds the cosines of the n texts. Latent semantic analysis of these texts embeds them, which needs no model.
    """
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    try:
        weights = TfidfVectorizer(sublinear_tf=True).fit_transform(texts)
    except ValueError:
        # The texts hold no word.
        return None
    size = min(_COMPONENTS, weights.shape[1] - 1, len(texts) - 1)
    if size < 1:
        return None
    # One thread, so that the last bits are the same everywhere. scikit-learn computes a variance that nobody uses,
    # which divides by zero for equal texts.
    with threadpool_limits(1), np.errstate(all="ignore"):
        vectors = TruncatedSVD(size, random_state=0).fit_transform(weights)
        norms = np.linalg.norm(vectors, axis=1)
        vectors = vectors[norms > 0] / norms[norms > 0, None]
        # K / n and this smaller matrix have the same eigenvalues except for zeros.
        values = np.linalg.eigvalsh(vectors.T @ vectors / len(vectors))
    values = values[values > 1e-12]
    return round(float(np.exp(-(values * np.log(values)).sum())), 3)
