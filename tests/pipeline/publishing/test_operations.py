from __future__ import annotations

import dataclasses

from huggingface_hub import CommitOperationAdd

from pipeline.publishing.operations import is_ignored, upload_mode, uploaded_operation


def test_the_client_has_the_private_attributes_that_publishing_sets() -> None:
    """Written against huggingface_hub 2.4: without these names a commit would leave shards out, or send them again."""
    operation = CommitOperationAdd("data/a.parquet", b"rows")

    assert {"_upload_mode", "_should_ignore", "_is_uploaded"} <= {field.name for field in dataclasses.fields(operation)}
    assert (operation._upload_mode, is_ignored(operation), operation._is_uploaded) == (None, False, False)


def test_an_uploaded_file_is_committed_by_its_hash_alone() -> None:
    operation = uploaded_operation("data/a.parquet", "ab" * 32, 12)

    assert (operation.upload_info.sha256.hex(), operation.upload_info.size) == ("ab" * 32, 12)
    assert (upload_mode(operation), operation._is_uploaded) == ("lfs", True)
