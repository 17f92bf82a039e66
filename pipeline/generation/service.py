"""The generation service of a process: it completes the requests of shards from their journals and by the model."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.generation import dummy
from pipeline.generation.ballot import Ballot
from pipeline.generation.budget import Budget
from pipeline.generation.completions import AnyRequest, ChoiceRequest, Failure, Outcome
from pipeline.generation.device import Device, find_device
from pipeline.generation.endpoints import Endpoints, RemoteEndpoints
from pipeline.generation.items import RequestBatch
from pipeline.generation.journal import JournalWriter, open_journal, read_journal
from pipeline.generation.recording import replayed_journal, replays_recording
from pipeline.generation.roles import (
    Role,
    choices_of,
    engine_of,
    in_terms_of,
    managed_servers,
    model_of,
    naming_keys,
    served_roles,
)
from pipeline.generation.server import ManagedServer, server_spec
from pipeline.generation.trial import trial_requests
from pipeline.io import storage
from pipeline.io.outages import notify
from pipeline.io.storage import private_folder, write_errors
from pipeline.plan import BuildPlan
from pipeline.runtime.progress import Counters, counters_for
from schemas.base import BudgetError, UserError
from schemas.config import DummyEngine, OpenAiEngine, VllmEngine
from schemas.config.choices import ChoicesConfig

if TYPE_CHECKING:
    from pipeline.generation.client import Client

_IN_FLIGHT = 256
"""Upper bound of requests in flight for each remote endpoint. The window finds how many of them it needs."""


class GenerationService:
    """Completes the requests of shards: from the shard's journal first, then by the model. One for each process.

    A build with a judge of its own has two, one for each role. Where the judge is the build's own model, that of
    `verification` uses the client of `generation`.
    """

    def __init__(
        self,
        plan: BuildPlan,
        role: Role = "generation",
        sender: GenerationService | None = None,
        budget: Budget | None = None,
    ) -> None:
        engine = engine_of(plan.config, role)
        replayed = replayed_journal(plan.config)
        self._replays = replayed is not None
        self._folder = replayed or plan.output / "journal"
        self._journaled: dict[str, dict[str, Outcome]] = {}
        self._writers: dict[str, JournalWriter] = {}
        self._plan = plan
        self._role = role
        self._sender = sender
        self._budget = budget
        self.counters: Counters = sender.counters if sender else counters_for(plan.output, role)
        self._own_client: Client | None = None
        # A runner may run several threads in a process.
        self._connecting = threading.Lock()
        self._is_dummy = isinstance(engine, DummyEngine)

    @property
    def _client(self) -> Client | None:
        return self._sender._client if self._sender else self._own_client

    @property
    def is_connected(self) -> bool:
        """True when a request needed the model."""
        return self._client is not None

    @property
    def wants_more(self) -> bool:
        """True when the client will soon have too few requests."""
        return self._client is None or self._client.backlog <= self._client.watermark

    def submit(self, journal: str, requests: Sequence[AnyRequest]) -> RequestBatch:
        """Start to complete `requests`. Those in the journal are completed at once."""
        if self._is_dummy:
            return RequestBatch([dummy.complete(request) for request in requests], 0)
        path = self._folder / f"{journal}.jsonl"
        if journal not in self._journaled:
            self._journaled[journal] = read_journal(path)
        journaled = self._journaled[journal]
        outcomes = [journaled.get(request.key) for request in requests]
        if not self._replays:
            outcomes = [None if isinstance(o, Failure) and o.may_pass else o for o in outcomes]
        missing = [(k, request) for k, request in enumerate(requests) if outcomes[k] is None]
        batch = RequestBatch(outcomes, len(missing))
        self.counters.add("requests_replayed", len(requests) - len(missing))
        asked = sum(request.sequences for _, request in missing)
        self.counters.add("answers_replayed", sum(request.sequences for request in requests) - asked)
        if missing and self._replays:
            raise UserError(
                f"engine replay: {path} lacks {len(missing)} of {len(requests)} completions; {self._way_out()}"
            )
        if missing:
            if journal not in self._writers:
                self._writers[journal] = open_journal(path, self._plan.config.requests.journal)
            # Connected only here: a build whose journals are complete needs no model.
            with naming_keys(self._role, self._plan.config):
                self._ask(missing, batch, self._writers[journal])
        return batch

    def _ask(self, missing: Sequence[tuple[int, AnyRequest]], batch: RequestBatch, writer: JournalWriter) -> None:
        client, choices = self._connected(), choices_of(self._plan.config, self._role)
        if choices is None or not _asks_by_chat(client, choices):
            self._send(client, missing, batch, writer)
            return
        send = partial(self._send, client)
        for position, request in missing:
            if isinstance(request, ChoiceRequest):
                Ballot(request, choices.votes, position, batch, writer, send).open()
            else:
                send([(position, request)], batch, writer)

    def _send(
        self,
        client: Client,
        requests: Sequence[tuple[int, AnyRequest]],
        batch: RequestBatch,
        journal: JournalWriter,
        is_begun: bool = False,
    ) -> None:
        self.counters.add("questions", sum(request.sequences for _, request in requests))
        client.submit(requests, batch, journal, is_begun)

    def _connected(self) -> Client:
        """Return the client. The first call begins to start the model's server, where it is the build's own."""
        if self._sender:
            return self._sender._connected()
        with self._connecting:
            if self._own_client is None:
                # Before a server is started for nothing.
                if self._budget is not None:
                    self._budget.open()
                self._own_client = _connect(self._plan, self._role, self._budget)
            return self._own_client

    def connect(self) -> None:
        """Have the trial requests sent before the first request, so that `check` tells in time what is wrong."""
        if not self._is_dummy and not self._replays:
            with naming_keys(self._role, self._plan.config):
                self._connected()

    def _way_out(self) -> str:
        if replays_recording(self._plan.config):
            return (
                "the recorded replies are those of `everyuser build quickstart` as it is; use another engine for other "
                "settings, and in a changed clone of everyuser run: make record-demo"
            )
        return "set engine.journal to the journal of a finished build with the same configuration"

    def wait(self) -> None:
        """Return when a batch may be done, or after half a second; raises errors of the whole run."""
        if self._client:
            with naming_keys(self._role, self._plan.config), self._kept_journals():
                self._client.wait()

    @contextlib.contextmanager
    def _kept_journals(self) -> Iterator[None]:
        """Close the journals where the budget ends the run: in a store they hold replies that are not yet written."""
        try:
            yield
        except BudgetError:
            for service in _services.get(self._plan, {}).values() or [self]:
                storage.map_files(service._folder, service._abandon, [*service._writers])
            raise

    def check(self) -> None:
        """Raise an error of the whole run that has happened by now, such as a judge that cannot be reached."""
        if self._client:
            with naming_keys(self._role, self._plan.config), self._kept_journals():
                self._client.check()

    def finish(self, journal: str) -> None:
        """Close a shard's journal."""
        self._journaled.pop(journal, None)
        writer = self._writers.pop(journal, None)
        if writer:
            writer.close()

    def close(self) -> None:
        """Stop the client and close all journals. The guard then stops the server that the build started."""
        if self._budget is not None:
            self._budget.close()
        if self._own_client:
            self._own_client.close()
        storage.map_files(self._folder, self._abandon, [*self._writers])

    def _abandon(self, journal: str) -> None:
        # An earlier error is the one to report.
        with contextlib.suppress(UserError):
            self.finish(journal)


def _asks_by_chat(client: Client, choices: ChoicesConfig) -> bool:
    """Return whether choices take votes by chat. What journals hold of either kind is used in any case."""
    return client.is_chat_alone() if choices.protocol == "auto" else choices.protocol == "chat"


def _connect(plan: BuildPlan, role: Role, budget: Budget | None) -> Client:
    # Replays, the dummy engine and reports without a judge send nothing, and need no HTTP client.
    from pipeline.generation.client import Client

    engine, model, counts = engine_of(plan.config, role), model_of(plan.config, role), counters_for(plan.output, role)
    key = ""
    endpoints: Endpoints
    if isinstance(engine, OpenAiEngine):
        key = read_key(engine.api_key_env)
        endpoints = RemoteEndpoints(engine.base_urls)
        in_flight = engine.in_flight or _IN_FLIGHT * len(engine.base_urls)
        cause = f"{len(engine.base_urls)} endpoint{'s' if len(engine.base_urls) > 1 else ''}"
    elif isinstance(engine, VllmEngine):
        device = _device_of(plan, role, engine)
        in_flight = device.bound(engine)
        endpoints = ManagedServer(server_spec(engine, model, _server_log(plan, role), device), counts)
        cause = str(device)
    else:
        raise TypeError(f"engine {engine.kind} has no endpoint")
    if engine.in_flight is None:
        line = f"at most {in_flight} requests in flight (engine.in_flight; {cause})"
        notify(in_terms_of(line, role, plan.config))
    trials = trial_requests(plan, served_roles(plan.config)[role])
    return Client(endpoints, key, trials, in_flight, plan.config.requests, counts, engine.price, budget, role)


def _device_of(plan: BuildPlan, role: Role, engine: VllmEngine) -> Device:
    """Return the device of a server, or its half where the build runs two servers on it."""
    device = find_device(engine)
    others = [find_device(other) for name, other, _ in managed_servers(plan.config) if name != role]
    if device.is_cpu not in [other.is_cpu for other in others]:
        return device
    return device.halved(0 if role == "generation" else 1)


def read_key(variable: str) -> str:
    """Return the key that an environment variable holds, or an empty string. Raises `UserError`, without the key."""
    key = os.environ.get(variable, "").strip()
    if not all("!" <= char <= "~" for char in key):
        raise UserError(
            f"the environment variable {variable} (engine.api_key_env) holds no valid key: it contains a space, a line "
            "break or a character outside ASCII; set it to the key alone"
        )
    return key


def _server_log(plan: BuildPlan, role: Role) -> Path:
    """Return the path of the server's log, which is always on this machine."""
    output = plan.output
    folder = output / "logs" if storage.is_local(output) else private_folder() / plan.fingerprint[:16]
    with write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder / ("model-server.log" if role == "generation" else "judge-server.log")


_services: dict[BuildPlan, dict[Role, GenerationService]] = {}
_lock = threading.Lock()


def generation_service(plan: BuildPlan, role: Role = "generation") -> GenerationService:
    """Return this process's generation service for a role of a build."""
    with _lock:
        if plan not in _services:
            budget = Budget(plan) if plan.config.limits.has_budget else None
            own = GenerationService(plan, budget=budget)
            has_judge = "verification" in served_roles(plan.config)
            judge = GenerationService(plan, "verification", None if has_judge else own, budget)
            _services[plan] = {"generation": own, "verification": judge}
        return _services[plan][role]


def close_generation_services(plan: BuildPlan) -> None:
    """Close this process's generation services for a build, if it has any."""
    with _lock:
        found = _services.pop(plan, {})
    for service in found.values():
        service.close()
