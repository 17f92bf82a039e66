from __future__ import annotations

import re
from typing import Any

import pytest
from pydantic import BaseModel

from schemas.base import UsageError
from schemas.config import BuildConfig, PublishConfig
from schemas.loader import validate
from schemas.reference import SECTIONS

REQUIRED: dict[str, dict[str, Any]] = {
    "vllm": {"kind": "vllm"},
    "openai": {"kind": "openai", "base_urls": ["http://host/v1"]},
    "replay": {"kind": "replay", "journal": "j"},
    "dummy": {"kind": "dummy"},
    "dump": {"kind": "dump", "submissions": ["s"], "comments": ["c"]},
    "threads": {"kind": "threads", "path": ["t"]},
    "correlations": {"a": "x", "b": "y", "rho": 0.1},
    "publish": {"repo_id": "me/data"},
    "users": {"count": 9},
}
WRONG: list[Any] = [None, True, 5, -1, 1.5, 1e15, float("nan"), "", "no such! ^value$", "x" * 200, [], [None], [[]], {}]
WRONG += [{"a key": None}, {"": 5}, ["no such! ^value$"], "2024-01-01"]

PYDANTIC = re.compile(
    r"Input |should|valid |discriminator|Field required|permitted|Extra|Value error|unicode|pattern|tuple"
)
REGEX = re.compile(r"\^\[|\]\$|\[A-Z|\\[dwsS]|\(\?|\]\*|\]\+")


def document(title: str) -> tuple[dict[str, Any], list[str | int]]:
    """Return a configuration with a section of the reference, and the path of that section."""
    path, _, kinds = title.partition(" (kind: ")
    kind = kinds.rstrip(")").split(", ")[0]
    whole: dict[str, Any] = {"pairs": 1, "generation": {"model": "dummy"}}
    if path.startswith("users"):
        whole |= {"persona": "users", "pairs": None}
    if path.startswith("mining"):
        whole["mining"] = {"source": REQUIRED[kind or "threads"]}
    if path == "engine.price":
        whole["engine"] = {"kind": "vllm"}
    place: list[str | int] = []
    inner: Any = whole
    for part in path.replace("SLUG", "gaming").replace("[]", ".0").split(".") if path else []:
        place.append(int(part) if part.isdigit() else part)
        if part == "correlations":
            inner[part] = [dict(REQUIRED["correlations"])]
        elif part != "0":
            inner[part] = dict(inner.get(part) or REQUIRED.get(kind if part in ("engine", "source") else part, {}))
        inner = inner[place[-1]]
    return whole, place


def with_value(whole: dict[str, Any], place: list[str | int], key: str, value: Any) -> dict[str, Any]:
    inner: Any = whole
    for part in place:
        inner = inner[part]
    inner[key] = value
    return whole


def refused(model: type[BaseModel], whole: dict[str, Any]) -> str | None:
    try:
        validate(model, whole, "build.yaml")
    except UsageError as error:
        return str(error)
    return None


@pytest.mark.parametrize("title", SECTIONS)
def test_every_key_with_a_wrong_value_is_named_in_plain_words(title: str) -> None:
    assert refused(BuildConfig, document(title)[0]) is None
    for key in SECTIONS[title].model_fields:
        messages = []
        for value in WRONG:
            whole, place = document(title)
            message = refused(BuildConfig, with_value(whole, place, key, value))
            if message is None:
                continue
            messages.append(message)
            dotted = ".".join(str(part) for part in (*place, key))
            assert f"'{dotted}" in message or (key in message and "kind" not in message), (value, message)
            ours = message.replace("no such! ^value$", "")
            assert not PYDANTIC.search(ours), message
            assert not REGEX.search(ours), message
            assert "\n" not in message
        assert messages, f"{key}: everything fits"


@pytest.mark.parametrize("title", SECTIONS)
def test_an_unknown_key_beside_the_others_is_named_with_the_nearest(title: str) -> None:
    for key in SECTIONS[title].model_fields:
        whole, place = document(title)
        dotted = ".".join(str(part) for part in (*place, f"{key}x"))

        message = refused(BuildConfig, with_value(whole, place, f"{key}x", 1))

        assert message == f"build.yaml: unknown key '{dotted}'; did you mean '{key}'?"


@pytest.mark.parametrize("value", [value for value in WRONG if not isinstance(value, str)])
def test_arguments_of_publish_are_reported_in_plain_words(value: Any) -> None:
    for key in PublishConfig.model_fields:
        message = refused(PublishConfig, {"repo_id": "me/data"} | {key: value})

        assert message is None or (f"'{key}' is " in message and not PYDANTIC.search(message)), message


def test_more_than_three_problems_are_counted() -> None:
    message = refused(BuildConfig, {"pairs": "a", "seed": "b", "name": 3, "attempts": "c", "mirror": 1})

    assert message is not None
    assert message.count("expected") == 3
    assert message.endswith("; and 2 more")
