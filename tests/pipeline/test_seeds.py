from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from pipeline.plan import ShardSpec
from pipeline.seeds import posts_of, read_posts, source_content, split_posts, store_posts
from preference_space.space import load_space
from schemas.base import UsageError
from schemas.config import SeedsConfig
from schemas.records import SeedPost
from tests.pipeline.helpers import TINY, write_jsonl

ROOT = Path(__file__).resolve().parents[2]
FORUM = ROOT.parent / "shared" / "data" / "forum" / "submissions.jsonl"


def read(path: Path, **keys: Any) -> list[SeedPost]:
    return list(read_posts(SeedsConfig(path=str(path), **keys), Counter()))


def dropped_from(path: Path) -> Counter[str]:
    dropped: Counter[str] = Counter()
    list(read_posts(SeedsConfig(path=str(path)), dropped))
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

    with pytest.raises(UsageError, match=r"posts.jsonl: row 1 .*'body' \(columns.text\).*id, selftext"):
        read(path, columns={"text": "body"})


@pytest.mark.parametrize(
    ("given", "topics"),
    [
        (["music", "travel"], ("music", "travel")),
        ("music, Sci Fi", ("music", "sci_fi")),
        (["Mental health ", ""], ("mental_health",)),
        ("", ()),
        (" , ", ()),
        (None, ()),
        ([], ()),
    ],
)
def test_topics_are_a_list_or_one_string_with_commas(tmp_path: Path, given: Any, topics: tuple[str, ...]) -> None:
    assert read(jsonl(tmp_path, {"text": "x", "topics": given}))[0].topics == topics


def test_topics_of_another_kind_are_refused_with_their_row(tmp_path: Path) -> None:
    path = jsonl(tmp_path, {"text": "x"}, {"text": "y", "topics": 5})

    with pytest.raises(UsageError, match=r"row 2, 'topics'"):
        read(path)


def test_missing_ids_are_the_numbers_of_the_rows(tmp_path: Path) -> None:
    path = jsonl(tmp_path, {"text": "one"}, {"text": ""}, {"text": "two", "id": None}, {"text": "three", "id": "x"})

    assert [post.id for post in read(path)] == ["0", "2", "x"]


def test_posts_without_text_are_dropped_and_counted(tmp_path: Path) -> None:
    path = jsonl(tmp_path, {"title": " ", "text": "\n"}, {"id": "a"}, {"text": None}, {"text": "kept"})

    assert [post.text for post in read(path)] == ["kept"]
    assert dropped_from(path) == {"empty": 3}


def test_texts_that_differ_in_case_punctuation_and_spacing_are_one_post(tmp_path: Path) -> None:
    path = texts(tmp_path, "Why, oh why?", "why oh WHY", " Why -- oh\n\nwhy!", "Why me?")

    assert [post.text for post in read(path)] == ["Why, oh why?", "Why me?"]
    assert dropped_from(path) == {"duplicate": 2}


def test_posts_without_a_single_letter_are_not_all_the_same(tmp_path: Path) -> None:
    assert len(read(texts(tmp_path, "???", "\N{GRINNING FACE} \N{CAT FACE}", "\N{DOG FACE}"))) == 3


def test_second_post_with_an_id_is_dropped_and_counted(tmp_path: Path) -> None:
    path = jsonl(tmp_path, {"id": "a", "text": "one"}, {"id": "a", "text": "two"}, {"id": "b", "text": "three"})

    assert [post.text for post in read(path)] == ["one", "three"]
    assert dropped_from(path) == {"duplicate_id": 1}


def test_limit_counts_kept_posts(tmp_path: Path) -> None:
    path = texts(tmp_path, "one", "", "one", "two", "three")

    assert [post.text for post in read(path, limit=2)] == ["one", "two"]


@pytest.mark.parametrize("line", ["{not json", '{"text": "cut o', '{"text": "\\ud800"}'])
def test_line_that_is_not_json_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "posts.jsonl"
    path.write_text('{"text": "one"}\n\n' + line)

    with pytest.raises(UsageError, match=r"posts\.jsonl: line 3 is not JSON"):
        read(path)


def test_line_that_is_no_object_is_named(tmp_path: Path) -> None:
    path = tmp_path / "posts.jsonl"
    path.write_text('{"text": "one"}\n["two"]\n')

    with pytest.raises(UsageError, match=r"posts\.jsonl: line 2 is not a JSON object"):
        read(path)


def test_value_of_the_wrong_type_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"posts\.jsonl: row 2, 'title': .*string"):
        read(jsonl(tmp_path, {"title": "one"}, {"title": 2}))


def test_csv_in_another_encoding_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "posts.csv"
    path.write_bytes("text\nGröße\n".encode("latin-1"))

    with pytest.raises(UsageError, match=r"posts\.csv: not readable as \.csv"):
        read(path)


def test_file_that_is_no_parquet_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "posts.parquet"
    path.write_text("text")

    with pytest.raises(UsageError, match=r"posts\.parquet: not readable as \.parquet"):
        read(path)


def test_parquet_with_damaged_pages_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "posts.parquet"
    pq.write_table(pa.table({"text": [f"text {k}" for k in range(5000)]}), path)
    content = bytearray(path.read_bytes())
    content[200:4000] = b"\x55" * 3800
    path.write_bytes(content)

    with pytest.raises(UsageError, match=r"posts\.parquet: not readable as \.parquet"):
        read(path)


def test_wrong_suffix_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "posts.txt"
    path.write_text("text")

    with pytest.raises(UsageError, match=r"posts\.txt is not one of \.jsonl, \.parquet, \.csv"):
        read(path)


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"posts\.jsonl: no such file"):
        read(tmp_path / "posts.jsonl")


def test_hub_dataset_is_read_through_datasets(tmp_path: Path) -> None:
    # `load_dataset` takes a folder where it takes a Hub id: its own code reads the rows, without a Hub.
    write_jsonl(tmp_path / "data.jsonl", [{"title": "One", "body": "x"}, {"title": "Two", "body": "y"}])

    config = SeedsConfig(path=f"hf://{tmp_path}", columns={"text": "body"})
    posts = list(read_posts(config, Counter()))

    assert posts == [SeedPost(id="0", title="One", text="x"), SeedPost(id="1", title="Two", text="y")]


def test_hub_split_that_is_not_there_is_refused(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "data.jsonl", [{"text": "x"}])

    with pytest.raises(UsageError, match=r"seeds\.path: cannot load hf://"):
        list(read_posts(SeedsConfig(path=f"hf://{tmp_path}", split="nowhere"), Counter()))


def test_hub_dataset_is_asked_for_by_configuration_split_and_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Sequence[Any], dict[str, Any]]] = []

    def load_dataset(*args: Any, **kwargs: Any) -> list[dict[str, str]]:
        calls.append((args, kwargs))
        return [{"text": "x"}]

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    config = SeedsConfig(path="hf://owner/name", config="english", split="dev", revision="abc")

    assert [post.text for post in read_posts(config, Counter())] == ["x"]
    assert calls == [(("owner/name", "english"), {"split": "dev", "revision": "abc", "streaming": True})]


def test_hub_that_fails_midway_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*_: Any, **__: Any) -> Any:
        yield {"text": "x"}
        raise ConnectionError("the line\nis dead")

    monkeypatch.setattr("datasets.load_dataset", load_dataset)

    with pytest.raises(UsageError, match=r"^seeds\.path: cannot load hf://owner/name: the line$"):
        list(read_posts(SeedsConfig(path="hf://owner/name"), Counter()))


@pytest.mark.parametrize("name", ["owner/name", "not a//name"])
def test_unreachable_hub_and_impossible_name_are_wrong_usage(tmp_path: Path, name: str) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(TINY | {"seeds": {"path": f"hf://{name}"}}))
    # A process of its own: huggingface_hub reads the endpoint when it is imported.
    command = [sys.executable, "-m", "pipeline.cli", "build", str(config), "--output", str(tmp_path / "out")]

    run = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"HF_ENDPOINT": "http://127.0.0.1:9"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert run.returncode == 2, run.stderr
    assert run.stderr.startswith("error: seeds.path: ")
    assert f"hf://{name}" in run.stderr
    assert run.stderr.count("\n") == 1


def test_packaged_posts_are_many_and_all_kept() -> None:
    dropped: Counter[str] = Counter()

    posts = list(read_posts(SeedsConfig(), dropped))

    assert len(posts) >= 215
    assert not dropped
    assert all(post.title and post.text for post in posts)


def test_packaged_posts_name_topical_dimensions_only() -> None:
    topical = {dimension.slug for dimension in load_space("alignx").dimensions if dimension.topical}

    for post in read_posts(SeedsConfig(), Counter()):
        assert set(post.topics) <= topical, post.id
        assert len(set(post.topics)) == len(post.topics), post.id


def test_packaged_posts_give_each_of_the_43_interests_five_posts() -> None:
    topical = [dimension.slug for dimension in load_space("alignx").dimensions if dimension.topical]
    posts = Counter(topic for post in read_posts(SeedsConfig(), Counter()) for topic in post.topics)

    assert len(topical) == 43
    assert {slug: posts[slug] for slug in topical if posts[slug] < 5} == {}


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
    before = source_content(SeedsConfig(path=str(here)))

    assert source_content(SeedsConfig(path=str(there))) == before
    there.write_text('{"text": "y"}\n')
    assert source_content(SeedsConfig(path=str(there))) != before


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


def test_posts_come_back_as_they_were_stored(tmp_path: Path) -> None:
    posts = numbered(5)
    store_posts(tmp_path, {"train": posts, "test": []})

    assert posts_of(tmp_path, ShardSpec("train", 0, 1, 0, 5)) == posts


@pytest.mark.parametrize(
    ("start", "count"), [(0, 7), (5, 10), (1020, 10), (1024, 1), (2040, 300), (2490, 30), (4990, 30), (100_000, 5)]
)
def test_pair_i_uses_post_i_and_begins_again_after_the_last(tmp_path: Path, start: int, count: int) -> None:
    store_posts(tmp_path, {"train": numbered(2500)})

    posts = posts_of(tmp_path, ShardSpec("train", 0, 1, start, count))

    assert [post.id for post in posts] == [f"p{k % 2500}" for k in range(start, start + count)]


def test_shard_with_more_pairs_than_posts_uses_each_post_again(tmp_path: Path) -> None:
    store_posts(tmp_path, {"train": numbered(3)})

    posts = posts_of(tmp_path, ShardSpec("train", 0, 1, 2, 7))

    assert [post.id for post in posts] == ["p2", "p0", "p1", "p2", "p0", "p1", "p2"]
