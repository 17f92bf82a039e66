"""The manifest of a build: configuration, versions, counts and files. Written first, updated at the end of a run."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, Literal

from pydantic import Field

from schemas.base import Record

RunStatus = Literal["complete", "failed", "interrupted", "budget", "killed"]
"""`budget`: stopped by a limit of its budget. `killed`: recorded by the next run, with the last counts there were."""


class FileEntry(Record):
    """One finished file, relative to the build's folder."""

    path: str
    rows: int
    bytes: int
    sha256: str


class VerificationCounts(Record):
    """Verification in numbers: of all pairs that the judge answered about, then of those that were accepted.

    Recovery before filtering is `recovered` of `asked`.
    """

    pairs: int = 0
    asked: int = 0
    """Dimensions that the replies of these pairs were written for."""
    recovered: int = 0
    """Of these, whose margin has the asked sign."""
    verified: int = 0
    """Of these, whose margin is above `min_margin` in the asked direction."""
    drift_asked: int = 0
    """Dimensions outside the direction that the judge was asked about."""
    drifted: int = 0
    """Of these, whose margin is above `VerificationConfig.drift_margin` in either direction."""
    quality_pairs: int = 0
    """Pairs of which the judge told the quality of both replies."""
    quality_gaps: int = 0
    """Sum of the absolute differences of these qualities, in steps of 0.0001."""
    pairs_accepted: int = 0
    kept: int = 0
    """Dimensions that accepted pairs keep."""
    neutral: int = 0
    """Dimensions of accepted pairs that filtering made neutral."""
    questions: int = 0
    """Questions, each in one order of options."""
    voted: int = 0
    """Of these, in requests that were answered by what the judge said, without probabilities of all options."""
    prompt_tokens: int = 0
    """Tokens of the judge's prompts, which the counts of the build include. So for the answers."""
    completion_tokens: int = 0


class Counts(Record):
    """The funnel of a build. `rejected` counts attempts by "stage/reason"; lost pairs failed all attempts.

    `pairs_unanswered` are lost pairs whose requests failed, which `everyuser build ... --retry-lost` sends again.
    `cleaned` counts texts of the model by the step of cleaning that changed them. `threads` counts posts and responses
    that were read or dropped before mining.
    """

    pairs_asked: int = 0
    pairs_accepted: int = 0
    pairs_lost: int = 0
    pairs_unanswered: int = 0
    examples: int = 0
    rejected: dict[str, int] = Field(default_factory=dict)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    """Among the completion tokens."""
    cleaned: dict[str, int] = Field(default_factory=dict)
    threads: dict[str, int] = Field(default_factory=dict)
    verification: VerificationCounts = Field(default_factory=VerificationCounts)
    kinds: dict[str, int] = Field(default_factory=dict)
    """Accepted pairs by kind."""
    verification_by_kind: dict[str, VerificationCounts] = Field(default_factory=dict)
    """The parts of `verification` by kind of pair."""


class EngineTime(Record):
    """Where the time of the clients of a model went, by the states of `pipeline.generation.account`."""

    clients: int
    """Clients: one for each process that asked the model."""
    seconds: dict[str, float]
    """Mean seconds of a client in each state."""
    in_flight: float
    """Mean number of sequences in flight, of all clients together."""


class Run(Record):
    """One run of the build command on this folder. Tokens and requests are of this run only."""

    started: str
    seconds: Annotated[float, Field(ge=0)]
    status: RunStatus
    requests_sent: int
    requests_replayed: int
    prompt_tokens: int
    completion_tokens: int
    reasoning_tokens: int = 0
    server_restarts: int
    cost: float | None = None
    """Money, by the prices of the run's engines; None where they are unknown."""
    time: dict[str, EngineTime] = Field(default_factory=dict)
    """Time of the clients by role of the model, `generation` or `verification`."""
    in_flight: float = 0
    """Mean number of sequences in flight when another one was sent."""
    queue_seconds: float = 0
    """Mean wait of a request for its place in the window, in seconds."""
    request_seconds: float = 0
    """Mean duration of a request after that, with its retries, in seconds."""


class Recording(Record):
    """Origin of replies that were recorded once, are shipped with everyuser, and are replayed by a build."""

    model: str
    date: str
    versions: dict[str, str]
    pairs: int
    pairs_accepted: int
    examples: int
    rejected: dict[str, int]


class Manifest(Record):
    """`manifest.json`. A build is finished when `status` is "complete"."""

    schema_version: str
    status: Literal["incomplete", "missed_gate", "complete"]
    """`missed_gate`: all rows are there, and what the judge found in them misses a limit."""
    name: str
    fingerprint: str
    parts: dict[str, Any]
    """Parts of the fingerprint. Resuming compares them and names those that differ."""
    config: dict[str, Any]
    versions: dict[str, str]
    recording: Recording | None = None
    """Origin of the replies where the build replays the packaged recording."""
    counts: Counts = Field(default_factory=Counts)
    runs: tuple[Run, ...] = ()
    files: tuple[FileEntry, ...] = ()
    inputs: dict[str, str] = Field(default_factory=dict)
    """Identities of the stored space and posts by path, mostly SHA-256."""

    @property
    def is_built(self) -> bool:
        """Return whether all rows were built, also if they miss a gate."""
        return self.status != "incomplete"

    @property
    def files_digest(self) -> str:
        """Return a hash of the shards' names and hashes, which identifies these files."""
        lines = "".join(f"{entry.path} {entry.sha256}\n" for entry in self.files)
        return hashlib.sha256(lines.encode()).hexdigest()
