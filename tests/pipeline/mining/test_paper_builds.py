"""Whole builds of mined pairs with the portraits and the history rule of the paper."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web

from preference_space.direction import from_released
from schemas.records import Example
from tests.pipeline.mining.builds import SPACE, few
from tests.pipeline.mining.reference import Levels, meets_criterion, vote
from tests.schemas.records import DIRECTION, PAIR, PORTRAIT, UGC
from tests.stub import completion, good, good_text, refuse


def is_portrait(body: dict[str, Any]) -> bool:
    return "messages" in body


def shown_reply(body: dict[str, Any], name: str = "Preferred reply") -> str:
    """Return a reply that the portrait's prompt shows."""
    return body["messages"][-1]["content"].partition(f"\n{name}: ")[2].split("\n")[0]  # type: ignore[no-any-return]


def written(answer: Mapping[str, Any]) -> str:
    """Return a structured portrait in words."""
    facts = {"Occupation": answer["occupation"], "Likes": ", ".join(answer["liked"])}
    facts |= {"Dislikes": ", ".join(answer["disliked"])}
    return " ".join([answer["portrait"], *(f"{name}: {value}." for name, value in facts.items() if value)])


def test_portraits_of_the_paper_compare_both_replies(tmp_path: Path) -> None:
    build = few(tmp_path, portrait="paper")

    answers = {
        shown_reply(body): written(json.loads(good_text(body))) for body in build.stub.bodies if is_portrait(body)
    }
    rows = build.rows("data")
    assert rows
    assert {row["chosen"]: row[PORTRAIT] for row in rows}.items() <= answers.items()
    others = {shown_reply(body): shown_reply(body, "Other reply") for body in build.stub.bodies if is_portrait(body)}
    assert all(others[row["chosen"]] == row["rejected"] for row in rows)


BAD_PORTRAITS = {0: "schema", 1: "schema", 2: "unfinished", 3: "too_short", 4: "http_400"}


async def badly_portrayed(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    if not is_portrait(body):
        return await good(request, body)
    match body["seed"] % 40:
        case 0:
            return completion("This person is kind and patient, and says so in a few words.")
        case 1:
            return completion(json.dumps({"portrait": "This person is kind and patient."}))
        case 2:
            return completion(good_text(body), "length")
        case 3:
            return completion(json.dumps(json.loads(good_text(body)) | {"portrait": "This person."}))
        case 4:
            return await refuse(400, "too long")(request, body)
    return await good(request, body)


def test_bad_portraits_of_the_paper_reject_their_pairs(tmp_path: Path) -> None:
    build = few(tmp_path, threads=60, portrait="paper", answer=badly_portrayed)

    faults = {
        shown_reply(body): BAD_PORTRAITS[body["seed"] % 40]
        for body in build.stub.bodies
        if is_portrait(body) and body["seed"] % 40 in BAD_PORTRAITS
    }
    assert len(set(faults.values())) > 2
    found = {row["record_id"]: row["reason"] for row in build.rows("rejected/examples") if row["stage"] == "portrait"}
    assert found == {
        pair["pair_id"]: faults.get(pair["chosen"]) or faults[pair["rejected"]]
        for pair in build.rows("pool")
        if {pair["chosen"], pair["rejected"]} & set(faults)
    }
    assert found.keys().isdisjoint(row["pair_id"] for row in build.rows("data"))


PAPER: dict[str, Any] = {
    "history": {"ugc": 1, "pair": 1, "min_support": 0, "consistency": "paper"},
    "annotation": {"min_confidence": 0.4},
}
"""Most questions are answered with a pole, so that pairs clash, and agree too."""


def direction_of(item: dict[str, Any]) -> Levels:
    return tuple(from_released(item[DIRECTION]).tolist())


def parts_of(row: dict[str, Any]) -> list[Levels]:
    """Return the row's direction, and those of its history's two parts by majority."""
    return [direction_of(row), *(vote([direction_of(item) for item in row[column]]) for column in (UGC, PAIR))]


@pytest.mark.parametrize("items", [1, 2, 3])
def test_paper_consistency_asks_for_one_dimension_in_which_all_parts_agree(tmp_path: Path, items: int) -> None:
    build = few(tmp_path, threads=60, **PAPER | {"history": PAPER["history"] | {"ugc": items, "pair": items}})

    rows = build.rows("data")
    assert rows
    assert all(meets_criterion(parts_of(row)) for row in rows)
    # It lets items contradict the row, which the strict rule does not.
    assert not all(Example.model_validate_json(orjson.dumps(row)).is_consistent for row in rows)


def test_strict_consistency_of_the_same_threads_lets_no_item_contradict(tmp_path: Path) -> None:
    strict = PAPER["history"] | {"consistency": "strict"}

    build = few(tmp_path, threads=60, **PAPER | {"history": strict})

    assert build.rows("data")
    assert all(Example.model_validate_json(orjson.dumps(row)).is_consistent for row in build.rows("data"))


def test_paper_portraits_must_agree_with_the_history_where_the_paper_is_followed(tmp_path: Path) -> None:
    build = few(tmp_path, threads=60, mirror=False, portrait="paper", **PAPER)

    said = {shown_reply(body): json.loads(good_text(body)) for body in build.stub.bodies if is_portrait(body)}

    def portrayed(reply: str) -> Levels:
        named = said[reply]["dimensions"]
        return tuple({"positive": 1, "negative": -1}.get(named.get(d.slug, ""), 0) for d in SPACE.dimensions)

    rows = build.rows("data")
    refused = [row for row in build.rows("rejected/examples") if row["reason"] == "inconsistent"]
    assert rows
    assert refused
    assert all(meets_criterion([*parts_of(row), portrayed(row["chosen"])]) for row in rows)
    assert all(row["stage"] == "portrait" for row in refused)
