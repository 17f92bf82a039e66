"""Commit operations of the Hub's client, with the private attributes that publishing needs.

The client has no public way to commit in one process what another process uploaded, nor to see what `.gitignore`
excludes. These attributes were read in huggingface_hub 2.4, which `pyproject.toml` pins; a test checks them.
"""

from __future__ import annotations

from typing import Literal

from huggingface_hub import CommitOperationAdd
from huggingface_hub.lfs import UploadInfo

UploadMode = Literal["lfs", "regular"]


def upload_mode(operation: CommitOperationAdd) -> UploadMode:
    """Return the storage that the Hub chose for a file, once it was preuploaded."""
    return operation._upload_mode or "lfs"


def is_ignored(operation: CommitOperationAdd) -> bool:
    """Return whether the repository's `.gitignore` excludes a file; the client would drop it from the commit."""
    return bool(operation._should_ignore)


def uploaded_operation(path: str, sha256: str, size: int) -> CommitOperationAdd:
    """Return the operation of a file whose bytes are in the Hub's large-file storage already.

    Args:
        path: Path in the repository.
        sha256: Hash of the content, in hexadecimal.
        size: Bytes of the content.
    """
    operation = CommitOperationAdd(path, b"")
    operation.upload_info = UploadInfo(sha256=bytes.fromhex(sha256), size=size, sample=b"")
    operation._upload_mode, operation._is_uploaded = "lfs", True
    return operation
