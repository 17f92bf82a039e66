"""Files of a build, on this machine or in an object store.

Only this module and `outages.py` call fsspec. Other modules ask `is_local` where a store needs another way.

Files are written atomically. On this machine a temporary file is renamed. An object store can neither rename nor
append, but an object appears there only when it has arrived whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
from typing_extensions import TypeIs
from upath import UPath

from pipeline.io.outages import error_text, retry_outages
from pipeline.io.processes import Process
from schemas.base import UsageError, UserError

T = TypeVar("T")
R = TypeVar("R")
AnyPath = Path | UPath
"""A file or folder: a `Path` on this machine, a `UPath` of any other file system that fsspec supports."""

_THREADS = 32
"""Concurrent requests to an object store."""

_OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oci", "oss", "r2", "memory"})
"""Protocols whose files appear whole, and whose folders need not be made."""
_READ_ONLY = frozenset({"http", "https", "data", "hf", "git", "github", "zip", "tar", "libarchive"})
_LARGE_FILES = 8
"""Concurrent downloads, each of which can use the whole bandwidth."""
_BLOCK_BYTES = 8 << 20
_ABANDONED_SECONDS = 3600
"""Age from which a temporary file counts as abandoned where its process is not visible from here."""
_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}
_EXTRAS = {"s3fs": "s3", "gcsfs": "gcp"}
"""Extras of this project that hold a package."""


def parse(name: str) -> AnyPath:
    """Return the path or address (such as `gs://bucket/folder`) that a user names. Raises `UsageError`."""
    protocol, separator, rest = name.partition("://")
    if not separator:
        protocol, separator, rest = name.partition(":/")
        if separator and protocol in _OBJECT_STORES | _READ_ONLY | {"file"}:
            raise UsageError(f"{name}: an address has two slashes, such as {protocol}://{rest}")
        try:
            return Path(name).expanduser()
        except RuntimeError as error:
            raise UsageError(f"{name}: {error_text(error)}") from None
    if protocol == "file":
        return Path(rest)
    if not rest.strip("/") or (rest.startswith("/") and protocol in _PACKAGES):
        raise UsageError(f"{name}: a bucket or host is missing; an example is {protocol}://bucket/folder")
    try:
        # Listings are not cached, as other workers write there.
        path = UPath(name.rstrip("/"), use_listings_cache=False)
        _ = path.fs
    except ImportError:
        package = _PACKAGES.get(protocol, f"the package for {protocol}://")
        command = install_command(_EXTRAS[package]) if package in _EXTRAS else f"pip install {package}"
        raise UsageError(f"{name}: {package} is not installed in this Python; run {command}") from None
    except Exception as error:  # Each file system has its own errors.
        raise UsageError(f"{name}: cannot be used: {error_text(error)}") from None
    return path


def install_command(extra: str) -> str:
    """Return the commands that install an extra of this project, for a message."""
    return f"`make setup EXTRAS={extra}` in a clone of everyuser, elsewhere `pip install 'everyuser[{extra}]'`"


def is_local(path: AnyPath) -> TypeIs[Path]:
    """Return whether a path belongs to this machine's own file system."""
    return isinstance(path, Path)


@contextmanager
def atomic(path: AnyPath) -> Iterator[Path]:
    """Yield a temporary file of this machine that becomes `path` at the end, and is dropped on an error."""
    if not is_local(path):
        with tempfile.TemporaryDirectory(prefix="everyuser-") as scratch:
            temporary = Path(scratch) / path.name
            with write_errors(temporary):
                yield temporary
            with write_errors(path):
                retry_outages(path, lambda: _put(temporary, path))
        return
    temporary = path.with_name(_temporary_name(path.name))
    try:
        with write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _put(local: Path, path: UPath) -> None:
    if path.protocol in _OBJECT_STORES:
        path.fs.put_file(str(local), path.path)
        return
    temporary = path.with_name(_temporary_name(path.name))
    path.fs.makedirs(path.parent.path, exist_ok=True)
    try:
        path.fs.put_file(str(local), temporary.path)
        path.fs.mv(temporary.path, path.path)
    except BaseException:
        with contextlib.suppress(Exception):
            path.fs.rm_file(temporary.path)
        raise


def _temporary_name(name: str) -> str:
    """Return a unique name that holds this process's identity, for `remove_temporary`."""
    me = Process.current()
    return f".tmp-{name}-{me.machine}-{me.number}-{me.started or 0}-{uuid.uuid4().hex[:8]}"


def _is_abandoned(path: AnyPath) -> bool:
    """Return whether a temporary file's process is gone. The file's age decides where the process is not visible."""
    parts = path.name.rsplit("-", 4)[1:]
    if len(parts) == 4 and parts[0] and parts[1].isdecimal() and parts[2].isdecimal():
        owner = Process(parts[0], int(parts[1]), int(parts[2]) or None)
        if owner.is_here:
            return owner.is_gone
    return time.time() - path.stat().st_mtime > _ABANDONED_SECONDS


def write_bytes(path: AnyPath, content: bytes) -> None:
    """Write a small file atomically."""
    if not is_local(path) and path.protocol in _OBJECT_STORES:
        with write_errors(path):
            retry_outages(path, lambda: path.fs.pipe_file(path.path, content))
        return
    with atomic(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: AnyPath, text: str) -> None:
    """Write a small text file atomically."""
    write_bytes(path, text.encode())


def create(path: UPath, content: bytes) -> None:
    """Write a small file that does not exist; raises `FileExistsError`. One of several concurrent calls succeeds."""

    def request() -> None:
        try:
            path.fs.pipe_file(path.path, content, mode="create")
        except (NotImplementedError, TypeError):
            # A store without conditional writes: another call may write between these two lines.
            if path.fs.exists(path.path):
                raise FileExistsError(str(path)) from None
            path.fs.pipe_file(path.path, content)

    with write_errors(path, FileExistsError):
        retry_outages(path, request)


def check_folder(folder: AnyPath) -> None:
    """Raise `UsageError` for a folder that cannot hold a build: a file, below a file, or read-only.

    Patterns and chains of addresses are refused, too: `load_dataset` would look for other folders.
    """
    if wild := [part for part in ("[", "*", "?", "::") if part in str(folder)]:
        raise UsageError(
            f"--output {folder}: load_dataset reads a name with '{wild[0]}' as a pattern and does not find the "
            "dataset; name a folder without '[', '*', '?' and '::'"
        )
    if is_local(folder):
        for place in (folder, *folder.parents):
            try:
                if place.is_dir():
                    return
            except OSError as error:
                raise UsageError(f"--output {folder}: {error_text(error)}; name another folder") from None
            if os.path.lexists(place):
                raise UsageError(f"--output {folder}: {place} is not a folder; name a folder, which need not exist")
    elif folder.protocol in _READ_ONLY:
        raise UsageError(
            f"--output {folder}: nothing can be written by {folder.protocol}://; name a folder of this machine, or of "
            "a bucket (s3://, gs://, az://)"
        )
    # Listed first, as a refused listing comes with the store's message, and a refused request for one object without.
    elif not list_names(folder) and is_file(folder):
        raise UsageError(f"--output {folder}: a file has that name; name a folder, which need not exist")


def read_bytes(path: AnyPath) -> bytes:
    """Return the content of a file; raises `FileNotFoundError`."""
    with read_errors(path):
        if is_local(path):
            return path.read_bytes()
        content: bytes = retry_outages(path, lambda: path.fs.cat_file(path.path))
        return content


@contextmanager
def open_binary(path: AnyPath, from_start_to_end: bool = False) -> Iterator[Any]:
    """Open a file to read; raises `FileNotFoundError`.

    In an object store each read is one request for its bytes, or for a block where `from_start_to_end` is set.
    """
    if is_local(path):
        with read_errors(path):
            opened_here = path.open("rb")
        with opened_here:
            yield opened_here
        return
    options: dict[str, Any] = {"cache_type": "none"}
    if from_start_to_end:
        options = {"cache_type": "readahead", "block_size": _BLOCK_BYTES}
    with read_errors(path):
        opened = retry_outages(path, lambda: path.fs.open(path.path, "rb", **options))
    with _Reader(path, opened) as file:
        yield io.BufferedReader(file, _BLOCK_BYTES) if from_start_to_end else file


class _Reader(io.RawIOBase):
    """A file of an object store. Store errors become `UserError`; exceptions of the caller pass through."""

    def __init__(self, path: UPath, file: Any) -> None:
        self._path, self._file = path, file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with read_errors(self._path):
            return int(retry_outages(self._path, lambda: self._file.readinto(buffer)))

    def seek(self, offset: int, whence: int = 0) -> int:
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def close(self) -> None:
        self._file.close()
        super().close()


@contextmanager
def open_parquet(path: AnyPath, whole: bool = False) -> Iterator[str | pa.NativeFile | Any]:
    """Yield the source for `ParquetFile`; raises `FileNotFoundError`. `whole`: most of the file will be read."""
    if is_local(path):
        yield str(path)
    elif whole:
        yield pa.BufferReader(read_bytes(path))
    else:
        with open_binary(path) as file:
            yield file


@contextmanager
def local_copy(path: AnyPath) -> Iterator[Path]:
    """Yield a file as one of this machine; raises `FileNotFoundError`."""
    if is_local(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="everyuser-") as scratch:
        copy = Path(scratch) / path.name
        with read_errors(path):
            retry_outages(path, lambda: path.fs.get_file(path.path, str(copy)))
        yield copy


@contextmanager
def local_folder(folder: AnyPath) -> Iterator[Path]:
    """Yield a folder with its files as one of this machine."""
    if is_local(folder):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="everyuser-") as scratch:
        download(folder, Path(scratch))
        yield Path(scratch)


def download(folder: UPath, target: Path) -> None:
    """Copy everything below a folder to this machine; raises `FileNotFoundError` for an empty folder."""
    with read_errors(folder):
        found = retry_outages(folder, lambda: folder.fs.find(folder.path))
        files = [file for file in found if not file.endswith("/")]
        if not files:
            raise FileNotFoundError(str(folder))
        root = folder.fs._strip_protocol(folder.path).rstrip("/")
        copies = [target / str(file)[len(root) :].lstrip("/") for file in files]
        for copy in copies:
            copy.parent.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(_LARGE_FILES) as pool:
            get = folder.fs.get_file
            list(pool.map(lambda file, copy: retry_outages(folder, lambda: get(file, str(copy))), files, copies))


def is_file(path: AnyPath) -> bool:
    """Return whether a file exists."""
    if is_local(path):
        with read_errors(path):
            return path.is_file()
    # fsspec's `isfile` would take any error, such as a refused key, for a missing file.
    try:
        with read_errors(path):
            return bool(retry_outages(path, lambda: path.fs.info(path.path))["type"] == "file")
    except FileNotFoundError:
        return False


def size(path: AnyPath) -> int:
    """Return the size of a file in bytes; raises `FileNotFoundError`."""
    with read_errors(path):
        if is_local(path):
            return path.stat().st_size
        return int(retry_outages(path, lambda: path.fs.info(path.path))["size"])


def content_id(path: AnyPath) -> str:
    """Return an identity of a file's content: a hash, or the object store's checksum, which saves reading it."""
    with read_errors(path):
        if is_local(path):
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        info = retry_outages(path, lambda: path.fs.info(path.path))
        checksum = info.get("md5Hash") or info.get("crc32c") or retry_outages(path, lambda: path.fs.checksum(path.path))
        return f"{path.protocol}:{checksum}"


def is_same(recorded: str, found: str) -> bool:
    """Compare two results of `content_id`. A hash and a store's checksum cannot be compared, and count as equal."""
    kinds = {identity.rpartition(":")[0] for identity in (recorded, found)}
    return len(kinds) > 1 or recorded == found


def list_names(folder: AnyPath, files_only: bool = False) -> list[str]:
    """Return the sorted names of a folder's entries; an empty list for a missing folder."""
    try:
        with read_errors(folder):
            if is_local(folder):
                return sorted(path.name for path in folder.iterdir() if not files_only or path.is_file())
            entries = retry_outages(folder, lambda: folder.fs.ls(folder.path, detail=True))
    except (FileNotFoundError, NotADirectoryError):
        return []
    wanted = {str(entry["name"]).strip("/") for entry in entries if not files_only or entry["type"] == "file"}
    # Some stores list the folder itself, as an empty object.
    return sorted(entry.rpartition("/")[2] for entry in wanted - {folder.path.strip("/")})


def map_files(folder: AnyPath, function: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """Return `function` of every item, in order. Calls are concurrent where `folder` is in an object store."""
    if is_local(folder):
        return [function(item) for item in items]
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(function, items))


def remove(path: AnyPath) -> None:
    """Delete a file, if it exists."""
    with write_errors(path), contextlib.suppress(FileNotFoundError):
        if is_local(path):
            path.unlink()
        else:
            retry_outages(path, lambda: path.fs.rm_file(path.path))


def remove_tree(folder: AnyPath) -> None:
    """Delete a folder with its content, if it exists."""
    with write_errors(folder), contextlib.suppress(FileNotFoundError):
        if is_local(folder):
            shutil.rmtree(folder)
        else:
            retry_outages(folder, lambda: folder.fs.rm(folder.path, recursive=True))


def remove_temporary(folder: AnyPath) -> None:
    """Delete the temporary files of killed runs; those of live processes stay."""
    if not is_local(folder) and folder.protocol in _OBJECT_STORES:
        return
    for path in folder.rglob(".tmp-*"):
        with contextlib.suppress(FileNotFoundError):
            if _is_abandoned(path):
                path.unlink(missing_ok=True)


def make_folder(folder: AnyPath) -> None:
    """Make a folder, where the file system has folders."""
    if is_local(folder) or folder.protocol not in _OBJECT_STORES:
        with write_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)


def private_folder() -> Path:
    """Return a folder of this machine that belongs to this user alone."""
    folder = Path(tempfile.gettempdir()) / f"everyuser-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise UserError(f"{folder} belongs to another user; set TMPDIR to a folder of your own")
    return folder


@contextmanager
def write_errors(path: AnyPath, passed: type[Exception] = UserError) -> Iterator[None]:
    """Convert errors of a failed write to `UserError`. `UserError` and `passed` pass through."""
    try:
        yield
    except (UserError, passed):
        raise
    except Exception as error:
        if is_local(path) and not isinstance(error, OSError):
            raise
        is_bucket_missing = not is_local(path) and isinstance(error, FileNotFoundError)
        cause = "no such bucket" if is_bucket_missing else error_text(error)
        raise UserError(
            f"cannot write {path}: {cause}; fix that and run the same command again, finished work is kept"
        ) from error


@contextmanager
def read_errors(path: AnyPath) -> Iterator[None]:
    """Convert errors of a failed read to `UserError`. `FileNotFoundError` passes through."""
    try:
        yield
    except (UserError, FileNotFoundError, NotADirectoryError, pa.ArrowInvalid):
        raise
    except IsADirectoryError:
        raise UserError(f"{path} is a folder, where a file should be; remove it and run again") from None
    except Exception as error:
        if is_local(path) and not isinstance(error, OSError):
            raise
        raise UserError(
            f"cannot read {path}: {error_text(error)}; fix that and run the same command again, finished work is kept"
        ) from error
