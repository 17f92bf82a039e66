"""Endpoints: where requests are sent. Remote ones are base URLs; requests go to the least busy one first."""

from __future__ import annotations

import ipaddress
import time
import urllib.parse
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

_AVOID_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A base URL, to which a request's path is appended, and the proxy on the way there.

    `name` stays the same when a server is restarted at another port; `restarts` then grows.
    """

    name: str
    url: str
    restarts: int = 0
    proxy: str | None = None

    def address(self, path: str = "") -> str:
        """Return the address for a message, with the proxy (but not its password): it may be the cause."""
        if self.proxy is None:
            return self.url + path
        return f"{self.url}{path} (through the proxy {urllib.parse.urlsplit(self.proxy).netloc.rpartition('@')[2]})"


class Endpoints(Protocol):
    """The endpoints of a build.

    `is_managed`: the build itself starts and restarts the server. `event_tokens`: tokens in an event of a stream.
    """

    is_managed: bool
    event_tokens: int

    async def open(self) -> None:
        """Start; raises `UserError`."""

    async def current(self) -> Sequence[Endpoint]:
        """Return all endpoints; waits while a server starts. Raises `UserError` when there will be none."""

    async def acquire(self) -> Endpoint:
        """Return the endpoint to use now; waits while a server starts. Raises `UserError` when there will be none."""

    def release(self, endpoint: Endpoint) -> None:
        """Report the end of a request."""

    def mark(self, endpoint: Endpoint, is_up: bool) -> None:
        """Record whether the endpoint answers as a working server does."""

    def any_up(self) -> bool:
        """Return whether another endpoint may be up."""

    def pause(self, endpoint: Endpoint, until: float) -> None:
        """Send nothing there before `until` (of `time.monotonic`)."""

    def available_at(self) -> float:
        """Return the time at which the first endpoint takes requests; in the past where one does now."""

    def restarts(self) -> int:
        """Return how often the server was restarted, counting a restart that is under way."""

    async def close(self) -> None:
        """Release all resources."""


@dataclass(slots=True)
class _State:
    endpoint: Endpoint
    in_flight: int = 0
    is_down: bool = False
    avoid_until: float = 0.0
    paused_until: float = 0.0


class RemoteEndpoints:
    """OpenAI-compatible base URLs that serve the same model. The same URL in another spelling counts once."""

    is_managed = False
    event_tokens = 1

    def __init__(self, base_urls: Sequence[str]) -> None:
        urls = dict.fromkeys(_canonical(url) for url in base_urls)
        self._states = {url: _State(Endpoint(url, url, proxy=_proxy(url))) for url in urls}

    async def open(self) -> None:
        """Do nothing: these servers run already."""

    async def current(self) -> list[Endpoint]:
        """Return all endpoints."""
        return [state.endpoint for state in self._states.values()]

    async def acquire(self) -> Endpoint:
        """Return the endpoint with the fewest requests in flight, of those that are up and not paused."""
        now = time.monotonic()
        state = min(
            self._states.values(),
            key=lambda it: (it.paused_until > now, it.is_down and it.avoid_until > now, it.in_flight),
        )
        state.in_flight += 1
        return state.endpoint

    def release(self, endpoint: Endpoint) -> None:
        """Count one request less in flight."""
        self._states[endpoint.name].in_flight -= 1

    def mark(self, endpoint: Endpoint, is_up: bool) -> None:
        """Avoid an endpoint that is down for a while: it fails at once, so it would always be the least busy."""
        state = self._states[endpoint.name]
        state.is_down = not is_up
        if not is_up:
            state.avoid_until = time.monotonic() + _AVOID_SECONDS

    def any_up(self) -> bool:
        """Return whether any endpoint is not known to be down."""
        return not all(state.is_down for state in self._states.values())

    def pause(self, endpoint: Endpoint, until: float) -> None:
        """Send nothing there before `until`."""
        state = self._states[endpoint.name]
        state.paused_until = max(state.paused_until, until)

    def available_at(self) -> float:
        """Return the earliest end of a pause."""
        return min(state.paused_until for state in self._states.values())

    def restarts(self) -> int:
        """Return 0: a restart of a remote server is not visible."""
        return 0

    async def close(self) -> None:
        """Do nothing."""


def _canonical(url: str) -> str:
    """Return the URL without a slash at the end and without a default port, its host in lower case."""
    parts = urllib.parse.urlsplit(url)
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    port = "" if parts.port in (None, {"http": 80, "https": 443}[parts.scheme]) else f":{parts.port}"
    return f"{parts.scheme}://{host}{port}{parts.path.rstrip('/')}"


def _proxy(url: str) -> str | None:
    """Return the proxy that the environment names for a URL; none for this machine itself."""
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
