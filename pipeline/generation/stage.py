"""The generation stage: shards in, the same shards answered out, one window of requests across their borders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, Self

import apache_beam as beam
from apache_beam.utils.windowed_value import WindowedValue

from pipeline.generation.client import RequestBatch
from pipeline.generation.completions import AnyRequest, Outcome
from pipeline.generation.service import GenerationService, generation_service
from pipeline.io import storage
from pipeline.plan import BuildPlan, ShardSpec
from pipeline.runtime import metrics
from pipeline.runtime.progress import counters_for

_SHARDS_AHEAD = 8
"""Shards that wait for stragglers at once, at most: bounds memory when one row is very slow."""


class ShardWithRequests(Protocol):
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


class GenerateFn(beam.DoFn):
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
        self._pending: list[tuple[ShardWithRequests, RequestBatch]] = []

    def process(self, shard: ShardWithRequests) -> Iterator[ShardWithRequests]:
        """Submit, then hand out what is done until the window wants more."""
        service = generation_service(self._plan)
        if self._first:
            # A bundle that failed may have left this shard half-asked here.
            service.finish(shard.journal)
            counters_for(self._plan.output).add("begun", shard.spec.count)
        self._pending.append((shard, service.submit(shard.journal, shard.requests())))
        yield from self._take_done(service)
        while self._pending and not (service.wants_more and len(self._pending) <= _SHARDS_AHEAD):
            service.wait()
            yield from self._take_done(service)

    def finish_bundle(self) -> Iterator[WindowedValue]:
        """Wait for all that is left."""
        window = beam.transforms.window.GlobalWindow()
        service = generation_service(self._plan)
        while self._pending:
            for shard in self._take_done(service):
                yield WindowedValue(shard, window.max_timestamp(), [window])
            if self._pending:
                service.wait()

    def _take_done(self, service: GenerationService) -> Iterator[ShardWithRequests]:
        done = [(shard, batch) for shard, batch in self._pending if batch.is_done]
        self._pending = [(shard, batch) for shard, batch in self._pending if not batch.is_done]
        for shard, batch in done:
            if self._closes:
                service.finish(shard.journal)
            metrics.emit(counters_for(self._plan.output))
            yield shard.with_outcomes(batch.result())


def generate(plan: BuildPlan, kind: type, first: bool, last: bool) -> beam.PTransform:
    """Return the generation stage for shards of type `kind`.

    It alone needs an accelerator, where the model is served by its worker: it carries the resource hints.
    """
    stage = beam.ParDo(GenerateFn(plan, first, last)).with_output_types(kind)
    workers = plan.config.workers
    hints: dict[str, str] = {}
    if plan.config.engine.kind == "vllm":
        hints |= {"accelerator": workers.accelerator} if workers.accelerator else {}
        hints |= {"min_ram": workers.memory} if workers.memory else {}
    return stage.with_resource_hints(**hints) if hints else stage
