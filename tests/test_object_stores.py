"""The object stores that other tests build upon."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests import ROOT
from tests.forks import python
from tests.object_stores import BUCKET, GcsStore, ObjectStore, S3Store, serving

fsspec = pytest.importorskip("fsspec")

_CREATE = """
import sys, time, fsspec
url, text = sys.argv[1:]
fs = fsspec.filesystem(url.partition(":")[0])
fs.exists(url)
print("ready", flush=True)
start = float(input())
for number in range(20):
    time.sleep(max(0, start + 0.03 * number - time.time()))
    try:
        fs.pipe_file(f"{url}/{number}", text.encode(), mode="create")
    except FileExistsError:
        pass
    else:
        print(number)
"""
_DIE_HALFWAY = """
import os, signal, sys, fsspec
class Killer(fsspec.callbacks.Callback):
    def relative_update(self, inc=1): os.kill(os.getpid(), signal.SIGKILL)
    absolute_update = relative_update
file, url = sys.argv[1:]
fsspec.filesystem(url.partition(":")[0]).put_file(file, url, chunksize=5 * 2**20, mode="create", callback=Killer())
"""
_START_AND_WAIT = """
from tests.object_stores import GcsStore
with GcsStore() as store:
    print(store.environment["STORAGE_EMULATOR_HOST"], flush=True)
    input()
"""


@pytest.fixture(scope="module", params=[S3Store, GcsStore])
def store(request: pytest.FixtureRequest) -> Iterator[ObjectStore]:
    with serving(request.param) as found:
        yield found


@pytest.fixture
def files(store: ObjectStore) -> Any:
    """The store as `fsspec` sees it."""
    return fsspec.filesystem(store.scheme, use_listings_cache=False)


def test_only_the_first_creation_of_a_key_succeeds(store: ObjectStore, files: Any, tmp_path: Path) -> None:
    url, file = f"{store.url}/first", tmp_path / "file"
    for size, options in ((10, {}), (11_000_000, {"chunksize": 5 * 2**20})):
        content = os.urandom(size)
        file.write_bytes(content)
        files.put_file(str(file), f"{url}/{size}", mode="create", **options)
        file.write_bytes(bytes(size))
        with pytest.raises(FileExistsError):
            files.put_file(str(file), f"{url}/{size}", mode="create", **options)
        with pytest.raises(FileExistsError):
            files.pipe_file(f"{url}/{size}", b"", mode="create")
        assert files.cat_file(f"{url}/{size}") == content
    files.pipe_file(f"{url}/10", b"another")
    assert files.cat_file(f"{url}/10") == b"another"


def test_of_two_processes_that_create_a_key_one_succeeds(store: ObjectStore, files: Any) -> None:
    url = f"{store.url}/race"
    racers = [python(_CREATE, url, name) for name in ("ann", "bob")]
    for racer in racers:
        assert racer.stdout is not None and racer.stdout.readline() == "ready\n"
    start = f"{time.time() + 0.3}\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write(start)
        racer.stdin.flush()
    won = [racer.communicate()[0].split() for racer in racers]
    assert sorted(won[0] + won[1]) == sorted(map(str, range(20)))
    for name, numbers in zip(("ann", "bob"), won, strict=True):
        assert all(files.cat_file(f"{url}/{number}") == name.encode() for number in numbers)


def test_a_killed_upload_leaves_nothing(store: ObjectStore, files: Any, tmp_path: Path) -> None:
    url, file = f"{store.url}/killed/object", tmp_path / "file"
    file.write_bytes(os.urandom(16_000_000))
    done = subprocess.run([sys.executable, "-c", _DIE_HALFWAY, str(file), url], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not files.exists(url) and files.find(f"{store.url}/killed") == []
    files.put_file(str(file), url, chunksize=5 * 2**20, mode="create")
    assert files.cat_file(url) == file.read_bytes()


def test_half_a_body_leaves_nothing(store: ObjectStore, files: Any) -> None:
    if store.scheme == "s3":
        address, key = store.environment["AWS_ENDPOINT_URL"], store.environment["AWS_ACCESS_KEY_ID"]
        signed = f"AWS4-HMAC-SHA256 Credential={key}/20260101/us-east-1/s3/aws4_request, Signature=any"
        head = f"PUT /{BUCKET}/half HTTP/1.1\r\nAuthorization: {signed}\r\n"
    else:
        address = store.environment["STORAGE_EMULATOR_HOST"]
        head = f"POST /upload/storage/v1/b/{BUCKET}/o?uploadType=media&name=half HTTP/1.1\r\n"
    for length in (5, 1000):
        with socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2]))) as connection:
            connection.sendall(f"{head}Host: 127.0.0.1\r\nContent-Length: {length}\r\n\r\n".encode() + b"x" * 5)
            if length == 5:
                assert connection.recv(100).startswith(b"HTTP/1.1 200")
                assert files.cat_file(f"{store.url}/half") == b"xxxxx"
                files.rm_file(f"{store.url}/half")
    time.sleep(0.1)
    assert not files.exists(f"{store.url}/half")


def test_ranges(store: ObjectStore, files: Any) -> None:
    url = f"{store.url}/ranges"
    files.pipe_file(url, b"0123456789")
    assert files.cat_file(url, start=2, end=5) == b"234"
    assert files.cat_file(url, start=-3) == b"789"
    assert files.cat_file(url, start=-3, end=-1) == b"78"
    assert files.cat_file(url, start=8, end=99) == b"89"
    assert files.cat_file(url, start=-99) == b"0123456789"
    with files.open(url, "rb", cache_type="none") as file:
        assert (file.seek(-4, os.SEEK_END), file.read(2), file.read()) == (6, b"67", b"89")


def test_names_come_back_as_they_are(files: Any) -> None:
    folder = f"{BUCKET}/names"
    names = sorted(f"{folder}/{name}" for name in ("a/b", "a b", "ä+%41", "x?y=1&z#2"))
    for name in names:
        files.pipe_file(name, name.encode())
    assert sorted(files.find(folder)) == names
    assert sorted(files.ls(folder, detail=False)) == sorted([f"{folder}/a", *names[:1], *names[2:]])
    assert files.cat(names) == {name: name.encode() for name in names}
    files.rm(folder, recursive=True)
    assert files.find(folder) == []
    with pytest.raises(FileNotFoundError):
        files.info(names[0])


@pytest.mark.parametrize("store", [GcsStore], indirect=True)
def test_many_names_come_by_pages(files: Any) -> None:
    names = [f"{BUCKET}/pages/{number:04}" for number in range(1005)]
    files.pipe(dict.fromkeys(names, b"x"))
    assert files.find(f"{BUCKET}/pages") == files.ls(f"{BUCKET}/pages") == names


def test_threads_share_a_client(store: ObjectStore, files: Any) -> None:
    def work(number: int) -> bool:
        files.pipe_file(f"{store.url}/threads/{number}", str(number).encode(), mode="create")
        return bool(files.cat_file(f"{store.url}/threads/{number}") == str(number).encode())

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(work, range(64)))


def test_who_may_not_come_in(store: ObjectStore, files: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PermissionError if store.scheme == "s3" else Exception, match=r"(?i)denied"):
        files.pipe_file(f"{store.private_url}/key", b"x")
    if store.scheme == "s3":
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "another")
        with pytest.raises(PermissionError, match="does not exist in our records"):
            fsspec.filesystem("s3", skip_instance_cache=True).find(store.url)


def test_a_store_ends_with_whoever_started_it() -> None:
    starter = subprocess.Popen(
        [sys.executable, "-c", _START_AND_WAIT], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert starter.stdout is not None
    port = int(starter.stdout.readline().rpartition(":")[2])
    socket.create_connection(("127.0.0.1", port)).close()
    starter.kill()
    starter.communicate()
    deadline = time.monotonic() + 5
    with pytest.raises(ConnectionRefusedError):
        while time.monotonic() < deadline:
            socket.create_connection(("127.0.0.1", port)).close()
            time.sleep(0.02)
