"""Rules for texts and pairs, as pure functions of texts and configuration. Each rule has a reason that is counted."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from pydantic import ValidationError
from rapidfuzz.distance import Indel

from pipeline.reading.text import find_control_character, words
from schemas.config import RulesConfig
from schemas.records import Kind


class Violation(NamedTuple):
    """A broken rule: its name, which the manifest counts, and what was found.

    It has the fields of a request's `Failure`, so that either is the cause of a `Rejection`.
    """

    reason: str
    detail: str

    @property
    def may_pass(self) -> bool:
        """Return False: the same request would break the rule again."""
        return False


def detect_language(text: str) -> str:
    """Return the ISO 639-1 code of the likeliest language of a text."""
    # Imported here, as only builds that configure a language need the classifier and its model.
    from py3langid.langid import classify

    code: str = classify(text)[0]
    return code


def check_text(text: str, finish_reason: str, rules: RulesConfig) -> Violation | None:
    """Return the first rule that a reply or a portrait breaks, apart from its prompt and its pair."""
    if finish_reason != "stop":
        return Violation("unfinished", f"finish_reason {finish_reason}{'' if text.strip() else ', no text'}")
    # Checked first, as other rules are slow on a long text.
    if len(text) > rules.max_characters:
        return Violation("too_long", f"{len(text)} characters")
    found = _words(text)
    if not found:
        return Violation("empty", "")
    if text.endswith((":", "\uff1a")):
        return Violation("lead_in_alone", text[-80:])
    if control := find_control_character(text):
        return Violation("control_character", control)
    if len(found) < rules.min_words:
        return Violation("too_short", f"{len(found)} words")
    if violation := check_control_tokens(text, rules):
        return violation
    plain = text.replace("\u2019", "'")
    lower = plain.lower()
    for reason, pattern in _forbidden(rules.refusals, rules.markup):
        if match := pattern.search(plain, lower):
            return Violation(reason, match[0][:80])
    trigrams = list(zip(found, found[1:], found[2:], strict=False))
    if trigrams and 1 - len(set(trigrams)) / len(trigrams) > rules.max_repeated_share:
        return Violation("repetitive", f"{len(set(trigrams))} of {len(trigrams)} trigrams are distinct")
    if rules.language is not None:
        language = detect_language(text)
        if language != rules.language:
            return Violation("language", language)
    return None


def check_control_tokens(text: str, rules: RulesConfig) -> Violation | None:
    """Return a violation if the text holds a control token of a chat template, which a model would obey."""
    lower = text.lower()
    for pattern in _compiled(rules.control_tokens):
        if match := pattern.search(text, lower):
            return Violation("control_token", match[0][:80])
    return None


def check_reply(text: str, finish_reason: str, prompts: Sequence[str], rules: RulesConfig) -> Violation | None:
    """Return the first rule that a reply breaks.

    Args:
        text: The reply, cleaned.
        finish_reason: As the server gave it.
        prompts: Texts that the reply must not copy from.
        rules: Thresholds.
    """
    if violation := check_text(text, finish_reason, rules):
        return violation
    grams = _grams(_words(text), rules.copied_ngram)
    for line in (line for prompt in prompts for line in prompt.splitlines()):
        if copied := grams & _line_grams(line, rules.copied_ngram):
            return Violation("copied", " ".join(min(copied)))
    return None


def check_pair(chosen: str, rejected: str, rules: RulesConfig, kind: Kind = "opposite") -> Violation | None:
    """Return the first rule that the two replies of a pair break together.

    A plain answer to a question of fact is short by nature, so restraint pairs may differ in length.
    """
    shorter, longer = sorted((len(chosen), len(rejected)))
    if kind != "restraint" and longer > rules.max_length_ratio * shorter:
        return Violation("length_ratio", f"{longer} against {shorter} characters")
    if _words(chosen) == _words(rejected):
        return Violation("equal", "")
    similarity = Indel.normalized_similarity(chosen.casefold(), rejected.casefold(), score_cutoff=rules.max_similarity)
    if similarity >= rules.max_similarity:
        return Violation("near_equal", f"similarity {similarity:.2f}")
    return None


def schema_violation(error: ValidationError) -> Violation:
    """Return the violation of a record that its schema refuses."""
    return Violation("schema", "; ".join(problem["msg"] for problem in error.errors()))


@lru_cache(maxsize=16)
def _words(text: str) -> list[str]:
    """Cached, as the rules of a row need the words of the same texts."""
    return words(text)


@lru_cache(maxsize=512)
def _line_grams(line: str, size: int) -> frozenset[tuple[str, ...]]:
    """Cached, as both prompts of a pair hold the post, and the prompts of many pairs hold a hint."""
    return frozenset(_grams(_words(line), size))


def _grams(words: list[str], size: int) -> set[tuple[str, ...]]:
    return set(zip(*(words[start:] for start in range(size)), strict=False))


class _AnyCase:
    """A pattern that is searched in any case, per line.

    Python's `re` takes three times as long for that as for a text in lower case. So a pattern without capital letters
    is first searched in such a text, where nearly all searches end.
    """

    def __init__(self, pattern: str) -> None:
        self._exact = re.compile(pattern, re.IGNORECASE | re.MULTILINE)
        letters = re.sub(r"\\.", "", pattern)
        self._quick = re.compile(pattern, re.MULTILINE) if letters == letters.lower() else None

    def search(self, text: str, lower: str) -> re.Match[str] | None:
        """Return the first match in a text, whose lower case is given too."""
        if self._quick is not None and not self._quick.search(lower):
            return None
        return self._exact.search(text)


@lru_cache
def _forbidden(refusals: tuple[str, ...], markup: tuple[str, ...]) -> list[tuple[str, _AnyCase]]:
    """Return compiled patterns with their reasons. One word boundary before all refusals makes the search fast."""
    joined = (rf"\b(?:{'|'.join(refusals)})",) if refusals else ()
    return [("refusal_or_meta", p) for p in _compiled(joined)] + [("markup", p) for p in _compiled(markup)]


@lru_cache
def _compiled(patterns: tuple[str, ...]) -> list[_AnyCase]:
    return [_AnyCase(pattern) for pattern in patterns]
