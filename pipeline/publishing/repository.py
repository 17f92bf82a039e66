"""The repository on the Hub: who may write, what it holds, and what a commit would change."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from huggingface_hub import CommitOperationAdd, DatasetInfo, HfApi, get_session
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.hf_api import RepoFile

from pipeline.io import storage
from pipeline.io.manifests import CARD, MANIFEST
from pipeline.io.storage import AnyPath
from pipeline.publishing.contents import Contents, is_published_path
from pipeline.publishing.errors import hub_errors, require_token
from pipeline.runtime.inputs import SPACE
from schemas.base import UsageError, UserError
from schemas.config import PublishConfig
from schemas.manifest import FileEntry

_TIMEOUT = (30.0, 300.0, 120.0, None)
"""Seconds to connect, to read (a large commit takes a minute), to write, and for the pool. The client sets none."""

REPO_TYPE = "dataset"


@dataclass(frozen=True)
class Repository:
    """The repository at the start of publishing; `head` is the parent of the new commit."""

    head: str
    files: Mapping[str, RepoFile]
    tags: Mapping[str, str]
    is_new: bool


@dataclass(frozen=True)
class Changes:
    """Differences between build and repository; paths are relative to the repository."""

    shards: tuple[FileEntry, ...]
    others: tuple[str, ...]
    deleted: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.shards or self.others or self.deleted)


def hub_api() -> HfApi:
    """Return the Hub's client, with timeouts and the token of the environment or of its login."""
    get_session().timeout = _TIMEOUT
    return HfApi(token=True)


def dataset_url(repo_id: str) -> str:
    """Return the address of the dataset's page."""
    return f"{hub_api().endpoint}/datasets/{repo_id}"


def check_access(settings: PublishConfig) -> None:
    """Raise where publishing could not work, without a change on the Hub, hours before a build would publish."""
    require_token()
    with hub_errors(settings.repo_id):
        info = _find_repository(settings.repo_id)
        if info is None:
            _check_owner(settings.repo_id)
            return
        _check_visibility(info, settings)
        # This request needs write access, and changes nothing.
        card = CommitOperationAdd(CARD, b"-")
        hub_api().preupload_lfs_files(settings.repo_id, [card], repo_type=REPO_TYPE)


def open_repository(settings: PublishConfig) -> Repository:
    """Return the repository and the content of its branch; create either where it does not exist.

    Raises:
        UsageError: The repository's visibility is not the configured one, or it holds data of others.
        UserError: The Hub refuses or fails.
    """
    require_token()
    repo_id = settings.repo_id
    with hub_errors(repo_id):
        info = _find_repository(repo_id)
        is_new = info is None
        if info is None:
            _create_repository(settings)
            info = hub_api().dataset_info(repo_id)
        _check_visibility(info, settings)
        refs = hub_api().list_repo_refs(repo_id, repo_type=REPO_TYPE)
        branches = {ref.name: ref.target_commit for ref in refs.branches}
        tags = {ref.name: ref.target_commit for ref in refs.tags}
        if settings.revision in tags:
            raise UsageError(f"--revision {settings.revision}: {repo_id} has a tag of this name; name a branch")
        head = branches.get(settings.revision)
        if head is None:
            head = branches["main"]
            hub_api().create_branch(repo_id, branch=settings.revision, revision=head, repo_type=REPO_TYPE)
        files = files_at(repo_id, head)
    _check_content(repo_id, files)
    return Repository(head, files, tags, is_new)


def files_at(repo_id: str, commit: str) -> dict[str, RepoFile]:
    """Return every file of a commit, by path."""
    tree = hub_api().list_repo_tree(repo_id, recursive=True, revision=commit, repo_type=REPO_TYPE)
    return {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}


def branch_head(settings: PublishConfig) -> str | None:
    """Return the branch's current commit."""
    refs = hub_api().list_repo_refs(settings.repo_id, repo_type=REPO_TYPE)
    return next((ref.target_commit for ref in refs.branches if ref.name == settings.revision), None)


def compare(contents: Contents, files: Mapping[str, RepoFile]) -> Changes:
    """Return the changes that make the repository equal to the build; files that publishing does not write are kept."""
    return Changes(
        shards=tuple(
            entry
            for entry in contents.shards
            if not _is_same(files.get(entry.path), entry.sha256, contents.folder / entry.path)
        ),
        others=tuple(
            path
            for path, content in contents.others.items()
            if not _is_same(files.get(path), hashlib.sha256(content).hexdigest(), content)
        ),
        deleted=tuple(sorted(path for path in files if is_published_path(path) and path not in contents.paths)),
    )


def _is_same(file: RepoFile | None, sha256: str, content: AnyPath | bytes) -> bool:
    """Return whether the repository holds this content. The Hub knows large files by SHA-256, others by git blob."""
    if file is None:
        return False
    if file.lfs is not None:
        return file.lfs.sha256 == sha256
    data = content if isinstance(content, bytes) else storage.read_bytes(content)
    return file.blob_id == hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()  # noqa: S324 - git's own


def _find_repository(repo_id: str) -> DatasetInfo | None:
    try:
        return hub_api().dataset_info(repo_id)
    except HfHubHTTPError as error:
        if error.response.status_code == 404:
            return None
        raise


def _create_repository(settings: PublishConfig) -> None:
    try:
        hub_api().create_repo(settings.repo_id, private=settings.private, repo_type=REPO_TYPE, exist_ok=True)
    except HfHubHTTPError as error:
        if error.response.status_code in (403, 404):
            _check_owner(settings.repo_id)
        raise


def _check_owner(repo_id: str) -> None:
    """Raise the reason why a repository cannot be created, where the account's own data show it."""
    owner = repo_id.split("/")[0]
    account = hub_api().whoami()
    name = account["name"]
    roles = {entry["name"].casefold(): entry.get("roleInOrg") for entry in account.get("orgs", ())}
    token = (account.get("auth") or {}).get("accessToken") or {}
    if token.get("role") == "read":
        raise UserError(f"{repo_id}: the token has read access only; create one with write access and set HF_TOKEN")
    if owner.casefold() == name.casefold():
        return
    if owner.casefold() not in roles:
        whose = f"you are '{name}'" + (f", in {', '.join(sorted(roles))}" if roles else ", in no organisation")
        if not _owner_exists(owner):
            raise UserError(f"{repo_id}: there is no user or organisation '{owner}' on the Hub; {whose}")
        raise UserError(f"{repo_id}: you may not write there, {whose}; ask to join, or name another owner")
    if roles[owner.casefold()] == "read":
        raise UserError(f"{repo_id}: '{name}' has read access only in '{owner}'; ask its owners for write access")


def _owner_exists(owner: str) -> bool:
    for look_up in (hub_api().get_organization_overview, hub_api().get_user_overview):
        try:
            look_up(owner)
        except HfHubHTTPError as error:
            if error.response.status_code != 404:
                raise
        else:
            return True
    return False


def _check_visibility(info: DatasetInfo, settings: PublishConfig) -> None:
    if bool(info.private) != settings.private:
        found, asked = ("private", "public") if info.private else ("public", "private")
        raise UsageError(
            f"{settings.repo_id} exists and is {found}, but a {asked} one was configured; change that on the "
            f"Hub, or publish it as {found} (--{found}, or publish.private in the configuration)"
        )


def _check_content(repo_id: str, files: Mapping[str, RepoFile]) -> None:
    """Raise where the commit would replace data of others, since a mistyped name must delete nothing."""
    theirs = sorted(path for path in files if is_published_path(path) and path != CARD)
    if theirs and not {MANIFEST, SPACE} <= files.keys():
        raise UsageError(
            f"{repo_id} holds data that everyuser did not publish ({theirs[0]}) and would replace; name another "
            "repository, or delete these files first"
        )
