"""Verdicts on failures: whether the request or the run is at fault, where the response alone does not say."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from pipeline.generation.completions import Failure

T = TypeVar("T")

_STREAK = 8
"""Failures without a success after which an endpoint is sent the trial requests."""


@dataclass(frozen=True, slots=True)
class _Held(Generic[T]):
    item: T
    failure: Failure
    at: float


class Verdicts(Generic[T]):
    """Failures whose cause is open: the request, or the run (a spent budget, a changed server).

    The request is at fault where its endpoint completes another request that was sent after the failure.
    """

    def __init__(self) -> None:
        self._held: dict[str, list[_Held[T]]] = {}

    @property
    def pending(self) -> int:
        """Number of failures that wait for a verdict."""
        return sum(map(len, self._held.values()))

    def hold(self, endpoint: str, item: T, failure: Failure) -> None:
        """Keep a failure until its cause is known."""
        self._held.setdefault(endpoint, []).append(_Held(item, failure, time.monotonic()))

    def release(self, endpoint: str, sent: float) -> Iterable[tuple[T, Failure]]:
        """Remove and return the failures that the success of a request sent at that time proves the requests' own."""
        held = self._held.pop(endpoint, [])
        later = [entry for entry in held if entry.at > sent]
        if later:
            self._held[endpoint] = later
        return [(entry.item, entry.failure) for entry in held if entry.at <= sent]

    def due(self, is_idle: bool) -> list[str]:
        """Return the endpoints that need trial requests. `is_idle`: no other request is left to decide."""
        return [endpoint for endpoint, held in self._held.items() if is_idle or len(held) >= _STREAK]
