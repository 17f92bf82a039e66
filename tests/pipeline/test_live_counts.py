"""What a user learns of a build while it runs and when it fails, by a real server and without a terminal."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

import pipeline.build
from pipeline.build import build
from pipeline.driver.resume import Work
from pipeline.io.manifests import find_manifest
from pipeline.io.storage import AnyPath
from pipeline.plan import BuildPlan
from pipeline.runtime.progress import total
from schemas.base import UserError
from schemas.manifest import Counts
from tests.pipeline.helpers import Notices, mining, number_of, run_build, tiny, write_threads
from tests.stub import StubServer, completion, delayed, good, refuse


class Watching(Notices):
    """Keeps the counts at the end of each phase."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Mapping[str, int] = {}
        self._output: AnyPath | None = None

    def phase_begins(self, name: str, plan: BuildPlan, work: Work) -> None:
        self._output = plan.output

    def phase_ends(self) -> None:
        if self._output is not None:
            self.counts = total(self._output, fresh=True)


def reasons(counts: Mapping[str, int]) -> dict[str, int]:
    return {name.removeprefix("rejected/"): number for name, number in counts.items() if name.startswith("rejected/")}


async def often_bad(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    match number_of(body) % 4:
        case 0:
            return completion("no")
        case 1:
            return await refuse(400)(request, body)
    return await good(request, body)


@pytest.mark.parametrize("source", ["sampled", "mined"])
def test_verdicts_are_counted_once_as_they_fall(tmp_path: Path, source: str) -> None:
    keys: dict[str, Any] = {"attempts": 2, "limits": {"max_lost_share": 1}}
    if source == "mined":
        keys |= {"pairs": None, "mining": mining(write_threads(tmp_path / "threads.jsonl", 30))}
    observer = Watching()

    with StubServer(often_bad) as stub:
        config = tiny(**{"engine": {"kind": "openai", "base_urls": [stub.url]}} | keys)
        manifest = build(config, tmp_path / "out", observer=observer)

    assert reasons(observer.counts) == manifest.counts.rejected
    assert any(key.startswith("annotate/" if source == "mined" else "validate/") for key in manifest.counts.rejected)
    assert observer.counts["accepted"] == manifest.counts.pairs_accepted


async def lead_in(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    return completion("Sure!\nHere you go")


def test_a_hopeless_build_says_why_and_its_error_quotes_what_the_model_wrote(tmp_path: Path) -> None:
    observer = Watching()
    with StubServer(delayed(0.02, lead_in)) as stub:
        config = tiny(attempts=3, engine={"kind": "openai", "base_urls": [stub.url], "in_flight": 2})
        with pytest.raises(
            UserError, match=r': 4 words; the model wrote "Sure! Here you go" and "Sure! Here you go"\); lower rules'
        ):
            build(config, tmp_path / "out", observer=observer)

    (line,) = observer.lines
    assert re.match(
        r"no pair yet: all of the first (\d+) attempts were rejected, \1 as validate/too_short: lower ", line
    )


def test_a_build_that_goes_well_says_nothing(tmp_path: Path) -> None:
    observer = Watching()
    with StubServer(delayed(0.02)) as stub:
        config = tiny(engine={"kind": "openai", "base_urls": [stub.url], "in_flight": 2})
        build(config, tmp_path / "out", observer=observer)

    assert observer.lines == []


def test_a_large_shard_is_judged_before_it_is_answered(tmp_path: Path) -> None:
    observer, keys = Watching(), {"pairs": 400, "shard_pairs": 400, "limits": {"max_lost_share": 1}}
    with StubServer(delayed(0.02, lead_in)) as stub:
        config = tiny(engine={"kind": "openai", "base_urls": [stub.url], "in_flight": 8}, **keys)
        with pytest.raises(UserError, match="no example is left"):
            build(config, tmp_path / "out", observer=observer)

    assert 32 <= observer.counts["early/rejected"] < 240
    (line,) = observer.lines
    assert line.startswith("no pair yet: all of the first ")


def test_the_record_of_a_failed_run_is_kept_though_its_rows_cannot_be_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(plan: BuildPlan) -> Counts:
        raise UserError("a shard is damaged")

    monkeypatch.setattr(pipeline.build, "count_rows", damaged)
    with pytest.raises(UserError, match="the model wrote"):
        run_build(tmp_path / "out", lead_in)

    manifest = find_manifest(tmp_path / "out")
    assert manifest is not None
    assert [run.status for run in manifest.runs] == ["failed"]
