"""The generation service of a process: it completes the requests of shards from their journals and by the model."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Sequence
from pathlib import Path

from pipeline.generation import dummy
from pipeline.generation.client import Client
from pipeline.generation.completions import AnyRequest, Failure, Outcome
from pipeline.generation.device import find_device
from pipeline.generation.endpoints import Endpoints, RemoteEndpoints
from pipeline.generation.items import RequestBatch
from pipeline.generation.journal import JournalWriter, open_journal, read_journal
from pipeline.generation.recording import recorded_journal, replays_recording
from pipeline.generation.server import ManagedServer, server_spec
from pipeline.generation.trial import trial_requests
from pipeline.io import storage
from pipeline.io.outages import notify
from pipeline.io.storage import private_folder, write_errors
from pipeline.plan import BuildPlan
from pipeline.runtime.progress import counters_for
from schemas.base import UserError
from schemas.config import DummyEngine, OpenAiEngine, ReplayEngine, VllmEngine

_IN_FLIGHT = 256
"""Upper bound of requests in flight for each remote endpoint. The window finds how many of them it needs."""


class GenerationService:
    """Completes the requests of shards: from the shard's journal first, then by the model. One for each process."""

    def __init__(self, plan: BuildPlan) -> None:
        self._folder = plan.output / "journal"
        self._journaled: dict[str, dict[str, Outcome]] = {}
        self._writers: dict[str, JournalWriter] = {}
        self._counters = counters_for(plan.output)
        self._plan = plan
        self._client: Client | None = None
        # A runner may run several threads in a process.
        self._connecting = threading.Lock()
        self._is_dummy = isinstance(plan.config.engine, DummyEngine)
        self._replays = isinstance(plan.config.engine, ReplayEngine)
        if isinstance(plan.config.engine, ReplayEngine):
            recorded = replays_recording(plan.config)
            self._folder = recorded_journal() if recorded else storage.parse(plan.config.engine.journal)

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
        self._counters.add("requests_replayed", len(requests) - len(missing))
        self._counters.add("questions", sum(request.sequences for _, request in missing))
        if missing and self._replays:
            raise UserError(
                f"engine replay: {path} lacks {len(missing)} of {len(requests)} completions; {self._way_out()}"
            )
        if missing:
            # Connected only here: a build whose journals are complete needs no model.
            with self._connecting:
                self._client = self._client or _connect(self._plan)
            if journal not in self._writers:
                self._writers[journal] = open_journal(path, self._plan.config.requests.journal)
            self._client.submit(missing, batch, self._writers[journal])
        return batch

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
            self._client.wait()

    def finish(self, journal: str) -> None:
        """Close a shard's journal."""
        self._journaled.pop(journal, None)
        writer = self._writers.pop(journal, None)
        if writer:
            writer.close()

    def close(self) -> None:
        """Stop the client and close all journals. The guard then stops the server that the build started."""
        if self._client:
            self._client.close()
        storage.map_files(self._folder, self._abandon, [*self._writers])

    def _abandon(self, journal: str) -> None:
        # An earlier error is the one to report.
        with contextlib.suppress(UserError):
            self.finish(journal)


def _connect(plan: BuildPlan) -> Client:
    engine, model, counts = plan.config.engine, plan.config.generation.model, counters_for(plan.output)
    key = ""
    endpoints: Endpoints
    if isinstance(engine, OpenAiEngine):
        key = read_key(engine.api_key_env)
        endpoints = RemoteEndpoints(engine.base_urls)
        in_flight = engine.in_flight or _IN_FLIGHT * len(engine.base_urls)
        cause = f"{len(engine.base_urls)} endpoint{'s' if len(engine.base_urls) > 1 else ''}"
    elif isinstance(engine, VllmEngine):
        device = find_device(engine)
        in_flight = device.bound(engine)
        endpoints = ManagedServer(server_spec(engine, model, _server_log(plan), device), counts)
        cause = str(device)
    else:
        raise TypeError(f"engine {engine.kind} has no endpoint")
    if engine.in_flight is None:
        notify(f"at most {in_flight} requests in flight (engine.in_flight; {cause})")
    return Client(endpoints, key, trial_requests(plan), in_flight, plan.config.requests, counts)


def read_key(variable: str) -> str:
    """Return the key that an environment variable holds, or an empty string. Raises `UserError`, without the key."""
    key = os.environ.get(variable, "").strip()
    if not all("!" <= char <= "~" for char in key):
        raise UserError(
            f"the environment variable {variable} (engine.api_key_env) holds no valid key: it contains a space, a line "
            "break or a character outside ASCII; set it to the key alone"
        )
    return key


def _server_log(plan: BuildPlan) -> Path:
    """Return the path of the server's log, which is always on this machine."""
    output = plan.output
    folder = output / "logs" if storage.is_local(output) else private_folder() / plan.fingerprint[:16]
    with write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder / "model-server.log"


_services: dict[BuildPlan, GenerationService] = {}
_lock = threading.Lock()


def generation_service(plan: BuildPlan) -> GenerationService:
    """Return this process's generation service for a build."""
    with _lock:
        if plan not in _services:
            _services[plan] = GenerationService(plan)
        return _services[plan]


def close_generation_service(plan: BuildPlan) -> None:
    """Close this process's generation service for a build, if it has one."""
    with _lock:
        found = _services.pop(plan, None)
    if found:
        found.close()
