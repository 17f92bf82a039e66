from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from pipeline.console.phases import Building, TimeLeft
from pipeline.plan import BuildPlan, Spent
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
    assert left.update(0, 100, now=50.0) is None
    assert left.update(10, 90, now=60.0) == 90.0
    assert [left.update(10, 90, now=60.0 + passed) for passed in (10, 30, 89)] == [80.0, 60.0, 1.0]
    assert left.update(10, 90, now=200.0) is None
    # The second step took 190 seconds; the time before it is not of the last two minutes.
    assert left.update(20, 80, now=250.0) == 1520.0
    assert left.update(100, 0, now=260.0) is None


def test_time_left_follows_an_engine_that_becomes_faster() -> None:
    left = TimeLeft()
    slow = [left.update(second // 10, 1000 - second // 10, float(second)) for second in range(601)]
    fast = [left.update(60 + second, 940 - second, 600.0 + second) for second in range(1, 241)]

    assert slow[-1] == pytest.approx(9400, rel=0.02)
    assert fast[-1] == 700.0


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


def test_rejected_pairs_are_expected_to_be_asked_again(plan: BuildPlan) -> None:
    config = plan.config.model_copy(update={"attempts": 3})
    phase = Building("pairs", dataclasses.replace(plan, config=config), plan.shards())

    count(plan, begun=60, questions=180, answers=120, accepted=33, rejected=27, settled=30)

    # 60 answers are under way, for 30 pairs; 28 of 64 attempts fail, and no fourth is made.
    again = 2 * 30 * (28 / 64 + (28 / 64) ** 2)
    assert phase.completed() == int(60 * 120 / (120 + 60 + again))


@pytest.mark.parametrize(
    ("gauge", "words"), [("paused", "paused: the endpoint asks to wait"), ("outage", "no request succeeds")]
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
        counters_for(plan.output).set_gauge("in_flight", 8)
        count(plan, questions=50, answers=20, tokens_heard=20)
        lines.append(phase.facts())

    assert "tokens/s" in lines[0]
    assert "tokens/s" not in lines[1]
    assert "20/50 answers" in lines[1]


@pytest.fixture(autouse=True)
def forgotten(tmp_path: Path) -> None:
    """No counts of another test's folder."""
    for output, _ in [*progress._counters]:
        delete_counts(output)


def test_money_so_far_and_in_all_is_shown_where_prices_are_known(tmp_path: Path) -> None:
    engine = {"kind": "openai", "base_urls": ["http://127.0.0.1:9/v1"], "price": {"prompt": 1.0, "currency": "EUR"}}
    plan = dataclasses.replace(prepared(tmp_path, tiny(engine=engine)), spent=Spent(cost=2.0))
    phase = Building("pairs", plan, plan.shards())

    count(plan, begun=60, questions=120, answers=30, cost_nanos=1_500_000_000)

    # A quarter of the answers cost 1.5.
    assert "EUR 3.5 spent, about 8 in all" in phase.facts()
