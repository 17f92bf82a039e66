from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.io import storage
from pipeline.io.storage import AnyPath
from schemas.base import UsageError, UserError
from tests.object_stores import ObjectStore, forget_clients, in_a_bucket
from tests.pipeline.io.uses import DELETIONS, READS, WRITES, Use, error_of, name_of


@contextlib.contextmanager
def variables(**values: str) -> Iterator[None]:
    """Other settings of a store, for clients that are new."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in values.items():
            patch.setenv(name, value)
        forget_clients()
        yield
    forget_clients()


@in_a_bucket
@pytest.mark.parametrize("use", WRITES, ids=[name_of(use, k) for k, use in enumerate(WRITES)])
def test_a_write_to_a_bucket_that_is_not_there_is_told(folder: AnyPath, place: str, use: Use) -> None:
    path = storage.parse(f"{place}://no-such-bucket/folder/file")

    assert error_of(use, path).startswith(f"cannot write {path}: ")


@in_a_bucket
def test_that_there_is_no_such_bucket_is_said_in_words(folder: AnyPath, place: str) -> None:
    path = storage.parse(f"{place}://no-such-bucket/folder/file")

    text = error_of(lambda path: storage.write_text(path, "x"), path)

    assert re.search(r"(?i)does not exist|no such bucket|not found", text)


@in_a_bucket
@pytest.mark.parametrize("use", [*WRITES, *DELETIONS], ids=[name_of(u, k) for k, u in enumerate([*WRITES, *DELETIONS])])
def test_a_write_that_is_not_allowed_is_told(store: ObjectStore, use: Use) -> None:
    path = storage.parse(f"{store.private_url}/folder/file")

    text = error_of(use, path)

    assert text.startswith(f"cannot write {path}: ")
    assert "denied" in text.lower()


@in_a_bucket
@pytest.mark.parametrize("use", READS, ids=[name_of(use, k) for k, use in enumerate(READS)])
def test_a_read_that_is_not_allowed_is_told(store: ObjectStore, use: Use) -> None:
    path = storage.parse(f"{store.private_url}/folder/file")

    text = error_of(use, path)

    assert text.startswith(f"cannot read {path}: ")
    assert "denied" in text.lower() or "Forbidden" in text


@pytest.mark.parametrize("place", ["s3"], indirect=True)
def test_a_wrong_key_is_told(folder: AnyPath) -> None:
    with variables(AWS_ACCESS_KEY_ID="another"):
        path = storage.parse(f"{folder}/file")

        assert "does not exist in our records" in error_of(lambda path: storage.write_text(path, "x"), path)
        assert "Forbidden" in error_of(storage.read_bytes, path)
        assert "does not exist in our records" in error_of(storage.list_names, path)


@pytest.mark.parametrize("place", ["s3"], indirect=True)
def test_a_store_that_cannot_be_reached_is_told(folder: AnyPath) -> None:
    nowhere = "http://127.0.0.1:9"
    with variables(AWS_MAX_ATTEMPTS="1", AWS_ENDPOINT_URL=nowhere, AWS_ENDPOINT_URL_S3=nowhere):
        path = storage.parse(f"{folder}/file")

        text = error_of(lambda path: storage.write_text(path, "x"), path)
        assert text.startswith(f"cannot write {path}: ") and nowhere in text
        text = error_of(storage.read_bytes, path)
        assert text.startswith(f"cannot read {path}: ") and nowhere in text


Manager = Callable[[AnyPath], contextlib.AbstractContextManager[None]]


def fail(path: AnyPath, manager: Manager, error: Exception) -> None:
    with manager(path):
        raise error


def test_an_error_of_any_kind_is_told_where_it_concerns_a_store() -> None:
    path = storage.parse("memory://bucket/x")

    for manager, verb in ((storage.write_errors, "write"), (storage.read_errors, "read")):
        with pytest.raises(UserError, match=f"^cannot {verb} memory://bucket/x: two lines of it; ") as caught:
            fail(path, manager, RuntimeError("two lines\n   of it"))
        assert isinstance(caught.value.__cause__, RuntimeError)
        with pytest.raises(UserError, match=r"^cannot .*: RuntimeError; "):
            fail(path, manager, RuntimeError())
        with pytest.raises(UsageError, match=r"^ours$"):
            fail(path, manager, UsageError("ours"))


@pytest.mark.parametrize("manager", [storage.write_errors, storage.read_errors])
def test_an_error_of_ours_on_this_machine_is_left_as_it_is(
    manager: Manager,
) -> None:
    with pytest.raises(KeyError), manager(Path("x")):
        raise KeyError("ours")


def test_a_folder_that_cannot_be_made_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file where a folder should be")

    with pytest.raises(UserError, match="cannot write"):
        storage.write_text(tmp_path / "data" / "note.txt", "text")


def test_an_error_of_the_disk_names_the_path_and_the_way_out() -> None:
    with (
        pytest.raises(UserError, match=r"^cannot write x/y: No space left on device; fix that"),
        storage.write_errors(Path("x/y")),
    ):
        raise OSError(28, "No space left on device")
