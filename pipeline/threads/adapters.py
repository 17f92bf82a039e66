"""Readers of published rating datasets: the post of a row, its responses, and their ratings.

A response's level is the sign of its rating minus the median of the ratings that it was compared with.
`pipeline.threads.curation` computes it, when all of them are together.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from pipeline.reading.values import UnreadableError, missing_column, parse_list, parse_post, parse_text, short_repr

_ULTRAFEEDBACK_SLUGS = ("instruction_following", "honesty", "truthfulness", "helpfulness")
# Column by slug. No dimension corresponds to `verbosity`.
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
"""Slugs of the dimensions that each dataset rates."""


class RatedPost(NamedTuple):
    """A post and its responses: names ('' for none), texts of unchecked type, and ratings by slug.

    Rows of the same `group` rate responses of one post on one scale; '' where each row is a group.
    """

    post: str
    responses: list[tuple[str, Any, dict[str, float]]]
    group: str = ""


def ultrafeedback(row: Mapping[str, Any]) -> RatedPost:
    """Read a row of openbmb/UltraFeedback. A response is named after its model."""
    _require(row, ("instruction", "completions"))
    responses = []
    taken: set[str] = set()
    for completion in parse_list(row["completions"], "completions"):
        if not isinstance(completion, Mapping):
            raise UnreadableError(f"a completion is not an object: {short_repr(completion)}")
        _require(completion, ("model", "response", "annotations"), "completions.")
        name = _unique(parse_text(completion["model"], "completions.model"), taken)
        taken.add(name)
        annotations = completion["annotations"]
        ratings = {slug: _get(_get(annotations, slug), "Rating") for slug in _ULTRAFEEDBACK_SLUGS}
        responses.append((name, completion["response"], _finite(ratings)))
    return RatedPost(parse_text(row["instruction"], "instruction"), responses)


def helpsteer2(row: Mapping[str, Any]) -> RatedPost:
    """Read a row of nvidia/HelpSteer2: a prompt and one response. The post is what the user says in all turns."""
    _require(row, ("prompt", "response", *_HELPSTEER2_COLUMNS.values()))
    ratings = _finite({slug: row[column] for slug, column in _HELPSTEER2_COLUMNS.items()})
    # The group is the whole prompt: users may say the same after different answers.
    prompt = parse_text(row["prompt"], "prompt")
    first, *turns = _TURN.split(prompt)
    chat = [("user", first), *zip(map(str.lower, turns[::2]), turns[1::2], strict=True)]
    post = parse_post([{"role": role, "content": text} for role, text in chat], "prompt")
    return RatedPost(post, [("", row["response"], ratings)], group=prompt)


def pku_saferlhf(row: Mapping[str, Any]) -> RatedPost:
    """Read a row of PKU-Alignment/PKU-SafeRLHF: two responses, compared with each other only."""
    texts = ("response_0", "response_1")
    _require(row, ("prompt", *texts, *_PKU_SAFERLHF_COLUMNS.values()))
    chosen = _finite({slug: row[column] for slug, column in _PKU_SAFERLHF_COLUMNS.items()})
    ratings = [{slug: float(which == k) for slug, which in chosen.items()} for k in range(len(texts))]
    responses = [(name, row[name], rating) for name, rating in zip(texts, ratings, strict=True)]
    return RatedPost(parse_text(row["prompt"], "prompt"), responses)


ADAPTERS: dict[str, Callable[[Mapping[str, Any]], RatedPost]] = {
    "ultrafeedback": ultrafeedback,
    "helpsteer2": helpsteer2,
    "pku_saferlhf": pku_saferlhf,
}
"""Reader of each dataset. Raises `UnreadableError` for a row of another shape."""


def _require(row: Mapping[str, Any], needed: Iterable[str], within: str = "") -> None:
    for column in needed:
        if column not in row:
            raise missing_column(f"column '{within}{column}'", [f"{within}{name}" for name in row])


def _get(value: Any, key: str) -> Any:
    return value.get(key) if isinstance(value, Mapping) else None


def _finite(ratings: Mapping[str, Any]) -> dict[str, float]:
    """Return the ratings that are finite numbers; datasets also have "N/A"."""
    found = {}
    for slug, value in ratings.items():
        try:
            number = float(value)
        except (TypeError, ValueError):
            continue
        if math.isfinite(number):
            found[slug] = number
    return found


def _unique(name: str, taken: set[str]) -> str:
    candidate, copies = name, 1
    while candidate in taken:
        copies += 1
        candidate = f"{name}#{copies}"
    return candidate
