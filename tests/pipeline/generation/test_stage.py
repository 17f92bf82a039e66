from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.generation import stage
from pipeline.generation.completions import AnyRequest, Outcome
from pipeline.generation.items import RequestBatch
from pipeline.generation.service import GenerationService
from pipeline.plan import BuildPlan, ShardSpec
from schemas.config import BuildConfig


@dataclass
class Shard:
    spec: ShardSpec
    journal: str = "train-0"

    def requests(self) -> Sequence[AnyRequest]:
        return []

    def with_outcomes(self, outcomes: Sequence[Outcome]) -> Shard:
        return self


class DoneBetween(RequestBatch):
    """The client's thread completes it right after it was first asked."""

    @property
    def is_done(self) -> bool:
        self.pending -= 1
        return self.pending < 0


def test_a_shard_that_is_completed_while_the_stage_looks_is_emitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = BuildConfig.model_validate({"pairs": 1, "generation": {"model": "dummy"}, "engine": {"kind": "dummy"}})
    plan = BuildPlan(tmp_path, "fingerprint", config)
    service = GenerationService(plan)
    monkeypatch.setattr(stage, "generation_service", lambda *_: service)
    monkeypatch.setattr(service, "submit", lambda *_: DoneBetween([], 1))
    generate = stage.GenerateFn(plan, first=False, last=True, early=None, role="generation", then=None)
    shard = Shard(plan.shards()[0])
    generate.start_bundle()

    emitted = [*generate.process(shard), *(value.value for value in generate.finish_bundle())]

    assert emitted == [shard]
