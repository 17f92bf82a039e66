"""Features that a server lacks are reported before the first row, or replaced by another form of request."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from pipeline.build import build
from pipeline.generation.completions import ChoiceRequest, Completion
from pipeline.generation.journal import read_journal
from pipeline.generation.trial import trial_requests
from pipeline.generation.votes import Vote
from pipeline.plan import BuildPlan
from schemas.base import UserError
from schemas.manifest import Manifest
from tests.pipeline.helpers import Notices, mining, prepared, rows_of, tiny, write_threads
from tests.stub import Answer, StubServer, completion, good, good_text, prompt_of, refuse

DIMENSIONS = ["demographics_and_traits"]


def built(output: Path, answer: Answer, **annotation: Any) -> tuple[Manifest, StubServer, list[str]]:
    """A build of mined pairs against a server that answers trial requests as it does all others."""
    output.parent.mkdir(exist_ok=True)
    threads = write_threads(output.with_name("threads.jsonl"), 20)
    keys = mining(threads, annotation={"dimensions": DIMENSIONS, **annotation})
    notices = Notices()
    with StubServer(answer, on_trial=answer) as stub:
        config = tiny(
            pairs=None,
            mining=keys,
            splits={"train": 1, "validation": 0, "test": 0},
            limits={"max_lost_share": 1},
            engine={"kind": "openai", "base_urls": [stub.url]},
        )
        return build(config, output, observer=notices), stub, without_window(notices)


def without_window(notices: Notices) -> list[str]:
    """The lines without the first one, which tells the window."""
    return [line for line in notices.lines if "in flight" not in line]


def lacking(field: str, *refused: Any, status: int = 400) -> Answer:
    """A server that knows no such field, or not these values of it."""

    async def answer(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        found = body.get(field)
        kind = found["type"] if isinstance(found, dict) and "type" in found else found
        if field in body and (not refused or kind in refused):
            return await refuse(status, f"no {field} of {kind}")(request, body)
        return await good_without_schema(request, body)

    return answer


async def good_without_schema(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    """Good JSON, whether a schema was sent or not, as the prompt names the keys."""
    if "prompt" in body or "JSON object" not in json.dumps(body["messages"]):
        return await good(request, body)
    slugs = [line.split('"')[1] for line in body["messages"][-1]["content"].splitlines() if line.startswith('"')]
    schema = {"type": "object", "properties": {slug: {"enum": ["positive", "negative", "unclear"]} for slug in slugs}}
    wanted = {"json_schema": {"schema": schema | {"required": slugs}}}
    text = good_text({"messages": body["messages"], "seed": body["seed"], "response_format": wanted})
    return completion(f"```json\n{text}\n```")


@pytest.mark.parametrize(
    ("refused", "sent", "status"),
    [(("json_schema",), "json_object", 500), (("json_schema", "json_object"), None, 422), ((), None, 400)],
    ids=["no schema", "no JSON", "no such field"],
)
def test_a_server_without_json_schemas_is_asked_in_other_words(
    tmp_path: Path, refused: tuple[str, ...], sent: str | None, status: int
) -> None:
    manifest, stub, notices = built(tmp_path / "out", lacking("response_format", *refused, status=status), mode="json")

    assert {body.get("response_format", {}).get("type") for body in stub.bodies} == {sent}
    assert manifest.counts.examples > 0 and not any(name.startswith("annotate") for name in manifest.counts.rejected)
    assert f"{stub.url}/chat/completions: requests take another form (HTTP {status}: no response_format" in notices[0]


def test_the_rows_and_the_journal_are_those_of_a_server_that_lacks_nothing(tmp_path: Path) -> None:
    built(tmp_path / "one" / "out", good_without_schema, mode="json")
    built(tmp_path / "two" / "out", lacking("response_format"), mode="json")

    one, two = tmp_path / "one" / "out", tmp_path / "two" / "out"
    assert rows_of(one / "pool") == rows_of(two / "pool") != []
    for path in (one / "journal").glob("*.jsonl"):
        assert read_journal(path) == read_journal(two / "journal" / path.name)


def test_a_server_that_cannot_constrain_choices_answers_them_freely(tmp_path: Path) -> None:
    manifest, stub, notices = built(tmp_path / "out", lacking("structured_outputs"))

    assert not any("structured_outputs" in body for body in stub.bodies)
    assert manifest.counts.examples > 0
    assert len(notices) == 1 and "no structured_outputs" in notices[0]


@pytest.mark.parametrize("status", [400, 500])
def test_a_server_without_logprobs_ends_the_run_before_the_work(tmp_path: Path, status: int) -> None:
    with pytest.raises(UserError, match=r"no logprobs of 5.*mining\.annotation\.mode: json, or .*protocol: chat"):
        built(tmp_path / "out", lacking("logprobs", status=status))

    assert not (tmp_path / "out" / "pool").exists()


@pytest.mark.parametrize("status", [400, 500])
def test_a_server_of_one_prompt_a_call_ends_the_run_and_names_the_setting(tmp_path: Path, status: int) -> None:
    async def single(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        is_refused = len(body.get("prompt", ())) > 1
        return await (refuse(status, "one prompt only") if is_refused else good)(request, body)

    with pytest.raises(UserError, match=r"one prompt only.*mining\.annotation\.prompts_per_call: 1"):
        built(tmp_path / "many" / "out", single)
    manifest, _, _ = built(tmp_path / "one" / "out", single, prompts_per_call=1)
    assert manifest.counts.examples > 0


def test_each_kind_of_request_is_tried_the_plainest_first(tmp_path: Path) -> None:
    threads = write_threads(tmp_path / "threads.jsonl", 20)
    plan = prepared(tmp_path / "out", tiny(portrait="paper", mining=mining(threads, annotation={"mode": "json"})))

    bodies = [json.loads(request.body) for request in trial_requests(plan, ["generation"]).requests]

    formats = [body.get("response_format", {}).get("json_schema", {}) for body in bodies]
    assert [wanted.get("name") for wanted in formats] == [None, None, None, "levels", "portrait"]
    # As they will be sent: some servers refuse keys of JSON Schema.
    assert len(formats[3]["schema"]["required"]) == 90
    assert ["reasoning_effort" in body for body in bodies] == [False, True, True, True, True]
    assert [len(body["messages"]) for body in bodies] == [1, 1, 2, 1, 1]
    assert [body["max_tokens"] for body in bodies] == [16, 256, 16, 16, 16]


@pytest.mark.parametrize(
    ("annotation", "judge", "choices", "votes", "votes_instead"),
    [
        ("completions", "auto", True, False, False),
        ("auto", "completions", True, False, False),
        ("auto", "auto", True, False, True),
        ("chat", "auto", True, True, True),
        ("chat", "chat", False, True, False),
    ],
)
def test_a_model_that_annotates_and_verifies_does_without_choices_where_neither_needs_them(
    tmp_path: Path, annotation: str, judge: str, choices: bool, votes: bool, votes_instead: bool
) -> None:
    keys = mining(tmp_path / "threads.jsonl", share=0.5, annotation={"protocol": annotation})
    config = tiny(mining=keys, verification={"mode": "record", "protocol": judge})

    trials = trial_requests(BuildPlan(tmp_path, "", config), ["generation", "verification"])

    assert any(isinstance(request, ChoiceRequest) for request in trials.requests) == choices
    assert any(isinstance(request, Vote) for request in trials.requests) == votes
    assert bool(trials.votes_instead) == votes_instead


# Models without a system role, and models that reason


def sampled(output: Path, answer: Answer, **generation: Any) -> tuple[Manifest, StubServer, list[str]]:
    """A build of sampled pairs against a server that answers trial requests as it does all others."""
    notices = Notices()
    with StubServer(answer, on_trial=answer) as stub:
        config = tiny(engine={"kind": "openai", "base_urls": [stub.url]}, generation={"model": "stub", **generation})
        return build(config, output, observer=notices), stub, without_window(notices)


def roles(stub: StubServer) -> set[tuple[str, ...]]:
    return {tuple(turn["role"] for turn in body["messages"]) for body in stub.bodies}


@pytest.mark.parametrize(
    ("status", "message"),
    [(400, "System role not supported"), (500, "Conversation roles must alternate user/assistant/user/assistant/...")],
)
def test_where_the_model_has_no_system_role_the_user_says_it_all(tmp_path: Path, status: int, message: str) -> None:
    async def gemma(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        has_system = any(turn["role"] == "system" for turn in body["messages"])
        return await (refuse(status, message) if has_system else good)(request, body)

    manifest, stub, notices = sampled(tmp_path / "out", gemma)

    assert roles(stub) == {("user",)}
    assert all("Say hello." not in prompt_of(body) and "\n\n" in prompt_of(body) for body in stub.bodies)
    assert manifest.counts.pairs_accepted == manifest.counts.pairs_asked > 0
    assert notices == [f"{stub.url}/chat/completions: requests take another form (HTTP {status}: {message})"]


def test_a_system_message_that_the_template_drops_in_silence_is_noticed(tmp_path: Path) -> None:
    async def drops(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        kept = [turn for turn in body["messages"] if turn["role"] != "system"]
        return completion(good_text(body), prompt_tokens=len(prompt_of({"messages": kept}).split()))

    _, stub, notices = sampled(tmp_path / "out", drops)

    assert roles(stub) == {("user",)}
    assert notices == [f"{stub.url}/chat/completions: requests take another form (the model gets no system message)"]


@pytest.mark.parametrize("counted", [0, 7])
def test_a_server_that_counts_no_prompt_is_no_error(tmp_path: Path, counted: int) -> None:
    async def answer(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return completion(good_text(body), prompt_tokens=counted)

    manifest, _, _ = sampled(tmp_path / "out", answer)

    assert manifest.counts.pairs_accepted == manifest.counts.pairs_asked


@pytest.mark.parametrize(
    ("refused", "taken"),
    [
        ((), {"chat_template_kwargs", "reasoning_effort"}),
        (("chat_template_kwargs",), {"reasoning_effort"}),
        (("reasoning_effort",), {"chat_template_kwargs"}),
        (("chat_template_kwargs", "reasoning_effort"), set()),
    ],
)
@pytest.mark.parametrize("status", [400, 422])
def test_reasoning_is_switched_off_in_the_words_that_a_server_knows(
    tmp_path: Path, refused: tuple[str, ...], taken: set[str], status: int
) -> None:
    async def strict(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        unknown = next((name for name in refused if name in body), None)
        return await (refuse(status, f"unknown field {unknown}") if unknown else good)(request, body)

    manifest, stub, _ = sampled(tmp_path / "out", strict)

    assert all(body.keys() & {"chat_template_kwargs", "reasoning_effort"} == taken for body in stub.bodies)
    assert manifest.counts.pairs_accepted == manifest.counts.pairs_asked


async def qwen(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    """A model that reasons inside its text, unless its chat template is told not to."""
    template = body.get("chat_template_kwargs", {})
    thinking = "" if template.get("enable_thinking") is False else "<think>\nThey ask for a reply.\n</think>\n\n"
    return completion(thinking + good_text(body), prompt_tokens=len(prompt_of(body).split()))


async def apart(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    """A server that returns the reasoning beside the text, and cannot switch it off."""
    words = len(prompt_of(body).split())
    return completion(good_text(body), prompt_tokens=words, reasoning_content="They ask for a reply.")


def test_a_model_that_can_reason_does_not(tmp_path: Path) -> None:
    manifest, stub, notices = sampled(tmp_path / "out", qwen)

    assert notices == []
    assert roles(stub) == {("system", "user")}
    assert manifest.counts.pairs_accepted == manifest.counts.pairs_asked


def test_a_model_that_reasons_all_the_same_is_reported_with_the_key_to_set(tmp_path: Path) -> None:
    manifest, stub, notices = sampled(tmp_path / "out", apart)

    assert len(notices) == 1
    assert notices[0].startswith(f"{stub.url}: the model reasons although it is asked not to")
    assert "generation.reasoning: keep out" in notices[0]
    assert manifest.counts.pairs_accepted == manifest.counts.pairs_asked


@pytest.mark.parametrize("answer", [qwen, apart])
def test_reasoning_is_kept_out_of_the_rows(tmp_path: Path, answer: Answer) -> None:
    output = tmp_path / "out"
    manifest, stub, notices = sampled(output, answer, reasoning="keep out", max_tokens=50, reasoning_tokens=500)

    assert notices == []
    assert {body["max_tokens"] for body in stub.bodies} == {550}
    assert manifest.counts.pairs_accepted == manifest.counts.pairs_asked
    assert not any("They ask" in row["chosen"] + row["rejected"] for row in rows_of(output / "pool"))
    replies = [reply for path in (output / "journal").glob("*.jsonl") for reply in read_journal(path).values()]
    assert all(isinstance(reply, Completion) and "They ask" in reply.reasoning + reply.text for reply in replies)
    assert all(isinstance(reply, Completion) and 0 < reply.reasoning_tokens < 30 for reply in replies)
