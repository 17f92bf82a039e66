from __future__ import annotations

import pyarrow as pa
import pytest

from pipeline.reading.text import count_words, hash_texts
from pipeline.report.texts import rehash, word_counts, words_of

TEXTS = [
    "",
    "One",
    "two Words, and more: it's five_six!",
    "  \n\t ",
    "ÜBER über Straße ΣΊΣΥΦΟΣ",
    "日本語 のテキスト mixed with ASCII",
    "한국어",
    "emoji 👩‍👩‍👧 and \x00 control \x1b[31m",
    "a" * 300,
    "x" * 200_000 + " y",
    "²³ ½ 12.5 ٣",
    "हिन्दी में, مُحَمَّدٌ و می\u200cخواهم",  # noqa: RUF001, Arabic is meant
    "ภาษาไทย ง่ายมาก ๑๒ก็ a\u0e31b \u0e31 မြန်မာ",
    "\u0301lone marks \u200d, cafe\u0301, I ❤\ufe0f it, か\u3099",
    "the end",
]


def arrow(*texts: str) -> pa.Array:
    return pa.array(texts, pa.string())


def test_words_are_counted_as_the_rules_count_them() -> None:
    expected = [count_words(text) for text in TEXTS]

    assert words_of(arrow(*TEXTS)).counts.tolist() == expected
    assert word_counts(arrow(*TEXTS)).tolist() == expected


def test_words_are_counted_in_many_texts() -> None:
    texts = [f"{'word ' * (k % 50)}猫" for k in range(5000)]

    assert word_counts(arrow(*texts)).tolist() == [k % 50 + 1 for k in range(5000)]
    assert words_of(arrow(*texts)).counts.tolist() == [k % 50 + 1 for k in range(5000)]


@pytest.mark.parametrize("texts", [[], ["", ""], ["..."]])
def test_texts_without_words_have_none(texts: list[str]) -> None:
    words = words_of(arrow(*texts))

    assert words.counts.tolist() == [0] * len(texts)
    assert len(words.grams(1).hashes) == len(words.grams(3).hashes) == 0
    assert word_counts(arrow(*texts)).tolist() == [0] * len(texts)


def test_equal_words_have_equal_hashes_whatever_their_case() -> None:
    words = words_of(arrow("Hello hello", "HELLO", "hell o", "olleh", "Über", "über"))

    first = words.hashes[0]
    assert (words.hashes[:3] == first).all()
    assert (words.hashes[3:6] != first).all()
    assert words.hashes[6] == words.hashes[7]


def test_positions_are_those_of_the_words_in_their_texts() -> None:
    texts = ["Say: hello, world", "é 猫犬 done"]
    words = words_of(arrow(*texts))

    found = [texts[t][a:b] for t, a, b in zip(words.texts, words.starts, words.ends, strict=True)]
    assert found == ["Say", "hello", "world", "é", "猫", "犬", "done"]


@pytest.mark.parametrize("size", [1, 2, 3, 13])
def test_runs_of_words_stay_within_a_text(size: int) -> None:
    texts = ["a b c d a b c", "c d", "", "a b c", " ".join("abcdefghijklmnop")]
    words = words_of(arrow(*texts))
    plain = [tuple(text.split()[k : k + size]) for text in texts for k in range(len(text.split()) - size + 1)]

    hashes = words.grams(size).hashes.tolist()

    assert len(hashes) == len(plain)
    assert len(set(hashes)) == len(set(plain)) == len(set(zip(hashes, plain, strict=True)))


def test_the_order_of_words_counts() -> None:
    grams = words_of(arrow("a b", "b a")).grams(2).hashes

    assert grams[0] != grams[1]


def test_texts_that_differ_in_a_letter_have_different_hashes() -> None:
    hashes = hash_texts(["a", "A", "a ", "a"])

    assert hashes[0] == hashes[3]
    assert len(set(hashes.tolist())) == 3


def test_another_salt_gives_other_keys() -> None:
    hashes = hash_texts(["a", "b"])

    assert set(rehash(hashes, 0).tolist()).isdisjoint(rehash(hashes, 1).tolist())
    assert rehash(hashes, -1).tolist() == rehash(hashes, -1).tolist()
