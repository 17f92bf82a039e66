"""Stores that are away for a moment. Whole builds that wait are in `test_object_builds`."""

from __future__ import annotations

import contextlib
import pickle
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from upath import UPath

from pipeline.io import outages, storage
from pipeline.io.outages import is_down, is_outage, retry_outages, waiting_for_stores, without_retries
from pipeline.io.shards import read_meta
from pipeline.plan import BuildPlan
from schemas.base import UserError
from schemas.config import BuildConfig
from tests.object_stores import BUCKET, Line, ObjectStore, forget_clients
from tests.pipeline.io.uses import READS, WRITES, Use, name_of

s3fs = pytest.importorskip("s3fs")
gcsfs = pytest.importorskip("gcsfs")


@pytest.fixture(scope="module")
def line(s3_store: ObjectStore) -> Iterator[Line]:
    """A way to the store, by a client that tries twice in a second."""
    with Line(s3_store.environment["AWS_ENDPOINT_URL"]) as found, pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
            patch.setenv(name, found.url)
        patch.setenv("AWS_MAX_ATTEMPTS", "1")
        patch.setattr(s3fs.S3FileSystem, "retries", 2)
        forget_clients()
        yield found
    forget_clients()


@pytest.fixture
def folder(line: Line) -> Iterator[UPath]:
    found = storage.parse(f"s3://{BUCKET}/{uuid.uuid4().hex}")
    assert not storage.is_local(found)
    storage.write_text(found / "file", "x")
    storage.write_text(found / "file" / "below", "x")
    yield found
    line.restore_if_cut()


@contextlib.contextmanager
def away(line: Line, said: list[str]) -> Iterator[None]:
    """Cut the line; it is restored as soon as a request waits."""
    waits = threading.Event()

    def say(text: str) -> None:
        said.append(text)
        waits.set()

    def restore() -> None:
        assert waits.wait(60)
        line.restore()

    with waiting_for_stores(600, say):
        line.cut()
        restoring = threading.Thread(target=restore)
        restoring.start()
        yield
        restoring.join()


USES: list[Use] = [*READS, *WRITES, storage.remove, storage.remove_tree, read_meta]


@pytest.mark.parametrize("use", USES, ids=[name_of(use, k) for k, use in enumerate(USES)])
def test_every_request_waits_for_its_store(folder: UPath, line: Line, use: Use) -> None:
    said: list[str] = []
    path = folder / "file"
    with away(line, said), contextlib.suppress(FileExistsError):
        if use is read_meta:
            with pytest.raises(UserError, match="is damaged"):
                use(path)
        else:
            use(path)

    assert said[0].startswith(f"s3://{BUCKET} does not answer (")
    assert said[0].endswith("; waiting for up to 600 s")
    assert said[1:] == [f"s3://{BUCKET} answers again"]


def test_an_outage_that_nobody_waits_for_is_an_error_alone(
    folder: UPath, line: Line, caplog: pytest.LogCaptureFixture
) -> None:
    line.cut()

    with pytest.raises(UserError, match="cannot read"):
        storage.read_bytes(folder / "file")
    assert "does not answer" not in caplog.text


def test_a_file_that_is_being_read_waits(folder: UPath, line: Line) -> None:
    storage.write_bytes(folder / "numbers", b"0123456789")
    said: list[str] = []
    for in_order in (False, True):
        with storage.open_binary(folder / "numbers", from_start_to_end=in_order) as file:
            if not in_order:
                assert file.read(2) == b"01"
            with away(line, said):
                assert file.read() == (b"0123456789" if in_order else b"23456789")

    assert len(said) == 4


def test_a_store_that_stays_away_is_told_as_ever(folder: UPath, line: Line) -> None:
    said: list[str] = []
    line.cut()
    with waiting_for_stores(0.5, said.append):
        with pytest.raises(UserError, match=f"^cannot read {folder}/file: Could not connect .*; fix that and run"):
            storage.read_bytes(folder / "file")
        assert is_down(folder) and not outages.is_reachable(folder)
        line.restore()
        assert storage.read_bytes(folder / "file") == b"x"
        assert not is_down(folder)

    assert [text.partition(" does")[0] for text in said] == [f"s3://{BUCKET}", f"s3://{BUCKET} answers again"]


def test_nobody_waits_without_being_told_to(folder: UPath, line: Line) -> None:
    line.cut()
    with pytest.raises(UserError, match="Could not connect"):
        storage.read_bytes(folder / "file")
    with waiting_for_stores(600, print), without_retries(), pytest.raises(UserError, match="Could not connect"):
        storage.read_bytes(folder / "file")


def test_whoever_still_waits_at_the_end_gives_up(folder: UPath, line: Line) -> None:
    waits, found = threading.Event(), []

    def read() -> None:
        try:
            storage.read_bytes(folder / "file")
        except UserError as error:
            found.append(str(error))

    line.cut()
    reading = threading.Thread(target=read, daemon=True)
    with pytest.raises(KeyboardInterrupt), waiting_for_stores(100_000, lambda _: waits.set()):
        reading.start()
        assert waits.wait(60)
        raise KeyboardInterrupt
    reading.join(60)
    assert [text.partition(":")[0] for text in found] == ["cannot read s3"]


@pytest.mark.parametrize("use", [*READS, *WRITES], ids=[name_of(use, k) for k, use in enumerate([*READS, *WRITES])])
@pytest.mark.parametrize("place", ["s3", "gs"])
def test_a_refusal_is_an_answer(place: str, use: Use, request: pytest.FixtureRequest) -> None:
    private = storage.parse(f"{request.getfixturevalue(f'{place}_store').private_url}/file")
    said: list[str] = []
    with waiting_for_stores(100_000, said.append), pytest.raises(UserError, match=r"(?i)denied|Forbidden"):
        use(private)

    assert said == []


@pytest.mark.parametrize("place", ["s3", "gs"])
def test_no_such_bucket_is_an_answer(place: str, request: pytest.FixtureRequest) -> None:
    request.getfixturevalue(f"{place}_store")
    said: list[str] = []
    with waiting_for_stores(100_000, said.append):
        assert storage.list_names(storage.parse(f"{place}://no-such-bucket/folder")) == []
        with pytest.raises(UserError, match="no such bucket"):
            storage.write_text(storage.parse(f"{place}://no-such-bucket/file"), "x")

    assert said == []


def boto(code: str, status: int) -> Exception:
    refusal = pytest.importorskip("botocore.exceptions").ClientError
    answer: Any = {"Error": {"Code": code, "Message": "text"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    error: Exception = s3fs.errors.translate_boto_error(refusal(answer, "GetObject"))
    return error


def raised_from(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (boto("SlowDown", 503), True),
        (boto("InternalError", 500), True),
        (boto("ServiceUnavailable", 503), True),
        (boto("AccessDenied", 403), False),
        (boto("NoSuchBucket", 404), False),
        (boto("PreconditionFailed", 412), False),
        (boto("InvalidArgument", 400), False),
        (gcsfs.retry.HttpError({"code": 503, "message": "later"}), True),
        (gcsfs.retry.HttpError({"code": 429, "message": "later"}), True),
        (gcsfs.retry.HttpError({"code": 401, "message": "who?"}), False),
        (ConnectionResetError("gone"), True),
        (TimeoutError(), True),
        (raised_from(RuntimeError("wrapped"), ConnectionRefusedError("no")), True),
        (raised_from(PermissionError("no"), ConnectionRefusedError("no")), False),
        (OSError(28, "No space left on device"), False),
        (ValueError("bad"), False),
    ],
    ids=repr,
)
def test_what_is_an_outage(error: Exception, is_one: bool) -> None:
    assert is_outage(error) is is_one


def test_a_bad_certificate_is_no_outage() -> None:
    botocore = pytest.importorskip("botocore.exceptions")

    assert not is_outage(botocore.SSLError(endpoint_url="https://x", error="certificate verify failed"))
    assert is_outage(botocore.EndpointConnectionError(endpoint_url="https://x"))
    assert not is_outage(botocore.NoCredentialsError())


def test_a_worker_waits_as_long_as_its_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = {"outage_seconds": 123.0}
    config = BuildConfig.model_validate(
        {"pairs": 1, "generation": {"model": "dummy"}, "engine": {"kind": "dummy"}, "requests": requests}
    )
    plan = pickle.dumps(BuildPlan(tmp_path, "0" * 64, config))
    waited: list[float] = []
    monkeypatch.setattr("pipeline.plan.set_outage_limit", waited.append)

    assert pickle.loads(plan).config.requests.outage_seconds == 123.0  # noqa: S301 - our own
    assert waited == [123.0]


def test_a_store_that_answers_and_fails_is_bounded_too() -> None:
    path = storage.parse("memory://bucket/x")
    assert not storage.is_local(path)

    def fail() -> None:
        raise TimeoutError

    with waiting_for_stores(1, print), pytest.raises(TimeoutError):
        retry_outages(path, fail)
