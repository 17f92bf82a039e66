"""Publishing from beginning to end: check the build, look at the repository, upload ahead, commit once, tag."""

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
    """What came of it. `commit` holds the build; where the repository held it already, nothing was uploaded."""

    repo_id: str
    url: str
    revision: str
    commit: str
    tag: str | None
    changes: Changes
    unchanged: int


class PublishObserver:
    """Is told how publishing goes. The command line draws it; the default says nothing."""

    def checking(self, folder: AnyPath) -> None:
        """The build's files are checked."""

    def uploading_begins(
        self, folder: AnyPath, repository: Repository, changes: Changes, todo: Sequence[Batch]
    ) -> None:
        """`todo` are the shards to upload; what else of `changes` there is goes with the commit or is there already."""

    def uploading_ends(self) -> None:
        """The upload is over, one way or another."""

    def published(self, result: Published) -> None:
        """All is visible."""


def publish(
    folder: AnyPath,
    settings: PublishConfig,
    force: bool = False,
    upload_all: UploadAll = upload.upload_all,
    observer: PublishObserver | None = None,
) -> Published:
    """Publish the build in `folder`; a repository that holds it already is left alone. Needs the folder's lock.

    Everything appears with one commit, or nothing does; running again goes on where an earlier run stopped. Raises
    `UsageError` for what is wrong with build, token or arguments, and `UserError` for what the Hub refuses or fails to
    do. `KeyboardInterrupt` passes through.
    """
    observer = observer or PublishObserver()
    observer.checking(folder)
    require_token()
    contents = read_contents(folder, settings.repo_id, force)
    repository = open_repository(settings)
    if repository.is_new:
        # One of this name was deleted since, with what was uploaded to it.
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
    """Whether the commit was made could not be seen."""


def _describe_leftovers(settings: PublishConfig, repository: Repository) -> str:
    """What a failure leaves. A new repository stays: what was uploaded belongs to it, and spares the next run that."""
    is_empty = f"; {settings.repo_id} was made and is still empty" if repository.is_new else ""
    return f"nothing was published{is_empty}"


def _check_tag(settings: PublishConfig, repository: Repository, changes: Changes) -> None:
    tagged = repository.tags.get(settings.tag) if settings.tag else None
    if tagged is not None and (changes or tagged != repository.head):
        raise UsageError(
            f"{settings.repo_id} has a tag '{settings.tag}' already, of another commit; choose another, or delete it "
            "on the Hub"
        )


def _upload_and_commit(
    contents: Contents,
    settings: PublishConfig,
    repository: Repository,
    changes: Changes,
    upload_all: UploadAll,
    observer: PublishObserver,
) -> str:
    """Upload what the Hub lacks, then commit; the commit that holds the build."""
    todo = upload.batches(upload.find_missing(contents.folder, settings.repo_id, changes.shards))
    observer.uploading_begins(contents.folder, repository, changes, todo)
    try:
        if todo:
            upload_all(contents.folder, settings, todo)
    finally:
        observer.uploading_ends()
    return _commit(contents, settings, repository, changes) if changes else repository.head


def _commit(contents: Contents, settings: PublishConfig, repository: Repository, changes: Changes) -> str:
    """The one commit. Its parent is the head that was looked at: nobody else's change is overwritten unseen."""
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
                num_threads=upload.THREADS,
            )
        logger.info("commit %s in %s: %d files", made.oid[:12], repo_id, len(operations))
        return made.oid
    except Exception as error:  # The client lets errors of its HTTP library and of its upload library through.
        status = http_status(error)
        if status is None or status >= 500:
            return _find_commit(contents, settings, repository, to_user_error(error, repo_id))
        if status in (400, 404, 422):
            # Perhaps the Hub does not have what was uploaded long ago: the next run asks it again.
            upload.delete_records(folder, repo_id)
        raise to_user_error(error, repo_id) from None


def _find_commit(contents: Contents, settings: PublishConfig, repository: Repository, failure: UserError) -> str:
    """The commit, if it was made although its answer was lost or an error: the Hub has been seen to do that."""
    try:
        with hub_errors(settings.repo_id):
            head = branch_head(settings)
            is_made = head is not None and not compare(contents, files_at(settings.repo_id, head))
    except UserError:
        raise _UnknownOutcomeError(
            f"{failure} (whether it was published cannot be seen; the next run will tell)"
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
        raise UserError(f"{error} (published at {commit[:12]}, but without the tag '{settings.tag}')") from None
