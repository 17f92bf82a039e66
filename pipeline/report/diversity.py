"""How much replies differ: repeated n-grams, compression, overlap with each other, and the number of different ones."""

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
from pipeline.report.tallies import DrawnTexts
from pipeline.report.texts import Integers, Words, salted, words_of
from schemas.report import DiversityFigures

EMBEDDER = "TF-IDF and truncated SVD (scikit-learn)"

_SAMPLE_BYTES = 16 << 20
_ORDERS = 4
_COMPONENTS = 256


class ReplySample:
    """Replies drawn by a hash of the row's id: half chosen, half rejected ones."""

    def __init__(self, pairs: int, settings: ReportSettings) -> None:
        self._settings = settings
        self._sample = DrawnTexts(settings.diversity_replies, _SAMPLE_BYTES, 2 * pairs)

    def add(self, batch: Batch) -> None:
        """Offer a batch's replies."""
        ids, seed = batch.keys[batch.pairs], 2 * self._settings.seed
        keys = np.concatenate([salted(ids, seed), salted(ids, seed + 1)])
        taken = np.flatnonzero(self._sample.admits(keys))
        for key, text in zip(keys[taken].tolist(), batch.replies.take(pa.array(taken)).to_pylist(), strict=True):
            self._sample.add(key, text)

    def merge(self, other: ReplySample) -> None:
        """Offer all that another has drawn."""
        self._sample.merge(other._sample)

    def result(self, distinct_directions: int) -> DiversityFigures:
        """The figures; the smaller samples are the first replies of the large one."""
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
    """Distinct n-grams divided by all (Li et al. 2016); 0 where there are none."""
    hashes = words.grams(size).hashes
    return len(np.unique(hashes)) / max(1, len(hashes))


class _Most(NamedTuple):
    """How often an n-gram occurs in the text that holds it most often, which text that is, and in any other text."""

    most: int
    text: int
    elsewhere: int

    def outside(self, text: int) -> int:
        """How often it occurs in any one of the others."""
        return self.elsewhere if self.text == text else self.most


def self_bleu(words: Words, count: int) -> float | None:
    """Mean BLEU-4 of each of the first `count` texts against all others of them (Zhu et al. 2018); None for one text.

    As sacreBLEU scores a sentence: exponential smoothing, and only orders that the text has (from 0 to 1 here). What
    the others hold of an n-gram at most is kept once for all of them, so the time is proportional to the words.
    """
    ends = np.cumsum(words.counts)[:count]
    starts = ends - words.counts[:count]
    texts = [words.hashes[start:end].tolist() for start, end in zip(starts, ends, strict=True) if start < end]
    if len(texts) < 2:
        return None
    counts = [[Counter(_runs(text, order)) for order in range(1, _ORDERS + 1)] for text in texts]
    most: dict[tuple[int, ...], _Most] = {}
    for number, orders in enumerate(counts):
        for gram, times in ((gram, times) for order in orders for gram, times in order.items()):
            best = most.get(gram)
            if best is None or times > best.most:
                most[gram] = _Most(times, number, best.most if best else 0)
            elif times > best.elsewhere:
                most[gram] = best._replace(elsewhere=times)
    lengths = np.sort([len(text) for text in texts])
    return float(np.mean([_bleu(number, orders, most, lengths) for number, orders in enumerate(counts)]))


def _runs(text: Sequence[int], order: int) -> zip[tuple[int, ...]]:
    return zip(*(text[k:] for k in range(order)), strict=False)


def _bleu(
    number: int, orders: list[Counter[tuple[int, ...]]], most: dict[tuple[int, ...], _Most], lengths: Integers
) -> float:
    """BLEU of a text against all others; `lengths` are those of all, sorted."""
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
    # The nearest length among the others; of two that are equally near the shorter.
    others = np.delete(lengths, np.searchsorted(lengths, own))
    nearest = min(others.tolist(), key=lambda length: (abs(length - own), length))
    return float(np.exp(np.mean(logarithms) + min(0.0, 1 - nearest / own)))


def vendi_score(texts: Sequence[str]) -> float | None:
    """The effective number of different texts (Friedman and Dieng 2023), from 1 to 256; None for too few to embed.

    That is the exponential of the entropy of the eigenvalues of K / n, where K holds the cosines of the n texts. They
    are embedded by what is installed everywhere: latent semantic analysis of the very texts.
    """
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    try:
        weights = TfidfVectorizer(sublinear_tf=True).fit_transform(texts)
    except ValueError:
        # There is no word in them.
        return None
    size = min(_COMPONENTS, weights.shape[1] - 1, len(texts) - 1)
    if size < 1:
        return None
    # One thread, so that the last bits are the same everywhere. Of equal texts a variance is computed that is not
    # asked for, and divided by.
    with threadpool_limits(1), np.errstate(all="ignore"):
        vectors = TruncatedSVD(size, random_state=0).fit_transform(weights)
        norms = np.linalg.norm(vectors, axis=1)
        vectors = vectors[norms > 0] / norms[norms > 0, None]
        # K / n and this smaller matrix have the same eigenvalues, but for zeros.
        values = np.linalg.eigvalsh(vectors.T @ vectors / len(vectors))
    values = values[values > 1e-12]
    return round(float(np.exp(-(values * np.log(values)).sum())), 3)
