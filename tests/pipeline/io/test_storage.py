from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import uuid
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.io import storage
from pipeline.io.storage import AnyPath
from schemas.base import UsageError, UserError
from tests.forks import python
from tests.object_stores import ObjectStore, in_a_bucket
from tests.pipeline.io.uses import ADVICE, error_of

fsspec = pytest.importorskip("fsspec")
local_files = pytest.importorskip("fsspec.implementations.local")
registry = pytest.importorskip("fsspec.registry")


in_a_store = pytest.mark.parametrize("place", ["memory", "s3", "gs"], indirect=True)


@pytest.fixture(params=["local", "memory", "s3", "gs"])
def place(request: pytest.FixtureRequest) -> str:
    """Which kind of place a test is about."""
    kind: str = request.param
    return kind


@pytest.fixture
def scratch(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This process's folder for temporary files, with nothing of others in it."""
    found = tmp_path_factory.mktemp("scratch")
    monkeypatch.setattr(tempfile, "tempdir", str(found))
    return found


def files_below(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.stat().st_size
    }


def put_object(folder: AnyPath, key: str, content: bytes = b"") -> None:
    """An object whose key is just this, as tools that know no folders leave it."""
    assert not storage.is_local(folder)
    folder.fs.pipe_file(f"{folder.path}/{key}", content)


# Names


@pytest.mark.parametrize("name", ["build", "/build", "../build", "a:b/c", "file:///build"])
def test_a_path_of_this_machine_is_a_path(name: str) -> None:
    path = storage.parse(name)

    assert path == Path(name.removeprefix("file://"))
    assert storage.is_local(path)


def test_a_home_folder_is_the_one_that_a_shell_means(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))

    assert storage.parse("~/build") == tmp_path / "build"
    with pytest.raises(UsageError, match=r"^~no-such-user/build: [^\n]+$"):
        storage.parse("~no-such-user/build")


@pytest.mark.parametrize(
    ("name", "meant"), [("s3:/bucket/x", "s3://bucket/x"), ("gs:/b", "gs://b"), ("hf:/owner/name", "hf://owner/name")]
)
def test_an_address_with_one_slash_is_refused_with_the_right_form(name: str, meant: str) -> None:
    with pytest.raises(UsageError, match=f"^{name}: an address has two slashes, such as {meant}$"):
        storage.parse(name)


def test_a_name_that_is_too_long_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^cannot read \S+: File name too long; [^\n]+$"):
        storage.is_file(tmp_path / ("n" * 300))


@in_a_store
def test_an_address_is_a_place_elsewhere(folder: AnyPath) -> None:
    assert not storage.is_local(folder)
    assert storage.parse(f"{folder}/a/b/") == folder / "a" / "b"
    assert (folder / "a" / "b").name == "b"
    assert folder.absolute() == folder


@pytest.mark.parametrize("name", ["s3://", "gs://", "s3:///", "s3:///folder", "gs:///folder/of/a/build"])
def test_an_address_without_a_bucket_is_refused(name: str, s3_store: ObjectStore, gs_store: ObjectStore) -> None:
    with pytest.raises(UsageError, match=f"^{name}: a bucket or host is missing; "):
        storage.parse(name)


def test_an_unknown_protocol_is_refused_in_one_line() -> None:
    with pytest.raises(UsageError, match=r"^nope://bucket/x: cannot be used: .*nope") as caught:
        storage.parse("nope://bucket/x")

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("protocol", "package", "command"),
    [
        ("s3", "s3fs", "`make setup EXTRAS=s3` in a clone of everyuser, elsewhere `pip install 'everyuser[s3]'`"),
        ("gs", "gcsfs", "`make setup EXTRAS=gcp` in a clone of everyuser, elsewhere `pip install 'everyuser[gcp]'`"),
        ("az", "adlfs", "pip install adlfs"),
    ],
)
def test_a_missing_package_is_named(protocol: str, package: str, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(registry._registry, protocol, raising=False)

    with pytest.raises(UsageError) as caught:
        storage.parse(f"{protocol}://bucket/x")

    assert str(caught.value) == f"{protocol}://bucket/x: {package} is not installed in this Python; run {command}"


# Writing


def test_what_is_written_is_read(folder: AnyPath) -> None:
    path = folder / "new" / "note.txt"
    for text in ("first", "", "\N{SNOWMAN} second\r\n"):
        storage.write_text(path, text)

        assert storage.read_bytes(path).decode() == text
        assert storage.read_bytes(path) == text.encode()
        assert storage.size(path) == len(text.encode())

    storage.write_bytes(path, b"\x00\xff" * 1000)

    assert storage.read_bytes(path) == b"\x00\xff" * 1000
    assert storage.list_names(folder / "new") == ["note.txt"]


@pytest.mark.parametrize("size", [0, 11, 60_000_000], ids=["empty", "small", "in several parts"])
def test_a_file_appears_whole_at_the_end_of_the_block(folder: AnyPath, scratch: Path, size: int) -> None:
    content, path = os.urandom(size), folder / "data" / "shard.bin"
    with storage.atomic(path) as temporary:
        temporary.write_bytes(content)
        assert not storage.is_file(path)

    assert storage.read_bytes(path) == content
    assert storage.list_names(folder / "data") == ["shard.bin"]
    assert not [*scratch.iterdir()]


def test_an_error_midway_leaves_neither_the_file_nor_a_temporary_one(folder: AnyPath, scratch: Path) -> None:
    with pytest.raises(KeyError), storage.atomic(folder / "shard.bin") as temporary:
        temporary.write_bytes(b"half")
        raise KeyError("stop")

    assert storage.list_names(folder) == []
    assert not [*scratch.iterdir()]


def test_an_error_midway_keeps_what_was_there(folder: AnyPath) -> None:
    storage.write_text(folder / "shard.bin", "old")
    with pytest.raises(KeyError), storage.atomic(folder / "shard.bin") as temporary:
        temporary.write_bytes(b"new, half")
        raise KeyError("stop")

    assert storage.read_bytes(folder / "shard.bin").decode() == "old"
    assert storage.list_names(folder) == ["shard.bin"]


@in_a_store
def test_only_the_first_creation_succeeds(folder: AnyPath) -> None:
    assert not storage.is_local(folder)
    storage.create(folder / "lease", b"first")

    with pytest.raises(FileExistsError):
        storage.create(folder / "lease", b"second")

    assert storage.read_bytes(folder / "lease") == b"first"


def test_a_store_without_conditional_writing_still_refuses_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = storage.parse(f"memory://{uuid.uuid4().hex}")
    assert not storage.is_local(folder)
    plain = folder.fs.pipe_file

    def pipe_file(path: str, value: bytes, mode: str = "overwrite") -> None:
        if mode == "create":
            raise NotImplementedError
        plain(path, value)

    monkeypatch.setattr(folder.fs, "pipe_file", pipe_file)
    storage.create(folder / "lease", b"first")

    with pytest.raises(FileExistsError):
        storage.create(folder / "lease", b"second")

    assert storage.read_bytes(folder / "lease") == b"first"


def test_a_folder_is_made_where_there_are_such_things(folder: AnyPath, place: str) -> None:
    storage.make_folder(folder / "a" / "b")
    storage.make_folder(folder / "a" / "b")

    assert storage.list_names(folder) == (["a"] if place == "local" else [])


def test_files_are_told_from_folders(folder: AnyPath) -> None:
    storage.write_text(folder / "a" / "deep", "text")
    storage.write_text(folder / "b", "text")

    assert storage.list_names(folder) == ["a", "b"]
    assert storage.list_names(folder, files_only=True) == ["b"]


def test_each_gives_results_in_order_and_passes_errors_on(folder: AnyPath) -> None:
    assert storage.map_files(folder, lambda number: number * number, range(100)) == [k * k for k in range(100)]

    with pytest.raises(ZeroDivisionError):
        storage.map_files(folder, lambda number: 1 // number, [1, 0])


# Reading


@pytest.mark.parametrize(
    "read",
    [
        storage.read_bytes,
        storage.size,
        storage.content_id,
        lambda path: storage.open_binary(path).__enter__(),
        lambda path: storage.open_binary(path, from_start_to_end=True).__enter__(),
        lambda path: pq.read_metadata(storage.open_parquet(path).__enter__()),
        lambda path: pq.read_metadata(storage.open_parquet(path, whole=True).__enter__()),
        lambda path: storage.local_copy(path).__enter__().open(),
    ],
    ids=["bytes", "size", "content_id", "open", "open whole", "parquet", "parquet whole", "copy"],
)
@pytest.mark.parametrize("name", ["missing", "missing/deep"])
def test_a_missing_file_is_told_as_such(folder: AnyPath, read: Callable[[AnyPath], Any], name: str) -> None:
    storage.write_text(folder / "note.txt", "text")

    with pytest.raises(FileNotFoundError):
        read(folder / name)


def test_any_part_of_a_file_can_be_read(folder: AnyPath) -> None:
    content = os.urandom(100_000)
    storage.write_bytes(folder / "file", content)
    with storage.open_binary(folder / "file") as file:
        assert file.seek(50_000) == 50_000
        assert file.read(10) == content[50_000:50_010]
        assert file.tell() == 50_010
        file.seek(-5, os.SEEK_END)
        assert file.read() == content[-5:]
        assert file.read(1) == b""
        file.seek(0)
        assert file.read() == content


def requests_noted(path: AnyPath, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the bytes that each request for a part of such a file asks for."""
    assert not storage.is_local(path)
    with path.fs.open(path.path, "rb") as file:
        kind = type(file)
    fetch, asked = kind._fetch_range, []

    def noted(file: Any, start: int, end: int) -> Any:
        asked.append(end - start)
        return fetch(file, start, end)

    monkeypatch.setattr(kind, "_fetch_range", noted)
    return asked


@in_a_bucket
def test_a_read_of_a_part_asks_for_no_more_than_that(folder: AnyPath, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not storage.is_local(folder)
    storage.write_bytes(folder / "file", bytes(1_000_000))
    asked = requests_noted(folder / "file", monkeypatch)
    with storage.open_binary(folder / "file") as file:
        file.seek(500_000)
        file.read(10)
        file.seek(100)
        file.read(1000)

    assert asked == [10, 1000]


def test_a_file_can_be_read_from_start_to_end_by_lines(folder: AnyPath) -> None:
    lines = [b"%d %s\n" % (number, b"x" * 1000) for number in range(20_000)]
    storage.write_bytes(folder / "file", b"".join(lines))
    with storage.open_binary(folder / "file", from_start_to_end=True) as file:
        assert file.readline() == lines[0]
        assert file.tell() == len(lines[0])
        assert [*file] == lines[1:]
        assert file.readline() == b""
        end = sum(map(len, lines))
        assert file.tell() == end
        assert file.seek(end - len(lines[-1])) == end - len(lines[-1])
        assert file.readline() == lines[-1]
        file.seek(0)
        assert file.read(len(lines[0])) == lines[0]


@in_a_bucket
def test_reading_from_start_to_end_asks_for_large_blocks(folder: AnyPath, monkeypatch: pytest.MonkeyPatch) -> None:
    content = os.urandom(20_000_000)
    storage.write_bytes(folder / "file", content)
    asked = requests_noted(folder / "file", monkeypatch)
    with storage.open_binary(folder / "file", from_start_to_end=True) as file:
        read = b"".join(iter(lambda: file.read(10_000), b""))

    assert read == content
    assert sum(asked) == len(content)
    assert len(asked) <= 4


def test_an_error_in_the_block_that_reads_is_left_as_it_is(folder: AnyPath) -> None:
    storage.write_text(folder / "file", "text")

    with pytest.raises(KeyError), storage.open_binary(folder / "file"):
        raise KeyError("not the store's")


@pytest.mark.parametrize("whole", [False, True])
def test_parquet_is_read_where_it_is(folder: AnyPath, whole: bool) -> None:
    table = pa.table({"number": range(10_000), "text": [str(number) for number in range(10_000)]})
    with storage.atomic(folder / "shard.parquet") as temporary:
        pq.write_table(table, temporary, row_group_size=1000)

    with (
        storage.open_parquet(folder / "shard.parquet", whole=whole) as opened,
        pq.ParquetFile(opened) as file,
    ):
        assert file.metadata.num_row_groups == 10
        assert file.read_row_group(3).equals(table.slice(3000, 1000))
        assert file.read(["text"]).equals(table.select(["text"]))


@pytest.mark.parametrize("whole", [False, True])
def test_what_is_no_parquet_is_told_by_arrow(folder: AnyPath, whole: bool) -> None:
    storage.write_text(folder / "shard.parquet", "not parquet, though long enough to be asked for a footer")

    with (
        pytest.raises(pa.ArrowInvalid),
        storage.open_parquet(folder / "shard.parquet", whole=whole) as opened,
    ):
        pq.read_metadata(opened)


def test_a_copy_is_on_this_machine_as_long_as_it_is_needed(folder: AnyPath, scratch: Path) -> None:
    storage.write_text(folder / "note.txt", "text")
    with storage.local_copy(folder / "note.txt") as copy:
        assert (copy.name, copy.read_text()) == ("note.txt", "text")

    assert copy.exists() == storage.is_local(folder)
    assert not [*scratch.iterdir()]


FILES = {"a.txt": b"a", "empty below/b.txt": b"b", "c/d/e \N{SNOWMAN}.bin": b"\x00" * 100}


def test_a_folder_is_on_this_machine_as_long_as_it_is_needed(folder: AnyPath, scratch: Path) -> None:
    for name, content in FILES.items():
        storage.write_bytes(folder / name, content)
    storage.write_text(folder.parent / "folder of another name", "text")
    with storage.local_folder(folder) as copy:
        assert files_below(copy) == FILES

    assert copy.exists() == storage.is_local(folder)
    assert not [*scratch.iterdir()]


@in_a_store
def test_a_download_has_everything_below_a_folder_and_nothing_beside_it(folder: AnyPath, tmp_path: Path) -> None:
    assert not storage.is_local(folder)
    for name, content in FILES.items():
        storage.write_bytes(folder / name, content)
    for name in ("folder2/x.txt", "folder.txt"):
        storage.write_text(folder.parent / name, "text")

    storage.download(folder, tmp_path / "new" / "target")

    assert files_below(tmp_path / "new" / "target") == FILES


@in_a_bucket
def test_a_download_makes_no_files_of_what_stands_for_a_folder(folder: AnyPath, tmp_path: Path) -> None:
    assert not storage.is_local(folder)
    put_object(folder, "")
    put_object(folder, "inner/")
    put_object(folder, "inner/file", b"text")
    put_object(folder, "empty/")

    storage.download(folder, tmp_path)

    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()] == ["inner/file"]
    assert (tmp_path / "inner" / "file").read_bytes() == b"text"


@in_a_bucket
def test_a_whole_bucket_can_be_downloaded(store: ObjectStore, folder: AnyPath, tmp_path: Path) -> None:
    storage.write_text(folder / "file", "text")
    bucket = storage.parse(store.url)
    assert not storage.is_local(bucket)

    storage.download(bucket, tmp_path)

    assert (tmp_path / str(folder).removeprefix(f"{store.url}/") / "file").read_text() == "text"


@in_a_store
def test_a_download_of_nothing_is_told(folder: AnyPath, tmp_path: Path) -> None:
    assert not storage.is_local(folder)
    storage.write_text(folder.parent / "folder2" / "x", "text")

    with pytest.raises(FileNotFoundError, match=r"folder$"):
        storage.download(folder, tmp_path)


# Listing


def test_only_files_are_files(folder: AnyPath) -> None:
    storage.write_text(folder / "a" / "note.txt", "text")

    found = [storage.is_file(folder / name) for name in ("a/note.txt", "a", "a/note", "a/note.txt/x", "missing")]

    assert found == [True, False, False, False, False]


def test_content_that_has_not_changed_is_known_again(folder: AnyPath) -> None:
    storage.write_text(folder / "a", "text")

    first = storage.content_id(folder / "a")
    time.sleep(0.01)

    assert storage.content_id(folder / "a") == first


def test_other_content_is_told_apart(folder: AnyPath) -> None:
    ids = []
    for text in ("text", "tex!", "", "longer text"):
        storage.write_text(folder / "a", text)
        ids.append(storage.content_id(folder / "a"))

    assert len(set(ids)) == 4


@pytest.mark.parametrize("place", ["local", "s3", "gs"], indirect=True)
def test_the_same_content_is_known_again_wherever_it_is_written(folder: AnyPath) -> None:
    ids = set()
    for name in ("a", "a", "folder/b"):
        storage.write_text(folder / name, "text")
        ids.add(storage.content_id(folder / name))
        time.sleep(0.01)

    assert len(ids) == 1


@in_a_store
def test_content_in_a_store_is_identified_without_being_read(folder: AnyPath, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not storage.is_local(folder)
    storage.write_text(folder / "a", "text")

    def refused(*_: object, **__: object) -> None:
        raise AssertionError("the body is read")

    for method in ("open", "_open", "cat_file", "_cat_file", "get_file", "_get_file"):
        monkeypatch.setattr(folder.fs, method, refused, raising=False)

    assert storage.content_id(folder / "a").startswith(f"{folder.protocol}:")


def test_refused_deletion_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "posts").mkdir()

    with pytest.raises(UserError, match=rf"^cannot write {tmp_path / 'posts'}: .*{ADVICE}"):
        storage.remove(tmp_path / "posts")


def test_names_are_those_directly_in_a_folder(folder: AnyPath) -> None:
    for name in ("b", "a/1", "a/2", "a/c/3", "a.txt", "d e/\N{SNOWMAN}"):
        storage.write_text(folder / name, "text")
    storage.write_text(folder.parent / "folder2", "text")

    assert storage.list_names(folder) == ["a", "a.txt", "b", "d e"]
    assert storage.list_names(folder / "a") == ["1", "2", "c"]
    assert storage.list_names(folder / "d e") == ["\N{SNOWMAN}"]


def test_a_folder_that_is_not_there_has_no_names(folder: AnyPath) -> None:
    assert storage.list_names(folder) == []
    storage.write_text(folder / "file", "text")

    for name in ("missing", "fil", "file"):
        assert storage.list_names(folder / name) == []


@in_a_bucket
def test_objects_that_stand_for_folders_are_no_names(folder: AnyPath) -> None:
    for key in ("", "inner/", "inner/file", "empty/"):
        put_object(folder, key)

    assert storage.list_names(folder) == ["empty", "inner"]
    assert storage.list_names(folder / "inner") == ["file"]
    assert storage.list_names(folder / "empty") == []


@in_a_bucket
def test_names_of_a_bucket_are_those_at_its_top(store: ObjectStore, folder: AnyPath) -> None:
    storage.write_text(folder / "file", "text")

    assert folder.parent.name in storage.list_names(storage.parse(store.url))


@in_a_store
def test_what_another_client_writes_is_seen_at_once(folder: AnyPath) -> None:
    assert not storage.is_local(folder)
    another = fsspec.filesystem(folder.protocol, skip_instance_cache=True)
    for number in range(3):
        assert storage.list_names(folder) == [str(name) for name in range(number)]
        assert not storage.is_file(folder / str(number))
        another.pipe_file(f"{folder.path}/{number}", b"text")
        assert storage.is_file(folder / str(number))
        assert storage.size(folder / str(number)) == 4


def test_more_names_than_one_page_holds(folder: AnyPath, place: str) -> None:
    count = 1005 if place == "gs" else 50
    if storage.is_local(folder):
        folder.mkdir()
        for number in range(count):
            (folder / f"{number:05}").touch()
    else:
        folder.fs.pipe({f"{folder.path}/{number:05}": b"x" for number in range(count)})

    assert storage.list_names(folder) == [f"{number:05}" for number in range(count)]


# Deleting


def test_a_file_is_removed_if_it_is_there(folder: AnyPath) -> None:
    for name in ("a", "b"):
        storage.write_text(folder / name, "text")

    storage.remove(folder / "a")
    storage.remove(folder / "a")
    storage.remove(folder / "missing" / "deep")

    assert storage.list_names(folder) == ["b"]


def test_a_folder_is_removed_with_all_that_it_holds_and_nothing_beside_it(folder: AnyPath) -> None:
    for name in ("a/1", "a/b/2", "a2/3", "a.txt"):
        storage.write_text(folder / name, "text")

    storage.remove_tree(folder / "a")
    storage.remove_tree(folder / "a")
    storage.remove_tree(folder / "missing" / "deep")

    assert storage.list_names(folder) == ["a.txt", "a2"]
    assert storage.list_names(folder / "a") == storage.list_names(folder / "a" / "b") == []
    assert storage.list_names(folder / "a2") == ["3"]


@in_a_bucket
def test_objects_that_stand_for_folders_go_with_them(folder: AnyPath) -> None:
    assert not storage.is_local(folder)
    for key in ("", "inner/", "inner/file", "empty/"):
        put_object(folder, key)

    storage.remove_tree(folder)

    assert folder.fs.find(folder.path) == []


@in_a_store
def test_nothing_in_a_store_is_taken_for_temporary(folder: AnyPath) -> None:
    storage.write_text(folder / ".tmp-file-1", "text")

    storage.remove_temporary(folder)

    assert storage.list_names(folder) == [".tmp-file-1"]


DIE_HALFWAY = """
import os, signal, sys
from pathlib import Path
from pipeline.io.storage import atomic
with atomic(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    if sys.argv[2] == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    print("half", flush=True)
    input()
"""


def halfway(path: Path, what: str) -> subprocess.Popen[str]:
    """A process in the middle of writing a file, which lives, or dies there."""
    process = python(DIE_HALFWAY, str(path), what)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def test_temporary_files_of_a_killed_run_are_removed_and_no_others(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for name in ("data/b.parquet", ".lock"):
        (tmp_path / name).touch()
    for path in (tmp_path / "a.parquet", tmp_path / "data" / "b.parquet"):
        halfway(path, "dies").communicate()
    assert len(list(tmp_path.rglob(".tmp-*"))) == 2

    storage.remove_temporary(tmp_path)

    assert storage.list_names(tmp_path) == [".lock", "data"]
    assert storage.list_names(tmp_path / "data") == ["b.parquet"]


def test_a_file_that_a_living_process_is_writing_is_left_alone(tmp_path: Path) -> None:
    process = halfway(tmp_path / "a.txt", "lives")

    with storage.atomic(tmp_path / "a.txt") as temporary:
        temporary.write_text("ours")
        storage.remove_temporary(tmp_path)

    process.communicate("\n")
    assert process.returncode == 0
    assert storage.list_names(tmp_path) == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "half"


@pytest.mark.parametrize("name", [".tmp-a.parquet-17", ".tmp-a-b.parquet-0123456789ab-1-7-01234567", ".tmp-"])
def test_of_a_file_of_another_container_the_age_decides(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    storage.remove_temporary(tmp_path)
    assert storage.list_names(tmp_path) == [name]

    hour = time.time() - 3700
    os.utime(tmp_path / name, (hour, hour))
    storage.remove_temporary(tmp_path)
    assert storage.list_names(tmp_path) == []


def test_containers_that_write_one_file_at_once_meet_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Of each the process has number 1.
    monkeypatch.setattr(os, "getpid", lambda: 1)
    with storage.atomic(tmp_path / "a.txt") as first, storage.atomic(tmp_path / "a.txt") as second:
        first.write_text("first")
        second.write_text("second")

    assert first != second
    assert (tmp_path / "a.txt").read_text() == "first"
    assert storage.list_names(tmp_path) == ["a.txt"]


# A file system that renames


class _Disk:
    """Simulate a file system whose disk is full."""

    is_full = False


@pytest.fixture
def renaming(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AnyPath:
    """A folder of a file system that fsspec knows and that shows a file while it is being written."""

    def strip(cls: Any, path: Any) -> Any:
        return plain._strip_protocol(str(path).removeprefix("renaming://"))

    def put_file(self: Any, lpath: str, rpath: str, **_: object) -> None:
        content = Path(lpath).read_bytes()
        if _Disk.is_full:
            Path(self._strip_protocol(rpath)).write_bytes(content[: len(content) // 2])
            raise OSError(28, "No space left on device")
        Path(self._strip_protocol(rpath)).write_bytes(content)

    plain = local_files.LocalFileSystem
    members = {"protocol": "renaming", "_strip_protocol": classmethod(strip), "put_file": put_file}
    fsspec.register_implementation("renaming", type("Renaming", (plain,), members), clobber=True)
    monkeypatch.setattr(_Disk, "is_full", False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "UPath 'renaming' filesystem not explicitly implemented")
        path = storage.parse(f"renaming://{tmp_path}")
    assert not storage.is_local(path)
    return path


def test_elsewhere_a_file_is_renamed_when_it_is_whole(renaming: AnyPath, tmp_path: Path) -> None:
    for text in ("first", "second"):
        storage.write_text(renaming / "data" / "note.txt", text)

        assert files_below(tmp_path) == {"data/note.txt": text.encode()}
        assert storage.read_bytes(renaming / "data" / "note.txt").decode() == text

    assert storage.list_names(renaming) == ["data"]


def test_elsewhere_a_failed_write_keeps_what_was_there_and_its_rest_is_removed(
    renaming: AnyPath, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.write_text(renaming / "old.txt", "old")
    monkeypatch.setattr(_Disk, "is_full", True)
    for name in ("old.txt", "data/new.txt"):
        text = error_of(lambda path: storage.write_text(path, "half of this"), renaming / name)

        assert text == f"cannot write {renaming / name}: No space left on device"

    assert files_below(tmp_path) == {"old.txt": b"old"}


def test_elsewhere_what_nobody_writes_any_more_is_removed(renaming: AnyPath, tmp_path: Path) -> None:
    for name, age in ((".tmp-new.txt-17", 0), (".tmp-old.txt-17", 3700)):
        (tmp_path / name).write_text("half")
        os.utime(tmp_path / name, (time.time() - age, time.time() - age))

    storage.remove_temporary(renaming)
    storage.remove_temporary(renaming / "missing")

    assert files_below(tmp_path) == {".tmp-new.txt-17": b"half"}


def test_elsewhere_folders_are_made(renaming: AnyPath, tmp_path: Path) -> None:
    storage.make_folder(renaming / "a" / "b")
    storage.make_folder(renaming / "a" / "b")

    assert (tmp_path / "a" / "b").is_dir()
    assert storage.list_names(renaming) == ["a"]
    storage.remove_tree(renaming / "a")
    assert not (tmp_path / "a").exists()
