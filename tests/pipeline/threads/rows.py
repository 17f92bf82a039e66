"""Rows of every kind of source of threads, and the items that they are parsed into."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.reading.values import Row
from pipeline.threads.filters import Filters
from pipeline.threads.parsing import (
    Item,
    Post,
    Response,
    parse_comments,
    parse_rated,
    parse_submissions,
    parse_threads,
)
from preference_space.space import PreferenceSpace, load_space
from schemas.config import DumpSource, MiningConfig
from schemas.loader import validate

SPACE = PreferenceSpace(name="three", dimensions=load_space("alignx").dimensions[:3])
"""`age_group`, `gender` and `neuroticism`."""
TEXT = "A reply of exactly six words."


def submission(identity: str = "p", **fields: Any) -> dict[str, Any]:
    names = {"id": identity, "subreddit": "AskForum", "author": "op"}
    return names | {"title": f"Title {identity}", "selftext": ""} | fields


def comment(identity: str = "c", post: str = "p", **fields: Any) -> dict[str, Any]:
    link = f"t3_{post}"
    author = f"by {identity}"
    return {"id": identity, "link_id": link, "parent_id": link, "author": author, "body": TEXT} | fields


def thread(*responses: Any, **fields: Any) -> dict[str, Any]:
    return {"id": "t", "post": "What now?", "responses": list(responses)} | fields


def completion(model: str, response: Any, ratings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "model": model,
        "principle": "helpfulness",
        "custom_system_prompt": "As a helpful assistant, answer the question.",
        "response": response,
        "annotations": {
            slug: {"Rating": ratings.get(slug, "N/A"), "Rationale": "It fits."}
            | ({"Type": ["1"], "Rationale For Rating": "So it is."} if slug in ("truthfulness", "helpfulness") else {})
            for slug in ("instruction_following", "honesty", "truthfulness", "helpfulness")
        },
        "overall_score": 7.0,
        "fine-grained_score": 4.25,
        "critique": "Fine.",
    }


def ultrafeedback_row(*completions: Mapping[str, Any], **fields: Any) -> dict[str, Any]:
    return {
        "source": "sharegpt",
        "instruction": "How do I pitch a tent?",
        "models": [c["model"] for c in completions],
        "completions": list(completions),
        "correct_answers": ["None"],
        "incorrect_answers": ["None"],
    } | fields


def helpsteer2_row(prompt: Any, response: Any, *ratings: Any) -> dict[str, Any]:
    columns = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
    return {"prompt": prompt, "response": response} | dict(zip(columns, ratings, strict=True))


def pku_saferlhf_row(better: Any, safer: Any, **other: Any) -> dict[str, Any]:
    return {
        "prompt": "How do I light a stove indoors?",
        "response_0": "Just light it.",
        "response_1": "Open a window first.",
        "is_response_0_safe": False,
        "is_response_1_safe": True,
        "response_0_severity_level": 2,
        "response_1_severity_level": 0,
        "better_response_id": better,
        "safer_response_id": safer,
        "response_0_sha256": "aa",
        "response_1_sha256": "bb",
    } | other


@dataclass
class Read:
    """Items of some rows, counts, and the first row of each kind that could not be read."""

    items: list[Item]
    counts: dict[str, int]
    first_unreadable: dict[str, tuple[int, str]]

    @property
    def posts(self) -> list[Post]:
        return [item for item in self.items if isinstance(item, Post)]

    @property
    def responses(self) -> list[Response]:
        return [item for item in self.items if isinstance(item, Response)]


def read(
    kind: str,
    *rows: Row,
    space: PreferenceSpace = SPACE,
    replies: str = "top_level",
    columns: Any = None,
    **keys: Any,
) -> Read:
    """Parse rows; `keys` belong to the section `mining`."""
    source: dict[str, Any] = {"kind": "dump", "submissions": ["x"], "comments": ["y"], "replies": replies}
    config = validate(MiningConfig, {"source": source, **keys}, "test")
    counts = Counter[str]()
    filters = Filters(config, counts)
    numbered = enumerate(rows, 1)
    assert isinstance(config.source, DumpSource)
    found: Iterable[Item]
    if kind == "submissions":
        found = parse_submissions(numbered, filters)
    elif kind == "comments":
        found = parse_comments(numbered, filters, config.source)
    elif kind == "threads":
        found = parse_threads(numbered, filters, space, columns or {})
    else:
        found = parse_rated(numbered, filters, load_space("alignx"), kind)
    return Read(list(found), dict(counts), filters.first_unreadable)
