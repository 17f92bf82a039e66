"""Whole builds whose pairs are verified: what follows from it in rows, counts, resumed and replayed builds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiohttp import web

from pipeline.build import build
from preference_space.direction import from_released, verbalise
from preference_space.space import load_space
from tests.pipeline.helpers import Built, run_build, tiny
from tests.pipeline.processes import shards
from tests.planted import Planted, silent, swapped
from tests.schemas.records import DIRECTION, PAIR, PORTRAIT, UGC
from tests.stub import Answer, StubServer, refuse

SLUGS = ["extraversion", "openness", "agreeableness", "neuroticism", "conscientiousness", "humor"]
FAULTS = silent("humor", 1) | swapped("openness")
KEYS: dict[str, Any] = {
    "sampling": {"dimensions": SLUGS, "min_active": 3, "max_active": 4},
    "attempts": 3,
    "verification": {"mode": "filter", "min_dimensions": 3, "min_margin": 0.5},
}


def built_at(folder: Path, answer: Answer, **keys: Any) -> Built:
    manifest, stub = run_build(folder, answer, **KEYS | keys)
    return Built(folder, manifest, stub)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """A build by a writer with faults and a judge without any."""
    return built_at(tmp_path_factory.mktemp("built") / "out", Planted(FAULTS))


def level(values: Any, slug: str) -> float:
    names = [dimension.slug for dimension in load_space("alignx").dimensions]
    return float(values[names.index(slug)])


def test_what_the_writer_did_not_show_is_in_no_direction_and_nothing_else_is_missing(built: Built) -> None:
    for pair in built.rows("pool"):
        kept = {slug: level(pair["direction"], slug) for slug in SLUGS}
        wanted = {slug: level(pair["asked_direction"], slug) for slug in SLUGS}
        # The mirror of a pole that is shown differs from a reply that shows nothing.
        assert kept == wanted | {"openness": 0.0}
        assert sum(map(abs, kept.values())) >= 3


def test_margins_are_those_of_the_dimensions_that_were_asked_about(built: Built) -> None:
    for pair in built.rows("pool"):
        asked = {d for d, margin in enumerate(pair["direction_margin"]) if margin is not None}
        active = set(np.flatnonzero(pair["asked_direction"]).tolist())
        assert active <= asked
        assert len(asked) == min(len(active) + 2, len(SLUGS))
        if asked_level := level(pair["asked_direction"], "openness"):
            assert asked_level * level(pair["direction_margin"], "openness") < -1


def test_rows_and_their_histories_have_the_verified_direction_alone(built: Built) -> None:
    space = load_space("alignx")
    for row in built.rows("data"):
        assert level(row[DIRECTION], "openness") == 0.5
        assert row["profile"] == verbalise(space, from_released(np.array(row[DIRECTION])))
        opened = space.dimensions[[d.slug for d in space.dimensions].index("openness")]
        assert opened.positive.description not in row[PORTRAIT]
        assert opened.negative.description not in row[PORTRAIT]
        for item in (*row[UGC], *row[PAIR]):
            assert level(item[DIRECTION], "openness") == 0.5


def test_the_mirrored_row_has_the_opposite_margins_and_swapped_qualities(built: Built) -> None:
    rows = built.rows("data")
    for row, twin in zip(rows[::2], rows[1::2], strict=True):
        negated = [None if margin is None else 0 - margin for margin in row["direction_margin"]]
        assert twin["direction_margin"] == negated
        assert (twin["quality_chosen"], twin["quality_rejected"]) == (row["quality_rejected"], row["quality_chosen"])
        assert (twin["verified"], twin["judge"]) == (row["verified"], row["judge"]) == (row["verified"], "stub")


def test_verified_is_the_share_of_the_asked_dimensions_that_were_recovered(built: Built) -> None:
    pairs = {pair["pair_id"]: pair for pair in built.rows("pool")}

    for row in built.rows("data"):
        pair = pairs[row["pair_id"]]
        assert row["verified"] == np.abs(pair["direction"]).sum() / np.abs(pair["asked_direction"]).sum()


def test_the_manifest_counts_before_and_after(built: Built) -> None:
    counts, pairs = built.manifest.counts, built.rows("pool")
    rejected = [row for row in built.rows("rejected/pairs") if row["stage"] == "verify"]

    found = counts.verification
    assert found.pairs == len(pairs) + len(rejected)
    assert found.pairs_accepted == counts.pairs_accepted == len(pairs)
    assert found.asked == sum(np.abs(pair["asked_direction"]).sum() for pair in pairs) + sum(
        np.abs(row["direction"]).sum() for row in rejected
    )
    assert found.kept == sum(np.abs(pair["direction"]).sum() for pair in pairs)
    assert found.kept + found.neutral == sum(np.abs(pair["asked_direction"]).sum() for pair in pairs)
    assert found.recovered < found.asked
    assert counts.prompt_tokens > found.prompt_tokens > 0
    assert {row["reason"] for row in rejected} == {"too_few_dimensions"}


def test_replies_of_an_assistant_are_verified_by_whom_they_suit(tmp_path: Path) -> None:
    assistant = built_at(tmp_path / "out", Planted(), style="assistant")

    prompts = [prompt for body in assistant.stub.bodies for prompt in body.get("prompt", ())]
    assert prompts
    assert all("\nReply: " in prompt and "\nComment: " not in prompt for prompt in prompts)
    last = {prompt.rpartition("\nQuestion: ")[2].partition("\n")[0] for prompt in prompts}
    names = {d.name for d in load_space("alignx").dimensions if d.slug in SLUGS}
    about_quality = "Does the reply answer the message, and is it well written?"
    assert last == {f"{name}: which person does the reply suit?" for name in names} | {about_quality}
    found = assistant.manifest.counts.verification
    assert found.recovered == found.asked == found.kept > 0


def test_all_that_a_pair_asks_about_a_reply_is_in_one_call(built: Built) -> None:
    calls = [body["prompt"] for body in built.stub.bodies if "prompt" in body]

    assert len(calls) == 2 * built.manifest.counts.verification.pairs
    assert sum(map(len, calls)) == built.manifest.counts.verification.questions


def test_replay_gives_the_same_bytes_without_a_model(built: Built, tmp_path: Path) -> None:
    journal = built.folder / "journal"
    assert {path.name.split("-")[0] for path in journal.iterdir()} == {"pairs", "verify"}

    build(tiny(**KEYS | {"engine": {"kind": "replay", "journal": str(journal)}}), tmp_path / "out")

    assert shards(tmp_path / "out") == shards(built.folder)


def test_a_pair_whose_judge_failed_is_retried_to_the_bytes_of_an_undisturbed_build(
    built: Built, tmp_path: Path
) -> None:
    async def failing(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        is_hit = "prompt" in body and len(body["prompt"]) > 2 and hash_of(body) % 5 == 0
        return await (refuse(500, "out of memory") if is_hit else Planted(FAULTS))(request, body)

    keys = {"limits": {"max_lost_share": 1.0}, "attempts": 1}
    undisturbed = built_at(tmp_path / "undisturbed", Planted(FAULTS), **keys)
    first = built_at(tmp_path / "out", failing, **keys)
    assert first.manifest.counts.rejected["verify/http_500"] == first.manifest.counts.pairs_unanswered > 0

    with StubServer(Planted(FAULTS)) as stub:
        engine = {"engine": {"kind": "openai", "base_urls": [stub.url]}}
        manifest = build(tiny(**KEYS | keys | engine), tmp_path / "out", retry_lost=True)

    assert manifest.counts.pairs_unanswered == 0
    assert shards(tmp_path / "out") == shards(undisturbed.folder)


def hash_of(body: dict[str, Any]) -> int:
    return sum(map(ord, "".join(body["prompt"])))


def test_recording_gives_the_rows_of_a_build_without_a_judge(tmp_path: Path) -> None:
    recorded = built_at(tmp_path / "recorded", Planted(FAULTS), verification={"mode": "record"})
    plain = built_at(tmp_path / "plain", Planted(FAULTS), verification={})

    ours = {"id", "pair_id", "direction_margin", "verified", "quality_chosen", "quality_rejected", "judge"}
    texts = [
        [{name: value for name, value in row.items() if name not in ours} for row in each.rows("data")]
        for each in (recorded, plain)
    ]
    assert texts[0] == texts[1]
    assert {row["verified"] for row in plain.rows("data")} == {None}
    assert {len(row["direction_margin"]) for row in plain.rows("data")} == {0}
    assert len({row["verified"] for row in recorded.rows("data")}) > 1
