"""What publishing prints: the upload as it goes, and a summary."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.console.display import Display
from pipeline.console.phases import Uploading
from pipeline.io.storage import AnyPath
from pipeline.publishing.publish import Published, PublishObserver
from pipeline.publishing.repository import Changes, Repository
from pipeline.publishing.upload import Batch
from schemas.terminal import say


class PublishDisplay(Display, PublishObserver):
    """Shows the upload until it is over."""

    _result: Published | None = None

    def checking(self, folder: AnyPath) -> None:
        """Print what is read."""
        self.notice(f"checking {folder} against its manifest")

    def uploading_begins(
        self, folder: AnyPath, repository: Repository, changes: Changes, todo: Sequence[Batch]
    ) -> None:
        """Print what an earlier run has uploaded, and begin to follow the rest."""
        if repository.is_new:
            self.notice("upload: the repository is new")
        ahead = len(changes.shards) - sum(len(batch) for batch in todo)
        if ahead:
            self.notice(f"upload: {ahead} of {len(changes.shards)} shards are there from an earlier run")
        if todo:
            self.follow(Uploading(folder, todo))

    def uploading_ends(self) -> None:
        """Stop following."""
        self.stop()

    def published(self, result: Published) -> None:
        """Keep the result for the summary."""
        self._result = result

    def summary(self) -> None:
        """Print what was published, where, and how to load it; nothing if nothing was published."""
        result = self._result
        if result is None:
            return
        changes = result.changes
        if changes:
            done = f"{len(changes.shards) + len(changes.others)} files new or changed, {len(changes.deleted)} deleted"
            head, text = "published", f"{done}, {result.unchanged} unchanged; commit {result.commit[:12]}"
        else:
            head, text = "unchanged", f"{result.repo_id} holds this build already; no commit was made"
        self.notice(f" {text}", head, "bold green")
        branch = "" if result.revision == "main" else f', revision="{result.revision}"'
        # Lines to copy are never wrapped.
        for line in (
            *([f"tag   {result.tag}"] if result.tag else []),
            f"see   {result.url}",
            f'load  datasets.load_dataset("{result.repo_id}"{branch})',
        ):
            say(self._console, line)
