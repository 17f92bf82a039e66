"""Requests on their way to an outcome, and the batches that wait for them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pipeline.generation.budget import NOTHING, Use
from pipeline.generation.completions import AnyRequest, Outcome
from pipeline.generation.continuation import Partial
from pipeline.generation.journal import JournalWriter

ALONE_AFTER = 2
"""Timeouts of a request, or servers that died under it, before it is sent alone."""
_SUSPECTS = 16
"""Requests in flight with one under which a server died: about the square root of a large window.

One of them may be at fault. If the next server dies, this many are left to be sent alone, and not the whole window.
"""


@dataclass(eq=False, slots=True)
class RequestBatch:
    """The requests of a shard: `outcomes` in their order, and how many are `pending`."""

    outcomes: list[Outcome | None]
    pending: int

    @property
    def is_done(self) -> bool:
        """True when every request has its outcome."""
        return self.pending == 0

    def result(self) -> list[Outcome]:
        """Return the outcomes, in the order of the requests."""
        return [outcome for outcome in self.outcomes if outcome is not None]


@dataclass(eq=False, slots=True)
class Item:
    """A request in the queue or in flight. Times are of `time.monotonic`."""

    batch: RequestBatch
    position: int
    request: AnyRequest
    journal: JournalWriter
    queued_at: float
    sent_at: float = -math.inf
    attempts: int = 0
    retries: int = 0
    """Failures while the endpoint completed other requests."""
    failed_at: float = math.inf
    timeouts: int = 0
    deaths: int = 0
    """Servers that died under this request."""
    partial: Partial | None = None
    """The beginning of a reply that was cut."""
    waits: int = 0
    """How often the endpoint was busy."""
    waited_seconds: float = 0.0
    reserved: Use = NOTHING
    """What the budget holds for this request while it is in flight."""

    @property
    def is_alone(self) -> bool:
        """True for a request that is sent while nothing else is in flight: what happens then, it alone can cause."""
        return self.timeouts >= ALONE_AFTER or self.deaths >= ALONE_AFTER

    @property
    def most_together(self) -> float:
        """Most requests that may be in flight while this one is, itself included."""
        if self.is_alone:
            return 1
        return _SUSPECTS if self.deaths else math.inf

    def keep_partial(self, partial: Partial | None) -> None:
        """Keep what came of a reply. A request that gets on is no bad one."""
        if partial is not None and partial != self.partial:
            self.partial, self.timeouts = partial, 0
