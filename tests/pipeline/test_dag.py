from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pytest
from aiohttp import web
from datasets import load_dataset

from pipeline.build import build
from pipeline.driver import plumbing
from pipeline.generation.completions import Completion
from pipeline.generation.journal import read_journal
from pipeline.io.manifests import find_manifest
from pipeline.io.shards import read_shard
from pipeline.plan import BuildPlan
from pipeline.runtime.progress import counters_for
from pipeline.sampling.pairs import load_drafts, render_prompts, sample_directions
from schemas.base import UserError
from schemas.records import Example
from tests import ROOT
from tests.pipeline.helpers import (
    MATCHED_SPLITS,
    Built,
    asked,
    assert_disjoint,
    body_of,
    mining,
    number_of,
    posts_in,
    prepared,
    rows_of,
    run_build,
    specs_of,
    tiny,
    write_jsonl,
    write_posts,
    write_threads,
)
from tests.schemas.records import ALIGNX_COLUMNS, PAIR, UGC
from tests.stub import StubServer, budget_of, choices, completion, completions, good, good_text, refuse

REFUSAL = "As an AI, I have no sister whom I could call tonight."

# What the stub answers to a request whose seed has this remainder by 40, and what the build must make of it.
FAULTS = {
    0: "generate/http_400",
    1: "generate/garbled",
    2: "validate/unfinished",
    3: "validate/refusal_or_meta",
    4: "validate/too_short",
}


async def sometimes_bad(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    match FAULTS.get(number_of(body) % 40):
        case "generate/http_400":
            return await refuse(400, "the prompt is too long")(request, body)
        case "generate/garbled":
            return web.Response(text="<html>not a completion")
        case str() if "prompt" in body:
            return nothing_chosen(body)
        case "validate/unfinished":
            return completion(good_text(body).rstrip("."), "length")
        case "validate/refusal_or_meta":
            return completion(REFUSAL)
        case "validate/too_short":
            return completion("no")
    return await good(request, body)


async def always_bad(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    return bad(body)


def bad(body: dict[str, Any]) -> web.Response:
    """A bad reply, or choices without an answer."""
    return nothing_chosen(body) if "prompt" in body else completion("no")


def nothing_chosen(body: dict[str, Any]) -> web.Response:
    return completions([choice | {"text": "The", "logprobs": None} for choice in choices(body)])


def expected_rejections(plan: BuildPlan) -> list[tuple[str, int, str, bool]]:
    """(record, attempt, stage/reason, final) of every attempt that `sometimes_bad` spoils, from the prompts alone."""
    result = []
    for spec in plan.shards():
        shard = load_drafts(spec, plan)
        for attempt in range(plan.config.attempts):
            final, again = attempt + 1 == plan.config.attempts, []
            for draft in render_prompts(sample_directions(shard, plan, attempt), plan).drafts:
                kinds = [FAULTS.get(body_of(request)["seed"] % 40) for request in draft.requests]
                fault = next((kind for kind in kinds if kind), None)
                if fault:
                    result.append((draft.pair_id, attempt, fault, final))
                    again.append(replace(draft, requests=()))
            shard = replace(shard, drafts=again)
    return sorted(result)


def found_rejections(folder: Path) -> list[tuple[str, int, str, bool]]:
    rows = rows_of(folder / "rejected" / "pairs")
    return sorted((row["record_id"], row["attempt"], f"{row['stage']}/{row['reason']}", row["final"]) for row in rows)


def by_split(folder: Path) -> dict[str, list[dict[str, Any]]]:
    return {
        split: [row for path in sorted(folder.glob(f"{split}-*.parquet")) for row in read_shard(path).to_pylist()]
        for split in MATCHED_SPLITS
    }


def replies_in(example: dict[str, Any]) -> set[str]:
    comments = {item["comment"] for item in example[UGC]}
    pairs = {item[role] for item in example[PAIR] for role in ("chosen", "rejected")}
    return {example["chosen"], example["rejected"]} | comments | pairs


def contents(folder: Path) -> dict[str, tuple[int, str]]:
    """Time of writing and hash of every file of a build, but for its lock and its live counts."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock" and ".progress" not in path.parts
    }


class Source(NamedTuple):
    """Where a build's 60 pairs come from, as keys of its configuration."""

    name: str
    keys: dict[str, Any]
    crowded: dict[str, Any]
    """Few dimensions, if that is how pairs come to clash."""


@pytest.fixture(scope="module", params=["sampled", "mined"])
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Source:
    if request.param == "sampled":
        return Source("sampled", {}, {})
    threads = write_threads(tmp_path_factory.mktemp("threads") / "threads.jsonl", 60)
    all_of_them = mining(threads, annotation={"min_confidence": 0.93})
    few = mining(threads, annotation={"dimensions": ["demographics_and_traits"]})
    return Source("mined", {"pairs": None, "mining": all_of_them}, {"pairs": None, "mining": few})


sampled_alone = pytest.mark.parametrize("source", ["sampled"], indirect=True)


@pytest.fixture(scope="module")
def good_build(source: Source, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Every reply was good; histories of the default size."""
    folder = tmp_path_factory.mktemp("good") / "out"
    return Built(folder, *run_build(folder, history={"ugc": 4, "pair": 4, "min_support": 0}, **source.keys))


BAD_BUILD: dict[str, Any] = {
    "name": "my-set",
    "attempts": 2,
    "history": {"ugc": 1, "pair": 1, "min_support": 0.5},
    "limits": {"max_lost_share": 1},
}


@pytest.fixture(scope="module")
def bad_build(source: Source, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Some replies were bad, and some pairs got no history."""
    folder = tmp_path_factory.mktemp("bad") / "out"
    return Built(folder, *run_build(folder, sometimes_bad, **BAD_BUILD | source.crowded))


def test_build_gives_two_examples_for_every_pair(good_build: Built, source: Source) -> None:
    counts = good_build.manifest.counts

    examples = by_split(good_build.folder / "data")
    assert {split: len(rows) for split, rows in examples.items()} == {"train": 72, "validation": 24, "test": 24}
    # Two replies for each pair; or three calls, of 30 questions, for each of a thread's five responses.
    assert len(good_build.stub.bodies) == {"sampled": 2 * 60, "mined": 3 * 5 * 60}[source.name]
    assert (good_build.manifest.status, counts.pairs_accepted, counts.examples) == ("complete", 60, 120)


def test_load_dataset_opens_three_splits_with_alignx_columns(good_build: Built, tmp_path: Path) -> None:
    dataset = load_dataset(str(good_build.folder), cache_dir=str(tmp_path / "cache"))

    assert {split: len(rows) for split, rows in dataset.items()} == {"train": 72, "validation": 24, "test": 24}
    for split, rows in by_split(good_build.folder / "data").items():
        assert dataset[split].column_names[: len(ALIGNX_COLUMNS)] == ALIGNX_COLUMNS
        assert dataset[split].to_list() == rows


def test_every_row_is_a_valid_example(good_build: Built, source: Source) -> None:
    for row in rows_of(good_build.folder / "data"):
        example = Example.model_validate_json(orjson.dumps(row))
        assert example.is_consistent
        assert example.source == source.name


def test_no_post_pair_or_reply_is_in_two_splits(good_build: Built) -> None:
    splits = by_split(good_build.folder / "data").values()

    for key in ("post_id", "pair_id", "id"):
        assert_disjoint({row[key] for row in rows} for rows in splits)
    assert_disjoint(set().union(*map(posts_in, rows)) for rows in splits)
    assert_disjoint(set().union(*map(replies_in, rows)) for rows in splits)


def test_reply_that_the_model_gives_everywhere_is_in_no_split(tmp_path: Path) -> None:
    everywhere = "You should call your sister tonight and tell her everything that you have told us."

    async def often_the_same(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return completion(everywhere if body["seed"] % 5 == 0 else good_text(body))

    manifest, _ = run_build(tmp_path / "out", often_the_same)

    assert manifest.counts.rejected["assemble/reply_in_another_split"] > 0
    assert not any(everywhere in replies_in(row) for row in rows_of(tmp_path / "out" / "data"))


def test_posts_of_ones_own_reach_the_examples(tmp_path: Path) -> None:
    posts = [{"key": f"k{k}", "headline": f"Title {k}", "tag": "Travel"} for k in range(40)]
    columns = {"id": "key", "title": "headline", "topics": "tag"}
    seeds = {"path": str(write_jsonl(tmp_path / "posts.jsonl", posts)), "columns": columns}

    run_build(tmp_path / "out", seeds=seeds)

    rows = rows_of(tmp_path / "out" / "data")
    assert {row["prompt"] for row in rows} <= {post["headline"] for post in posts}
    assert all(row["topics"] == ["travel"] for row in rows)


@sampled_alone
def test_exactly_the_bad_rows_are_rejected_each_with_its_reason(bad_build: Built) -> None:
    expected = expected_rejections(prepared(bad_build.folder, tiny(**BAD_BUILD)))

    assert found_rejections(bad_build.folder) == expected
    assert {reason for _, _, reason, _ in expected} == set(FAULTS.values())


@sampled_alone
def test_rows_are_tried_as_often_as_configured_and_then_lost(bad_build: Built) -> None:
    expected = expected_rejections(prepared(bad_build.folder, tiny(**BAD_BUILD)))

    lost = {record for record, attempt, _, final in expected if final}
    accepted = {row["pair_id"] for row in rows_of(bad_build.folder / "pool")}
    assert 0 < len(lost) < len(expected)
    assert {(attempt, final) for _, attempt, _, final in expected} == {(0, False), (1, True)}
    assert accepted.isdisjoint(lost)
    assert len(accepted | lost) == 60
    assert len(bad_build.stub.bodies) == 2 * (60 + sum(not final for _, _, _, final in expected))


@sampled_alone
def test_raw_texts_of_rejected_rows_are_kept(bad_build: Built) -> None:
    for row in rows_of(bad_build.folder / "rejected" / "pairs"):
        assert len(row["texts"]) == 2
        assert row["reason"] != "refusal_or_meta" or REFUSAL in row["texts"]
        assert row["reason"] != "http_400" or "the prompt is too long" in row["detail"]


def test_counts_of_the_manifest_add_up(bad_build: Built) -> None:
    counts = bad_build.manifest.counts

    pool, data = rows_of(bad_build.folder / "pool"), rows_of(bad_build.folder / "data")
    rejections = [row for kind in ("pairs", "examples") for row in rows_of(bad_build.folder / "rejected" / kind)]
    assert counts.rejected == Counter(f"{row['stage']}/{row['reason']}" for row in rejections)
    assert counts.rejected["assemble/history_without_support"] > 0
    assert (counts.pairs_accepted, counts.examples) == (len(pool), len(data))
    assert counts.pairs_lost == sum(row["final"] for row in rejections)
    assert counts.pairs_asked == counts.pairs_lost + counts.examples // 2
    journals = (bad_build.folder / "journal").glob("*.jsonl")
    spent = [outcome for path in journals for outcome in read_journal(path).values() if isinstance(outcome, Completion)]
    assert counts.completion_tokens == sum(completion.completion_tokens for completion in spent)
    assert counts.completion_tokens > sum(row["completion_tokens"] for row in pool)


def test_manifest_lists_every_file_with_its_rows_and_hash(bad_build: Built) -> None:
    assert bad_build.manifest == find_manifest(bad_build.folder)
    assert [entry.path for entry in bad_build.manifest.files] == [
        "data/train-00000-of-00003.parquet",
        "data/train-00001-of-00003.parquet",
        "data/train-00002-of-00003.parquet",
        "data/validation-00000-of-00001.parquet",
        "data/test-00000-of-00001.parquet",
    ]
    for entry in bad_build.manifest.files:
        content = (bad_build.folder / entry.path).read_bytes()
        assert (entry.bytes, entry.sha256) == (len(content), hashlib.sha256(content).hexdigest())
        assert entry.rows == read_shard(bad_build.folder / entry.path).num_rows


def test_card_gives_the_counts_and_the_reasons(bad_build: Built) -> None:
    card, counts = (bad_build.folder / "README.md").read_text(), bad_build.manifest.counts

    assert "# my-set" in card
    assert f"{counts.examples} examples from {counts.pairs_accepted} of 60 configured pairs" in card
    assert all(f"| {reason} | {count} |" in card for reason, count in counts.rejected.items())


def test_finished_build_is_left_as_it_is(bad_build: Built, source: Source) -> None:
    before = contents(bad_build.folder)

    again = build(tiny(**BAD_BUILD | source.crowded), bad_build.folder)

    assert again == bad_build.manifest
    assert contents(bad_build.folder) == before


def is_portrait(body: dict[str, Any]) -> bool:
    return "messages" in body and "You describe people" in body["messages"][0]["content"]


def test_portraits_by_the_model_are_its_replies(source: Source, tmp_path: Path) -> None:
    manifest, stub = run_build(tmp_path / "out", portrait="model", **source.keys)

    rows = rows_of(tmp_path / "out" / "data")
    portraits = [body for body in stub.bodies if is_portrait(body)]
    written = {good_text(body) for body in portraits}
    assert len(portraits) == 120
    assert {row["Demographic Information"] for row in rows} <= written
    assert len({row["Demographic Information"] for row in rows}) == 120
    assert manifest.counts.examples == 120


def test_bad_portraits_by_the_model_reject_their_pairs(source: Source, tmp_path: Path) -> None:
    async def some_bad_portraits(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return completion("no") if is_portrait(body) and body["seed"] % 10 == 0 else await good(request, body)

    manifest, _ = run_build(tmp_path / "out", some_bad_portraits, portrait="model", **source.keys)

    rejected = rows_of(tmp_path / "out" / "rejected" / "examples")
    assert rejected
    assert manifest.counts.rejected == {"portrait/too_short": len(rejected)}
    assert manifest.counts.examples == 120 - 2 * len(rejected)
    assert "no" not in {row["Demographic Information"] for row in rows_of(tmp_path / "out" / "data")}


def test_run_that_loses_too_many_pairs_fails_and_goes_on_when_it_may(source: Source, tmp_path: Path) -> None:
    async def half_bad(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        # A pair is lost with one of its two replies, but a thread not before four of its five responses.
        is_bad = number_of(body) % 3 != 0 if "prompt" in body else number_of(body) % 3 == 0
        return bad(body) if is_bad else await good(request, body)

    with pytest.raises(
        UserError,
        match=r"of 60 pairs were .* limits\.max_lost_share = 0\.1: (validate/too_short|annotate/no_option) \d+",
    ):
        run_build(tmp_path / "out", half_bad, limits={"max_lost_share": 0.1}, **source.crowded)
    manifest, stub = run_build(tmp_path / "out", half_bad, limits={"max_lost_share": 0.9}, **source.crowded)

    assert stub.bodies == []
    assert [run.status for run in manifest.runs] == ["failed", "complete"]
    assert [run.requests_sent for run in manifest.runs] == [{"sampled": 120, "mined": 300}[source.name], 0]


def test_run_that_loses_too_many_pairs_for_want_of_a_history_fails(source: Source, tmp_path: Path) -> None:
    history = {"ugc": 1, "pair": 1, "min_support": 1, "blocks": 0}

    with pytest.raises(
        UserError, match=r"limits\.max_lost_share|none of the first 12 pairs of 'train' can have a history"
    ):
        run_build(tmp_path / "out", history=history, **source.keys)


def test_run_without_a_single_pair_fails_whatever_the_limit(source: Source, tmp_path: Path) -> None:
    with pytest.raises(
        UserError,
        match=r"(60 of 60 pairs were lost|no example is left).*: (validate/too_short|annotate/no_option) \d+",
    ):
        run_build(tmp_path / "out", always_bad, limits={"max_lost_share": 1}, **source.crowded)


def test_build_of_which_one_split_loses_every_pair_is_finished(tmp_path: Path) -> None:
    plan = prepared(tmp_path / "out", tiny(limits={"max_lost_share": 1}))
    seeds = {
        body_of(request)["seed"] for spec in specs_of(plan, "validation") for request in asked(spec, plan).requests()
    }

    async def bad_in_validation(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return completion("no" if body["seed"] in seeds else good_text(body))

    manifest, _ = run_build(tmp_path / "out", bad_in_validation, limits={"max_lost_share": 1})

    assert manifest.counts.examples == 96
    dataset = load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert {split: len(rows) for split, rows in dataset.items() if len(rows)} == {"train": 72, "test": 24}


def test_shard_that_is_damaged_is_named(source: Source, tmp_path: Path) -> None:
    history = {"ugc": 1, "pair": 1, "min_support": 0.5}
    with pytest.raises(UserError):
        run_build(tmp_path / "out", history=history, limits={"max_lost_share": 0}, **source.crowded)
    shard = tmp_path / "out" / "pool" / "test-00000-of-00001.parquet"
    shard.write_bytes(shard.read_bytes()[:-20])

    with pytest.raises(UserError, match=r"pool/test-00000-of-00001\.parquet is damaged .*; delete it and run again"):
        run_build(tmp_path / "out", history=history, **source.crowded)


def test_shard_that_was_deleted_is_built_again_from_the_journal(source: Source, tmp_path: Path) -> None:
    run_build(tmp_path / "out", **source.keys)
    folders = ("pool", "data") if source.name == "sampled" else ("annotated", "pool", "data")
    lost = [tmp_path / "out" / folder / "train-00001-of-00003.parquet" for folder in folders]
    before = [shard.read_bytes() for shard in lost]
    for shard in lost:
        shard.unlink()

    _, stub = run_build(tmp_path / "out", always_bad, **source.keys)

    assert [shard.read_bytes() for shard in lost] == before
    assert stub.bodies == []


def test_row_that_failed_by_circumstance_is_asked_again_by_a_resumed_run(source: Source, tmp_path: Path) -> None:
    async def garbled(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return web.Response(text="not JSON")

    with pytest.raises(UserError):
        run_build(tmp_path / "out", garbled, attempts=1, requests={"max_retries": 0}, **source.crowded)
    for shard in (tmp_path / "out" / "pool").glob("*.parquet"):
        shard.unlink()

    manifest, _ = run_build(tmp_path / "out", attempts=1, requests={"max_retries": 0}, **source.crowded)

    assert manifest.counts.pairs_accepted > 50
    assert not any(reason.endswith("/garbled") for reason in manifest.counts.rejected)


@pytest.mark.parametrize("status", [400, 402, 429])
def test_a_budget_spent_amid_a_build_stops_it_and_the_same_command_finishes_it(
    source: Source, tmp_path: Path, status: int
) -> None:
    spent = budget_of(60, refuse(status, "budget_exceeded"))
    keys = source.keys | {"requests": {"max_wait_seconds": 1.0}}
    whole, everything = run_build(tmp_path / "whole", **source.keys)
    with (
        StubServer(spent, on_trial=spent) as stub,
        pytest.raises(UserError, match=f"HTTP {status}: budget_exceeded"),
    ):
        build(tiny(engine={"kind": "openai", "base_urls": [stub.url]}, **keys), tmp_path / "out")

    manifest, again = run_build(tmp_path / "out", **keys)

    assert manifest.counts.examples == whole.counts.examples
    assert manifest.counts.rejected == whole.counts.rejected
    assert 0 < len(again.bodies) < len(everything.bodies)


def test_endpoint_that_does_not_answer_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^engine\.base_urls: http://127\.0\.0\.1:9/v1 does not answer \([^\n]*\)$"):
        build(tiny(), tmp_path / "out")


def test_endpoint_that_serves_another_model_is_told_in_one_line(tmp_path: Path) -> None:
    with StubServer(models=("another",), on_trial=refuse(404, "no such model")) as stub:
        engine = {"kind": "openai", "base_urls": [stub.url]}

        with pytest.raises(UserError, match=r"^http.* the model .*no such model.* that it lists: 'another'"):
            build(tiny(engine=engine), tmp_path / "out")


def test_template_that_fails_for_some_posts_is_told_in_one_line(tmp_path: Path) -> None:
    source = (ROOT / "prompts" / "templates" / "reply.j2").read_text()
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "reply.j2").write_text(source.replace("{{ post.title }}", "{{ post.topics[0] }}"))
    seeds = {"path": str(write_posts(tmp_path / "posts.jsonl", 60))}

    with pytest.raises(UserError, match=r"^template \S+/reply\.j2: [^\n]*no element 0$"):
        run_build(tmp_path / "out", templates=str(tmp_path / "own"), seeds=seeds)


def test_card_names_no_split_that_is_not_there(source: Source, tmp_path: Path) -> None:
    run_build(tmp_path / "out", splits={"train": 0.8, "validation": 0.0, "test": 0.2}, **source.crowded)

    card = (tmp_path / "out" / "README.md").read_text()

    assert "path: data/train-*.parquet" in card
    assert "validation" not in card


def meta_of(asked: int, lost: int) -> dict[str, Any]:
    return {"asked": asked, "lost": lost, "unanswered": 0, "examples": 0, "rejected": {"validate/empty": lost}}


def test_run_that_loses_too_much_early_fails_before_its_end(tmp_path: Path) -> None:
    plan = prepared(tmp_path / "out", tiny())
    plumbing.report(meta_of(asked=999, lost=999), plan, "pairs")

    with pytest.raises(UserError, match=r"1000 of 1001 pairs were "):
        plumbing.report(meta_of(asked=2, lost=1), plan, "pairs")


def test_run_that_loses_as_much_as_it_may_goes_on(tmp_path: Path) -> None:
    plan = prepared(tmp_path / "out", tiny())

    plumbing.report(meta_of(asked=2000, lost=1000), plan, "pairs")

    assert counters_for(plan.output).get("pairs/lost") == 1000
