from __future__ import annotations

import csv
import gzip
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
import zstandard

from pipeline.sampling.posts import (
    identify_source,
    read_posts,
    split_posts,
    store_posts,
    take_posts,
    with_packaged_facts,
)
from preference_space.space import load_space
from schemas.base import UsageError, UserError
from schemas.config import SeedsConfig
from schemas.records import SeedPost
from tests import ROOT
from tests.forks import Fork
from tests.pipeline.helpers import TINY, write_jsonl

FORUM = ROOT.parent / "shared" / "data" / "forum" / "submissions.jsonl"


def read(path: Path, **keys: Any) -> list[SeedPost]:
    return list(read_posts(SeedsConfig(path=str(path), **keys), Counter(), 0.1))


def dropped_from(path: Path) -> Counter[str]:
    dropped: Counter[str] = Counter()
    list(read_posts(SeedsConfig(path=str(path)), dropped, 0.1))
    return dropped


def jsonl(folder: Path, *rows: Mapping[str, Any]) -> Path:
    return write_jsonl(folder / "posts.jsonl", rows)


def texts(folder: Path, *values: str) -> Path:
    return jsonl(folder, *({"text": value} for value in values))


def numbered(count: int) -> list[SeedPost]:
    return [SeedPost(id=f"p{k}", text=f"text {k}", topics=("music",) if k % 2 else ()) for k in range(count)]


def test_jsonl_rows_become_posts_in_their_order(tmp_path: Path) -> None:
    path = jsonl(
        tmp_path,
        {"id": "b", "title": "Title", "text": "Text.", "topics": ["music", "travel"]},
        {"id": "a", "title": "Only a title"},
    )

    assert read(path) == [
        SeedPost(id="b", title="Title", text="Text.", topics=("music", "travel")),
        SeedPost(id="a", title="Only a title"),
    ]


def test_blank_lines_of_jsonl_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "posts.jsonl"
    path.write_text('\n{"text": "one"}\n   \n{"text": "two"}\n\n')

    assert [post.text for post in read(path)] == ["one", "two"]


def test_csv_with_a_byte_order_mark_and_quoted_newlines(tmp_path: Path) -> None:
    path = tmp_path / "posts.csv"
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file).writerows(
            [["title", "text", "topics"], ["Größe", 'First line,\nsecond "line"', "music, travel"], ["Next", "x", ""]]
        )

    assert read(path) == [
        SeedPost(id="0", title="Größe", text='First line,\nsecond "line"', topics=("music", "travel")),
        SeedPost(id="1", title="Next", text="x"),
    ]


def test_parquet_rows_become_posts(tmp_path: Path) -> None:
    path = tmp_path / "posts.parquet"
    columns = {"id": [7, 8], "text": ["one", "two"], "topics": [["music"], None]}
    pq.write_table(pa.table(columns), path)

    assert read(path) == [SeedPost(id="7", text="one", topics=("music",)), SeedPost(id="8", text="two")]


def test_parquet_with_more_rows_than_a_batch_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "posts.parquet"
    pq.write_table(pa.table({"text": [f"text {k}" for k in range(2500)]}), path)

    assert [post.text for post in read(path)] == [f"text {k}" for k in range(2500)]


def test_columns_are_mapped(tmp_path: Path) -> None:
    path = jsonl(tmp_path, {"key": 5, "headline": "H", "selftext": "T", "tag": "music", "title": "not this"})

    posts = read(path, columns={"id": "key", "title": "headline", "text": "selftext", "topics": "tag"})

    assert posts == [SeedPost(id="5", title="H", text="T", topics=("music",))]


def test_column_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    path = jsonl(tmp_path, {"id": "a", "selftext": "T"})

    with pytest.raises(UsageError, match=r"posts.jsonl: line 1: .*'body' \(seeds.columns.text\); found: id, selftext"):
        read(path, columns={"text": "body"})


@pytest.mark.parametrize(
    ("given", "topics"),
    [
        (["music", "travel"], ("music", "travel")),
        ("music, Sci Fi", ("music", "sci_fi")),
        ("['music', 'art']", ("music", "art")),
        (["Mental health ", ""], ("mental_health",)),
        ("", ()),
        (" , ", ()),
        (None, ()),
        ([], ()),
    ],
)
def test_topics_are_a_list_or_one_string_with_commas(tmp_path: Path, given: Any, topics: tuple[str, ...]) -> None:
    assert read(jsonl(tmp_path, {"text": "x", "topics": given}))[0].topics == topics


def test_missing_ids_are_the_numbers_of_the_rows(tmp_path: Path) -> None:
    path = jsonl(tmp_path, {"text": "one"}, {"text": ""}, {"text": "two", "id": None}, {"text": "three", "id": "x"})

    assert [post.id for post in read(path)] == ["0", "2", "x"]


def test_posts_without_text_are_dropped_and_counted(tmp_path: Path) -> None:
    path = jsonl(tmp_path, {"title": " ", "text": "\n"}, {"title": None}, {"text": "\u200b\u3164"}, {"text": "kept"})

    assert [post.text for post in read(path)] == ["kept"]
    assert dropped_from(path) == {"empty": 3}


def test_texts_that_differ_in_case_punctuation_and_spacing_are_one_post(tmp_path: Path) -> None:
    path = texts(tmp_path, "Why, oh why?", "why oh WHY", " Why -- oh\n\nwhy!", "Why me?")

    assert [post.text for post in read(path)] == ["Why, oh why?", "Why me?"]
    assert dropped_from(path) == {"duplicate": 2}


def test_posts_without_a_single_letter_are_not_all_the_same(tmp_path: Path) -> None:
    assert len(read(texts(tmp_path, "???", "\N{GRINNING FACE} \N{CAT FACE}", "\N{DOG FACE}"))) == 3


def test_posts_of_one_id_and_different_texts_are_all_kept(tmp_path: Path) -> None:
    path = jsonl(tmp_path, *({"id": "a", "text": text} for text in ("one", "two", "three", "Two!")))

    posts = read(path)

    assert [post.text for post in posts] == ["one", "two", "three"]
    assert posts[0].id == "a"
    assert len({post.id for post in posts}) == 3
    assert all(re.fullmatch(r"a~[0-9a-f]{16}", post.id) for post in posts[1:])
    assert dropped_from(path) == {"duplicate": 1}


def test_numbered_posts_keep_their_texts_where_others_have_those_ids(tmp_path: Path) -> None:
    path = jsonl(tmp_path, {"text": "one"}, {"id": "0", "text": "two"}, {"id": "3", "text": "three"}, {"text": "four"})

    posts = read(path)

    assert [post.text for post in posts] == ["one", "two", "three", "four"]
    assert len({post.id for post in posts}) == 4
    assert dropped_from(path) == {}


def test_limit_counts_kept_posts(tmp_path: Path) -> None:
    path = texts(tmp_path, "one", "", "one", "two", "three")

    assert [post.text for post in read(path, limit=2)] == ["one", "two"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{not json", "not JSON"),
        ('{"text": "cut o', "not JSON"),
        ('{"text": "\\ud800"}', "not Unicode"),
        ('["two"]', "a JSON list"),
        ('{"body": "x", "n": 1}', "no 'title' or 'text'; found: body, n; set seeds.columns"),
        ('{"title": 2}', "'title' is not a text: 2"),
        ('{"text": true}', "'text' is not a text: True"),
        ('{"text": ["two"]}', "'text' is not a text: ['two']"),
        ('{"text": "two", "id": {"a": 1}}', "'id' is neither a text nor an integer: {'a': 1}"),
        ('{"text": "two", "topics": 5}', "'topics' is not a list: 5"),
        ('{"text": "two", "topics": ["music", 5]}', "'topics' is not a text: 5"),
    ],
)
def test_line_that_cannot_be_read_costs_no_other_and_is_reported(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "posts.jsonl"
    path.write_text(f'{{"text": "one"}}\n\n{line}\n{{"text": "three"}}')

    assert [post.text for post in read(path)] == ["one", "three"]
    (reported,) = dropped_from(path)
    assert reported.startswith(f"unreadable; the first: {path}: line 3: {reason}")


def test_file_with_more_unreadable_rows_than_allowed_is_refused_with_the_first(tmp_path: Path) -> None:
    path = jsonl(tmp_path, *({"text": f"Post {k}."} if k % 4 else {"body": "x"} for k in range(8)))
    reported = rf"posts\.jsonl: .*2 of 8 .*max_unreadable_share = 0\.1 .*first: {path}: line 1: no 'title'"

    with pytest.raises(UsageError, match=reported):
        read(path)
    assert len(list(read_posts(SeedsConfig(path=str(path)), Counter(), 0.25))) == 6


def test_long_file_of_unreadable_rows_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "posts.jsonl"
    path.write_bytes(b'{"body": "x"}\n' * 999 + b'{"last": 1}\n' + b'{"text": "x"}\n' * 100_000)

    with pytest.raises(UsageError, match=r"none of the first 1000 rows .*line 1: no 'title' or 'text'; found: body"):
        list(read_posts(SeedsConfig(path=str(path)), Counter(), 1.0))


@pytest.mark.parametrize("content", ["", "\n", '{"text": ""}', '{"body": "x"}'])
def test_file_without_a_post_is_refused_with_what_it_holds(tmp_path: Path, content: str) -> None:
    path = tmp_path / "posts.jsonl"
    path.write_text(content)

    with pytest.raises(UsageError, match=r"posts\.jsonl holds no post: (it has no rows|1 empty|.*found: body)"):
        read(path)


def test_chat_is_the_post_that_its_user_wrote(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}]

    assert [post.text for post in read(jsonl(tmp_path, {"text": chat}))] == ["Why?"]


@pytest.mark.parametrize("header", ["ID;Title;TEXT;Topics", " id ; title;text ; topics"])
def test_csv_with_semicolons_and_other_spellings_of_its_columns(tmp_path: Path, header: str) -> None:
    path = tmp_path / "posts.csv"
    path.write_text(f"{header}\na;One, two;x;\"['music', 'art']\"\n")

    assert read(path) == [SeedPost(id="a", title="One, two", text="x", topics=("music", "art"))]


@pytest.mark.parametrize("line", ['2,"open', "2,two,three", "2,Gr\xf6\xdfe"])
def test_row_of_csv_that_breaks_the_rules_costs_no_other(tmp_path: Path, line: str) -> None:
    path = tmp_path / "posts.csv"
    path.write_bytes(f"id,text\n1,one\n{line}\n3,three\n".encode("latin-1"))

    assert [post.id for post in read(path)] == ["1", "3"]
    (reported,) = dropped_from(path)
    assert reported.startswith(f"unreadable; the first: {path}: line 3: ")


@pytest.mark.parametrize(
    "name", ["posts.ndjson", "posts.json", "posts.jsonl.gz", "posts.zst", "posts.tsv", "posts.csv.gz"]
)
def test_other_formats_are_read(tmp_path: Path, name: str) -> None:
    rows = [{"title": "One", "text": "x"}, {"title": "Two", "text": "y"}]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    table = "title,text\nOne,x\nTwo,y\n"
    content = {".json": json.dumps(rows), ".tsv": table.replace(",", "\t")}.get(path_suffix := Path(name).suffix)
    plain = (content or (table if ".csv" in name else lines)).encode()
    packed = {".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}.get(path_suffix, bytes)(plain)
    (tmp_path / name).write_bytes(packed)

    assert [(post.title, post.text) for post in read(tmp_path / name)] == [("One", "x"), ("Two", "y")]


def test_file_that_is_no_parquet_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "posts.parquet"
    path.write_text("text")

    with pytest.raises(UsageError, match=r"posts\.parquet: not readable as \.parquet"):
        read(path)


def test_wrong_suffix_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "posts.txt"
    path.write_text("text")

    with pytest.raises(UsageError, match=r"posts\.txt has none of the suffixes \.jsonl, .*\.csv.*\.parquet"):
        read(path)


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"posts\.jsonl: no such file"):
        read(tmp_path / "posts.jsonl")


def test_hub_dataset_is_read_through_datasets(tmp_path: Path) -> None:
    # `load_dataset` takes a folder where it takes a Hub id: its own code reads the rows, without a Hub.
    write_jsonl(tmp_path / "data.jsonl", [{"title": "One", "body": "x"}, {"title": "Two", "body": "y"}])

    config = SeedsConfig(path=f"hf://{tmp_path}", columns={"text": "body"})
    posts = list(read_posts(config, Counter(), 0.1))

    assert posts == [SeedPost(id="0", title="One", text="x"), SeedPost(id="1", title="Two", text="y")]


def test_hub_split_that_is_not_there_is_refused(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "data.jsonl", [{"text": "x"}])

    with pytest.raises(UsageError, match=r"seeds\.path: cannot load hf://"):
        list(read_posts(SeedsConfig(path=f"hf://{tmp_path}", split="nowhere"), Counter(), 0.1))


def test_hub_dataset_is_asked_for_by_configuration_split_and_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Sequence[Any], dict[str, Any]]] = []

    def load_dataset(*args: Any, **kwargs: Any) -> list[dict[str, str]]:
        calls.append((args, kwargs))
        return [{"text": "x"}]

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    config = SeedsConfig(path="hf://owner/name", config="english", split="dev", revision="abc")

    assert [post.text for post in read_posts(config, Counter(), 0.1)] == ["x"]
    assert calls == [(("owner/name", "english"), {"split": "dev", "revision": "abc", "streaming": True})]


@pytest.mark.parametrize("name", ["owner/name", "not a//name"])
def test_unreachable_hub_and_impossible_name_are_wrong_usage(tmp_path: Path, name: str) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(TINY | {"seeds": {"path": f"hf://{name}"}}))
    # A process of its own: huggingface_hub reads the endpoint when it is imported.
    command = ["-m", "pipeline.cli", "build", str(config), "--output", str(tmp_path / "out")]

    process = Fork(*command, env=os.environ | {"HF_ENDPOINT": "http://127.0.0.1:9"})
    _, err = process.communicate()

    assert process.returncode == 2, err
    assert err.startswith("error: seeds.path: ")
    assert f"hf://{name}" in err
    assert err.count("\n") == 1


def test_packaged_posts_are_many_and_all_kept() -> None:
    dropped: Counter[str] = Counter()

    posts = list(read_posts(SeedsConfig(), dropped, 0.1))

    assert len(posts) >= 215
    assert not dropped
    assert all(post.title and post.text for post in posts)


def test_packaged_posts_name_topical_dimensions_only() -> None:
    topical = {dimension.slug for dimension in load_space("alignx").dimensions if dimension.topical}

    for post in read_posts(SeedsConfig(), Counter(), 0.1):
        assert set(post.topics) <= topical, post.id
        assert len(set(post.topics)) == len(post.topics), post.id


def test_packaged_posts_give_each_of_the_43_interests_five_posts() -> None:
    topical = [dimension.slug for dimension in load_space("alignx").dimensions if dimension.topical]
    posts = Counter(topic for post in read_posts(SeedsConfig(), Counter(), 0.1) for topic in post.topics)

    assert len(topical) == 43
    assert {slug: posts[slug] for slug in topical if posts[slug] < 5} == {}


def test_packaged_questions_of_fact_are_120_without_topics_and_all_kept() -> None:
    dropped: Counter[str] = Counter()
    path = ROOT / "pipeline" / "sampling" / "impersonal_posts.jsonl"

    posts = list(read_posts(SeedsConfig(path=str(path)), dropped, 0.1))

    assert [post.id for post in posts] == [f"fact-{number}" for number in range(1, 121)]
    assert not dropped
    assert all(post.title and post.text and not post.topics for post in posts)


@pytest.mark.skipif(not FORUM.exists(), reason=f"{FORUM} is not part of this repository")
def test_real_forum_posts_are_read_by_mapping_columns() -> None:
    posts = read(FORUM, columns={"id": "id", "title": "title", "text": "selftext"})

    assert len(posts) == 103
    assert len({post.id for post in posts}) == 103
    assert all(post.title for post in posts)


def test_fingerprint_is_of_the_content_not_of_the_path(tmp_path: Path) -> None:
    here, there = tmp_path / "here.jsonl", tmp_path / "there.jsonl"
    for path in (here, there):
        path.write_text('{"text": "x"}\n')
    before = identify_source(SeedsConfig(path=str(here)))

    assert identify_source(SeedsConfig(path=str(there))) == before
    there.write_text('{"text": "y"}\n')
    assert identify_source(SeedsConfig(path=str(there))) != before


def test_split_has_its_share_of_posts_and_each_post_is_in_one() -> None:
    posts = numbered(100)

    splits = split_posts(posts, {"train": 0.7, "validation": 0.1, "test": 0.2}, seed=3)

    assert {split: len(part) for split, part in splits.items()} == {"train": 70, "validation": 10, "test": 20}
    assert sorted(post.id for part in splits.values() for post in part) == sorted(post.id for post in posts)


def test_split_depends_on_seed_and_ids_alone() -> None:
    posts, shares = numbered(50), {"train": 0.6, "validation": 0.2, "test": 0.2}
    splits = split_posts(posts, shares, seed=3)

    assert split_posts(posts[::-1], shares, seed=3) == splits
    assert split_posts(posts, shares, seed=4) != splits


def test_a_small_split_gets_what_the_largest_can_spare() -> None:
    def sizes(**least: int) -> list[int]:
        shares = {"train": 0.9, "validation": 0.05, "test": 0.05}
        return [len(posts) for posts in split_posts(numbered(20), shares, 3, least).values()]

    assert sizes() == sizes(train=18, validation=1) == [18, 1, 1]
    assert sizes(train=2, validation=3, test=2) == [15, 3, 2]
    # Too few for all: the check of the supply says so.
    assert sizes(train=17, validation=3, test=3) == [17, 2, 1]


@pytest.mark.parametrize("damage", [lambda content: content[:-20], lambda content: b""])
def test_stored_posts_that_are_damaged_are_named(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "train.parquet"
    store_posts(path, numbered(5), "abc")
    path.write_bytes(damage(path.read_bytes()))

    with pytest.raises(UserError, match=r"train\.parquet is damaged "):
        take_posts(tmp_path / "train.parquet", np.arange(5))


def test_stored_posts_that_are_gone_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"train\.parquet is missing; run the same build command again"):
        take_posts(tmp_path / "train.parquet", np.arange(5))


def test_posts_come_back_as_they_were_stored(tmp_path: Path) -> None:
    posts = numbered(5)
    store_posts(tmp_path / "train.parquet", posts, "abc")

    assert take_posts(tmp_path / "train.parquet", np.arange(5)) == posts


@pytest.mark.parametrize(
    ("start", "count"), [(0, 7), (5, 10), (1020, 10), (1024, 1), (2040, 300), (2490, 30), (4990, 30), (100_000, 5)]
)
def test_pair_i_uses_post_i_and_begins_again_after_the_last(tmp_path: Path, start: int, count: int) -> None:
    store_posts(tmp_path / "train.parquet", numbered(2500), "abc")

    posts = take_posts(tmp_path / "train.parquet", np.arange(start, start + count))

    assert [post.id for post in posts] == [f"p{k % 2500}" for k in range(start, start + count)]


def test_shard_with_more_pairs_than_posts_uses_each_post_again(tmp_path: Path) -> None:
    store_posts(tmp_path / "train.parquet", numbered(3), "abc")

    posts = take_posts(tmp_path / "train.parquet", np.arange(2, 9))

    assert [post.id for post in posts] == ["p2", "p0", "p1", "p2", "p0", "p1", "p2"]


def test_posts_are_as_their_authors_wrote_them(tmp_path: Path) -> None:
    rows = [
        {"title": "Q&amp;A", "text": "&gt; so\n\n&amp;#x200B;\n\n&lt;3\x00"},
        {"text": "Is &lt; in HTML a <?"},
        {"text": "\x1b[31mred\x1b[0m \x08"},
    ]

    posts = read(jsonl(tmp_path, *rows))

    assert [(post.title, post.text) for post in posts] == [
        ("Q&A", "> so\n\n\n\n<3"),
        ("", "Is &lt; in HTML a <?"),
        ("", "red "),
    ]


def test_placeholders_of_deleted_posts_are_dropped(tmp_path: Path) -> None:
    path = jsonl(
        tmp_path,
        {"title": "What now?", "text": "[removed]"},
        {"title": "[deleted by user]", "text": ""},
        {"text": "[ Removed by Reddit on account of violating the [content policy](/help/contentpolicy). ]"},
        {"text": "I [removed] it myself."},
        {"text": "\x00"},
    )

    assert [post.text for post in read(path)] == ["I [removed] it myself."]
    assert dropped_from(path) == {"deleted": 3, "empty": 1}


def test_posts_that_differ_in_marks_alone_are_different(tmp_path: Path) -> None:
    assert len(read(texts(tmp_path, "कल", "कील", "क़ल", "कल!"))) == 3


def test_marks_are_read_where_they_are_wanted(tmp_path: Path) -> None:
    path = jsonl(
        tmp_path, {"text": "one", "fact": "yes"}, {"text": "two", "fact": False}, {"text": "three", "fact": None}
    )
    config = SeedsConfig(path=str(path), columns={"impersonal": "fact"})

    assert [post.impersonal for post in read_posts(config, Counter(), 0.1, reads_marks=True)] == [True, False, False]
    assert not any(post.impersonal for post in read_posts(config, Counter(), 0.1))


def test_mark_that_is_no_truth_value_is_reported(tmp_path: Path) -> None:
    path = jsonl(tmp_path, {"text": "one", "impersonal": "perhaps"})

    with pytest.raises(UsageError, match=r"line 1: 'impersonal' is neither true nor false: 'perhaps'"):
        list(read_posts(SeedsConfig(path=str(path)), Counter(), 0.1, reads_marks=True))


def test_packaged_facts_are_impersonal_and_no_post_of_theirs_is_there_twice() -> None:
    facts = with_packaged_facts([])
    assert len(facts) > 50
    assert all(post.impersonal and not post.topics for post in facts)

    asked = facts[3].model_copy(update={"id": "mine", "impersonal": False})
    other = SeedPost(id=facts[5].id, text="Another post with the id of a fact.")
    both = with_packaged_facts([asked, other])

    assert both[:2] == [asked, other]
    assert len({post.id for post in both}) == len({post.prompt for post in both}) == len(facts) + 1
