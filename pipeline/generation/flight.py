"""Flights: requests that are sent, with what has come of their replies."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field

from pipeline.generation.completions import AnyRequest
from pipeline.generation.continuation import Partial, unfinished
from pipeline.generation.endpoints import Endpoint
from pipeline.generation.streaming import assemble, end_of_events, has_begun
from schemas.mask import Mask


@dataclass(eq=False, slots=True)
class Flight:
    """A request in flight. Within `scope`, it is given up by a `TimeoutError`. Times are of `time.monotonic`."""

    endpoint: Endpoint
    request: AnyRequest
    body: bytes
    """HTTP body: that of the request in the endpoint's dialect, or of a continuation."""
    partial: Partial | None
    """The beginning of the reply, which `body` asks to continue."""
    is_trial: bool
    is_patient: bool
    """True where the silence of a healthy endpoint is waited for."""
    sent: float = field(default_factory=time.monotonic)
    heard: float = field(init=False)
    scope: asyncio.Timeout = field(init=False)
    received: bytearray = field(default_factory=bytearray)
    has_stream: bool = False
    has_token: bool = False
    events: int = 0
    """Events that came, which stand for tokens until the server has counted."""
    _searched: int = field(default=0, init=False)
    """Bytes of events that hold no token."""

    def __post_init__(self) -> None:
        self.heard = self.sent
        self.scope = asyncio.timeout(None)

    def hear(self, piece: bytes) -> int:
        """Note the newest piece of a stream, which is in `received`; return the number of its events with tokens."""
        if not self.has_token and not has_begun(bytes(self.received[self._searched :])):
            # Many events may come before the first token, and each is parsed once.
            self._searched = end_of_events(self.received, self._searched)
            return 0
        events = piece.count(b"data:")
        if events:
            self.has_token, self.heard = True, time.monotonic()
            self.events += events
        return events

    def rescue(self, mask: Mask) -> Partial | None:
        """Return what can be continued after a cut, without the key."""
        if self.has_token:
            with contextlib.suppress(ValueError, LookupError, TypeError, AttributeError):
                stream = assemble(bytes(self.received))
                text = mask(stream.text.encode(errors="replace")).decode()
                return unfinished(stream, text, self.body, self.partial)
        return self.partial
