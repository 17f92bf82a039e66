from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard

from pipeline.threads import gather, sources
from pipeline.threads.gather import count_parts, join, partition, pending_parts, pending_slices
from pipeline.threads.index import build_index, read_threads
from schemas.base import UserError
from schemas.config import MiningConfig
from tests import ROOT
from tests.pipeline.helpers import folder_of, mining, rows_of, write_jsonl
from tests.pipeline.threads.forum import (
    BUSY,
    DIMENSIONS,
    ENGLISH,
    GERMAN,
    Gathered,
    Row,
    busy_dump,
    busy_forum,
    check_funnel,
    comment,
    cut_small,
    dump,
    gather_rows,
    gathered,
    hash_of,
    pair,
    plan_of,
    response,
    result_of,
    shuffle_and_join,
    split_into,
    text,
    thread,
)
from tests.pipeline.threads.rows import submission

FORUM = ROOT.parent / "shared" / "data" / "forum"


# A forum in which everything occurs

REASONS = {
    "posts": {"deleted", "empty", "too_long", "merged", "too_few_responses", "duplicate"},
    "responses": {
        *("deleted_account", "moderator", "bot", "too_short", "too_long", "nested"),
        *("without_post", "duplicate", "same_author", "language", "over_limit", "of_small_threads"),
    },
}


def test_whatever_was_read_is_dropped_for_one_reason_or_used(tmp_path: Path) -> None:
    found = gathered(tmp_path / "out", busy_dump(tmp_path), **ENGLISH)

    check_funnel(found)
    # The sums above would hold for a forum without a fault, too.
    for kind, reasons in REASONS.items():
        assert set(found.counts(kind)) == reasons, kind
    posts, comments = busy_forum()
    assert found.index.counts["posts/read"] == len(posts)
    assert found.index.counts["responses/read"] == len(comments)


@pytest.mark.parametrize(
    ("section", "build"),
    [
        ({}, {}),
        ({"one_per_author": False, "scrub": False}, {}),
        ({"max_responses": 2}, {}),
        ({"min_responses": 4}, {}),
        ({"limit": 7}, {}),
        ({}, {"pairs": 9}),
        ({"limit": 20, "pairs_per_post": 4}, {"pairs": 30}),
    ],
)
def test_funnel_adds_up_with_other_keys(tmp_path: Path, section: Row, build: Row) -> None:
    found = gathered(tmp_path / "out", {**busy_dump(tmp_path), **section}, **build)

    check_funnel(found)
    sizes = np.diff(found.threads.offsets)
    mined = found.plan.config.mining
    assert mined is not None
    assert sizes.min() >= mined.min_responses
    assert sizes.max() <= mined.max_responses


def test_responses_of_threads_that_a_later_step_drops_are_counted_in_their_threads(tmp_path: Path) -> None:
    found = gathered(tmp_path / "out", busy_dump(tmp_path))
    rows = rows_of(folder_of(found.plan) / "threads")

    assert found.counts("posts")["duplicate"] > 0
    assert found.index.counts["threads"] == len(rows)
    assert found.index.counts["responses"] == sum(len(row["responses"]) for row in rows)


@pytest.mark.parametrize(
    ("part_bytes", "slice_bytes", "flushed_at"),
    [
        (500, 1 << 20, 1 << 20),
        (1 << 30, 1000, 1 << 20),
        (1 << 30, 1 << 20, 500),
        (1 << 30, 1 << 20, 1),
        (2000, 3000, 700),
        (300, 20_000, 3000),
    ],
)
def test_threads_are_the_same_however_input_and_parts_are_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part_bytes: int, slice_bytes: int, flushed_at: int
) -> None:
    section = busy_dump(tmp_path)
    whole = gathered(tmp_path / "whole", section)
    assert whole.index.parts == (len(whole.posts) + whole.index.counts["posts/duplicate"],)

    cut_small(monkeypatch, part_bytes, slice_bytes, flushed_at)
    cut = gathered(tmp_path / "cut", section)

    assert cut.content() == whole.content()
    assert cut.index.counts == whole.index.counts
    assert cut.index.splits == whole.index.splits
    assert len(cut.index.parts) == count_parts(cut.plan)


def test_small_parts_slices_and_runs_are_really_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut_small(monkeypatch)
    plan = plan_of(tmp_path / "out", busy_dump(tmp_path))
    slices = pending_slices(plan)

    for input_slice in slices:
        partition(input_slice, plan)

    assert len(slices) > 30
    assert len(list((plan.output / "threads" / "shuffle").glob("00005-*"))) > 2
    assert count_parts(plan) > 50
    shuffle_and_join(plan)
    # Some parts are empty.
    assert min(build_index(plan).parts) == 0


def test_parts_are_at_most_so_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gather, "_PART_BYTES", 1)
    monkeypatch.setattr(gather, "_MAX_PARTS", 10)

    found = gather_rows(tmp_path, *(pair(f"t{k}") for k in range(30)))

    assert len(found.index.parts) == 10
    assert sorted(found.posts) == sorted(f"t{k}" for k in range(30))


def test_threads_of_a_part_have_several_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [pair(f"t{k}") for k in range(40)]
    whole = gather_rows(tmp_path, *rows)
    monkeypatch.setattr(gather, "ROWS_PER_GROUP", 7)
    monkeypatch.setattr(gather, "_PART_BYTES", 6000)
    cut = gathered(tmp_path / "cut", mining(tmp_path / "threads.jsonl"))

    assert len(cut.index.parts) > 2
    assert max(cut.index.parts) > 7
    assert cut.content() == whole.content()


# Order


def test_order_depends_on_seed_and_ids_alone(tmp_path: Path) -> None:
    posts, comments = busy_forum(repeated=False)

    def run(name: str, posts: Sequence[Row], comments: Sequence[Row], files: int, **keys: Any) -> Gathered:
        folder = tmp_path / name
        folder.mkdir()
        section = dump(split_into(folder, "RS", posts, files), split_into(folder, "RC", comments, files), **BUSY)
        return gathered(folder / "out", section, **keys)

    first = run("first", posts, comments, 1)
    turned = run("turned", posts[::-1], comments[::-1], 3)

    assert turned.content() == first.content()
    assert turned.index.counts == first.index.counts
    other = run("other", posts, comments, 1, seed=1)
    assert other.posts != first.posts


def test_posts_keep_their_order_when_others_come_or_texts_change(tmp_path: Path) -> None:
    first = gather_rows(tmp_path, *(pair(f"t{k}") for k in range(0, 40, 2)))
    (tmp_path / "more").mkdir()
    more = gather_rows(tmp_path / "more", *(pair(f"t{k}", post=f"Quite another text, {k}?") for k in range(40)))

    assert [post for post in more.posts if post in first.posts] == first.posts
    assert first.posts != sorted(first.posts)


def test_responses_are_in_the_order_of_their_ids(tmp_path: Path) -> None:
    names = ["r10", "r2", "b", "a", "Z"]

    found = gather_rows(tmp_path, thread("t", *(response(name) for name in names)))

    assert found.ids("t") == sorted(names)


def test_any_range_of_threads_is_read_as_that_range_of_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut_small(monkeypatch, part_bytes=1500)
    found = gather_rows(tmp_path, *(pair(f"t{k}") for k in range(25)))
    assert len(found.index.parts) > 5

    for start in range(25):
        for count in (1, 2, 7, 25 - start):
            block = read_threads(found.plan, start, min(count, 25 - start))
            rows = [r for t in range(start, min(start + count, 25)) for r in found.threads.rows(t)]
            assert block.posts == found.threads.posts[start : start + count]
            assert block.texts == [found.threads.texts[r] for r in rows]


# Joining


def test_comments_are_joined_with_posts_of_other_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gather, "_PART_BYTES", 200)
    posts = [submission(f"p{k}") for k in range(6)]
    comments = [comment(f"p{k}c{j}", f"p{k}") for j in range(4) for k in range(6)]
    here, packed = tmp_path / "RC_a.jsonl", tmp_path / "RC_b.zst"
    write_jsonl(here, comments[:11])
    packed.write_bytes(zstandard.ZstdCompressor().compress(write_jsonl(tmp_path / "b", comments[11:]).read_bytes()))

    found = gathered(tmp_path / "out", dump(split_into(tmp_path, "RS", posts, 2), [here, packed]))

    assert sorted(found.posts) == [f"p{k}" for k in range(6)]
    for post in found.posts:
        assert found.ids(post) == [f"{post}c{j}" for j in range(4)]
        assert [entry.text for entry in found.responses(post)] == [text(hash_of(f"{post}c{j}")) for j in range(4)]


def test_title_text_and_topics_of_a_post_are_kept(tmp_path: Path) -> None:
    row = pair("t", post=None, title=" Größe? ", text="One\u2028two\r\nthree.\n", topics=["Music", "Sci Fi"])

    post = gather_rows(tmp_path, row).threads.posts[0]

    assert (post.title, post.text, post.topics) == ("Größe?", "One\u2028two\r\nthree.", ("music", "sci_fi"))


def test_responses_without_their_post_are_counted(tmp_path: Path) -> None:
    posts = [submission("p"), submission("gone", selftext="[removed]")]
    comments = [comment(f"c{k}", post) for k, post in enumerate(["p", "p", "q", "gone", "gone"])]

    found = gathered(
        tmp_path / "out", dump(split_into(tmp_path, "RS", posts, 1), split_into(tmp_path, "RC", comments, 1))
    )

    assert found.posts == ["p"]
    assert found.counts("responses") == {"without_post": 3}
    check_funnel(found)


def test_different_posts_under_one_id_are_two_threads(tmp_path: Path) -> None:
    found = gather_rows(
        tmp_path,
        thread("t", response("a"), response("b"), post="The first."),
        thread("t", response("c"), response("d"), post="The second."),
        pair("u"),
    )

    assert len(set(found.posts)) == 3
    by_text = {post.text: found.ids(post.id) for post in found.threads.posts if post.id != "u"}
    assert by_text == {"The first.": ["a", "b"], "The second.": ["c", "d"]}
    assert all(name == "u" or name.startswith("t~") for name in found.posts)
    assert found.counts("posts") == {}
    check_funnel(found)


def test_files_whose_ids_start_over_do_not_mix(tmp_path: Path) -> None:
    rows = {
        name: [thread(str(k), *(response(f"{name}{k}{j}", id=str(j)) for j in range(3)), post=f"{name} {k}")
               for k in range(20)]
        for name in ("cats", "dogs")
    }  # fmt: skip
    paths = [write_jsonl(tmp_path / f"{name}.jsonl", found) for name, found in rows.items()]
    texts = {row["post"]: sorted(r["text"] for r in row["responses"]) for found in rows.values() for row in found}

    here = gathered(tmp_path / "here", mining(*paths))
    there = gathered(tmp_path / "there", mining(*paths[::-1]))

    assert len(here.posts) == len(set(here.posts)) == 40
    for post in here.threads.posts:
        assert sorted(r.text for r in here.responses(post.id)) == texts[post.text]
    assert here.content() == there.content()


def test_rows_of_one_post_are_one_thread(tmp_path: Path) -> None:
    post = "What do you cook?"
    row = thread("t", response("a"), response("b"), post=post)

    found = gather_rows(tmp_path, row, row, thread("t", response("c"), post=post))

    assert found.ids("t") == ["a", "b", "c"]
    assert found.counts("posts") == {"merged": 2}
    assert found.counts("responses") == {"duplicate": 2}
    check_funnel(found)


def test_rows_without_ids_are_one_thread_only_where_no_levels_compare_their_responses(tmp_path: Path) -> None:
    def rows(**fields: Any) -> list[Row]:
        return [
            {"post": "What now?", "responses": [{"text": text(2 * k + j), **fields} for j in range(2)]}
            for k in range(2)
        ]

    found = gather_rows(tmp_path, *rows())
    (tmp_path / "rated").mkdir()
    rated = gather_rows(tmp_path / "rated", *rows(levels={"humor": 1}))

    assert [len(found.ids(post)) for post in found.posts] == [4]
    assert len(set(found.ids(found.posts[0]))) == 4
    assert [len(rated.ids(post)) for post in rated.posts] == [2]
    assert rated.counts("posts") == {"duplicate": 1}
    check_funnel(found)
    check_funnel(rated)


def test_responses_of_one_id_with_different_texts_are_both_kept(tmp_path: Path) -> None:
    rows = [response("a", text="The first text under this id."), response("a", text="Another text under the same id.")]

    found = gather_rows(tmp_path, thread("t", *rows, response("b")), one_per_author=False)

    assert len(set(found.ids("t"))) == 3
    assert {r.text for r in found.responses("t")} >= {row["text"] for row in rows}
    assert found.counts("responses") == {}
    check_funnel(found)


def test_comment_that_a_dump_holds_twice_is_counted(tmp_path: Path) -> None:
    posts = [submission("p"), submission("t3_p")]
    comments = [comment("a", "p"), comment("b", "p"), comment("a", "p", body=text(99), author="jo")]

    found = gathered(
        tmp_path / "out", dump(split_into(tmp_path, "RS", posts, 1), split_into(tmp_path, "RC", comments, 1))
    )

    assert found.ids("p") == ["a", "b"]
    assert found.counts("posts") == {"merged": 1}
    assert found.counts("responses") == {"duplicate": 1}
    check_funnel(found)


@pytest.mark.parametrize("token", ["<|im_start|>user", "<|eot_id|>", "[/INST]", "</s>", "<think>"])
def test_responses_with_tokens_of_chat_templates_are_dropped(tmp_path: Path, token: str) -> None:
    found = gather_rows(
        tmp_path,
        thread("t", response("a", text=f"{text(1)} {token}"), response("b"), response("c", text=f"# {text(2)}")),
    )

    assert found.ids("t") == ["b", "c"]
    assert found.counts("responses") == {"control_token": 1}
    check_funnel(found)


def test_control_characters_of_posts_and_responses_go(tmp_path: Path) -> None:
    row = thread(
        "t", response("a", text=f"\ufeff\x1b[31m{text(1)}\u202e"), response("b"), post="What\x08 now\U000e0041?"
    )

    found = gather_rows(tmp_path, row)

    assert found.threads.posts[0].text == "What now?"
    assert found.responses("t")[0].text == text(1)


def test_response_of_many_characters_is_dropped_unread(tmp_path: Path) -> None:
    found = gather_rows(
        tmp_path,
        thread("t", response("a", text="<|" * 300 + " one two three four five six"), response("b"), response("c")),
        build={"rules": {"max_characters": 500}},
    )

    assert found.ids("t") == ["b", "c"]
    assert found.counts("responses") == {"too_long": 1}


def test_second_response_with_a_text_is_counted_whatever_its_case_and_punctuation(tmp_path: Path) -> None:
    texts = ["One two three four five.", "one TWO  three, four -- five!", "One two three five four."]

    found = gather_rows(tmp_path, thread("t", *(response(f"r{k}", text=body) for k, body in enumerate(texts))))

    assert len(found.ids("t")) == 2
    assert "r2" in found.ids("t")
    assert found.counts("responses") == {"duplicate": 1}
    check_funnel(found)


def test_same_text_in_two_threads_is_no_duplicate(tmp_path: Path) -> None:
    found = gather_rows(tmp_path, *(thread(t, response("a"), response("b")) for t in "xy"))

    assert sorted(found.posts) == ["x", "y"]
    assert found.counts("responses") == {}


def test_one_response_of_each_author_is_kept_and_the_nameless_are_many(tmp_path: Path) -> None:
    rows = [response(f"r{k}", author="jo" if k < 4 else "") for k in range(7)]

    found = gather_rows(tmp_path, thread("t", *rows))

    assert len([name for name in found.ids("t") if name < "r4"]) == 1
    assert found.ids("t")[1:] == ["r4", "r5", "r6"]
    assert found.counts("responses") == {"same_author": 3}
    (tmp_path / "all").mkdir()
    everyone = gather_rows(tmp_path / "all", thread("t", *rows), one_per_author=False)
    assert everyone.ids("t") == [f"r{k}" for k in range(7)]


def test_author_may_respond_in_several_threads(tmp_path: Path) -> None:
    found = gather_rows(
        tmp_path, *(thread(t, response(f"{t}1", author="jo"), response(f"{t}2", author="al")) for t in "xyz")
    )

    assert len(found.threads.texts) == 6


def test_author_whose_response_is_a_duplicate_may_have_another(tmp_path: Path) -> None:
    rows = [response(f"r{k}", text="One two three four five six.", author=f"by {k}") for k in range(6)]
    rows += [response(f"s{k}", author=f"by {k}") for k in range(6)]

    found = gather_rows(tmp_path, thread("t", *rows))

    assert sorted(name[1] for name in found.ids("t")) == ["0", "1", "2", "3", "4", "5"]
    check_funnel(found)


def test_most_responses_are_chosen_by_the_seed(tmp_path: Path) -> None:
    rows = [pair("u"), thread("t", *(response(f"r{k:02d}") for k in range(30)))]

    chosen = {}
    for seed in range(4):
        (tmp_path / str(seed)).mkdir()
        found = gather_rows(tmp_path / str(seed), *rows, build={"seed": seed}, max_responses=5)
        assert found.counts("responses") == {"over_limit": 25}
        check_funnel(found)
        chosen[seed] = found.ids("t")
        assert len(chosen[seed]) == 5
    assert len({tuple(names) for names in chosen.values()}) == 4


def test_responses_in_another_language_are_dropped(tmp_path: Path) -> None:
    rows = [response("a"), response("b", text=GERMAN), response("c")]

    found = gather_rows(tmp_path, thread("t", *rows), build=ENGLISH)

    assert found.ids("t") == ["a", "c"]
    assert found.counts("responses") == {"language": 1}


def test_threads_with_too_few_responses_are_dropped_with_theirs(tmp_path: Path) -> None:
    rows = [thread(f"t{k}", *(response(f"t{k}r{j}") for j in range(k))) for k in range(6)]

    found = gather_rows(tmp_path, *rows, min_responses=4)

    assert sorted(found.posts) == ["t4", "t5"]
    assert found.counts("posts") == {"too_few_responses": 4}
    assert found.counts("responses") == {"of_small_threads": 0 + 1 + 2 + 3}
    check_funnel(found)


def test_fewest_responses_are_counted_after_all_filters(tmp_path: Path) -> None:
    rows = [response("a"), response("b", text="Too short."), response("c", author="by a")]

    found = gather_rows(tmp_path, thread("t", *rows), pair("u"))

    assert found.posts == ["u"]
    assert found.counts("responses") == {"too_short": 1, "same_author": 1, "of_small_threads": 1}
    check_funnel(found)


def test_levels_and_probabilities_come_through(tmp_path: Path) -> None:
    levels = [(-1, 0, 1)[k % 3] for k in range(DIMENSIONS)]
    shares: dict[str, Any] = {"positive": [0.5] * DIMENSIONS, "negative": [0.25] * DIMENSIONS}
    rows = [
        response("a", levels={"gender": 1}),
        response("b"),
        response("c", levels=levels, **shares),
    ]

    found = gather_rows(tmp_path, thread("t", *rows))

    assert [entry.levels for entry in found.responses("t")] == [[0, 1] + [0] * (DIMENSIONS - 2), None, levels]
    block = found.threads
    assert block.probabilities[0].tolist() == [[0, 0], [1, 0]] + [[0, 0]] * (DIMENSIONS - 2)
    assert block.probabilities[2].tolist() == [[0.5, 0.25]] * DIMENSIONS


def test_annotated_threads_can_be_gathered_again(tmp_path: Path) -> None:
    shares: dict[str, Any] = {"positive": [0.1] * DIMENSIONS, "negative": [0.9] * DIMENSIONS}
    rows = [response("a", levels=[-1] * DIMENSIONS, **shares), response("b"), response("c", levels={"gender": 1})]
    first = gather_rows(tmp_path, thread("t", *rows, topics=["music"]), pair("u"))
    parts = sorted((folder_of(first.plan) / "threads").glob("part-*.parquet"))

    again = gathered(tmp_path / "again", mining(*parts))

    assert again.content() == first.content()
    np.testing.assert_array_equal(again.threads.probabilities, first.threads.probabilities)


def test_given_levels_are_needed_where_no_model_is_asked(tmp_path: Path) -> None:
    rows = [response("a", levels={"gender": 1}), response("b"), response("c", levels={"gender": -1})]

    found = gather_rows(tmp_path, thread("t", *rows), annotation={"mode": "given"})

    assert found.ids("t") == ["a", "c"]
    assert found.counts("responses") == {"without_levels": 1}
    check_funnel(found)


# Scrubbing

PRIVATE = "Ask Jo_Doe99 or mail jo@example.org, see https://example.org/x and u/sam_2."
CLEAN = "Ask [user] or mail [email], see [link] and [user]."


def test_personal_data_and_names_of_authors_are_replaced(tmp_path: Path) -> None:
    row = thread("t", response("a", text=PRIVATE), response("b", author="Jo_Doe99"), title=PRIVATE, post=PRIVATE)

    found = gather_rows(tmp_path, row)

    post = found.threads.posts[0]
    assert (post.title, post.text) == (CLEAN, CLEAN)
    assert found.responses("t")[0].text == CLEAN


def test_name_of_an_author_whose_response_is_dropped_is_replaced(tmp_path: Path) -> None:
    copies = [response(f"r{k}", author=f"Jo_Doe{k}", text="One two three four five.") for k in range(3)]

    found = gather_rows(tmp_path, thread("t", *copies, response("s", text="Jo_Doe0, Jo_Doe1 and Jo_Doe2 all say so.")))

    assert found.responses("t")[-1].text == "[user], [user] and [user] all say so."


def test_name_of_the_posts_author_is_replaced(tmp_path: Path) -> None:
    posts = [submission("p", author="Jo_Doe99")]
    comments = [comment("a", "p", body="What Jo_Doe99 asks is fair enough."), comment("b", "p")]

    found = gathered(
        tmp_path / "out", dump(split_into(tmp_path, "RS", posts, 1), split_into(tmp_path, "RC", comments, 1))
    )

    assert found.responses("p")[0].text == "What [user] asks is fair enough."


def test_names_of_other_threads_authors_are_left_alone(tmp_path: Path) -> None:
    rows = [thread("t", response("a", text="I met Jo_Doe99 in the woods."), response("b")), pair("u")]
    rows[1]["responses"][0]["author"] = "Jo_Doe99"

    assert "Jo_Doe99" in gather_rows(tmp_path, *rows).responses("t")[0].text


def test_nothing_is_replaced_where_scrubbing_is_off(tmp_path: Path) -> None:
    row = thread("t", response("a", text=PRIVATE), response("b", author="Jo_Doe99"), post=PRIVATE)

    found = gather_rows(tmp_path, row, scrub=False)

    assert found.threads.posts[0].text == PRIVATE
    assert found.responses("t")[0].text == PRIVATE


def test_responses_that_differ_in_what_is_replaced_only_are_duplicates(tmp_path: Path) -> None:
    rows = [response(name, text=f"Read all of https://example.org/{name} before you ask.") for name in "ab"]

    found = gather_rows(tmp_path, thread("t", *rows, response("c")))

    assert len(found.ids("t")) == 2
    assert found.counts("responses") == {"duplicate": 1}


def test_response_that_is_nothing_but_a_link_is_too_short(tmp_path: Path) -> None:
    link = response("a", text="https://www.example.org/watch/some/long/path?v=x")

    found = gather_rows(tmp_path, thread("t", link, response("b"), response("c")))

    assert found.ids("t") == ["b", "c"]
    check_funnel(found)


def test_no_personal_data_is_left_in_the_folder(tmp_path: Path) -> None:
    row = thread("t", response("a", text=PRIVATE), response("b", author="Jo_Doe99"), post=PRIVATE)
    found = gather_rows(tmp_path, row)

    for path in found.plan.output.rglob("*"):
        # The manifest names the paths of the source, no more.
        content = path.read_bytes() if path.is_file() else b""
        assert b"Jo_Doe99" not in content, path
        assert b"jo@example.org" not in content, path


# Resuming


def test_slices_that_are_done_are_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    section = busy_dump(tmp_path)
    whole = gathered(tmp_path / "whole", section)
    cut_small(monkeypatch)
    plan = plan_of(tmp_path / "out", section)
    slices = pending_slices(plan)
    done = slices[1::3]
    for input_slice in done:
        partition(input_slice, plan)

    again = plan_of(tmp_path / "out", section)

    assert pending_slices(again) == [input_slice for input_slice in slices if input_slice not in done]
    shuffle_and_join(again)
    assert pending_slices(again) == []
    found = result_of(again)
    assert found.content() == whole.content()
    assert found.index.counts == whole.index.counts


def test_parts_that_are_done_are_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    section = busy_dump(tmp_path)
    whole = gathered(tmp_path / "whole", section)
    cut_small(monkeypatch)
    plan = plan_of(tmp_path / "out", section)
    for input_slice in pending_slices(plan):
        partition(input_slice, plan)
    for part in range(0, count_parts(plan), 4):
        join(part, plan)

    again = plan_of(tmp_path / "out", section)

    assert pending_parts(again) == [part for part in range(count_parts(plan)) if part % 4]
    shuffle_and_join(again)
    assert pending_parts(again) == []
    assert result_of(again).content() == whole.content()


def test_what_a_killed_run_left_of_a_slice_does_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    section = busy_dump(tmp_path)
    whole = gathered(tmp_path / "whole", section)
    plan = plan_of(tmp_path / "out", section)
    shuffle = plan.output / "threads" / "shuffle"
    # Smaller spills than those of the resumed run, so that stale spills are left over.
    with monkeypatch.context() as patch:
        patch.setattr(gather, "_SPILL_BYTES", 500)
        for input_slice in pending_slices(plan):
            partition(input_slice, plan)
    for path in shuffle.glob("*.json"):
        path.unlink()
    assert len(list(shuffle.glob("00001-*"))) > 5

    shuffle_and_join(plan)

    found = result_of(plan)
    assert found.content() == whole.content()
    assert found.index.counts == whole.index.counts


def test_slices_and_parts_done_twice_give_the_same_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A runner may do an element again.
    cut_small(monkeypatch)
    plan = plan_of(tmp_path / "out", busy_dump(tmp_path))
    slices, parts = pending_slices(plan), pending_parts(plan)

    def files() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in sorted((folder_of(plan) / "threads").rglob("*")) if path.is_file()}

    def run() -> dict[Path, bytes]:
        for input_slice in slices:
            partition(input_slice, plan)
        for part in parts:
            join(part, plan)
        return files()

    assert run() == run()


def test_input_is_listed_once_for_all_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut_small(monkeypatch)
    plan = plan_of(tmp_path / "out", busy_dump(tmp_path))
    for input_slice in pending_slices(plan):
        partition(input_slice, plan)
    parts, listed = pending_parts(plan), list[MiningConfig]()

    def list_slices(config: MiningConfig) -> list[sources.Slice]:
        listed.append(config)
        return sources.list_slices(config)

    monkeypatch.setattr(gather, "list_slices", list_slices)

    for part in parts:
        join(part, plan)

    assert len(parts) > 50
    assert len(listed) == 1


def test_no_file_is_left_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut_small(monkeypatch)
    found = gathered(tmp_path / "out", busy_dump(tmp_path))

    assert list(found.plan.output.rglob(".tmp-*")) == []


def test_wrong_row_in_any_slice_costs_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "SLICE_BYTES", 800)
    rows = [pair(f"t{k}") for k in range(10)]
    rows[7] = {"id": "t7", "post": "x"}

    found = gather_rows(tmp_path, *rows)

    assert sorted(found.posts) == [f"t{k}" for k in range(10) if k != 7]
    assert found.counts("posts") == {"unreadable": 1}
    assert found.index.first_unreadable.startswith(
        f"{tmp_path / 'threads.jsonl'}: line 8: no 'responses'; found: id, post"
    )
    check_funnel(found)


def test_file_of_which_too_many_rows_cannot_be_read_is_refused_and_nothing_gathered_is_lost(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "threads.jsonl", [pair(f"t{k}") if k % 3 else {"url": k} for k in range(9)])
    plan = plan_of(tmp_path / "out", mining(path))
    shuffle_and_join(plan)

    with pytest.raises(UserError) as caught:
        build_index(plan)

    message = str(caught.value)
    assert message.startswith(f"{path}: posts: 3 of 9 cannot be read; raise limits.max_unreadable_share = 0.1 ")
    assert f"; the first: {path}: line 1: no 'responses'; found: url; " in message
    again = plan_of(tmp_path / "out", mining(path), limits={"max_unreadable_share": 0.4})
    assert (pending_slices(again), pending_parts(again)) == ([], [])
    assert len(result_of(again).posts) == 6


def test_share_of_unreadable_rows_is_taken_file_by_file(tmp_path: Path) -> None:
    good = write_jsonl(tmp_path / "good.jsonl", [pair(f"t{k}") for k in range(90)])
    bad = write_jsonl(tmp_path / "bad.jsonl", [{"url": k} for k in range(3)])
    plan = plan_of(tmp_path / "out", mining(good, bad))
    shuffle_and_join(plan)

    with pytest.raises(UserError, match=rf"^{bad}: posts: none of 3 can be read"):
        build_index(plan)


# Other sources


def test_dataset_of_the_hub_is_gathered_in_parts_of_a_fixed_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [pair(f"t{k}") for k in range(30)]

    class Info:
        sha = "c0ffee"

    def load_dataset(*_: Any, **keys: Any) -> Iterable[Row]:
        assert keys["revision"] == "c0ffee"
        return rows

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", lambda *_, **__: Info())
    monkeypatch.setattr("datasets.load_dataset", load_dataset)

    found = gathered(tmp_path / "out", mining() | {"source": {"kind": "threads", "path": ["hf://owner/name"]}})

    assert len(found.index.parts) == 64
    local = tmp_path / "local"
    local.mkdir()
    assert found.content() == gather_rows(local, *rows).content()


@pytest.mark.skipif(not FORUM.exists(), reason=f"{FORUM} is not part of this repository")
@pytest.mark.parametrize("replies", ["top_level", "all"])
def test_real_forum_is_gathered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replies: str) -> None:
    section = dump([FORUM / "submissions.jsonl"], [FORUM / "comments.jsonl"])
    section["source"]["replies"] = replies
    whole = gathered(tmp_path / "whole", section)
    cut_small(monkeypatch, part_bytes=100_000, slice_bytes=200_000, flushed_at=50_000)

    found = gathered(tmp_path / "cut", section)

    assert found.index.counts["posts/read"] == 103
    assert found.index.counts["responses/read"] == 7727
    check_funnel(found)
    assert found.content() == whole.content()
    assert len(found.posts) > 50
    assert ("nested" in found.counts("responses")) == (replies == "top_level")
