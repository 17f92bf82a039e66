"""The generation stage: a Beam DoFn that passes the requests of shards to the generation service."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, Self

import apache_beam as beam
from apache_beam.utils.windowed_value import WindowedValue

from pipeline.generation.completions import AnyRequest, Outcome
from pipeline.generation.items import RequestBatch
from pipeline.generation.roles import Role, engine_of
from pipeline.generation.service import GenerationService, generation_service
from pipeline.io import storage
from pipeline.plan import BuildPlan, ShardSpec
from pipeline.runtime import metrics
from pipeline.runtime.progress import counters_for

_SHARDS_AHEAD = 8
"""Most shards that wait for their last requests: bounds memory when one row is very slow."""


class ShardWithRequests(Protocol):
    """A shard with requests. `journal` names the file that stores their outcomes."""

    @property
    def spec(self) -> ShardSpec:
        """The shard's specification."""

    @property
    def journal(self) -> str:
        """Name of the shard's journal."""

    def requests(self) -> Sequence[AnyRequest]:
        """Return all requests, in order."""

    def with_outcomes(self, outcomes: Sequence[Outcome]) -> Self:
        """Return the shard with the outcomes of its requests, in order."""


Early = Callable[[Any, Sequence[Outcome | None], BuildPlan], bool]
"""Judges a shard by the outcomes that are there; returns False while they are too few."""


class GenerateFn(beam.DoFn):
    """Has each shard's requests completed. Shards leave when they are complete, not in the order of their arrival.

    `process` returns as soon as the backlog is short, so that the next shard's requests are sent before this shard's
    last ones have ended. `first` and `last`: no earlier or later stage has requests in the same journal. The first
    shard is passed to `early`, if there is one, while its requests are answered. The service of the role `then`, of a
    later stage for the same shards, is connected as soon as this one is: where it cannot work, the run ends at once.
    """

    def __init__(
        self, plan: BuildPlan, first: bool, last: bool, early: Early | None, role: Role, then: Role | None
    ) -> None:
        self._plan = plan
        self._then = then
        self._first = first
        self._early = early
        self._role = role
        # Where stages are not fused, the next one may run on another machine, which reads the journal.
        self._closes = last or not storage.is_local(plan.output)

    def start_bundle(self) -> None:
        """Drop the shards of a bundle that failed."""
        self._pending: list[tuple[ShardWithRequests, RequestBatch]] = []

    def process(self, shard: ShardWithRequests) -> Iterator[ShardWithRequests]:
        """Submit the shard, then emit complete shards until the service wants more."""
        service = generation_service(self._plan, self._role)
        if self._first:
            # A bundle that failed may have left this shard's journal open.
            service.finish(shard.journal)
            if self._role == "generation":
                counters_for(self._plan.output).add("begun", shard.spec.count)
        self._pending.append((shard, service.submit(shard.journal, shard.requests())))
        if self._then and service.is_connected:
            generation_service(self._plan, self._then).connect()
        yield from self._take_done(service)
        while self._pending and not (service.wants_more and len(self._pending) <= _SHARDS_AHEAD):
            self._wait(service)
            yield from self._take_done(service)

    def finish_bundle(self) -> Iterator[WindowedValue]:
        """Emit the remaining shards as they are completed."""
        window = beam.transforms.window.GlobalWindow()
        service = generation_service(self._plan, self._role)
        while self._pending:
            for shard in self._take_done(service):
                yield WindowedValue(shard, window.max_timestamp(), [window])
            if self._pending:
                self._wait(service)

    def _wait(self, service: GenerationService) -> None:
        service.wait()
        if self._then:
            generation_service(self._plan, self._then).check()
        if self._early is not None:
            shard, batch = self._pending[0]
            if batch.is_done or self._early(shard, batch.outcomes, self._plan):
                self._early = None

    def _take_done(self, service: GenerationService) -> Iterator[ShardWithRequests]:
        # Each batch is asked once: the client's thread may complete it at any moment.
        done: list[tuple[ShardWithRequests, RequestBatch]] = []
        pending: list[tuple[ShardWithRequests, RequestBatch]] = []
        for entry in self._pending:
            (done if entry[1].is_done else pending).append(entry)
        self._pending = pending
        for shard, batch in done:
            if self._closes:
                service.finish(shard.journal)
            metrics.emit(service.counters)
            yield shard.with_outcomes(batch.result())


def generate(
    plan: BuildPlan,
    kind: type,
    first: bool,
    last: bool,
    early: Early | None = None,
    role: Role = "generation",
    then: Role | None = None,
) -> beam.PTransform:
    """Return the generation stage for shards of type `kind`, whose requests the model of `role` answers.

    It alone needs an accelerator, where the model is served by its worker: it carries the resource hints.
    """
    stage = beam.ParDo(GenerateFn(plan, first, last, early, role, then)).with_output_types(kind)
    workers = plan.config.workers
    hints: dict[str, str] = {}
    if engine_of(plan.config, role).kind == "vllm":
        hints |= {"accelerator": workers.accelerator} if workers.accelerator else {}
        hints |= {"min_ram": workers.memory} if workers.memory else {}
    return stage.with_resource_hints(**hints) if hints else stage
