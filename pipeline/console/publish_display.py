"""What publishing looks like: a bar on a terminal, plain lines elsewhere; and its last words."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from pipeline.io.storage import AnyPath
from pipeline.publishing.publish import Published, PublishObserver
from pipeline.publishing.repository import Changes, Repository
from pipeline.publishing.upload import Batch
from pipeline.runtime import progress
from schemas.terminal import say

_LINE_SECONDS = 5.0


class PublishDisplay(PublishObserver):
    """Follows the tallies of all processes that upload."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._over = threading.Event()
        self._watcher: threading.Thread | None = None
        self._result: Published | None = None

    def checking(self, folder: AnyPath) -> None:
        """Say what is read."""
        self._say(f"checking {folder} against its manifest")

    def uploading_begins(
        self, folder: AnyPath, repository: Repository, changes: Changes, todo: Sequence[Batch]
    ) -> None:
        """Say what is to be done, and begin to follow it."""
        if repository.is_new:
            self._say("upload: the repository is new")
        ahead = len(changes.shards) - sum(len(batch) for batch in todo)
        if ahead:
            self._say(f"upload: {ahead} of {len(changes.shards)} shards are there from an earlier run")
        if todo:
            self._over.clear()
            self._watcher = threading.Thread(target=self._watch, args=(_Upload(folder, todo),), daemon=True)
            self._watcher.start()

    def uploading_ends(self) -> None:
        """Stop following."""
        self._over.set()
        if self._watcher:
            self._watcher.join()
            self._watcher = None

    def published(self, result: Published) -> None:
        """Keep it for the last words."""
        self._result = result

    def summary(self) -> None:
        """What was published, where, and how to load it; nothing where nothing was."""
        result = self._result
        if result is None:
            return
        changes = result.changes
        if changes:
            done = f"{len(changes.shards) + len(changes.others)} files new or changed, {len(changes.deleted)} deleted"
            head, text = "published", f"{done}, {result.unchanged} as they were; commit {result.commit[:12]}"
        else:
            head, text = "unchanged", f"{result.repo_id} holds this build already; no commit was made"
        self._console.print(Text.assemble((head, "bold green"), f" {text}"), soft_wrap=True)
        if result.tag:
            self._say(f"tag   {result.tag}")
        self._say(f"see   {result.url}")
        branch = "" if result.revision == "main" else f', revision="{result.revision}"'
        self._say(f'load  datasets.load_dataset("{result.repo_id}"{branch})')

    def _say(self, text: str) -> None:
        say(self._console, text)

    def _watch(self, upload: _Upload) -> None:
        if not self._console.is_terminal:
            while not self._over.wait(_LINE_SECONDS):
                self._say(f"upload: {upload.facts()}")
            self._say(f"upload: {upload.facts()}")
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[facts]}"),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self._console) as bar:
            task = bar.add_task("upload", total=upload.bytes, facts="")
            while True:
                over = self._over.wait(0.25)
                bar.update(task, completed=upload.done("bytes"), facts=upload.facts())
                if over:
                    return


class _Upload:
    """The figures of an upload under way."""

    def __init__(self, folder: AnyPath, todo: Sequence[Batch]) -> None:
        self._folder = folder
        self._files = sum(len(batch) for batch in todo)
        self.bytes = sum(entry.bytes for batch in todo for entry in batch)

    def done(self, name: str) -> int:
        """Files, bytes or retries so far."""
        return progress.total(self._folder)[f"publish/{name}"]

    def facts(self) -> str:
        """One line: shards, megabytes, retries."""
        retries = self.done("retries")
        waits = f", tried again: {retries}" if retries else ""
        sent, size = self.done("bytes") / 1e6, self.bytes / 1e6
        return f"{self.done('files')}/{self._files} shards, {sent:.1f} of {size:.1f} MB{waits}"
