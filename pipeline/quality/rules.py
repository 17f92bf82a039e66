"""When a generated pair is good enough: one rule, one reason. Pure functions of texts and configuration."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from rapidfuzz.distance import Indel

from pipeline.reading.text import control_character, without_mark, words
from schemas.config import RulesConfig


class Fault(NamedTuple):
    """A broken rule: its name, counted in the manifest, and what was found. `may_pass` as in `Failure`."""

    reason: str
    detail: str
    may_pass: bool = False


_QUOTES = {'"': '"', "'": "'", "\u201c": "\u201d", "\u2018": "\u2019", "*": "*"}


def clean_reply(text: str) -> str:
    """A reply without surrounding space, byte order mark, and quotation marks that enclose all of it."""
    text = without_mark(text.strip()).strip()
    while len(text) > 1 and _QUOTES.get(text[0]) == text[-1] and text[0] not in text[1:-1]:
        text = text[1:-1].strip()
    return text


def language_of(text: str) -> str:
    """The ISO 639-1 code of a text's language, as far as a classifier can tell."""
    # Only builds that configure a language load the classifier and its model.
    from py3langid.langid import classify

    code: str = classify(text)[0]
    return code


def judge_text(text: str, finish_reason: str, rules: RulesConfig) -> Fault | None:
    """The first rule that any generated text can break by itself: a reply, or a portrait."""
    if finish_reason != "stop":
        return Fault("unfinished", f"finish_reason {finish_reason}{'' if text.strip() else ', no text'}")
    # First of all, as other rules take their time with a long text.
    if len(text) > rules.max_characters:
        return Fault("too_long", f"{len(text)} characters")
    found = _words(text)
    if not found:
        return Fault("empty", "")
    control = control_character(text)
    if control:
        return Fault("control_character", control)
    if len(found) < rules.min_words:
        return Fault("too_short", f"{len(found)} words")
    fault = judge_tokens(text, rules)
    if fault:
        return fault
    plain = text.replace("\u2019", "'")
    for reason, pattern in _forbidden(rules.refusals, rules.markup):
        match = pattern.search(plain)
        if match:
            return Fault(reason, match[0][:80])
    trigrams = list(zip(found, found[1:], found[2:], strict=False))
    if trigrams and 1 - len(set(trigrams)) / len(trigrams) > rules.max_repeated_share:
        return Fault("repetitive", f"{len(set(trigrams))} of {len(trigrams)} trigrams are distinct")
    if rules.language is not None:
        language = language_of(text)
        if language != rules.language:
            return Fault("language", language)
    return None


def judge_tokens(text: str, rules: RulesConfig) -> Fault | None:
    """Return the fault of a text that holds a token of a chat template: a model would take it for one."""
    for pattern in _compiled(rules.control_tokens):
        match = pattern.search(text)
        if match:
            return Fault("markup", match[0][:80])
    return None


def judge_reply(text: str, finish_reason: str, prompts: Sequence[str], rules: RulesConfig) -> Fault | None:
    """The first rule that one reply breaks; `prompts` are all texts that it must not copy from."""
    fault = judge_text(text, finish_reason, rules)
    if fault:
        return fault
    grams = _grams(_words(text), rules.copied_ngram)
    for line in (line for prompt in prompts for line in prompt.splitlines()):
        copied = grams & _line_grams(line, rules.copied_ngram)
        if copied:
            return Fault("copied", " ".join(min(copied)))
    return None


def judge_pair(chosen: str, rejected: str, rules: RulesConfig) -> Fault | None:
    """The first rule that two replies, good by themselves, break together."""
    shorter, longer = sorted((len(chosen), len(rejected)))
    if longer > rules.max_length_ratio * shorter:
        return Fault("length_ratio", f"{longer} against {shorter} characters")
    if _words(chosen) == _words(rejected):
        return Fault("equal", "")
    similarity = Indel.normalized_similarity(chosen.casefold(), rejected.casefold(), score_cutoff=rules.max_similarity)
    if similarity >= rules.max_similarity:
        return Fault("near_equal", f"similarity {similarity:.2f}")
    return None


@lru_cache(maxsize=16)
def _words(text: str) -> list[str]:
    """Cached, as the rules of one row ask for the same few texts in turn."""
    return words(text)


@lru_cache(maxsize=512)
def _line_grams(line: str, size: int) -> frozenset[tuple[str, ...]]:
    """Cached: a post stands in both prompts of a pair, and a hint in those of many."""
    return frozenset(_grams(_words(line), size))


def _grams(words: list[str], size: int) -> set[tuple[str, ...]]:
    return set(zip(*(words[start:] for start in range(size)), strict=False))


@lru_cache
def _forbidden(refusals: tuple[str, ...], markup: tuple[str, ...]) -> list[tuple[str, re.Pattern[str]]]:
    """Compiled, with the reasons that they give. One word boundary before all refusals makes them fast."""
    joined = (rf"\b(?:{'|'.join(refusals)})",) if refusals else ()
    return [("refusal_or_meta", p) for p in _compiled(joined)] + [("markup", p) for p in _compiled(markup)]


@lru_cache
def _compiled(patterns: tuple[str, ...]) -> list[re.Pattern[str]]:
    return [re.compile(pattern, re.IGNORECASE | re.MULTILINE) for pattern in patterns]
