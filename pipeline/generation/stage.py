"""The generation stage: shards in, the same shards answered out, one window of requests across their borders."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol, Self

import apache_beam as beam
from apache_beam.utils.windowed_value import WindowedValue

from pipeline.generation import dummy
from pipeline.generation.client import Client, Ticket
from pipeline.generation.endpoints import Endpoints, FixedEndpoints
from pipeline.generation.exchange import AnyRequest, Failure, Outcome
from pipeline.generation.journal import JournalWriter, open_journal, read_journal
from pipeline.generation.server import ServedEndpoint, server_spec
from pipeline.generation.trial import trial_requests
from pipeline.io import storage
from pipeline.io.storage import disk_errors, private_folder
from pipeline.plan import BuildPlan, ShardSpec
from pipeline.runtime import metrics
from pipeline.runtime.progress import tally
from schemas.base import UserError
from schemas.config import DummyEngine, OpenAiEngine, ReplayEngine, VllmEngine

_SHARDS_AHEAD = 8
"""Shards that wait for stragglers at once, at most: bounds memory when one row is very slow."""


class Asking(Protocol):
    """A shard that has requests. `journal` names the file that keeps their outcomes."""

    @property
    def spec(self) -> ShardSpec:
        """Which shard it is."""

    @property
    def journal(self) -> str:
        """Name of the shard's journal."""

    def requests(self) -> Sequence[AnyRequest]:
        """All requests, in order."""

    def with_outcomes(self, outcomes: Sequence[Outcome]) -> Self:
        """The same shard, answered."""


class Generator:
    """Answers requests of shards: from the shard's journal first, then from the model. One for each process."""

    def __init__(self, plan: BuildPlan) -> None:
        self._folder = plan.output / "journal"
        self._known: dict[str, dict[str, Outcome]] = {}
        self._writers: dict[str, JournalWriter] = {}
        self._tally = tally(plan.output)
        self._plan = plan
        self._client: Client | None = None
        # A runner may have several threads at work in a process.
        self._connecting = threading.Lock()
        self._is_dummy = isinstance(plan.config.engine, DummyEngine)
        self._replays = isinstance(plan.config.engine, ReplayEngine)
        if isinstance(plan.config.engine, ReplayEngine):
            self._folder = storage.parse(plan.config.engine.journal)

    @property
    def wants_more(self) -> bool:
        """Whether the window will run dry soon."""
        return self._client is None or self._client.backlog <= self._client.watermark

    def submit(self, journal: str, requests: Sequence[AnyRequest]) -> Ticket:
        """Begin to answer `requests`; what the journal knows is answered at once."""
        if self._is_dummy:
            return Ticket([dummy.reply(request) for request in requests], 0)
        path = self._folder / f"{journal}.jsonl"
        if journal not in self._known:
            self._known[journal] = read_journal(path)
        known = self._known[journal]
        outcomes = [known.get(request.key) for request in requests]
        if not self._replays:
            outcomes = [None if isinstance(o, Failure) and o.may_pass else o for o in outcomes]
        missing = [(k, request) for k, request in enumerate(requests) if outcomes[k] is None]
        ticket = Ticket(outcomes, len(missing))
        self._tally.add("requests_replayed", len(requests) - len(missing))
        self._tally.add("questions", sum(request.sequences for _, request in missing))
        if missing and self._replays:
            raise UserError(
                f"engine replay: {path} lacks {len(missing)} of {len(requests)} completions; "
                "the journal belongs to another configuration, or to a build that was not finished"
            )
        if missing:
            # Only now: a build of which the journals know everything needs no model.
            with self._connecting:
                self._client = self._client or _connect(self._plan)
            if journal not in self._writers:
                self._writers[journal] = open_journal(path, self._plan.config.requests.journal)
            self._client.submit(missing, ticket, self._writers[journal])
        return ticket

    def wait(self) -> None:
        """Return when something has changed, or after a moment; raises what concerns the whole run."""
        if self._client:
            self._client.wait()

    def finish(self, journal: str) -> None:
        """The shard will ask nothing more."""
        self._known.pop(journal, None)
        writer = self._writers.pop(journal, None)
        if writer:
            writer.close()

    def close(self) -> None:
        """Stop the client; its server, if it has one, is then ended by the guard."""
        if self._client:
            self._client.close()
        storage.each(self._folder, self._give_up, [*self._writers])

    def _give_up(self, journal: str) -> None:
        # What went wrong first must be told, not this.
        with contextlib.suppress(UserError):
            self.finish(journal)


def _connect(plan: BuildPlan) -> Client:
    engine, model, counts = plan.config.engine, plan.config.generation.model, tally(plan.output)
    headers: dict[str, str] = {}
    endpoints: Endpoints
    if isinstance(engine, OpenAiEngine):
        key = read_key(engine.api_key_env)
        if key:
            headers["Authorization"] = f"Bearer {key}"
        endpoints = FixedEndpoints(engine.base_urls)
    elif isinstance(engine, VllmEngine):
        endpoints = ServedEndpoint(server_spec(engine, model, _server_log(plan)), counts)
    else:
        raise TypeError(f"engine {engine.kind} has no endpoint")
    return Client(endpoints, headers, trial_requests(plan), engine.in_flight, plan.config.requests, counts)


def read_key(variable: str) -> str:
    """Return the key that an environment variable holds, or an empty string. Raises `UserError`, without the key."""
    key = os.environ.get(variable, "").strip()
    if not all("!" <= char <= "~" for char in key):
        raise UserError(
            f"the environment variable {variable} (engine.api_key_env) is no key: it holds a space, a line break or "
            "another character that no key has; set it to the key alone"
        )
    return key


def _server_log(plan: BuildPlan) -> Path:
    """On this machine, where a server writes; the build's own folder need not be here."""
    output = plan.output
    folder = output / "logs" if storage.is_local(output) else private_folder() / plan.fingerprint[:16]
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder / "model-server.log"


_generators: dict[BuildPlan, Generator] = {}
_lock = threading.Lock()


def generator(plan: BuildPlan) -> Generator:
    """This process's generator for a build."""
    with _lock:
        if plan not in _generators:
            _generators[plan] = Generator(plan)
        return _generators[plan]


def close_generator(plan: BuildPlan) -> None:
    """Close this process's generator for a build, if it has one."""
    with _lock:
        found = _generators.pop(plan, None)
    if found:
        found.close()


class Generate(beam.DoFn):
    """Asks for each shard's requests. Shards leave when they are answered, not in the order in which they came.

    `process` returns as soon as the window's backlog is short, so that the next shard's requests join the window
    before this shard's last ones have ended. `first` and `last` say whether an earlier or later stage asks for the same
    shard too.
    """

    def __init__(self, plan: BuildPlan, first: bool, last: bool) -> None:
        self._plan = plan
        self._first = first
        # Where stages are not fused the next one may be another machine's, which must find all in the journal.
        self._closes = last or not storage.is_local(plan.output)

    def start_bundle(self) -> None:
        """Forget a bundle that failed."""
        self._pending: list[tuple[Asking, Ticket]] = []

    def process(self, shard: Asking) -> Iterator[Asking]:
        """Submit, then hand out what is done until the window wants more."""
        source = generator(self._plan)
        if self._first:
            # A bundle that failed may have left this shard half-asked here.
            source.finish(shard.journal)
            tally(self._plan.output).add("begun", shard.spec.count)
        self._pending.append((shard, source.submit(shard.journal, shard.requests())))
        yield from self._done(source)
        while self._pending and not (source.wants_more and len(self._pending) <= _SHARDS_AHEAD):
            source.wait()
            yield from self._done(source)

    def finish_bundle(self) -> Iterator[WindowedValue]:
        """Wait for all that is left."""
        window = beam.transforms.window.GlobalWindow()
        source = generator(self._plan)
        while self._pending:
            for shard in self._done(source):
                yield WindowedValue(shard, window.max_timestamp(), [window])
            if self._pending:
                source.wait()

    def _done(self, source: Generator) -> Iterator[Asking]:
        done = [(shard, ticket) for shard, ticket in self._pending if ticket.done]
        self._pending = [(shard, ticket) for shard, ticket in self._pending if not ticket.done]
        for shard, ticket in done:
            if self._closes:
                source.finish(shard.journal)
            metrics.emit(tally(self._plan.output))
            yield shard.with_outcomes(ticket.result())
