"""Builds of mined pairs whose annotator knows chat alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.build import build
from schemas.manifest import Manifest
from tests.pipeline.helpers import mining, rows_of, tiny, write_threads
from tests.pipeline.mining.builds import SOME
from tests.stub import Answer, StubServer, chat_alone, good

THREADS, RESPONSES = 20, 4
QUESTIONS = THREADS * RESPONSES * len(SOME)


def annotated(output: Path, answer: Answer, **annotation: Any) -> tuple[Manifest, StubServer]:
    """A build against a server that answers trial requests as all others."""
    with StubServer(answer, on_trial=answer) as stub:
        engine = {"kind": "openai", "base_urls": [stub.url]}
        return mined(output, engine, **annotation), stub


def mined(output: Path, engine: dict[str, Any], **annotation: Any) -> Manifest:
    output.parent.mkdir(exist_ok=True)
    threads = write_threads(output.with_name("threads.jsonl"), THREADS, RESPONSES)
    keys = mining(threads, annotation={"dimensions": SOME, "protocol": "auto", **annotation})
    return build(tiny(pairs=None, mining=keys, limits={"max_lost_share": 1}, engine=engine), output)


def test_an_annotator_by_chat_that_gives_numbers_makes_the_same_rows(tmp_path: Path) -> None:
    annotated(tmp_path / "one" / "out", good)
    _, stub = annotated(tmp_path / "two" / "out", chat_alone(has_numbers=True))

    one, two = (rows_of(tmp_path / name / "out" / "data") for name in ("one", "two"))
    assert one == two != []
    assert not any("prompt" in body for body in stub.bodies)
    assert len(stub.bodies) == QUESTIONS


@pytest.mark.parametrize("protocol", ["auto", "chat"])
def test_without_numbers_each_question_is_asked_several_times_and_a_replay_asks_none(
    tmp_path: Path, protocol: str
) -> None:
    first, again = tmp_path / "first" / "out", tmp_path / "again" / "out"
    manifest, stub = annotated(first, chat_alone(has_numbers=False), protocol=protocol, votes=2)
    mined(again, {"kind": "replay", "journal": str(first / "journal")}, protocol=protocol, votes=2)

    assert len(stub.bodies) == 2 * QUESTIONS
    assert manifest.counts.examples > 0
    assert rows_of(again / "data") == rows_of(first / "data")
