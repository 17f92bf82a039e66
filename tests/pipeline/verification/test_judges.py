"""Builds with a judge of its own, at another endpoint, by completions or by chat."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from pipeline.build import build
from schemas.base import UserError
from schemas.config import BuildConfig
from schemas.manifest import Manifest
from tests.pipeline.helpers import NOWHERE, Notices, rows_of, tiny
from tests.stub import (
    Answer,
    StubServer,
    chat_alone,
    choice_of,
    completions,
    good,
    is_trial,
    option_shares,
    prompt_of,
    refuse,
    vote,
)

QUESTION = "\nQuestion: "
SLUGS = ["extraversion", "openness", "agreeableness", "neuroticism", "conscientiousness", "humor"]
KEYS = {"mode": "record", "model": "judge", "orders": 1, "drift_dimensions": 0}


def config(writer: StubServer, judge_url: str, **verification: Any) -> BuildConfig:
    """A build whose pairs are verified by a judge at another endpoint."""
    engine = {"kind": "openai", "base_urls": [judge_url]}
    return tiny(
        sampling={"dimensions": SLUGS, "min_active": 3, "max_active": 4},
        engine={"kind": "openai", "base_urls": [writer.url]},
        verification=KEYS | {"engine": engine} | verification,
    )


def judged(output: Path, judge: Answer = good, **verification: Any) -> tuple[Manifest, StubServer, StubServer]:
    """A build with a judge that answers trial requests as all others; and the servers of writer and judge."""
    with StubServer() as writer, StubServer(judge, on_trial=judge) as other:
        return build(config(writer, other.url, **verification), output), writer, other


def pool(output: Path) -> list[dict[str, Any]]:
    rows = rows_of(output / "pool")
    assert len(rows) > 50
    return rows


def test_writer_and_judge_are_each_asked_their_own_questions(tmp_path: Path) -> None:
    manifest, writer, judge = judged(tmp_path)

    assert {body["model"] for body in writer.bodies + writer.trials} == {"stub"}
    assert {body["model"] for body in judge.bodies + judge.trials} == {"judge"}
    assert not any("prompt" in body for body in writer.bodies + writer.trials)
    assert sum(len(body["prompt"]) for body in judge.bodies) == manifest.counts.verification.questions
    assert manifest.counts.verification.voted == 0
    assert {row["judge"] for row in pool(tmp_path)} == {"judge"}
    run = manifest.runs[-1]
    assert run.requests_sent >= len(writer.bodies) + len(judge.bodies)
    assert run.prompt_tokens == manifest.counts.prompt_tokens


def test_a_judge_that_knows_chat_alone_and_gives_numbers_makes_the_same_rows(tmp_path: Path) -> None:
    judged(tmp_path / "one")
    manifest, _, judge = judged(tmp_path / "two", chat_alone(has_numbers=True))

    assert pool(tmp_path / "one") == pool(tmp_path / "two")
    assert rows_of(tmp_path / "one" / "data") == rows_of(tmp_path / "two" / "data")
    assert not any("prompt" in body for body in judge.bodies)
    assert len(judge.bodies) == manifest.counts.verification.questions
    assert manifest.counts.verification.voted == 0


def test_without_numbers_each_question_is_asked_several_times(tmp_path: Path) -> None:
    manifest, _, judge = judged(tmp_path, chat_alone(has_numbers=False), votes=3, orders=1)

    counts = manifest.counts.verification
    assert len(judge.bodies) == 3 * counts.questions > 0
    assert counts.voted == counts.questions
    assert counts.prompt_tokens == 100 * len(judge.bodies)
    assert {row["quality_chosen"] for row in pool(tmp_path)} == {0.0, 0.5, 1.0}


async def wordless(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    """A judge that knows completions, but gives no log-probabilities there."""
    if "prompt" not in body:
        return await chat_alone(has_numbers=True)(request, body)
    return completions([choice_of(k, {"A": 1.0}) | {"logprobs": None} for k in range(len(body["prompt"]))])


def test_completions_without_numbers_are_not_used_where_a_chat_may_give_them(tmp_path: Path) -> None:
    manifest, _, judge = judged(tmp_path, wordless)

    assert not any("prompt" in body for body in judge.bodies)
    assert manifest.counts.verification.voted == 0


def test_a_judge_is_asked_by_chat_where_that_is_wanted(tmp_path: Path) -> None:
    _, _, judge = judged(tmp_path, chat_alone(has_numbers=True), protocol="chat")

    assert not any("prompt" in body for body in judge.bodies + judge.trials)


def test_where_completions_are_wanted_a_refusal_names_the_other_way(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"check verification\.model.*needs verification\.protocol: chat"):
        judged(tmp_path, chat_alone(has_numbers=True), protocol="completions")

    assert not (tmp_path / "pool").exists()


def test_the_build_own_model_may_judge_by_chat(tmp_path: Path) -> None:
    async def answer(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        is_question = "prompt" in body or QUESTION in body["messages"][-1]["content"] or "logprobs" in body
        return await (chat_alone(has_numbers=True) if is_question else good)(request, body)

    notices = Notices()
    with StubServer(answer, on_trial=answer) as stub:
        engine = {"kind": "openai", "base_urls": [stub.url]}
        settings = KEYS | {"model": "stub"}
        manifest = build(tiny(engine=engine, verification=settings), tmp_path, observer=notices)

    assert manifest.counts.verification.pairs == manifest.counts.pairs_accepted > 50
    assert [line for line in notices.lines if "asked by chat, one in a call (HTTP 404" in line] != []
    assert {body["max_tokens"] for body in stub.bodies} == {16, 256}


@pytest.mark.parametrize(
    ("field", "instead"),
    [
        ("max_tokens", {"max_completion_tokens": 16}),
        ("seed", {}),
        ("structured_outputs", {}),
        ("reasoning_effort", {"chat_template_kwargs": {"enable_thinking": False, "thinking": False}}),
    ],
)
def test_a_judge_by_chat_is_spared_the_fields_that_it_refuses(
    tmp_path: Path, field: str, instead: dict[str, Any]
) -> None:
    async def strict(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return await (refuse(400, f"no {field}") if field in body else chat_alone(has_numbers=True))(request, body)

    manifest, _, judge = judged(tmp_path, strict)

    assert manifest.counts.verification.pairs == manifest.counts.pairs_accepted > 50
    for body in judge.bodies:
        assert field not in body
        assert instead.items() <= body.items()


async def thinker(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    """A judge that thinks, whatever it is asked, for more tokens than a letter needs."""
    if "prompt" in body:
        return await refuse(404)(request, body)
    shares = option_shares(body["messages"][-1]["content"])
    is_cut = body.get("max_tokens", 4096) < 200
    text = "<think>\nA? B?" if is_cut else f"<think>\nA? B?\n</think>\n{max(shares, key=lambda key: shares[key])}"
    return vote(shares, has_numbers=False, text=text, prompt_tokens=len(prompt_of(body).split()))


def test_a_judge_that_reasons_all_the_same_has_tokens_for_it(tmp_path: Path) -> None:
    manifest, _, judge = judged(tmp_path, thinker, votes=1)

    assert manifest.counts.verification.pairs == manifest.counts.pairs_accepted > 50
    assert {body["max_tokens"] for body in judge.bodies} == {16 + 2048}


def test_a_judge_that_cannot_be_reached_ends_the_run_before_any_pair(tmp_path: Path) -> None:
    async def never(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return await (good(request, body) if is_trial(body) else refuse(503, "later")(request, body))

    with (
        StubServer(never) as writer,
        pytest.raises(UserError, match=r"verification\.engine\.base_urls: .* does not answer"),
    ):
        build(config(writer, NOWHERE), tmp_path)


def test_each_endpoint_gets_its_own_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-writer")
    monkeypatch.setenv("JUDGE_KEY", "sk-of-the-judge")
    with StubServer() as writer, StubServer() as judge:
        engine = {"kind": "openai", "base_urls": [judge.url], "api_key_env": "JUDGE_KEY"}
        build(config(writer, judge.url, engine=engine), tmp_path)

        assert {headers["Authorization"] for headers in writer.headers} == {"Bearer sk-of-the-writer"}
        assert {headers["Authorization"] for headers in judge.headers} == {"Bearer sk-of-the-judge"}
    assert not any(b"sk-of-the" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


@pytest.mark.parametrize("has_numbers", [True, False])
def test_the_journals_replay_a_judge_by_chat_without_any_server(tmp_path: Path, has_numbers: bool) -> None:
    first, again = tmp_path / "first", tmp_path / "again"
    judged(first, chat_alone(has_numbers))

    replay = {"kind": "replay", "journal": str(first / "journal")}
    with StubServer() as writer:
        build(config(writer, NOWHERE).model_copy(update={"engine": tiny(engine=replay).engine}), again)

        assert writer.bodies == []
    for path in (first / "pool").glob("*.parquet"):
        assert path.read_bytes() == (again / "pool" / path.name).read_bytes()


def test_a_stopped_build_asks_the_judge_only_for_what_is_missing(tmp_path: Path) -> None:
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    manifest, *_ = judged(whole, chat_alone(has_numbers=True))
    served = 0

    async def poor(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        nonlocal served
        served += 1
        return await (chat_alone(has_numbers=True) if served < 200 else refuse(402, "pay"))(request, body)

    with pytest.raises(UserError, match="asks for payment"):
        judged(halves, poor)
    _, _, judge = judged(halves, chat_alone(has_numbers=True))

    assert 0 < len(judge.bodies) < manifest.counts.verification.questions
    for path in (whole / "pool").glob("*.parquet"):
        assert path.read_bytes() == (halves / "pool" / path.name).read_bytes()


def test_a_build_runs_a_server_for_each_of_two_models(tmp_path: Path) -> None:
    output, engines = tmp_path / "out", []
    for name in ("writer", "judge"):
        command = (sys.executable, "-m", "tests.stub", "--log", str(tmp_path / f"{name}.log"))
        engines.append({"kind": "vllm", "device": "cpu", "command": command})
    settings = KEYS | {"engine": engines[1]}
    notices = Notices()
    manifest = build(tiny(engine=engines[0], verification=settings), output, observer=notices)

    counts = manifest.counts.verification
    assert counts.pairs == manifest.counts.pairs_accepted > 50
    asked = {name: (tmp_path / f"{name}.log").read_text().split() for name in ("writer", "judge")}
    assert not {*asked["writer"]} & {*asked["judge"]}
    # Trial requests and replies; trial requests and two calls for each pair.
    assert len(asked["writer"]) >= 2 * manifest.counts.pairs_asked
    assert len(asked["judge"]) >= 2 * counts.pairs
    assert {path.name for path in (output / "logs").glob("*-server.log")} == {"model-server.log", "judge-server.log"}
    assert len([line for line in notices.lines if "half of the device" in line]) == 2
