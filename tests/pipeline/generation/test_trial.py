"""Features that a server lacks are reported before the first row, or replaced by another form of request."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from pipeline.build import build
from pipeline.generation.journal import read_journal
from pipeline.generation.trial import trial_requests
from schemas.base import UserError
from schemas.manifest import Manifest
from tests.pipeline.helpers import Notices, mining, prepared, rows_of, tiny, write_threads
from tests.stub import Answer, StubServer, completion, good, good_text, refuse

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
        return build(config, output, observer=notices), stub, notices.lines


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
    with pytest.raises(UserError, match=r"no logprobs of 5.*mining\.annotation\.mode: json, which needs none"):
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

    bodies = [json.loads(request.body) for request in trial_requests(plan)]

    formats = [body.get("response_format", {}).get("json_schema", {}) for body in bodies]
    assert [wanted.get("name") for wanted in formats] == [None, "levels", "portrait"]
    # As they will be sent: some servers refuse keys of JSON Schema.
    assert len(formats[1]["schema"]["required"]) == 90
    assert all(body["max_tokens"] == 16 for body in bodies)
