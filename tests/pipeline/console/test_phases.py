from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.console.phases import Building, TimeLeft
from pipeline.plan import BuildPlan
from pipeline.runtime import progress
from pipeline.runtime.progress import counters_for, delete_counts
from tests.pipeline.helpers import mining, prepared, tiny, write_threads


def count(plan: BuildPlan, **counts: int) -> None:
    for name, number in counts.items():
        counters_for(plan.output).add(name, number)
    counters_for(plan.output).flush()


@pytest.fixture
def plan(tmp_path: Path) -> BuildPlan:
    return prepared(tmp_path / "out", tiny())


def test_time_left_counts_down_between_two_steps_and_never_up() -> None:
    left = TimeLeft()
    assert left.update(0, 100, now=0.0) is None
    # A model was loaded until second 50.
    assert left.update(0, 100, now=50.0) is None
    assert left.update(10, 100, now=60.0) == 90.0
    assert [left.update(10, 100, now=60.0 + passed) for passed in (10, 30, 89)] == [80.0, 60.0, 1.0]
    assert left.update(10, 100, now=200.0) is None
    assert left.update(20, 100, now=250.0) == 800.0
    assert left.update(100, 100, now=260.0) is None


def test_bar_moves_with_answers_before_a_shard_is_settled(plan: BuildPlan) -> None:
    phase = Building("pairs", plan, plan.shards())

    seen = []
    for counts in (
        {"begun": 24, "questions": 48},
        {"answers": 12},
        {"answers": 12},
        {"questions": 24},
        {"settled": 20},
    ):
        count(plan, **counts)
        seen.append(phase.completed())

    assert phase.total == 60
    assert seen == [0, 6, 12, 12, 20]


def test_bar_is_not_full_before_all_pairs_are_settled(plan: BuildPlan) -> None:
    phase = Building("pairs", plan, plan.shards())
    count(plan, begun=60, questions=120, answers=120)
    assert phase.completed() == 57

    count(plan, settled=60)
    assert phase.completed() == 60


@pytest.mark.parametrize(
    ("gauge", "words"), [("paused", "paused: the endpoint asks to wait"), ("outage", "no endpoint answers")]
)
def test_a_model_that_is_waited_for_is_named(tmp_path: Path, gauge: str, words: str) -> None:
    plan = prepared(tmp_path, tiny())
    phase = Building("pairs", plan, plan.shards())
    for value in (1, 0):
        counters_for(plan.output).set_gauge(gauge, value)
        counters_for(plan.output).flush()

        assert (words in phase.facts()) == bool(value)


def test_tokens_per_second_are_shown_for_text_and_not_for_choices(tmp_path: Path) -> None:
    section = mining(write_threads(tmp_path / "threads.jsonl", 20))
    lines = []
    for name, keys in (("text", {}), ("choices", {"pairs": None, "mining": section})):
        plan = prepared(tmp_path / name, tiny(**keys))
        phase = Building("pairs", plan, plan.shards())
        count(plan, questions=50, answers=20, completion_tokens=20)
        lines.append(phase.facts())

    assert "tokens/s" in lines[0]
    assert "tokens/s" not in lines[1]
    assert "20/50 answers" in lines[1]


@pytest.fixture(autouse=True)
def forgotten(tmp_path: Path) -> None:
    """No counts of another test's folder."""
    for output in [*progress._counters]:
        delete_counts(output)
