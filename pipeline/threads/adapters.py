"""Published rating datasets: what a row says about which post, and which responses, with which ratings.

A response's level is the sign of its rating against the median of those that it was compared with, which
`pipeline.threads.gather` takes when all of them are together.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from pipeline.reading.values import UnreadableError, as_list, as_post, as_text, named

_ULTRAFEEDBACK_SLUGS = ("instruction_following", "honesty", "truthfulness", "helpfulness")
# By the slug of the dimension. `verbosity` has no counterpart.
_HELPSTEER2_COLUMNS = {
    "truthfulness": "correctness",
    "helpfulness": "helpfulness",
    "coherence": "coherence",
    "complexity": "complexity",
}
_TURN = re.compile(r"\n?^<extra_id_1>(User|Assistant)[ \t\r]*$\n?", re.MULTILINE)
_PKU_SAFERLHF_COLUMNS = {"harmlessness": "safer_response_id", "helpfulness": "better_response_id"}

SLUGS: dict[str, tuple[str, ...]] = {
    "ultrafeedback": _ULTRAFEEDBACK_SLUGS,
    "helpsteer2": tuple(_HELPSTEER2_COLUMNS),
    "pku_saferlhf": tuple(_PKU_SAFERLHF_COLUMNS),
}
"""The dimensions that each dataset rates."""


class Rated(NamedTuple):
    """A row: its post, and its responses as names ('' for none), texts, which may be anything, and ratings by slug.

    `shared` is equal for rows that hold further responses of the same post, rated on the same scale; '' for no such.
    """

    post: str
    responses: list[tuple[str, Any, dict[str, float]]]
    shared: str = ""


def ultrafeedback(row: Mapping[str, Any]) -> Rated:
    """A row of openbmb/UltraFeedback; a response's name is its model."""
    _check(row, ("instruction", "completions"))
    responses = []
    taken: set[str] = set()
    for completion in as_list(row["completions"], "completions"):
        if not isinstance(completion, Mapping):
            raise UnreadableError("a completion is no object")
        _check(completion, ("model", "response", "annotations"), "completions.")
        name = _untaken(as_text(completion["model"], "completions.model"), taken)
        taken.add(name)
        annotations = completion["annotations"]
        ratings = {slug: _of(_of(annotations, slug), "Rating") for slug in _ULTRAFEEDBACK_SLUGS}
        responses.append((name, completion["response"], _numbers(ratings)))
    return Rated(as_text(row["instruction"], "instruction"), responses)


def helpsteer2(row: Mapping[str, Any]) -> Rated:
    """A row of nvidia/HelpSteer2: one response of a prompt. Of one with several turns, the user's are the post."""
    _check(row, ("prompt", "response", *_HELPSTEER2_COLUMNS.values()))
    ratings = _numbers({slug: row[column] for slug, column in _HELPSTEER2_COLUMNS.items()})
    # All of the prompt: users may say the same after different answers.
    prompt = as_text(row["prompt"], "prompt")
    first, *turns = _TURN.split(prompt)
    chat = [("user", first), *zip(map(str.lower, turns[::2]), turns[1::2], strict=True)]
    post = as_post([{"role": role, "content": text} for role, text in chat], "prompt")
    return Rated(post, [("", row["response"], ratings)], shared=prompt)


def pku_saferlhf(row: Mapping[str, Any]) -> Rated:
    """A row of PKU-Alignment/PKU-SafeRLHF: two responses, compared with each other alone."""
    texts = ("response_0", "response_1")
    _check(row, ("prompt", *texts, *_PKU_SAFERLHF_COLUMNS.values()))
    chosen = _numbers({slug: row[column] for slug, column in _PKU_SAFERLHF_COLUMNS.items()})
    ratings = [{slug: float(which == k) for slug, which in chosen.items()} for k in range(len(texts))]
    responses = [(name, row[name], rating) for name, rating in zip(texts, ratings, strict=True)]
    return Rated(as_text(row["prompt"], "prompt"), responses)


ADAPTERS: dict[str, Callable[[Mapping[str, Any]], Rated]] = {
    "ultrafeedback": ultrafeedback,
    "helpsteer2": helpsteer2,
    "pku_saferlhf": pku_saferlhf,
}
"""Each raises `UnreadableError` for a row of another shape."""


def _check(row: Mapping[str, Any], needed: Iterable[str], within: str = "") -> None:
    for column in needed:
        if column not in row:
            raise UnreadableError(f"no column '{within}{column}'; it has {named([f'{within}{name}' for name in row])}")


def _of(value: Any, key: str) -> Any:
    return value.get(key) if isinstance(value, Mapping) else None


def _numbers(ratings: Mapping[str, Any]) -> dict[str, float]:
    """The ratings that are numbers, and not such as "N/A"."""
    found = {}
    for slug, value in ratings.items():
        try:
            number = float(value)
        except (TypeError, ValueError):
            continue
        if math.isfinite(number):
            found[slug] = number
    return found


def _untaken(name: str, taken: set[str]) -> str:
    candidate, copies = name, 1
    while candidate in taken:
        copies += 1
        candidate = f"{name}#{copies}"
    return candidate
