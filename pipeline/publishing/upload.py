"""Upload of shards before the commit. An uploaded file is invisible until a commit names it.

The same code runs in the command's process and in Beam's workers, where an element is a batch of shards. A record of
each upload is kept in the build's folder, for the commit and for later runs.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Iterator, Sequence

from huggingface_hub import CommitOperationAdd
from pydantic import ValidationError

from pipeline.driver.check import hash_mismatch
from pipeline.io import storage
from pipeline.io.storage import AnyPath, write_text
from pipeline.publishing.errors import hub_errors, require_token
from pipeline.publishing.operations import UploadMode, is_ignored, upload_mode, uploaded_operation
from pipeline.publishing.repository import REPO_TYPE, dataset_url, hub_api
from pipeline.runtime.progress import Counters, counters_for
from schemas.base import Record, UserError
from schemas.config import PublishConfig
from schemas.manifest import FileEntry

logger = logging.getLogger(__name__)

Batch = tuple[FileEntry, ...]

UPLOAD_THREADS = 8
"""Files in a batch, uploaded at once. A batch costs two requests; the Hub allows 1,000 in five minutes."""


class Uploaded(Record):
    """Record of a file that the Hub has, though no commit names it yet. `mode` is the Hub's choice of storage."""

    mode: UploadMode


def batches(entries: Sequence[FileEntry]) -> list[Batch]:
    """Return the shards in batches, the units of upload."""
    return [tuple(entries[start : start + UPLOAD_THREADS]) for start in range(0, len(entries), UPLOAD_THREADS)]


def find_missing(folder: AnyPath, repo_id: str, entries: Sequence[FileEntry]) -> list[FileEntry]:
    """Return the shards that no earlier run has uploaded to this repository."""
    records = frozenset(storage.list_names(_records_folder(folder, repo_id)))
    return [
        entry
        for entry in entries
        if _record_path(folder, repo_id, entry).name not in records or read_record(folder, repo_id, entry) is None
    ]


def upload_all(folder: AnyPath, settings: PublishConfig, todo: Sequence[Batch]) -> None:
    """Upload all batches one by one in this process."""
    for batch in todo:
        upload(batch, folder, settings)


def upload(batch: Batch, folder: AnyPath, settings: PublishConfig) -> None:
    """Upload a batch of shards and record it. The Hub receives no content again whose hash it knows."""
    require_token()
    counts = counters_for(folder)
    with contextlib.ExitStack() as stack:
        copies = [stack.enter_context(storage.local_copy(folder / entry.path)) for entry in batch]
        for entry, copy in zip(batch, copies, strict=True):
            # Local files were hashed before; the bytes of a fetched file are available only now.
            if not storage.is_local(folder) and storage.content_id(copy) != entry.sha256:
                raise hash_mismatch(folder / entry.path)
        operations = [CommitOperationAdd(entry.path, copy) for entry, copy in zip(batch, copies, strict=True)]
        for entry, add in zip(batch, operations, strict=True):
            add.upload_info.sha256 = bytes.fromhex(entry.sha256)
        preupload(operations, settings, counts)
    for entry, add in zip(batch, operations, strict=True):
        done = Uploaded(mode=upload_mode(add))
        write_text(_record_path(folder, settings.repo_id, entry), done.model_dump_json() + "\n")
        counts.add("publish/files", 1)
        counts.add("publish/bytes", entry.bytes)
        logger.info("uploaded %s to %s: %d bytes", entry.path, settings.repo_id, entry.bytes)
    counts.flush()


def preupload(operations: Sequence[CommitOperationAdd], settings: PublishConfig, counts: Counters) -> None:
    """Ask the Hub for the storage of each file, and send those that go to its large-file storage.

    Args:
        operations: The files; the client stores the Hub's choice in them.
        settings: Repository and branch.
        counts: Counters of this process, which receive the client's retries.

    Raises:
        UserError: The Hub refuses or fails, or `.gitignore` excludes a file.
    """
    with hub_errors(settings.repo_id), _count_retries(counts):
        hub_api().preupload_lfs_files(
            settings.repo_id,
            operations,
            repo_type=REPO_TYPE,
            revision=settings.revision,
            num_threads=UPLOAD_THREADS,
            free_memory=False,
        )
    ignored = [add.path_in_repo for add in operations if is_ignored(add)]
    if ignored:
        # The client would silently leave these files out of the commit.
        raise UserError(
            f"{settings.repo_id}: its .gitignore excludes {ignored[0]}; change that file and run the same command again"
        )


def commit_operation(folder: AnyPath, repo_id: str, entry: FileEntry) -> CommitOperationAdd:
    """Return what a commit needs of a shard, which any process may have uploaded."""
    record = read_record(folder, repo_id, entry)
    if record is not None and record.mode == "lfs":
        return uploaded_operation(entry.path, entry.sha256, entry.bytes)
    # The bytes of a small file travel with the commit.
    return CommitOperationAdd(entry.path, storage.read_bytes(folder / entry.path))


def read_record(folder: AnyPath, repo_id: str, entry: FileEntry) -> Uploaded | None:
    """Return the record of a shard; None where it was not uploaded to this repository."""
    with contextlib.suppress(FileNotFoundError, ValidationError):
        return Uploaded.model_validate_json(storage.read_bytes(_record_path(folder, repo_id, entry)))
    return None


def delete_records(folder: AnyPath, repo_id: str) -> None:
    """Delete the records of a repository, whose uploads were committed or dropped."""
    with contextlib.suppress(UserError):
        storage.remove_tree(_records_folder(folder, repo_id))


@contextlib.contextmanager
def _count_retries(counts: Counters) -> Iterator[None]:
    """Count the client's retries for the display."""
    logger, counter = logging.getLogger("huggingface_hub"), _RetryCounter(counts)
    logger.addHandler(counter)
    try:
        yield
    finally:
        logger.removeHandler(counter)


class _RetryCounter(logging.Handler):
    """Handler that counts retries. The client logs two warnings for each; only one has an address."""

    def __init__(self, counts: Counters) -> None:
        super().__init__(logging.WARNING)
        self._counts = counts

    def emit(self, record: logging.LogRecord) -> None:
        if "://" not in record.getMessage():
            self._counts.add("publish/retries", 1)
            logger.info("upload: the Hub did not answer; %s", record.getMessage())


def _records_folder(folder: AnyPath, repo_id: str) -> AnyPath:
    return folder / ".publish" / hashlib.sha256(dataset_url(repo_id).encode()).hexdigest()[:16]


def _record_path(folder: AnyPath, repo_id: str, entry: FileEntry) -> AnyPath:
    return _records_folder(folder, repo_id) / f"{entry.sha256}.json"
