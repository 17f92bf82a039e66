"""When a generated pair is good enough: one rule, one reason. Pure functions of texts and configuration."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from rapidfuzz.distance import Indel

from schemas.config import ValidationConfig


class Fault(NamedTuple):
    """A broken rule: its name, counted in the manifest, and what was found."""

    reason: str
    detail: str


# Chinese, Japanese and Korean are written without spaces: there each character counts as a word.
_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")

_QUOTES = {'"': '"', "'": "'", "\u201c": "\u201d", "\u2018": "\u2019", "*": "*"}


def clean_reply(text: str) -> str:
    """A reply without surrounding space, and without quotation marks that enclose all of it."""
    text = text.strip()
    while len(text) > 1 and _QUOTES.get(text[0]) == text[-1] and text[0] not in text[1:-1]:
        text = text[1:-1].strip()
    return text


def count_words(text: str) -> int:
    """Words of a text; of languages without spaces, characters."""
    return sum(1 for _ in _WORD.finditer(text))


def language_of(text: str) -> str:
    """The ISO 639-1 code of a text's language, as far as a classifier can tell."""
    # Only builds that configure a language load the classifier and its model.
    from py3langid.langid import classify

    code: str = classify(text)[0]
    return code


def judge_text(text: str, finish_reason: str, rules: ValidationConfig) -> Fault | None:
    """The first rule that any generated text can break by itself: a reply, or a portrait."""
    words = _words(text)
    if finish_reason != "stop":
        return Fault("unfinished", f"finish_reason {finish_reason}{'' if words else ', no text'}")
    if not words:
        return Fault("empty", "")
    if len(words) < rules.min_words:
        return Fault("too_short", f"{len(words)} words")
    plain = text.replace("\u2019", "'")
    for reason, pattern in _forbidden(rules.refusals, rules.markup):
        found = pattern.search(plain)
        if found:
            return Fault(reason, found.group(0)[:80])
    trigrams = list(zip(words, words[1:], words[2:], strict=False))
    if trigrams and 1 - len(set(trigrams)) / len(trigrams) > rules.repeated_share:
        return Fault("repetitive", f"{len(set(trigrams))} of {len(trigrams)} trigrams are distinct")
    if rules.language is not None:
        language = language_of(text)
        if language != rules.language:
            return Fault("language", language)
    return None


def judge_reply(text: str, finish_reason: str, prompts: Sequence[str], rules: ValidationConfig) -> Fault | None:
    """The first rule that one reply breaks; `prompts` are all texts that it must not copy from."""
    fault = judge_text(text, finish_reason, rules)
    if fault:
        return fault
    grams = _grams(_words(text), rules.copied_words)
    for line in (line for prompt in prompts for line in prompt.splitlines()):
        copied = grams & _line_grams(line, rules.copied_words)
        if copied:
            return Fault("copied", " ".join(min(copied)))
    return None


def judge_pair(chosen: str, rejected: str, rules: ValidationConfig) -> Fault | None:
    """The first rule that two replies, good by themselves, break together."""
    shorter, longer = sorted((len(chosen), len(rejected)))
    if longer > rules.length_ratio_max * shorter:
        return Fault("length_ratio", f"{longer} against {shorter} characters")
    if _words(chosen) == _words(rejected):
        return Fault("equal", "")
    similarity = Indel.normalized_similarity(chosen.casefold(), rejected.casefold(), score_cutoff=rules.near_equal)
    if similarity >= rules.near_equal:
        return Fault("near_equal", f"similarity {similarity:.2f}")
    return None


@lru_cache(maxsize=16)
def _words(text: str) -> list[str]:
    """Cached, as the rules of one row ask for the same few texts in turn."""
    return _WORD.findall(text.casefold())


@lru_cache(maxsize=512)
def _line_grams(line: str, size: int) -> frozenset[tuple[str, ...]]:
    """Cached: a post stands in both prompts of a pair, and a hint in those of many."""
    return frozenset(_grams(_words(line), size))


def _grams(words: list[str], size: int) -> set[tuple[str, ...]]:
    return set(zip(*(words[start:] for start in range(size)), strict=False))


@lru_cache
def _forbidden(refusals: tuple[str, ...], markup: tuple[str, ...]) -> list[tuple[str, re.Pattern[str]]]:
    """Compiled, with the reasons that they give. One word boundary before all refusals makes them fast."""
    flags = re.IGNORECASE | re.MULTILINE
    patterns = [("refusal_or_meta", rf"\b(?:{'|'.join(refusals)})")] if refusals else []
    return [(reason, re.compile(p, flags)) for reason, p in (*patterns, *(("markup", p) for p in markup))]
