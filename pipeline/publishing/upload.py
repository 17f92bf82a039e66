"""Uploading shards ahead: what was uploaded is invisible until a commit names it, and is remembered beside the build.

The same code runs in the command's own process and in Beam's workers: an element is a batch of shards, and what the
commit must know of each is left in the build's folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Iterator, Sequence
from typing import Literal

from huggingface_hub import CommitOperationAdd
from huggingface_hub.lfs import UploadInfo
from pydantic import ValidationError

from pipeline.driver.check import hash_mismatch
from pipeline.io import storage
from pipeline.io.storage import AnyPath, write_text
from pipeline.publishing.errors import hub_errors, require_token
from pipeline.publishing.repository import KIND, address, hub
from pipeline.runtime.progress import Counters, counters_for
from schemas.base import Record, UserError
from schemas.config import PublishConfig
from schemas.manifest import FileEntry

logger = logging.getLogger(__name__)

Batch = tuple[FileEntry, ...]

THREADS = 8
"""Files on their way at once. A batch has as many: two requests to the Hub for each, of 1,000 in five minutes."""


class Uploaded(Record):
    """A file whose content the Hub has, though no commit names it yet. `mode` is the Hub's choice for it."""

    path: str
    sha256: str
    bytes: int
    mode: Literal["lfs", "regular"]


def batches(entries: Sequence[FileEntry]) -> list[Batch]:
    """The unit of uploading."""
    return [tuple(entries[start : start + THREADS]) for start in range(0, len(entries), THREADS)]


def not_uploaded(folder: AnyPath, repo_id: str, entries: Sequence[FileEntry]) -> list[FileEntry]:
    """Shards that no earlier run has uploaded to this repository."""
    records = frozenset(storage.list_names(_records(folder, repo_id)))
    return [
        entry
        for entry in entries
        if _record(folder, repo_id, entry).name not in records or recall(folder, repo_id, entry) is None
    ]


def upload_all(folder: AnyPath, settings: PublishConfig, todo: Sequence[Batch]) -> None:
    """Upload batch after batch, in this process."""
    for batch in todo:
        upload(batch, folder, settings)


def upload(batch: Batch, folder: AnyPath, settings: PublishConfig) -> None:
    """Upload a batch of shards, and remember it. What the Hub has already, by its hash, is not sent again."""
    require_token()
    counts = counters_for(folder)
    with contextlib.ExitStack() as stack:
        copies = [stack.enter_context(storage.local_copy(folder / entry.path)) for entry in batch]
        for entry, copy in zip(batch, copies, strict=True):
            # One that is here was checked before; of one that was fetched, the bytes are here only now.
            if not storage.is_local(folder) and storage.content_id(copy) != entry.sha256:
                raise hash_mismatch(folder / entry.path)
        operations = [CommitOperationAdd(entry.path, copy) for entry, copy in zip(batch, copies, strict=True)]
        for entry, operation in zip(batch, operations, strict=True):
            operation.upload_info.sha256 = bytes.fromhex(entry.sha256)
        preupload(operations, settings, counts)
    for entry, operation in zip(batch, operations, strict=True):
        done = Uploaded(path=entry.path, sha256=entry.sha256, bytes=entry.bytes, mode=operation._upload_mode or "lfs")
        write_text(_record(folder, settings.repo_id, entry), done.model_dump_json() + "\n")
        counts.add("publish/files", 1)
        counts.add("publish/bytes", entry.bytes)
        logger.info("uploaded %s to %s: %d bytes", entry.path, settings.repo_id, entry.bytes)
    counts.flush()


def preupload(operations: Sequence[CommitOperationAdd], settings: PublishConfig, counts: Counters) -> None:
    """Have the Hub say how each file is stored, and send what goes into its large-file storage."""
    with hub_errors(settings.repo_id), _counted(counts):
        hub().preupload_lfs_files(
            settings.repo_id,
            operations,
            repo_type=KIND,
            revision=settings.revision,
            num_threads=THREADS,
            free_memory=False,
        )
    ignored = [operation.path_in_repo for operation in operations if operation._should_ignore]
    if ignored:
        # The client would leave them out of the commit without a word.
        raise UserError(
            f"{settings.repo_id}: its .gitignore excludes {ignored[0]}; change it there, and run this again"
        )


def operation(folder: AnyPath, repo_id: str, entry: FileEntry) -> CommitOperationAdd:
    """What a commit needs of a shard that some process has uploaded.

    The client sets these attributes when it uploads; it has no other way to hand them on than a pickle of the whole.
    """
    done = recall(folder, repo_id, entry)
    if done is None or done.mode == "regular":
        # Its bytes go with the commit.
        add = CommitOperationAdd(entry.path, storage.read_bytes(folder / entry.path))
        add._upload_mode = done.mode if done else None
        return add
    add = CommitOperationAdd(entry.path, b"")
    add.upload_info = UploadInfo(sha256=bytes.fromhex(entry.sha256), size=entry.bytes, sample=b"")
    add._upload_mode, add._is_uploaded = done.mode, True
    return add


def recall(folder: AnyPath, repo_id: str, entry: FileEntry) -> Uploaded | None:
    """What is remembered of a shard, if it was uploaded to this repository."""
    with contextlib.suppress(FileNotFoundError, ValidationError):
        return Uploaded.model_validate_json(storage.read_bytes(_record(folder, repo_id, entry)))
    return None


def forget(folder: AnyPath, repo_id: str) -> None:
    """Remember nothing: the commit was made, or the Hub does not have these files any more."""
    with contextlib.suppress(UserError):
        storage.remove_tree(_records(folder, repo_id))


@contextlib.contextmanager
def _counted(counts: Counters) -> Iterator[None]:
    """Counts the client's retries, for the display."""
    logger, counter = logging.getLogger("huggingface_hub"), _Counter(counts)
    logger.addHandler(counter)
    try:
        yield
    finally:
        logger.removeHandler(counter)


class _Counter(logging.Handler):
    """Of each retry the client warns twice: what went wrong at which address, and how long it waits."""

    def __init__(self, counts: Counters) -> None:
        super().__init__(logging.WARNING)
        self._counts = counts

    def emit(self, record: logging.LogRecord) -> None:
        if "://" not in record.getMessage():
            self._counts.add("publish/retries", 1)
            logger.warning("upload: the Hub did not answer. %s", record.getMessage())


def _records(folder: AnyPath, repo_id: str) -> AnyPath:
    return folder / ".publish" / hashlib.sha256(address(repo_id).encode()).hexdigest()[:16]


def _record(folder: AnyPath, repo_id: str, entry: FileEntry) -> AnyPath:
    return _records(folder, repo_id) / f"{entry.sha256}.json"
