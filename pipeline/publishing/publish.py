"""Publishing from start to end: check the build, read the repository, upload shards, commit once, tag."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from huggingface_hub import CommitOperationAdd, CommitOperationDelete

from pipeline.io.storage import AnyPath
from pipeline.publishing import upload
from pipeline.publishing.contents import Contents, read_contents
from pipeline.publishing.errors import http_status, hub_errors, require_token, silence_client, to_user_error
from pipeline.publishing.repository import (
    REPO_TYPE,
    Changes,
    Repository,
    branch_head,
    compare,
    dataset_url,
    files_at,
    hub_api,
    open_repository,
)
from pipeline.publishing.upload import Batch, preupload
from pipeline.runtime import progress
from pipeline.runtime.progress import counters_for
from schemas.base import UsageError, UserError
from schemas.config import PublishConfig
from schemas.manifest import Manifest

logger = logging.getLogger(__name__)

UploadAll = Callable[[AnyPath, PublishConfig, Sequence[Batch]], None]


@dataclass(frozen=True)
class Published:
    """Result of publishing. `commit` holds the build; nothing is uploaded where the repository held it already."""

    repo_id: str
    url: str
    revision: str
    commit: str
    tag: str | None
    changes: Changes
    unchanged: int


class PublishObserver:
    """Receiver of progress. The command line shows it; this default ignores it."""

    def checking(self, folder: AnyPath) -> None:
        """Receive the start of the check of the build's files."""

    def uploading_begins(
        self, folder: AnyPath, repository: Repository, changes: Changes, todo: Sequence[Batch]
    ) -> None:
        """Receive the shards to upload; the other changes go with the commit, or were uploaded earlier."""

    def uploading_ends(self) -> None:
        """Receive the end of the upload, whether it succeeded or failed."""

    def published(self, result: Published) -> None:
        """Receive the result, once everything is visible."""


def publish(
    folder: AnyPath,
    settings: PublishConfig,
    force: bool = False,
    upload_all: UploadAll = upload.upload_all,
    observer: PublishObserver | None = None,
) -> Published:
    """Publish the build in `folder` with one commit, or change nothing where the repository holds it already.

    Another run continues where an earlier one stopped. The caller must hold the folder's lock.

    Args:
        folder: The build's output folder.
        settings: Repository, branch, tag and visibility.
        force: Publish an unfinished build, or one beyond its limits.
        upload_all: Uploads batches of shards, here or in Beam's workers.
        observer: Receives progress.

    Raises:
        UsageError: The build, the token or a setting is wrong.
        UserError: The Hub refuses or fails.
    """
    observer = observer or PublishObserver()
    observer.checking(folder)
    require_token()
    contents = read_contents(folder, settings.repo_id, force)
    repository = open_repository(settings)
    if repository.is_new:
        # An earlier repository of this name was deleted, and its uploads with it.
        upload.delete_records(folder, settings.repo_id)
    changes = compare(contents, repository.files)
    _check_tag(settings, repository, changes)
    try:
        commit = _upload_and_commit(contents, settings, repository, changes, upload_all, observer)
    except _UnknownOutcomeError:
        raise
    except UserError as error:
        raise type(error)(f"{error} ({_describe_leftovers(settings, repository)})") from None
    finally:
        progress.delete_counts(folder)
    upload.delete_records(folder, settings.repo_id)
    _create_tag(settings, repository, commit)
    unchanged = len(contents.paths) - len(changes.shards) - len(changes.others)
    result = Published(
        settings.repo_id, dataset_url(settings.repo_id), settings.revision, commit, settings.tag, changes, unchanged
    )
    observer.published(result)
    return result


class _UnknownOutcomeError(UserError):
    """A commit whose outcome could not be read."""


def _describe_leftovers(settings: PublishConfig, repository: Repository) -> str:
    """Return the state after a failure. A new repository is kept, since the next run can use its uploads."""
    is_empty = f"; {settings.repo_id} was created and is still empty" if repository.is_new else ""
    return f"nothing was published{is_empty}"


def _check_tag(settings: PublishConfig, repository: Repository, changes: Changes) -> None:
    tagged = repository.tags.get(settings.tag) if settings.tag else None
    if tagged is not None and (changes or tagged != repository.head):
        raise UsageError(
            f"{settings.repo_id} already has a tag '{settings.tag}' on another commit; choose another tag, or delete "
            "this one on the Hub"
        )


def _upload_and_commit(
    contents: Contents,
    settings: PublishConfig,
    repository: Repository,
    changes: Changes,
    upload_all: UploadAll,
    observer: PublishObserver,
) -> str:
    """Upload the missing shards, commit, and return the commit that holds the build."""
    todo = upload.batches(upload.find_missing(contents.folder, settings.repo_id, changes.shards))
    observer.uploading_begins(contents.folder, repository, changes, todo)
    try:
        if todo:
            upload_all(contents.folder, settings, todo)
    finally:
        observer.uploading_ends()
    return _commit(contents, settings, repository, changes) if changes else repository.head


def _commit(contents: Contents, settings: PublishConfig, repository: Repository, changes: Changes) -> str:
    """Make and return the commit. Its parent is the head that was compared, so no other change is overwritten."""
    folder, repo_id = contents.folder, settings.repo_id
    others = [CommitOperationAdd(path, contents.others[path]) for path in changes.others]
    if others:
        preupload(others, settings, counters_for(folder))
    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        *(CommitOperationDelete(path, is_folder=False) for path in changes.deleted),
        *(upload.commit_operation(folder, repo_id, entry) for entry in changes.shards),
        *others,
    ]
    try:
        with silence_client():
            made = hub_api().create_commit(
                repo_id,
                operations,
                commit_message=settings.message or _default_message(contents.manifest),
                repo_type=REPO_TYPE,
                revision=settings.revision,
                parent_commit=repository.head,
                num_threads=upload.UPLOAD_THREADS,
            )
        logger.info("commit %s in %s: %d files", made.oid[:12], repo_id, len(operations))
        return made.oid
    except Exception as error:  # Errors of the client's HTTP and upload libraries pass through it.
        status = http_status(error)
        if status is None or status >= 500:
            return _find_commit(contents, settings, repository, to_user_error(error, repo_id))
        if status in (400, 404, 422):
            # The Hub may have dropped old uploads, so the next run must ask again.
            upload.delete_records(folder, repo_id)
        raise to_user_error(error, repo_id) from None


def _find_commit(contents: Contents, settings: PublishConfig, repository: Repository, failure: UserError) -> str:
    """Return the commit if it exists despite a lost or failed response, which the Hub is known to give."""
    try:
        with hub_errors(settings.repo_id):
            head = branch_head(settings)
            is_made = head is not None and not compare(contents, files_at(settings.repo_id, head))
    except UserError:
        raise _UnknownOutcomeError(
            f"{failure} (cannot see whether the commit was made; run the same command again to find out)"
        ) from None
    if head is None or not is_made:
        raise failure
    return head


def _default_message(manifest: Manifest) -> str:
    rows = sum(entry.rows for entry in manifest.files)
    return f"Publish {manifest.name}: {rows} examples, fingerprint {manifest.fingerprint[:16]}"


def _create_tag(settings: PublishConfig, repository: Repository, commit: str) -> None:
    if settings.tag is None or settings.tag in repository.tags:
        return
    try:
        with hub_errors(settings.repo_id):
            hub_api().create_tag(settings.repo_id, tag=settings.tag, revision=commit, repo_type=REPO_TYPE)
    except UserError as error:
        raise UserError(f"{error} (published at {commit[:12]}, but without tag '{settings.tag}')") from None
