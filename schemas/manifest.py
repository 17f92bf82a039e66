"""The manifest of a build: what was asked, what came out, and what made it. Written first, updated last."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, Literal

from pydantic import Field

from schemas.base import Record

RunStatus = Literal["complete", "failed", "interrupted"]


class FileEntry(Record):
    """One finished file, relative to the build's folder."""

    path: str
    rows: int
    bytes: int
    sha256: str


class Counts(Record):
    """The funnel of a build. `rejected` counts attempts by "stage/reason", `lost` the pairs given up.

    `unanswered` are those of the lost pairs that circumstances cost: `everyuser build ... --retry-lost` asks again.
    `threads` counts what was read and dropped before pairs were mined.
    """

    pairs_asked: int = 0
    pairs_accepted: int = 0
    pairs_lost: int = 0
    pairs_unanswered: int = 0
    examples: int = 0
    rejected: dict[str, int] = Field(default_factory=dict)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    threads: dict[str, int] = Field(default_factory=dict)


class Run(Record):
    """One invocation of the build command on this folder. Tokens and requests are those of this run alone."""

    started: str
    seconds: Annotated[float, Field(ge=0)]
    status: RunStatus
    requests_sent: int
    requests_replayed: int
    prompt_tokens: int
    completion_tokens: int
    server_restarts: int
    in_flight: float = 0
    """Sequences that the engine had at once, on average when another one was sent."""
    queue_seconds: float = 0
    """How long a request waited for its place in the window, on average."""
    request_seconds: float = 0
    """How long one took from then on, with its retries, on average."""


class Manifest(Record):
    """`manifest.json`. A build is finished when `status` is "complete"."""

    schema_version: str
    status: Literal["incomplete", "complete"]
    name: str
    fingerprint: str
    parts: dict[str, Any]
    """What the fingerprint is made of: resuming compares these, and names the one that differs."""
    config: dict[str, Any]
    versions: dict[str, str]
    counts: Counts = Field(default_factory=Counts)
    runs: tuple[Run, ...] = ()
    files: tuple[FileEntry, ...] = ()
    inputs: dict[str, str] = Field(default_factory=dict)
    """By path, what identifies the content of space and posts that were stored for the build: mostly SHA-256."""
    digest: str = ""
    """Hash of all the rest, so that a manifest that was damaged or edited is not believed."""

    def sealed(self) -> Manifest:
        """Return the manifest with its digest."""
        return self.model_copy(update={"digest": self._digest()})

    @property
    def is_sealed(self) -> bool:
        """Return whether the digest is that of the content."""
        return self.digest == self._digest()

    def _digest(self) -> str:
        return hashlib.sha256(self.model_dump_json(exclude={"digest"}).encode()).hexdigest()

    @property
    def files_digest(self) -> str:
        """A hash of the shards' names and hashes: tells whether something is about these very files."""
        lines = "".join(f"{entry.path} {entry.sha256}\n" for entry in self.files)
        return hashlib.sha256(lines.encode()).hexdigest()
