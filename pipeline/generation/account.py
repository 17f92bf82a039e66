"""The account of a client's time: for how long its engine was busy, and why it was not.

A client is in one state at a time. Each change ends an interval, whose seconds go to the state before it. The sequences
in flight are integrated too: their mean says how busy "busy" was.

| state | what was so |
|---|---|
| `engine` | no server was ready: it started, was restarted, or none answered |
| `limited` | the endpoint asked to wait (429, 503), or the budget held requests back |
| `busy` | the window was full, so that the engine had all that it can take |
| `stragglers` | the window had been full, nothing was left to send, and the last replies were waited for |
| `few` | the window was never full, and nothing more could be sent before these replies: too few shards or pairs |
| `pipeline` | the pipeline had not yet given more requests: it rendered, judged, stored, or waited for another model |
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Literal, get_args

from pipeline.generation.roles import Role

State = Literal["engine", "limited", "busy", "stragglers", "few", "pipeline"]
STATES: tuple[State, ...] = get_args(State)


class Account:
    """Adds up seconds by state. Any thread may call it.

    Args:
        role: Role of the model that the client asks.
        clock: Returns the time in seconds.
    """

    def __init__(self, role: Role = "generation", clock: Callable[[], float] = time.monotonic) -> None:
        self._role = role
        self._clock = clock
        self._lock = threading.Lock()
        self._since = clock()
        self._state: State = "engine"
        self._in_flight = 0
        self._is_open = False
        self._is_held = False
        self._is_full = False
        self._was_full = False
        self._waiting = 0
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._sequence_seconds = 0.0

    def note(self, is_open: bool, is_held: bool, is_full: bool, in_flight: int) -> None:
        """Note the state of the dispatcher.

        Args:
            is_open: Whether a server is ready.
            is_held: Whether the endpoint or the budget holds requests back.
            is_full: Whether nothing more fits into the window.
            in_flight: Sequences in flight.
        """
        with self._lock:
            self._pass()
            self._is_open, self._is_held, self._is_full, self._in_flight = is_open, is_held, is_full, in_flight
            self._was_full = is_full or (self._was_full and in_flight > 0)
            self._state = self._find()

    def wait(self, change: int) -> None:
        """Note that a thread of the pipeline begins (1) or ceases (-1) to wait for replies."""
        with self._lock:
            self._pass()
            self._waiting += change
            self._state = self._find()

    def gauges(self) -> dict[str, int]:
        """Return milliseconds by state, and those of all sequences in flight, for `Counters`."""
        with self._lock:
            self._pass()
            found: dict[str, int] = {state: round(1000 * self._seconds[state]) for state in STATES}
        found |= {"clients": 1, "sequences": round(1000 * self._sequence_seconds)}
        return {f"time/{self._role}/{name}": number for name, number in found.items()}

    def _pass(self) -> None:
        now = self._clock()
        self._seconds[self._state] += now - self._since
        self._sequence_seconds += self._in_flight * (now - self._since)
        self._since = now

    def _find(self) -> State:
        if not self._is_open:
            return "engine"
        if self._is_held:
            return "limited"
        if self._is_full:
            return "busy"
        if not self._waiting:
            return "pipeline"
        return "stragglers" if self._was_full else "few"
