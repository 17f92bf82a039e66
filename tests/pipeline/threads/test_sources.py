from __future__ import annotations

import csv
import gzip
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from pipeline.threads import sources
from pipeline.threads.parsing import Item, Post, Response
from pipeline.threads.sources import Slice, identify_sources, input_bytes, list_slices, read_items
from preference_space.space import PreferenceSpace, load_space
from schemas.base import UsageError
from schemas.config import MiningConfig
from schemas.loader import validate
from tests.pipeline.helpers import write_jsonl
from tests.pipeline.threads.rows import SPACE, TEXT, comment, submission, thread

BOM = b"\xef\xbb\xbf"


def mining(source: Mapping[str, Any]) -> MiningConfig:
    return validate(MiningConfig, {"source": dict(source)}, "test")


def dump(submissions: Path | str, comments: Path | str) -> MiningConfig:
    return mining({"kind": "dump", "submissions": [str(submissions)], "comments": [str(comments)]})


def threads(*paths: Path | str, kind: str = "threads", **keys: Any) -> MiningConfig:
    return mining({"kind": kind, "path": [str(path) for path in paths]} | keys)


def read(
    config: MiningConfig,
    counts: Counter[str] | None = None,
    space: PreferenceSpace = SPACE,
    first: list[str] | None = None,
) -> list[Item]:
    found, reported = Counter[str]() if counts is None else counts, [] if first is None else first
    return [
        item for input_slice in list_slices(config) for item in read_items(input_slice, config, space, found, reported)
    ]


def unread(config: MiningConfig) -> list[str]:
    """Return the first row of each slice that cannot be read, with its place and the reason."""
    first: list[str] = []
    read(config, first=first)
    return first


def counted(config: MiningConfig) -> dict[str, int]:
    counts: Counter[str] = Counter()
    read(config, counts)
    return dict(counts)


def lines(rows: Iterable[Mapping[str, Any]]) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def dump_of(folder: Path, *comments: Mapping[str, Any]) -> MiningConfig:
    """Return one submission `p` and its comments."""
    return dump(write_jsonl(folder / "RS.jsonl", [submission("p")]), write_jsonl(folder / "RC.jsonl", comments))


def ids(items: Iterable[Item], kind: type[Post] | type[Response] = Response) -> list[str]:
    return [item.id for item in items if isinstance(item, kind)]


def replies_in(content: bytes, path: Path) -> list[Item]:
    """Return the items that a file of comments gives."""
    path.write_bytes(content)
    return read(dump(write_jsonl(path.parent / "RS.jsonl", [submission("p")]), path))[1:]


def write_parquet(path: Path, rows: Sequence[Mapping[str, Any]], **keys: Any) -> Path:
    pq.write_table(pa.Table.from_pylist(list(rows)), path, **keys)
    return path


def long_window(content: bytes, log: int) -> bytes:
    """Return a frame as of `zstd --long=LOG`: a raw block behind a header with a window of this size."""
    block = ((len(content) << 3) | 1).to_bytes(3, "little")
    return b"\x28\xb5\x2f\xfd\x00" + bytes([(log - 10) << 3]) + block + content


# Dumps


def test_submissions_and_comments_become_posts_and_responses(tmp_path: Path) -> None:
    config = dump(
        write_jsonl(tmp_path / "RS.jsonl", [submission("p", title="Größe?", selftext="How tall\nare you?")]),
        write_jsonl(tmp_path / "RC.jsonl", [comment("c", body="Zwölf Äpfel sind groß, nicht?", author="jo")]),
    )

    post, response = read(config)

    assert isinstance(post, Post)
    assert post[:4] == ("p", "Größe?", "How tall\nare you?", ["askforum"])
    assert response == Response("p", "c", "jo", "Zwölf Äpfel sind groß, nicht?", None, None, None)


@pytest.mark.parametrize(
    ("subreddit", "topics"),
    [("AskReddit", ["askreddit"]), ("Mental-Health UK", ["mental_health_uk"]), ("", []), (None, [])],
)
def test_topic_of_a_submission_is_its_subreddit(tmp_path: Path, subreddit: Any, topics: list[str]) -> None:
    posts = write_jsonl(tmp_path / "RS.jsonl", [submission("p", subreddit=subreddit)])

    item = read(dump(posts, write_jsonl(tmp_path / "RC.jsonl", [])))[0]

    assert isinstance(item, Post)
    assert item.topics == topics


def test_missing_optional_columns_are_empty(tmp_path: Path) -> None:
    config = dump(
        write_jsonl(tmp_path / "RS.jsonl", [{"id": "p", "title": "T", "selftext": None}]),
        write_jsonl(tmp_path / "RC.jsonl", [{"id": "c", "link_id": "t3_p", "body": TEXT}]),
    )

    assert read(config) == [Post("p", "T", "", []), Response("p", "c", "", TEXT, None, None, None)]


@pytest.mark.parametrize("ending", [b"\n", b"\r\n"])
@pytest.mark.parametrize("suffix", [".jsonl", ".zst"])
def test_byte_order_mark_blank_lines_and_a_last_line_without_newline(
    tmp_path: Path, suffix: str, ending: bytes
) -> None:
    rows = [lines([comment(name)]).strip() for name in "abc"]
    content = BOM + ending.join([rows[0], b"", b"  ", rows[1], rows[2]])
    if suffix == ".zst":
        content = zstandard.ZstdCompressor().compress(content)

    assert ids(replies_in(content, tmp_path / f"RC{suffix}")) == ["a", "b", "c"]


def test_empty_files_hold_nothing(tmp_path: Path) -> None:
    empty = zstandard.ZstdCompressor().compress(b"")
    config = dump(write(tmp_path / "RS.jsonl", b""), write(tmp_path / "RC.zst", empty))

    assert read(config) == []


def test_frames_that_end_within_lines_are_read_as_one_text(tmp_path: Path) -> None:
    content = lines(comment(f"c{k}") for k in range(40))
    slices = [content[start : start + 501] for start in range(0, len(content), 501)]
    frames = b"".join(zstandard.ZstdCompressor().compress(input_slice) for input_slice in slices)

    assert ids(replies_in(frames, tmp_path / "RC.zst")) == [f"c{k}" for k in range(40)]


def test_empty_and_skippable_frames_between_others_are_passed_over(tmp_path: Path) -> None:
    empty = zstandard.ZstdCompressor().compress(b"")
    skippable = b"\x50\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"aside"
    frames = [zstandard.ZstdCompressor().compress(lines([comment(name)])) for name in "ab"]

    assert ids(replies_in(skippable + frames[0] + empty + skippable + frames[1], tmp_path / "RC.zst")) == ["a", "b"]


@pytest.mark.parametrize("log", [27, 28, 31])
def test_frames_with_a_long_window_are_read(tmp_path: Path, log: int) -> None:
    content = b"".join(long_window(lines([comment(name)]), log) for name in "ab")

    assert ids(replies_in(content, tmp_path / "RC.zst")) == ["a", "b"]


def test_lines_longer_than_a_block_of_the_reader(tmp_path: Path) -> None:
    rows = [comment("a", note="x" * 3_000_000), comment("b", note="y" * 1_048_000), comment("c")]
    content = zstandard.ZstdCompressor(level=1).compress(lines(rows))

    assert ids(replies_in(content, tmp_path / "RC.zst")) == ["a", "b", "c"]


def test_line_and_paragraph_separators_within_a_text_do_not_end_the_row(tmp_path: Path) -> None:
    body = "One two\u2028three\u2029four five\r\nsix seven eight"

    items = replies_in(lines([comment("a", body=body), comment("b")]), tmp_path / "RC.jsonl")

    assert [item.text for item in items if isinstance(item, Response)] == [body, TEXT]


def test_pattern_names_files_in_the_order_of_their_names(tmp_path: Path) -> None:
    for month in ("2024-02", "2024-01", "2024-10"):
        packed = zstandard.ZstdCompressor().compress(lines([comment(month)]))
        (tmp_path / f"RC_{month}.zst").write_bytes(packed)
    write(tmp_path / "RC_2024-01.zst.sha256", b"no dump")
    posts = write_jsonl(tmp_path / "RS_2024-01.jsonl", [submission("p")])

    config = dump(posts, tmp_path / "RC_*.zst")

    assert ids(read(config)) == ["2024-01", "2024-02", "2024-10"]
    assert [input_slice.number for input_slice in list_slices(config)] == [0, 1, 2, 3]


def test_several_files_and_patterns_are_read_in_the_order_given(tmp_path: Path) -> None:
    for name in ("one", "two", "x1", "x2"):
        write_jsonl(tmp_path / f"{name}.jsonl", [comment(name)])
    posts = write_jsonl(tmp_path / "RS.jsonl", [submission("p")])
    paths = [str(tmp_path / name) for name in ("two.jsonl", "x?.jsonl", "one.jsonl")]

    config = mining({"kind": "dump", "submissions": [str(posts)], "comments": paths})

    assert ids(read(config)) == ["two", "x1", "x2", "one"]


def test_folder_with_characters_of_a_pattern_is_taken_by_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "dump [2024]"
    folder.mkdir()

    assert ids(read(dump_of(folder, comment("a")))) == ["a"]


# What is wrong with a file


def refused(config: MiningConfig) -> str:
    """Return the message of a source that cannot be read, which is one line."""
    with pytest.raises(UsageError) as caught:
        read(config)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{not json", "not JSON"),
        (b'{"id": "cut o', "not JSON"),
        (b'{"id": "\xff"}', "not UTF-8"),
        (b'{"id": "b", "body": "\\udc00"}', "not Unicode"),
        (b"{} {}", "not JSON"),
        (b'["id"]', "a JSON list"),
        (b"null", "not a JSON object"),
        (b'{"id": NaN, "link_id": "t3_p"}', "no 'id'; found: id, link_id"),
        (b'{"id": "b", "body": "x"}', "no 'link_id'; found: id, body"),
        (b'{"id": "b", "link_id": "t3_p", "body": ["x"]}', "'body' is not a text: ['x']"),
    ],
)
@pytest.mark.parametrize("suffix", [".jsonl", ".zst", ".ndjson.gz"])
def test_line_of_a_dump_that_cannot_be_read_costs_no_other_and_is_reported(
    tmp_path: Path, suffix: str, line: bytes, reason: str
) -> None:
    content = BOM + lines([comment("a")]) + b"\n" + line + b"\n" + lines([comment("c")])
    pack = {".zst": zstandard.ZstdCompressor().compress, ".ndjson.gz": gzip.compress}.get(suffix, bytes)
    path = write(tmp_path / f"RC{suffix}", pack(content))
    config = dump(write_jsonl(tmp_path / "RS.jsonl", [submission("p")]), path)

    assert ids(read(config)) == ["a", "c"]
    assert counted(config) == {"posts/read": 1, "responses/read": 3, "responses/unreadable": 1}
    (reported,) = unread(config)
    assert reported.startswith(f"{path}: line 3: {reason}")


def test_lines_are_counted_from_the_beginning_of_the_file_in_every_slice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "SLICE_BYTES", 100)
    content = BOM + lines(comment(f"c{k}", body=TEXT + " Größe" * k) for k in range(9))
    path = write(tmp_path / "RC.jsonl", content + b"broken\n")

    (reported,) = unread(dump(write_jsonl(tmp_path / "RS.jsonl", [submission("p")]), path))

    assert reported.startswith(f"{path}: line 10: not JSON")


@pytest.mark.parametrize("name", ["RC.jsonl", "RC.zst"])
def test_large_file_of_which_no_row_can_be_read_is_not_read_to_its_end(tmp_path: Path, name: str) -> None:
    content = b'{"url": "x"}\n' * 1000 + lines([comment("a")])
    path = write(tmp_path / name, zstandard.ZstdCompressor().compress(content) if ".zst" in name else content)

    message = refused(dump(write_jsonl(tmp_path / "RS.jsonl", [submission("p")]), path))

    reported = "mining.source.comments: none of the first 1000 responses can be read; the first: "
    assert message == f"{reported}{path}: line 1: no 'link_id'; found: url"


def test_missing_file_is_refused_with_its_key(tmp_path: Path) -> None:
    posts = write_jsonl(tmp_path / "RS.jsonl", [submission("p")])

    assert refused(dump(posts, tmp_path / "RC.jsonl")) == f"mining.source.comments: {tmp_path}/RC.jsonl: no such file"
    assert refused(threads(tmp_path / "x.zst")) == f"mining.source.path: {tmp_path}/x.zst: no such file"


def test_folder_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").mkdir()

    assert refused(threads(tmp_path / "x.jsonl")) == f"mining.source.path: {tmp_path}/x.jsonl: no such file"


def test_unknown_suffix_is_refused_with_those_that_are_known(tmp_path: Path) -> None:
    path = write(tmp_path / "RC.txt", b"id\n")
    posts = write_jsonl(tmp_path / "RS.jsonl", [submission("p")])

    expected = f"mining.source.comments: {path} has none of the suffixes .jsonl, .ndjson, .csv"
    assert refused(dump(posts, path)).startswith(expected)
    assert refused(dump(posts, tmp_path / "RC.*")).startswith(expected)


@pytest.mark.parametrize("name", ["x[1].jsonl", "what?.jsonl", "a*b.jsonl"])
def test_file_whose_name_looks_like_a_pattern_is_taken_by_its_name(tmp_path: Path, name: str) -> None:
    write_jsonl(tmp_path / name, [thread(TEXT, id="mine")])
    for other in ("x1.jsonl", "whatX.jsonl", "a_b.jsonl"):
        write_jsonl(tmp_path / other, [thread(TEXT, id="other")])

    assert ids(read(threads(tmp_path / name)), Post) == ["mine"]


def test_pattern_that_no_file_fits_is_refused(tmp_path: Path) -> None:
    posts = write_jsonl(tmp_path / "RS.jsonl", [submission("p")])

    message = refused(dump(posts, tmp_path / "RC_*.zst"))

    assert message == f"mining.source.comments: no file matches {tmp_path}/RC_*.zst"


@pytest.mark.parametrize("suffix", [".zst", ".parquet"])
def test_file_of_another_kind_than_its_suffix_says_is_refused(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"x{suffix}", b'{"id": "x"}\n')

    assert refused(threads(path)).startswith(f"{path}: not readable as {suffix}: ")


@pytest.mark.parametrize("cut", [3, 10, 40, -1])
def test_zst_file_that_is_cut_off_is_refused(tmp_path: Path, cut: int) -> None:
    # A download that broke off: what is there of the last frame decompresses to whole lines, or to nothing.
    whole = zstandard.ZstdCompressor().compress(lines([comment("a")]))
    second = zstandard.ZstdCompressor(write_checksum=True).compress(lines([comment("b")]))
    path = write(tmp_path / "RC.zst", whole + second[:cut])

    message = refused(dump(write_jsonl(tmp_path / "RS.jsonl", [submission("p")]), path))

    assert message.startswith(f"{path}: ")


# Slices


def odd_lines() -> list[bytes]:
    """Return comments of many lengths, and blank lines."""
    rows = [lines([comment(f"c{k}", body=f"{TEXT} {'ö' * (k * 37 % 90)}")]) for k in range(30)]
    rows[0] = BOM + rows[0]
    rows[4:4] = [b"\n", b"   \r\n", b"\n"]
    rows[-1] = rows[-1].rstrip()
    return rows


def check_slices(config: MiningConfig, path: Path, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every slice has the rows that begin in it, so that all together have each of the file once, in order."""
    monkeypatch.setattr(sources, "SLICE_BYTES", 1 << 60)
    whole = [item for item in read(config) if isinstance(item, Response)]
    assert len(whole) == 30
    content = path.read_bytes()
    begins = {item.id: content.index(f'{{"id": "{item.id}"'.encode()) for item in whole}
    # The mark belongs to the first line, which begins before it.
    begins["c0"] = 0

    monkeypatch.setattr(sources, "SLICE_BYTES", size)
    found: list[Item] = []
    slices = [input_slice for input_slice in list_slices(config) if input_slice.key == "comments"]
    for input_slice in slices:
        items = list(read_items(input_slice, config, SPACE, Counter(), []))
        assert input_slice.stop is not None
        assert ids(items) == [name for name, begin in begins.items() if input_slice.start <= begin < input_slice.stop]
        found += items
    assert found == whole
    assert slices[0].start == 0
    assert [input_slice.stop for input_slice in slices] == [
        *(input_slice.start for input_slice in slices[1:]),
        len(content),
    ]


@pytest.mark.parametrize("size", [1, 2, 3, 50, 99, 100, 101, 128, 150, 177, 256, 333, 511, 1000, 4000, 1 << 20])
def test_slices_together_hold_every_row_once_and_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    path = write(tmp_path / "RC.jsonl", b"".join(odd_lines()))

    check_slices(dump(write_jsonl(tmp_path / "RS.jsonl", [submission("p")]), path), path, size, monkeypatch)


@pytest.mark.parametrize("shift", [-2, -1, 0, 1, 2])
def test_cut_just_before_at_and_after_a_newline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shift: int) -> None:
    rows = odd_lines()
    path = write(tmp_path / "RC.jsonl", b"".join(rows))
    config = dump(write_jsonl(tmp_path / "RS.jsonl", [submission("p")]), path)

    for line in range(1, len(rows)):
        check_slices(config, path, len(b"".join(rows[:line])) + shift, monkeypatch)


def test_lines_of_equal_length_cut_exactly_at_their_newlines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [comment(f"c{k}") for k in range(10)]
    config = dump_of(tmp_path, *rows)
    monkeypatch.setattr(sources, "SLICE_BYTES", len(lines(rows[:1])))

    slices = [input_slice for input_slice in list_slices(config) if input_slice.key == "comments"]

    assert [ids(read_items(input_slice, config, SPACE, Counter(), [])) for input_slice in slices] == [
        [f"c{k}"] for k in range(10)
    ]


def test_files_of_lines_are_cut_and_others_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "SLICE_BYTES", 64)
    path = write_jsonl(tmp_path / "x.jsonl", [thread(TEXT, id=f"t{k}") for k in range(5)])
    packed = write(tmp_path / "y.zst", zstandard.ZstdCompressor().compress(path.read_bytes()))
    size = path.stat().st_size

    assert len(list_slices(threads(path))) == -(-size // 64)
    assert ids(read(threads(path)), Post) == [f"t{k}" for k in range(5)]
    assert len(list_slices(threads(path, kind="helpsteer2"))) == -(-size // 64)
    assert list_slices(threads(packed)) == [Slice(0, "path", str(packed))]


def test_numbers_of_slices_go_on_from_file_to_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "SLICE_BYTES", 100)
    config = dump_of(tmp_path, *(comment(f"c{k}") for k in range(4)))

    slices = list_slices(config)

    assert [input_slice.number for input_slice in slices] == list(range(len(slices)))
    assert {input_slice.key for input_slice in slices} == {"submissions", "comments"}
    assert len(slices) > 4


# Threads as rows


def test_columns_of_published_datasets_are_known() -> None:
    with pytest.raises(UsageError, match="columns are for kind 'threads'"):
        threads("x.jsonl", kind="helpsteer2", columns={"post": "body"})


@pytest.mark.parametrize("cell", [json.dumps([TEXT, f"{TEXT} Two"]), repr([TEXT, f"{TEXT} Two"])])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_threads_of_a_table_hold_their_responses_in_a_cell(tmp_path: Path, delimiter: str, cell: str) -> None:
    path = tmp_path / "x.csv"
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows([["Post", "Responses", "Topics"], ["What now?", cell, "['a']"]])

    post, *responses = read(threads(path))

    assert isinstance(post, Post)
    assert (post.text, post.topics) == ("What now?", ["a"])
    assert [item.text for item in responses] == [TEXT, f"{TEXT} Two"]


@pytest.mark.parametrize("name", ["x.json", "x.ndjson", "x.jsonl.gz", "x.json.zst"])
def test_threads_of_other_formats_are_read(tmp_path: Path, name: str) -> None:
    rows = [thread(TEXT, id=f"t{k}") for k in range(3)]
    plain = json.dumps(rows).encode() if ".json." in name or name.endswith(".json") else lines(rows)
    pack = {".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}.get(Path(name).suffix, bytes)

    assert ids(read(threads(write(tmp_path / name, pack(plain)))), Post) == ["t0", "t1", "t2"]


def rich_threads() -> list[dict[str, Any]]:
    """Return threads whose responses have all optional fields."""
    shares = {"positive": [0.9, 0.05, 0.0], "negative": [0.05, 0.0, 1.0]}
    return [
        {
            "id": f"t{k}",
            "title": f"Größe {k}",
            "text": "Text\nover lines.",
            "topics": ["music"] * (k % 3),
            "responses": [
                {
                    "id": f"r{j}",
                    "author": "jo" if j else None,
                    "text": f"{TEXT} {k} {j}",
                    "levels": [1, 0, -1] if j else None,
                    **(shares if j == 2 else dict.fromkeys(shares)),
                }
                for j in range(k % 4)
            ],
        }
        for k in range(600)
    ]


def test_lines_zst_and_parquet_give_the_same_items(tmp_path: Path) -> None:
    rows = rich_threads()
    plain = write_jsonl(tmp_path / "x.jsonl", rows)
    packed = write(tmp_path / "x.zst", zstandard.ZstdCompressor().compress(plain.read_bytes()))
    table = write_parquet(tmp_path / "x.parquet", rows, row_group_size=70)

    items = read(threads(plain))

    assert len(ids(items, Post)) == 600
    assert len(ids(items)) == 900
    assert read(threads(packed)) == items
    assert read(threads(table)) == items


def test_maps_of_levels_mean_the_same_in_parquet_which_fills_up_the_keys(tmp_path: Path) -> None:
    rows = [
        thread({"text": TEXT, "levels": {"gender": 1}}, {"text": TEXT, "levels": {"age_group": -1}}, id="a"),
        thread({"text": TEXT, "levels": {"neuroticism": 1}}, {"text": TEXT, "levels": None}, id="b"),
    ]
    items = read(threads(write_jsonl(tmp_path / "x.jsonl", rows)))

    assert [item.levels for item in items if isinstance(item, Response)] == [
        [0, 1, 0],
        [-1, 0, 0],
        [0, 0, 1],
        None,
    ]
    assert read(threads(write_parquet(tmp_path / "x.parquet", rows))) == items


@pytest.mark.parametrize("suffix", ["jsonl", "zst", "parquet"])
def test_published_dataset_is_read_through_its_adapter(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "SLICE_BYTES", 5000)
    ratings = {"correctness": 4, "coherence": 4, "complexity": 2, "verbosity": 1}
    rows = [
        {"prompt": f"Prompt {k // 2}", "response": f"{TEXT} {k}", "helpfulness": k % 2, **ratings} for k in range(600)
    ]
    path = tmp_path / f"x.{suffix}"
    if suffix == "parquet":
        write_parquet(path, rows)
    else:
        path.write_bytes(lines(rows) if suffix == "jsonl" else zstandard.ZstdCompressor().compress(lines(rows)))

    items = read(threads(path, kind="helpsteer2"), space=load_space("alignx"))

    assert len(ids(items, Post)) == 600
    assert len(set(ids(items, Post))) == 300
    found = [item.ratings for item in items if isinstance(item, Response)]
    assert [ratings and ratings["helpfulness"] for ratings in found] == [0, 1] * 300


# The Hub


def test_hub_dataset_is_one_slice_of_unknown_size(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Sequence[Any], dict[str, Any]]] = []

    def load_dataset(*args: Any, **kwargs: Any) -> list[dict[str, Any]]:
        calls.append((args, kwargs))
        return [thread(TEXT), {"post": "Next?", "responses": [TEXT], "id": "u"}]

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    config = threads("hf://owner/name", config="english", split="dev", revision="abc")

    assert list_slices(config) == [Slice(0, "path", "hf://owner/name")]
    assert input_bytes(config) is None
    assert ids(read(config), Post) == ["t", "u"]
    assert calls == [(("owner/name", "english"), {"split": "dev", "revision": "abc", "streaming": True})]


def test_hub_dataset_is_read_through_datasets(tmp_path: Path) -> None:
    # `load_dataset` takes a folder where it takes a Hub id: its own code reads the rows, without a Hub.
    folder = tmp_path / "data"
    folder.mkdir()
    rows = rich_threads()[:8]
    path = write_parquet(folder / "train.parquet", rows)

    assert read(threads(f"hf://{folder}")) == read(threads(path))


def test_hub_that_fails_midway_is_reported_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*_: Any, **__: Any) -> Any:
        yield thread(TEXT)
        raise ConnectionError("the line\nis dead")

    monkeypatch.setattr("datasets.load_dataset", load_dataset)

    assert refused(threads("hf://owner/name")) == "mining.source.path: cannot load hf://owner/name: the line"


def test_hub_dataset_is_identified_by_its_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []

    class Info:
        sha = "c0ffee"

    def dataset_info(_: Any, path: str, revision: str) -> Info:
        asked.append((path, revision))
        return Info()

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", dataset_info)

    assert identify_sources(threads("hf://owner/name", revision="dev")) == ["c0ffee"]
    assert asked == [("owner/name", "dev")]


# What identifies a source, and how large it is


def test_source_is_identified_by_contents_not_by_paths(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("here", "there")]
    for folder in folders:
        folder.mkdir()
    here, there = (identify_sources(dump_of(folder, comment("a"))) for folder in folders)

    assert here == there
    assert identify_sources(dump_of(folders[1], comment("b"))) != here
    assert identify_sources(dump_of(folders[1], comment("a"))) == here


def test_same_file_as_submissions_and_as_comments_is_distinguished(tmp_path: Path) -> None:
    x, y, z = (str(write_jsonl(tmp_path / f"{name}.jsonl", [{"id": name}])) for name in "xyz")

    here = identify_sources(mining({"kind": "dump", "submissions": [x, y], "comments": [z]}))
    there = identify_sources(mining({"kind": "dump", "submissions": [x], "comments": [y, z]}))

    assert here != there


def test_size_of_the_input_counts_compressed_files_as_larger(tmp_path: Path) -> None:
    plain = write_jsonl(tmp_path / "x.jsonl", [thread(TEXT)])
    packed = write(tmp_path / "y.zst", zstandard.ZstdCompressor().compress(plain.read_bytes()))

    size = input_bytes(threads(plain, packed))

    assert size is not None
    assert size > plain.stat().st_size + packed.stat().st_size
