"""Published rating datasets as threads: each response's level is its rating against the median of its thread."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import groupby
from statistics import median
from typing import Any

from schemas.base import UsageError

Rows = Iterable[Mapping[str, Any]]
"""Rows of a dataset, in its order."""

Adapter = Callable[[Rows], Iterator[dict[str, Any]]]
"""Turns rows into threads: `{"post": str, "responses": [{"id": str, "text": str, "levels": {slug: level}}, ...]}`."""

_ULTRAFEEDBACK_SLUGS = ("instruction_following", "honesty", "truthfulness", "helpfulness")

# By the slug of the dimension. `verbosity` has no counterpart.
_HELPSTEER2_COLUMNS = {
    "truthfulness": "correctness",
    "helpfulness": "helpfulness",
    "coherence": "coherence",
    "complexity": "complexity",
}
_PKU_SAFERLHF_COLUMNS = {"harmlessness": "safer_response_id", "helpfulness": "better_response_id"}


def ultrafeedback(rows: Rows) -> Iterator[dict[str, Any]]:
    """Threads of openbmb/UltraFeedback: one a row; a response's id is its model."""
    for number, row in enumerate(rows, 1):
        _check("ultrafeedback", number, row, ("instruction", "completions"))
        responses = []
        taken: set[str] = set()
        for completion in row["completions"] or ():
            _check("ultrafeedback", number, completion, ("model", "response", "annotations"), "completions.")
            identity = _untaken(str(completion["model"]), taken)
            taken.add(identity)
            annotations = completion["annotations"] or {}
            ratings = {slug: (annotations.get(slug) or {}).get("Rating") for slug in _ULTRAFEEDBACK_SLUGS}
            responses.append((identity, completion["response"], ratings))
        yield from _thread(row["instruction"], responses)


def helpsteer2(rows: Rows) -> Iterator[dict[str, Any]]:
    """Threads of nvidia/HelpSteer2: the rows of equal prompts that follow one another."""

    def prompt(numbered: tuple[int, Mapping[str, Any]]) -> Any:
        number, row = numbered
        _check("helpsteer2", number, row, ("prompt", "response", *_HELPSTEER2_COLUMNS.values()))
        return row["prompt"]

    for post, group in groupby(enumerate(rows, 1), prompt):
        yield from _thread(
            post,
            [
                (f"response_{k}", row["response"], {slug: row[c] for slug, c in _HELPSTEER2_COLUMNS.items()})
                for k, (_, row) in enumerate(group)
            ],
        )


def pku_saferlhf(rows: Rows) -> Iterator[dict[str, Any]]:
    """Threads of PKU-Alignment/PKU-SafeRLHF: one a row, of two responses."""
    texts = ("response_0", "response_1")
    for number, row in enumerate(rows, 1):
        _check("pku_saferlhf", number, row, ("prompt", *texts, *_PKU_SAFERLHF_COLUMNS.values()))
        yield from _thread(
            row["prompt"],
            [
                (column, row[column], {slug: _number(row[c]) == k for slug, c in _PKU_SAFERLHF_COLUMNS.items()})
                for k, column in enumerate(texts)
            ],
        )


ADAPTERS: dict[str, Adapter] = {
    "ultrafeedback": ultrafeedback,
    "helpsteer2": helpsteer2,
    "pku_saferlhf": pku_saferlhf,
}


def _check(adapter: str, number: int, row: Mapping[str, Any], needed: Iterable[str], within: str = "") -> None:
    for column in needed:
        if column not in row:
            raise UsageError(
                f"{adapter}: row {number} has no column '{within}{column}'; "
                f"it has {', '.join(f'{within}{name}' for name in row) or 'none'}"
            )


def _thread(post: Any, responses: Iterable[tuple[str, Any, Mapping[str, Any]]]) -> Iterator[dict[str, Any]]:
    """The thread of a post and of its responses' ids, texts and ratings by slug, if two of them or more have a text."""
    kept = [
        (identity, text, {slug: value for slug, rating in ratings.items() if (value := _number(rating)) is not None})
        for identity, text, ratings in responses
        if _is_text(text)
    ]
    if not _is_text(post) or len(kept) < 2:
        return
    rated: dict[str, list[float]] = {}
    for _, _, ratings in kept:
        for slug, value in ratings.items():
            rated.setdefault(slug, []).append(value)
    medians = {slug: median(values) for slug, values in rated.items()}
    yield {
        "post": post,
        "responses": [
            {
                "id": identity,
                "text": text,
                "levels": {slug: _sign(ratings.get(slug, middle) - middle) for slug, middle in medians.items()},
            }
            for identity, text, ratings in kept
        ],
    }


def _number(value: Any) -> float | None:
    """A rating as a number; None for what is none, such as "N/A"."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _untaken(name: str, taken: set[str]) -> str:
    candidate, copies = name, 1
    while candidate in taken:
        copies += 1
        candidate = f"{name}#{copies}"
    return candidate
