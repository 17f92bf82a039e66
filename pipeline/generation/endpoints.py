"""Endpoints: where requests go. Those that somebody else runs are base URLs, the least busy first."""

from __future__ import annotations

import ipaddress
import time
import urllib.parse
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

_AVOIDED_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A base URL, to which a request's path is added, and the proxy on the way there.

    `name` stays the same when a server is restarted elsewhere; `life` then grows.
    """

    name: str
    url: str
    life: int = 0
    proxy: str | None = None

    def place(self, path: str = "") -> str:
        """The address in a message. A proxy is named (without its password), as it may be the cause."""
        if self.proxy is None:
            return self.url + path
        return f"{self.url}{path} (through the proxy {urllib.parse.urlsplit(self.proxy).netloc.rpartition('@')[2]})"


class Endpoints(Protocol):
    """Gives out endpoints, and waits while there is none. `own`: the build itself runs the server."""

    own: bool

    async def open(self) -> None:
        """Begin; raises `UserError`."""

    async def current(self) -> Sequence[Endpoint]:
        """All endpoints; waits while a server starts. Raises `UserError` when there will be none."""

    async def acquire(self) -> Endpoint:
        """The endpoint to use now; waits while a server starts. Raises `UserError` when there will be none."""

    def release(self, endpoint: Endpoint) -> None:
        """Tell that the request has ended."""

    def mark(self, endpoint: Endpoint, works: bool) -> None:
        """Tell whether the endpoint answers as a working server does."""

    def reachable(self) -> bool:
        """Whether there is an endpoint that worked when it was last tried."""

    def rest(self, endpoint: Endpoint, until: float) -> None:
        """Send nothing there before that time (of `time.monotonic`)."""

    def rests_until(self) -> float:
        """When the first endpoint takes requests; in the past where one takes them now."""

    def life(self) -> int:
        """How often a server has been restarted so far."""

    async def close(self) -> None:
        """Give everything back."""


@dataclass(slots=True)
class _State:
    busy: int = 0
    is_down: bool = False
    avoid_until: float = 0.0
    rest_until: float = 0.0


class RemoteEndpoints:
    """OpenAI-compatible base URLs that serve the same model. The same URL in another spelling counts once."""

    own = False

    def __init__(self, base_urls: Sequence[str]) -> None:
        urls = dict.fromkeys(_normalised(url) for url in base_urls)
        self._states = {Endpoint(url, url, proxy=_proxy(url)): _State() for url in urls}

    async def open(self) -> None:
        """Nothing to start."""

    async def current(self) -> list[Endpoint]:
        """All of them."""
        return [*self._states]

    async def acquire(self) -> Endpoint:
        """The endpoint with the fewest requests in flight, of those that worked lately and need no rest."""
        now = time.monotonic()
        awake = {e: state for e, state in self._states.items() if state.rest_until <= now} or self._states
        usable = {e: state for e, state in awake.items() if not state.is_down or state.avoid_until <= now} or awake
        endpoint = min(usable, key=lambda e: usable[e].busy)
        self._states[endpoint].busy += 1
        return endpoint

    def release(self, endpoint: Endpoint) -> None:
        """One request less in flight there."""
        self._states[endpoint].busy -= 1

    def mark(self, endpoint: Endpoint, works: bool) -> None:
        """One that fails at once is never busy, so it is avoided for a while."""
        state = self._states[endpoint]
        state.is_down = not works
        if not works:
            state.avoid_until = time.monotonic() + _AVOIDED_SECONDS

    def reachable(self) -> bool:
        """Whether any endpoint is not known to be down."""
        return not all(state.is_down for state in self._states.values())

    def rest(self, endpoint: Endpoint, until: float) -> None:
        """Send nothing there before that time."""
        state = self._states[endpoint]
        state.rest_until = max(state.rest_until, until)

    def rests_until(self) -> float:
        """When the first of them takes requests."""
        return min(state.rest_until for state in self._states.values())

    def life(self) -> int:
        """Nobody restarts these."""
        return 0

    async def close(self) -> None:
        """Nothing to give back."""


def _normalised(url: str) -> str:
    """The URL as others would spell it too: no slash at the end, host in small letters, no default port."""
    parts = urllib.parse.urlsplit(url)
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    port = "" if parts.port in (None, {"http": 80, "https": 443}[parts.scheme]) else f":{parts.port}"
    return f"{parts.scheme}://{host}{port}{parts.path.rstrip('/')}"


def _proxy(url: str) -> str | None:
    """The proxy that the environment names for a URL. This machine itself is never asked through one."""
    parts = urllib.parse.urlsplit(url)
    host = parts.hostname or ""
    if _is_loopback(host) or urllib.request.proxy_bypass(host):
        return None
    proxy = urllib.request.getproxies().get(parts.scheme)
    return proxy if proxy is None or "://" in proxy else f"http://{proxy}"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
