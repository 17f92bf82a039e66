"""Whole builds whose pairs are mined, or partly mined, against a stub server: from threads to a dataset that loads."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from aiohttp import web
from datasets import load_dataset

from pipeline.build import build
from pipeline.io.shards import read_shard
from preference_space.direction import from_released
from schemas.base import UsageError, UserError
from schemas.records import Example
from tests import ROOT
from tests.pipeline.helpers import (
    MATCHED_SPLITS,
    Built,
    assert_disjoint,
    posts_in,
    rows_of,
    run_build,
    thread,
    tiny,
    write_jsonl,
    write_threads,
)
from tests.pipeline.mining.builds import SOME, SPACE, few, mine
from tests.pipeline.threads.rows import helpsteer2_row
from tests.schemas.records import DIRECTION, PAIR, UGC
from tests.stub import (
    choices,
    completion,
    completions,
    good,
    good_text,
    log_line,
    option_shares,
    option_texts,
    refuse,
)

SEED_POSTS = ROOT / "pipeline" / "sampling" / "seed_posts.jsonl"


BAD_THREADS = [
    thread(100, responses=1),
    thread(3) | {"id": "again", "post": "thread number 3 -- what do YOU think?"},
    thread(101, post="[deleted]"),
    thread(102) | {"responses": [{"author": "Helperbot", "text": "I am one and answer all of you at once."}] * 4},
]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Build from fifty good threads and some bad ones, with all dimensions."""
    folder = tmp_path_factory.mktemp("mined")
    threads = write_jsonl(folder / "threads.jsonl", [*(thread(k) for k in range(50)), *BAD_THREADS])
    return mine(folder / "out", threads)


def comment_of(prompt: str) -> str:
    """Return the response that a question is about."""
    return prompt.rpartition("\nComment: ")[2].partition("\nQuestion: ")[0].strip()


@cache
def poles() -> dict[str, tuple[int, int]]:
    """Return dimension and level by label."""
    return {
        dimension.pole(level).label: (d, level) for d, dimension in enumerate(SPACE.dimensions) for level in (1, -1)
    }


def answered_levels(bodies: Iterable[dict[str, Any]], min_confidence: float) -> dict[str, list[int]]:
    """Return the server's answers by response, read from the words of the prompts alone."""
    levels: dict[str, list[int]] = {}
    for prompt in (prompt for body in bodies for prompt in body["prompt"]):
        listed = levels.setdefault(comment_of(prompt), [0] * len(SPACE))
        shares = option_shares(prompt)
        letter = max(shares, key=lambda letter: shares[letter])
        label = option_texts(prompt)[letter].partition(": ")[0]
        # Probabilities are kept as bytes.
        bytes_of = {option: round(255 * share) for option, share in shares.items()}
        if label in poles() and bytes_of[letter] / sum(bytes_of.values()) >= min_confidence:
            d, level = poles()[label]
            listed[d] = level
    return levels


def responses_of(built: Built) -> dict[str, dict[str, Any]]:
    """Every response of the annotated threads, by its text."""
    return {response["text"]: response for row in built.rows("annotated") for response in row["responses"]}


def test_every_thread_gives_a_pair_and_every_pair_two_examples(built: Built) -> None:
    counts = built.manifest.counts

    assert (built.manifest.status, counts.pairs_asked, counts.pairs_accepted) == ("complete", 50, 50)
    assert counts.examples == 2 * (50 - counts.pairs_lost) == len(built.rows("data"))
    assert counts.pairs_lost < 10
    assert {f"{row['stage']}/{row['reason']}" for row in built.rows("rejected/examples")} == set(counts.rejected)


def test_manifest_counts_what_became_of_the_threads(built: Built) -> None:
    assert built.manifest.counts.threads == {
        "posts/read": 54,
        "posts/deleted": 1,
        "posts/duplicate": 1,
        "posts/too_few_responses": 2,
        "responses/read": 50 * 5 + 1 + 5 + 4,
        "responses/bot": 4,
        "responses/of_small_threads": 1,
        "threads": 51,
        "responses": 51 * 5,
        "threads/used": 50,
        "responses/annotated": 250,
    }


def test_tokens_of_all_answers_are_counted(built: Built) -> None:
    assert built.manifest.counts.completion_tokens == sum(len(body["prompt"]) for body in built.stub.bodies) == 250 * 90


def test_levels_are_what_the_server_answered_whatever_the_order_of_the_options(built: Built) -> None:
    expected = answered_levels(built.stub.bodies, 0.85)

    assert {text: response["levels"] for text, response in responses_of(built).items()} == expected
    assert len(expected) == 250


def test_pair_is_two_responses_of_a_thread_and_its_direction_the_sign_of_their_difference(built: Built) -> None:
    threads = {row["id"]: {response["text"] for response in row["responses"]} for row in built.rows("annotated")}
    responses = responses_of(built)

    for pair in built.rows("pool"):
        chosen, rejected = (responses[pair[role]]["levels"] for role in ("chosen", "rejected"))
        assert {pair["chosen"], pair["rejected"]} < threads[pair["post_id"]]
        assert (pair["chosen_levels"], pair["rejected_levels"]) == (chosen, rejected)
        assert pair["direction"] == np.sign(np.array(chosen) - np.array(rejected)).tolist()
        assert 0 <= pair["margin"] <= 1


def test_ids_source_and_model_tell_where_a_row_comes_from(built: Built) -> None:
    for split, rows in zip(MATCHED_SPLITS, built.by_split("data"), strict=True):
        for row in rows:
            assert f"-{split}-mined-" in row["id"]
            assert (row["source"], row["model"]) == ("mined", "stub")


def test_items_of_a_history_carry_the_levels_of_what_they_show(built: Built) -> None:
    responses = responses_of(built)
    directions = {(row["chosen"], row["rejected"]): row["direction"] for row in built.rows("pool")}

    for row in built.rows("data"):
        for item in row[UGC]:
            assert from_released(item[DIRECTION]).tolist() == responses[item["comment"]]["levels"]
        for item in row[PAIR]:
            levels = from_released(item[DIRECTION])
            texts = (item["chosen"], item["rejected"])
            assert directions.get(texts) == levels.tolist() or directions[texts[::-1]] == (-levels).tolist()


def test_mirrored_twin_prefers_the_other_reply_and_has_the_same_pairs_turned_round(built: Built) -> None:
    rows = built.rows("data")

    for first, twin in zip(rows[::2], rows[1::2], strict=True):
        assert (first["mirrored"], twin["mirrored"]) == (False, True)
        assert (twin["chosen"], twin["rejected"]) == (first["rejected"], first["chosen"])
        assert [(item["chosen"], item["rejected"]) for item in twin[PAIR]] == [
            (item["rejected"], item["chosen"]) for item in first[PAIR]
        ]


PAIR_FACTS = ("post_id", "prompt", "chosen", "rejected", "direction", "chosen_levels", "rejected_levels", "margin")


def test_annotated_threads_given_back_give_the_same_pairs_without_a_model(built: Built, tmp_path: Path) -> None:
    given = mine(tmp_path / "out", built.folder / "annotated" / "*.parquet", annotation={"mode": "given"})

    def facts(build: Built) -> list[list[list[Any]]]:
        return [[[row[name] for name in PAIR_FACTS] for row in rows] for rows in build.by_split("pool")]

    assert given.stub.bodies == []
    assert facts(given) == facts(built)
    assert {row["model"] for row in given.rows("data")} == {"given"}
    assert given.manifest.counts.completion_tokens == 0


def test_responses_that_bring_levels_are_not_asked_about(built: Built, tmp_path: Path) -> None:
    annotated = built.rows("annotated")
    for row in annotated[:40]:
        for response in row["responses"]:
            del response["levels"], response["positive"], response["negative"]

    again = mine(tmp_path / "out", write_jsonl(tmp_path / "half.jsonl", annotated))

    asked = {comment_of(prompt) for body in again.stub.bodies for prompt in body["prompt"]}
    assert asked == {response["text"] for row in annotated[:40] for response in row["responses"]}
    assert responses_of(again) == responses_of(built)


def test_rated_dataset_is_built_without_an_engine(tmp_path: Path) -> None:
    rows = [helpsteer2_row(f"Prompt {k // 2}?", good_text({"number": k}), *[k % 2 * 4] * 5) for k in range(60)]
    section = {"source": {"kind": "helpsteer2", "path": [str(write_jsonl(tmp_path / "rows.jsonl", rows))]}}
    config = tiny(pairs=None, mining=section)

    manifest = build(config, tmp_path / "out")

    assert not config.needs_model
    assert manifest.counts.examples > 0
    assert {row["model"] for row in rows_of(tmp_path / "out" / "data")} == {"given"}
    assert "| model | none |" in (tmp_path / "out" / "README.md").read_text()


# Mined and sampled pairs together


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Build forty mined and forty sampled pairs; three threads are about seed posts."""
    folder = tmp_path_factory.mktemp("mixture")
    posts = [json.loads(line) for line in SEED_POSTS.read_text().splitlines()[:3]]
    repeated = [thread(200 + k, title=post["title"].upper(), post=post["text"]) for k, post in enumerate(posts)]
    threads = write_jsonl(folder / "threads.jsonl", [*repeated, *(thread(k) for k in range(45))])
    return mine(folder / "out", threads, pairs=80, mining={"share": 0.5}, limits={"max_lost_share": 1})


def test_shares_are_those_that_were_asked_for(mixture: Built) -> None:
    counts = mixture.manifest.counts

    assert Counter(row["source"] for row in mixture.rows("pool")) == {"sampled": 40, "mined": 40}
    assert (counts.pairs_asked, counts.threads["threads/used"], counts.threads["responses/annotated"]) == (80, 40, 200)


def test_shards_of_both_sources_are_numbered_together_and_hold_one_source_each(mixture: Built) -> None:
    sources = {
        path.name: {row["source"] for row in read_shard(path).to_pylist()}
        for path in sorted((mixture.folder / "pool").glob("*.parquet"))
    }

    assert sources == {
        "test-00000-of-00002.parquet": {"sampled"},
        "test-00001-of-00002.parquet": {"mined"},
        "train-00000-of-00004.parquet": {"sampled"},
        "train-00001-of-00004.parquet": {"sampled"},
        "train-00002-of-00004.parquet": {"mined"},
        "train-00003-of-00004.parquet": {"mined"},
        "validation-00000-of-00002.parquet": {"sampled"},
        "validation-00001-of-00002.parquet": {"mined"},
    }
    assert [Path(entry.path).name for entry in mixture.manifest.files] == sorted(
        sources, key=lambda name: (MATCHED_SPLITS.index(name.split("-")[0]), name)
    )


def test_every_shard_is_loaded_once(mixture: Built, tmp_path: Path) -> None:
    dataset = load_dataset(str(mixture.folder), cache_dir=str(tmp_path / "cache"))

    rows = [row for split in MATCHED_SPLITS for row in dataset[split].to_list()]
    assert rows == [row for rows in mixture.by_split("data") for row in rows]
    assert {row["source"] for row in rows} == {"sampled", "mined"}
    assert len({row["id"] for row in rows}) == len(rows) == mixture.manifest.counts.examples


def test_histories_never_mix_sources(mixture: Built) -> None:
    posts = {row["prompt"]: row["source"] for row in mixture.rows("pool")}

    for row in mixture.rows("data"):
        assert {posts[prompt] for prompt in posts_in(row)} == {row["source"]}


def test_post_that_pairs_are_sampled_for_is_not_mined_too(mixture: Built) -> None:
    assert mixture.manifest.counts.threads["posts/duplicate"] == 3
    assert not {row["post_id"] for row in mixture.rows("pool")} & {"t200", "t201", "t202"}


def test_sampled_pairs_of_a_mixture_are_those_of_a_build_without_threads(mixture: Built, tmp_path: Path) -> None:
    alone, _ = run_build(tmp_path / "out", pairs=40)

    facts = ("prompt", "direction", "chosen", "rejected")
    assert alone.counts.pairs_accepted == 40
    assert [[row[name] for name in facts] for row in rows_of(tmp_path / "out" / "pool")] == [
        [row[name] for name in facts] for row in mixture.rows("pool") if row["source"] == "sampled"
    ]


# Choices of the configuration


def test_dimensions_that_are_not_asked_about_are_neutral(tmp_path: Path) -> None:
    build = few(tmp_path)

    asked = [SPACE.index[slug] for slug in SOME]
    levels = np.array([response["levels"] for response in responses_of(build).values()])
    directions = np.array([row["direction"] for row in build.rows("pool")])
    assert {len(body["prompt"]) for body in build.stub.bodies} == {len(SOME)}
    assert set(np.flatnonzero(np.abs(levels).sum(axis=0))) == set(asked)
    assert set(np.flatnonzero(np.abs(directions).sum(axis=0))) == set(asked)


def test_without_mirror_a_pair_gives_one_example_and_the_twin_is_not_looked_for(tmp_path: Path) -> None:
    one, two = few(tmp_path / "one", mirror=False), few(tmp_path / "two")

    rows = one.rows("data")
    assert not any(row["mirrored"] for row in rows)
    assert all(row["id"] == f"{row['pair_id']}-a" for row in rows)
    assert len({row["pair_id"] for row in rows}) == len(rows) == one.manifest.counts.examples
    assert len(rows) + one.manifest.counts.pairs_lost == 30
    # A pair whose mirrored person has no history is kept.
    assert len(rows) >= two.manifest.counts.examples / 2


@pytest.mark.parametrize("history", [{"ugc": 0, "pair": 0}, {"ugc": 3, "pair": 0}, {"ugc": 0, "pair": 3}])
def test_history_has_the_shape_that_was_asked_for(tmp_path: Path, history: dict[str, int]) -> None:
    # A history of nothing supports nothing, as with sampled pairs.
    support = {"min_support": 0.0} if any(history.values()) else {}

    build = few(tmp_path, history=history | support)

    assert build.rows("data")
    assert all((len(row[UGC]), len(row[PAIR])) == tuple(history.values()) for row in build.rows("data"))


def test_card_says_whether_pairs_are_mirrored(tmp_path: Path) -> None:
    one, two = few(tmp_path / "one", mirror=False), few(tmp_path / "two")

    cards = [(build.folder / "README.md").read_text() for build in (one, two)]
    assert ["Every pair occurs twice" in card for card in cards] == [False, True]


def test_several_pairs_of_a_post_are_different_and_never_meet_in_a_history(tmp_path: Path) -> None:
    build = few(tmp_path, mining={"pairs_per_post": 3}, attempts=8)

    pairs = build.rows("pool")
    assert build.manifest.counts.pairs_asked == 90
    assert len(pairs) > 60
    assert len({frozenset((row["chosen"], row["rejected"])) for row in pairs}) == len(pairs)
    assert max(Counter(row["post_id"] for row in pairs).values()) == 3
    assert_disjoint({row["post_id"] for row in rows} for rows in build.by_split("pool"))
    for row in build.rows("data"):
        Example.model_validate_json(orjson.dumps(row))


def test_pairs_outside_the_margins_are_rejected(tmp_path: Path) -> None:
    build = few(tmp_path, mining={"min_margin": 0.3, "max_margin": 0.5}, attempts=3)

    margins = [row["margin"] for row in build.rows("pool")]
    refused = [row for row in build.rows("rejected/pairs") if row["reason"] == "margin"]
    assert margins
    assert all(0.3 <= margin <= 0.5 for margin in margins)
    assert refused
    assert build.manifest.counts.rejected["mine/margin"] == len(refused)


def test_margin_that_no_pair_has_fails_the_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"30 pairs: mine/margin 30 .*min_margin"):
        few(tmp_path, mining={"min_margin": 1.0})


JSON_ANNOTATION: dict[str, Any] = {"mode": "json", "dimensions": SOME[:4]}


def asked_comment(body: dict[str, Any]) -> str:
    """Return the response that a structured request is about."""
    return comment_of(body["messages"][-1]["content"])


def test_structured_annotation_takes_every_level_from_one_reply(tmp_path: Path) -> None:
    build = few(tmp_path, annotation=JSON_ANNOTATION)

    levels = {"positive": 1, "negative": -1, "unclear": 0}
    expected = {}
    for body in build.stub.bodies:
        found = json.loads(good_text(body))
        expected[asked_comment(body)] = [levels[found.get(d.slug, "unclear")] for d in SPACE.dimensions]
    assert len(build.stub.bodies) == 150
    assert {text: response["levels"] for text, response in responses_of(build).items()} == expected
    assert build.rows("data")


# What the stub makes of a structured reply whose seed has this remainder by 20.
BAD_REPLIES = {0: "schema", 1: "schema", 2: "unfinished", 3: "http_400"}


async def badly_structured(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    match body["seed"] % 20:
        case 0:
            return completion("positive, I would say")
        case 1:
            return completion(json.dumps({SOME[0]: "positive"}))
        case 2:
            return completion(good_text(body), "length")
        case 3:
            return await refuse(400, "too long")(request, body)
    return completion(good_text(body))


def test_bad_structured_replies_are_asked_for_again_and_the_response_is_then_left_out(tmp_path: Path) -> None:
    build = few(tmp_path, answer=badly_structured, annotation=JSON_ANNOTATION, attempts=2)

    expected = Counter(
        (asked_comment(body), f"annotate/{BAD_REPLIES[body['seed'] % 20]}")
        for body in build.stub.bodies
        if body["seed"] % 20 in BAD_REPLIES
    )
    found = [row for row in build.rows("rejected/pairs") if row["stage"] == "annotate"]
    assert Counter((row["texts"][0], f"annotate/{row['reason']}") for row in found) == expected
    assert {row["attempt"] for row in found} == {0, 1}
    assert not any(row["final"] for row in found)
    failed = {text for text, times in Counter(text for text, _ in expected.elements()).items() if times == 2}
    responses = responses_of(build)
    assert len(build.stub.bodies) == 150 + sum(row["attempt"] == 0 for row in found)
    assert {text for text, response in responses.items() if not response["levels"]} == failed != set()
    assert build.manifest.counts.threads["responses/annotated"] == 150 - len(failed)
    assert failed.isdisjoint(row[role] for row in build.rows("pool") for role in ("chosen", "rejected"))


# What the stub makes of a call of choices, by the remainder of its hash by 30.
BAD_CHOICES = {0: "http_400", 1: "garbled", 2: "garbled", 3: "no_option"}


def kind_of(body: dict[str, Any]) -> int:
    return int(log_line(body), 16) % 30


async def badly_chosen(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    match kind_of(body):
        case 0:
            return await refuse(400, "the prompt is too long")(request, body)
        case 1:
            return web.Response(text="<html>not a completion")
        case 2:
            return completions(choices(body)[1:])
        case 3:
            return completions([choice | {"text": "The", "logprobs": None} for choice in choices(body)])
    return completions(choices(body))


def test_exactly_the_responses_that_were_answered_badly_are_left_out_each_with_its_reason(tmp_path: Path) -> None:
    build = few(tmp_path, answer=badly_chosen, threads=50)

    expected = {
        comment_of(body["prompt"][0]): BAD_CHOICES[kind_of(body)]
        for body in build.stub.bodies
        if kind_of(body) in BAD_CHOICES
    }
    found = [row for row in build.rows("rejected/pairs") if row["stage"] == "annotate"]
    assert {row["texts"][0]: row["reason"] for row in found} == expected
    assert set(expected.values()) == set(BAD_CHOICES.values())
    counts = build.manifest.counts
    assert Counter(counts.rejected) >= Counter(f"annotate/{reason}" for reason in expected.values())
    assert counts.threads["responses/annotated"] == 250 - len(expected)
    assert counts.pairs_accepted + sum(row["final"] for row in build.rows("rejected/pairs")) == 50


def test_threads_of_which_nothing_was_annotated_are_rejected(tmp_path: Path) -> None:
    async def refuses_some(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        if "thread number 7," in body["prompt"][0].lower().rpartition("post: ")[2]:
            return await refuse(400, "no")(request, body)
        return await good(request, body)

    build = few(tmp_path, answer=refuses_some)

    lost = [row for row in build.rows("rejected/pairs") if row["stage"] == "mine" and row["final"]]
    assert [(row["post_id"], row["reason"]) for row in lost if row["reason"] != "one_cluster"] == [
        ("t7", "too_few_responses")
    ]


def test_build_of_which_one_split_loses_every_pair_is_finished(built: Built, tmp_path: Path) -> None:
    _, validation, _ = built.by_split("annotated")
    texts = {response["text"] for row in validation for response in row["responses"]}

    async def refuses_validation(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        if comment_of(body["prompt"][0]) in texts:
            return await refuse(400, "no")(request, body)
        return await good(request, body)

    again = mine(
        tmp_path / "out",
        built.folder.parent / "threads.jsonl",
        answer=refuses_validation,
        limits={"max_lost_share": 1},
    )

    assert again.manifest.counts.rejected["mine/too_few_responses"] == len(validation)
    assert [len(rows) for rows in again.by_split("data")] == [
        0 if split == "validation" else len(rows)
        for split, rows in zip(MATCHED_SPLITS, built.by_split("data"), strict=True)
    ]
    dataset = load_dataset(str(again.folder), cache_dir=str(tmp_path / "cache"))
    assert {split for split, rows in dataset.items() if len(rows)} == {"train", "test"}


def test_response_that_stands_in_threads_of_several_splits_is_in_none(tmp_path: Path) -> None:
    everywhere = "You should call your sister tonight and tell her everything that you have told us."
    rows = [thread(k) for k in range(40)]
    for row in rows:
        row["responses"][0]["text"] = everywhere
    (tmp_path / "threads").mkdir()

    build = mine(
        tmp_path / "out",
        write_jsonl(tmp_path / "threads" / "threads.jsonl", rows),
        limits={"max_lost_share": 1},
    )

    assert build.manifest.counts.rejected["assemble/reply_in_another_split"] > 0
    assert build.rows("data")
    assert not any(everywhere in json.dumps(row) for row in build.rows("data"))


def test_refused_build_leaves_a_folder_that_another_configuration_can_use(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="500 are requested"):
        few(tmp_path, pairs=500)

    assert not (tmp_path / "out" / "manifest.json").exists()
    assert few(tmp_path).manifest.status == "complete"


def test_file_of_other_columns_leaves_a_folder_in_which_they_can_be_mapped(tmp_path: Path) -> None:
    rows = [{"question": row["post"], "answers": row["responses"]} for row in map(thread, range(30))]
    path = write_jsonl(tmp_path / "threads.jsonl", rows)
    source = {"kind": "threads", "path": [str(path)]}

    with pytest.raises(UsageError, match=r"none of 30 can be read; the first: .*found: question, answers; .*columns"):
        mine(tmp_path / "out", path, mining={"source": source})

    columns = {"post": "question", "responses": "answers"}
    build = mine(tmp_path / "out", path, mining={"source": source | {"columns": columns}}, limits={"max_lost_share": 1})
    assert build.manifest.status == "complete"


def test_file_that_cannot_be_read_costs_none_of_the_others(tmp_path: Path) -> None:
    good = write_threads(tmp_path / "good.jsonl", 30)
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes(gzip.compress(good.read_bytes())[:-20])

    with pytest.raises(UsageError, match=r"cut\.jsonl\.gz: not readable as \.gz, after line \d+: "):
        mine(tmp_path / "out", good, cut)

    assert (tmp_path / "out" / "manifest.json").exists()
    assert (tmp_path / "out" / "threads" / "shuffle" / "00000.json").exists()
