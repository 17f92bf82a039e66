"""Folders of the pipeline, Hub datasets and AlignX's JSON, read as examples; what is not them is refused by name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from everyuser_train import data
from everyuser_train.config import DataSource
from everyuser_train.data import Loaded
from everyuser_train.examples import Example, PairItem, UgcItem
from everyuser_train.sources import read_space
from schemas import SCHEMA_VERSION
from schemas.base import UsageError
from tests.spaces import TWO


def load(path: str, split: str, **keys: Any) -> Loaded:
    return data.load(DataSource(path=path, **keys), split)


def stream(path: str, split: str, **keys: Any) -> Iterator[Example]:
    return data.stream(DataSource(path=path, **keys), split)


CARD = """---
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*.parquet
  - split: test
    path: data/test-*.parquet
---
"""

P_SOUPS = Path(__file__).parents[3] / "shared" / "data" / "benchmarks" / "p_soups_style.json"


def _row(number: int) -> dict[str, Any]:
    return {
        "prompt": f"post {number}",
        "chosen": "yes",
        "rejected": "no",
        "Preference Direction": [1.0, 0.5],
        "Demographic Information": "A student.",
        "User-Generated Content": [{"prompt": "p", "comment": "c", "Preference Direction": [1.0, 0.0]}],
        "Pair-wise Comparative Feedback": [
            {"prompt": "q", "chosen": "a", "rejected": "b", "Preference Direction": [0.5, 1.0]}
        ],
        "profile": "Young",
        "id": f"row-{number}",
        "post_id": f"post-{number // 2}",
        "mirrored": False,
    }


@pytest.fixture(autouse=True)
def _caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as the pipeline leaves it, with other Parquet files beside the data."""
    folder = tmp_path / "build"
    for split, count in (("train", 6), ("test", 2)):
        path = folder / "data" / f"{split}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist([_row(number) for number in range(count)]), path)
    (folder / "pool").mkdir()
    pq.write_table(pa.table({"other": [1]}), folder / "pool" / "pairs.parquet")
    (folder / "README.md").write_text(CARD)
    (folder / "preference_space.yaml").write_text(TWO.to_yaml())
    (folder / "manifest.json").write_text(json.dumps({"schema_version": SCHEMA_VERSION, "status": "complete"}))
    return folder


@pytest.fixture
def lines(tmp_path: Path) -> Callable[..., str]:
    """Writes rows as JSON lines."""

    def write(*rows: object) -> str:
        path = tmp_path / "rows.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)))
        return str(path)

    return write


def _without(row: dict[str, Any], *columns: str) -> dict[str, Any]:
    return {column: value for column, value in row.items() if column not in columns}


def test_folder(folder: Path) -> None:
    space, examples, *_ = load(str(folder), "train")
    assert space is not None
    assert [dimension.positive.label for dimension in space.dimensions] == ["Young", "Likes humor"]
    assert len(examples) == 6
    example = examples[3]
    assert (example.number, example.id, example.post, example.prompt) == (3, "row-3", "post-1", "post 3")
    assert (example.chosen, example.rejected, example.profile, example.portrait) == ("yes", "no", "Young", "A student.")
    assert example.direction is not None
    assert example.direction.dtype == np.int8
    assert example.direction.tolist() == [1, 0]
    (ugc,), (pair,) = example.ugc, example.pair
    assert isinstance(ugc, UgcItem)
    assert isinstance(pair, PairItem)
    assert ugc.direction is not None
    assert pair.direction is not None
    assert (ugc.prompt, ugc.comment, ugc.direction.tolist()) == ("p", "c", [1, -1])
    assert (pair.prompt, pair.chosen, pair.rejected, pair.direction.tolist()) == ("q", "a", "b", [0, 1])


def test_rows_of_a_folder_are_a_sequence_that_keeps_their_numbers(folder: Path) -> None:
    examples = load(str(folder), "train", limit=5).examples
    assert len(examples) == 5
    assert [example.number for example in examples] == [0, 1, 2, 3, 4]
    assert [example.number for example in examples[1:4]] == [1, 2, 3]
    assert examples[1:4][-1].id == "row-3"
    with pytest.raises(IndexError):
        examples[5]


def test_a_limit_beyond_the_end_is_the_whole_split(folder: Path) -> None:
    assert len(load(str(folder), "test", limit=100).examples) == 2


def test_streaming_yields_what_loading_loads(folder: Path) -> None:
    streamed = stream(str(folder), "train", limit=4)
    assert [repr(example) for example in streamed] == [repr(e) for e in load(str(folder), "train", limit=4).examples]


def test_unknown_split_names_those_that_exist(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot load split 'validation'.*train.*test"):
        load(str(folder), "validation")
    with pytest.raises(UsageError, match=r"cannot load split 'validation'.*train.*test"):
        stream(str(folder), "validation")


def test_unknown_schema_is_refused_by_name(folder: Path) -> None:
    (folder / "manifest.json").write_text(json.dumps({"schema_version": "0"}))
    for read in (load, stream):
        with pytest.raises(UsageError, match="'0'") as caught:
            read(str(folder), "train")
        assert repr(SCHEMA_VERSION) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_space_that_was_changed_after_the_build_is_refused(folder: Path) -> None:
    space = folder / "preference_space.yaml"
    inputs = {space.name: hashlib.sha256(space.read_bytes()).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps({"schema_version": SCHEMA_VERSION, "inputs": inputs}))
    load(str(folder), "train")

    space.write_text(space.read_text() + "\n")

    with pytest.raises(UsageError, match=r"preference_space\.yaml"):
        load(str(folder), "train")


@pytest.mark.parametrize(
    ("status", "said"),
    [("incomplete", "the build has status 'incomplete'"), ("missed_gate", "the build misses a gate of its limits")],
)
def test_unfinished_build_is_refused(folder: Path, status: str, said: str) -> None:
    (folder / "manifest.json").write_text(json.dumps({"schema_version": SCHEMA_VERSION, "status": status}))
    with pytest.raises(UsageError, match=said):
        load(str(folder), "train")


def test_foreign_folders_need_neither_manifest_nor_space(folder: Path) -> None:
    (folder / "manifest.json").write_text(json.dumps({"made by": "another tool"}))
    (folder / "preference_space.yaml").unlink()
    space, examples, *_ = load(str(folder), "train")
    assert space is None
    assert len(examples) == 6


def test_broken_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text("{")
    with pytest.raises(UsageError, match=r"manifest\.json cannot be read"):
        load(str(folder), "train")


def test_a_given_space_goes_before_the_dataset_s_own(folder: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text(TWO.model_copy(update={"name": "mine"}).to_yaml())
    space = load(str(folder), "train", space=str(own)).space
    assert space is not None
    assert space.name == "mine"
    assert read_space(DataSource(path=str(folder), space=str(own))) == space


def test_rows_of_a_pair_are_numbered_alike(folder: Path, tmp_path: Path) -> None:
    rows = load(str(folder), "train", limit=4)
    assert len(rows.pairs) == 4 and rows.pairs.dtype == np.int64
    plain = [
        {"prompt": "p", "chosen": "a", "rejected": "b"} | extra
        for extra in ({"pair_id": "x"}, {}, {"pair_id": "x"}, {})
    ]
    (tmp_path / "rows.json").write_text(json.dumps(plain))
    assert load(str(tmp_path / "rows.json"), "").pairs.tolist() == [0, 1, 0, 3]
    (tmp_path / "data").mkdir()
    pq.write_table(pa.Table.from_pylist([*plain]), tmp_path / "data" / "train-0.parquet")
    assert load(str(tmp_path / "data"), "train").pairs.tolist() == [0, 1, 0, 3]
    assert load(str(tmp_path / "data"), "train", limit=3).pairs.tolist() == [0, 1, 0]


def test_a_direction_of_another_space(folder: Path) -> None:
    (folder / "preference_space.yaml").write_text(TWO.model_copy(update={"dimensions": TWO.dimensions[:1]}).to_yaml())
    examples = load(str(folder), "train").examples
    with pytest.raises(UsageError, match="row 1, 'Preference Direction': 2 numbers, where space two has 1 dimensions"):
        examples[0]


def _hub(folder: Path, cache: Path, *names: str, absent: tuple[str, ...] = ()) -> None:
    """A Hub cache that holds `names` of a dataset and knows that `absent` are not in it."""
    repo = cache / "hub" / "datasets--someone--set"
    for kind, files in (("snapshots", names), (".no_exist", absent)):
        (repo / kind / "abc").mkdir(parents=True)
        for name in files:
            (repo / kind / "abc" / name).write_bytes((folder / name).read_bytes() if kind == "snapshots" else b"")
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("abc")


def test_hub(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _hub(folder, tmp_path, "manifest.json", "preference_space.yaml")
    original = datasets.load_dataset

    def local(path: str, **arguments: Any) -> Any:
        assert (path, arguments.pop("revision")) == ("someone/set", "main")
        return original(str(folder), **arguments)

    monkeypatch.setattr(datasets, "load_dataset", local)
    space, examples, *_ = load("someone/set", "train", revision="main")
    assert space is not None
    assert len(examples) == 6


def test_hub_dataset_without_manifest_and_space(folder: Path, tmp_path: Path) -> None:
    _hub(folder, tmp_path, absent=("manifest.json", "preference_space.yaml"))
    assert read_space(DataSource(path="someone/set")) is None


def test_hub_dataset_of_an_unknown_schema(folder: Path, tmp_path: Path) -> None:
    (folder / "manifest.json").write_text(json.dumps({"schema_version": "0"}))
    _hub(folder, tmp_path, "manifest.json")
    with pytest.raises(UsageError, match="'0'"):
        load("someone/set", "train")


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("someone/else", "the Hub cannot be reached"),
        ("/no/such/folder", "no such folder; give a folder, a Hub id or a file"),
        ("missing.json", "no such file"),
    ],
)
def test_nothing_there(path: str, said: str) -> None:
    for read in (load, stream):
        with pytest.raises(UsageError, match=said):
            read(path, "train")


def test_json_list_and_lines_are_the_same(tmp_path: Path) -> None:
    rows = [_row(number) for number in range(3)]
    texts = {
        "list.json": json.dumps(rows),
        "pretty.json": "\ufeff" + json.dumps(rows, indent=1),
        "lines.jsonl": "\n\n".join(map(json.dumps, rows)),
        "lines.json": "\n".join(map(json.dumps, rows)) + "\n",
    }
    seen = []
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        loaded = load(str(tmp_path / name), "any")
        assert loaded.space is None
        seen.append([repr(example) for example in loaded.examples])
        assert [repr(example) for example in stream(str(tmp_path / name), "any")] == seen[-1]
    assert all(examples == seen[0] for examples in seen)
    assert len(seen[0]) == 3


def test_everything_but_the_preference_may_be_missing_or_null(lines: Callable[..., str]) -> None:
    bare = {"prompt": "post", "chosen": "a", "rejected": "b"}
    path = lines(bare, dict.fromkeys(_row(0)) | bare | {"profile": ""}, bare | {"prompt": "another"})
    first, second, third = load(path, "").examples
    for example in (first, second):
        assert (example.direction, example.profile, example.portrait, example.ugc, example.pair) == (
            None, None, "", (), ()
        )  # fmt: skip
    assert (first.id, second.id) == ("0", "1")
    assert first.post == second.post != third.post


def test_items_without_directions_and_whole_numbers(lines: Callable[..., str]) -> None:
    row = _without(_row(0), "profile") | {
        "Preference Direction": [1, 0.5],
        "User-Generated Content": [{"prompt": "p", "comment": "c"}],
        "id": 17,
    }
    (example,) = load(lines(row), "").examples
    assert example.ugc[0].direction is None
    assert example.direction is not None
    assert example.direction.tolist() == [1, 0]
    assert example.id == "17"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (_without(_row(0), "chosen"), "row 2, 'chosen' is required: a text"),
        (_row(0) | {"prompt": 3}, "row 2, 'prompt' is 3; expected a text"),
        (_row(0) | {"User-Generated Content": [{"prompt": "p"}]}, r"row 2, 'User-Generated Content\.0\.comment'"),
        (_row(0) | {"Preference Direction": [1, 0.3]}, "row 2, 'Preference Direction': .* found 0.3"),
        (["a list"], "row 2 is not a JSON object"),
    ],
)
def test_bad_rows_are_named(row: object, said: str, lines: Callable[..., str]) -> None:
    path = lines(_row(0), row)
    with pytest.raises(UsageError, match=said) as caught:
        load(path, "")
    assert str(caught.value).startswith(path)
    assert "\n" not in str(caught.value)
    assert len(list(islice(stream(path, ""), 1))) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"prompt": ', "line 1 is not JSON"),
        ('[{"prompt": "p"', "is not JSON"),
        ("", "has no rows"),
        ("[]", "has no rows"),
    ],
)
def test_bad_files(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(UsageError, match=said):
        load(str(tmp_path / "bad.json"), "")


@pytest.mark.skipif(not P_SOUPS.is_file(), reason=f"{P_SOUPS} is not there")
def test_p_soups() -> None:
    examples = load(str(P_SOUPS), "test").examples
    assert len(examples) == 600
    assert all(len(example.pair) == 4 and example.profile and not example.ugc for example in examples)
    assert len({example.post for example in examples}) == len({example.prompt for example in examples})


@pytest.mark.parametrize("name", ["build[1]", "a*b?", "[!x]"])
@pytest.mark.parametrize("read", [lambda path: load(path, "train").examples, lambda path: [*stream(path, "train")]])
def test_a_folder_may_have_any_name(folder: Path, name: str, read: Callable[[str], Sequence[Example]]) -> None:
    other = folder.rename(folder.with_name(name))

    assert [example.id for example in read(str(other))] == [f"row-{number}" for number in range(6)]


KINDS = ("opposite", "near", "restraint", "opposite", "near", "near")


def _with_users(number: int) -> dict[str, Any]:
    return _row(number) | {
        "pair_id": f"pair-{number}",
        "kind": KINDS[number],
        "user_id": f"0a1b2c3d-u{number // 4:07d}-{'ab'[number % 2]}",
        "user_direction": [1.0, 0.0],
    }


@pytest.fixture
def users(folder: Path) -> Path:
    """The same folder with users; its training split has the kinds `KINDS`."""
    rows = [_with_users(number) for number in range(6)]
    pq.write_table(pa.Table.from_pylist(rows), folder / "data" / "train-00000-of-00001.parquet")
    return folder


def test_users_and_kinds(users: Path) -> None:
    loaded = load(str(users), "train")

    assert [example.kind for example in loaded.examples] == [*KINDS]
    assert loaded.examples[5].user_id == "0a1b2c3d-u0000001-b"
    for direction in (loaded.examples[0].user_direction, loaded.examples[0].portrait_direction):
        assert direction is not None and direction.tolist() == [1, -1]
    # A user and its mirror image have one number.
    assert loaded.users is not None and loaded.users.tolist() == [0, 0, 0, 0, 4, 4]
    assert loaded.groups.tolist() == loaded.users.tolist()


def test_a_dataset_without_users_has_none(folder: Path, lines: Callable[..., str]) -> None:
    empty = _with_users(0) | {"user_id": "", "user_direction": [], "kind": "of another project"}
    for loaded in (load(str(folder), "train"), load(lines(empty), "")):
        example = loaded.examples[0]
        assert loaded.users is None
        assert example.kind is None and example.user_id is None
        assert example.user_direction is None and example.portrait_direction is None
        assert loaded.groups is loaded.pairs


@pytest.mark.parametrize("kinds", [("near",), ("restraint", "opposite")])
def test_kinds_can_be_chosen(users: Path, lines: Callable[..., str], kinds: tuple[str, ...]) -> None:
    wanted = [number for number, kind in enumerate(KINDS) if kind in kinds]
    path = lines(*map(_with_users, range(6)))

    for loaded in (load(str(users), "train", kinds=kinds), load(path, "", kinds=kinds)):
        assert [example.number for example in loaded.examples] == wanted
        assert len(loaded.pairs) == len(wanted)
    assert [example.number for example in stream(str(users), "train", kinds=kinds)] == wanted
    assert [example.number for example in load(str(users), "train", kinds=kinds, limit=2).examples] == wanted[:2]


def test_kinds_that_are_not_there_are_named(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"split 'train' has no rows of kind near or mined; set data\.kinds"):
        load(str(folder), "train", kinds=("near", "mined"))
