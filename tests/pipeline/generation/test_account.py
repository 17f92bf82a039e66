"""The account of a client's time, by a clock of the test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.driver.spent import engine_times
from pipeline.generation.account import Account
from pipeline.io.manifests import load_manifest
from tests.pipeline.helpers import run_build
from tests.stub import budget_of, delayed, refuse


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


Act = Callable[[Account], None]


def dispatch(held: bool = False, full: bool = False, in_flight: int = 0, served: bool = True) -> Act:
    return lambda account: account.note(served, held, full, in_flight)


def wait(account: Account) -> None:
    account.wait(1)


def wake(account: Account) -> None:
    account.wait(-1)


@pytest.mark.parametrize(
    ("acts", "expected"),
    [
        ([dispatch(served=False)], "engine"),
        ([dispatch(held=True, in_flight=3)], "limited"),
        ([wait, dispatch(full=True, in_flight=8)], "busy"),
        ([dispatch(), wait, dispatch(in_flight=3)], "few"),
        ([wait, dispatch(full=True, in_flight=8), dispatch(in_flight=3)], "stragglers"),
        ([wait, dispatch(full=True, in_flight=8), dispatch(in_flight=0), dispatch(in_flight=3)], "few"),
        ([wait, dispatch(in_flight=3), wake], "pipeline"),
        ([dispatch(in_flight=0)], "pipeline"),
    ],
)
def test_time_goes_to_the_state_that_was_so(acts: list[Act], expected: str) -> None:
    clock = Clock()
    account = Account(clock=clock)
    for act in acts:
        act(account)
    clock.now = 5.0

    found = engine_times(account.gauges())["generation"]
    assert {state: seconds for state, seconds in found.seconds.items() if seconds} == {expected: 5.0}


def test_each_interval_belongs_to_the_state_before_its_end() -> None:
    clock = Clock()
    account = Account("verification", clock)
    wait(account)
    for seconds, act in ((2, dispatch(full=True, in_flight=4)), (3, dispatch(held=True)), (4, dispatch(in_flight=1))):
        clock.now += seconds
        act(account)
    clock.now += 1

    found = engine_times(account.gauges())["verification"]
    assert found.seconds == {"engine": 2, "busy": 3, "limited": 4, "few": 1, "stragglers": 0, "pipeline": 0}
    assert found.in_flight == pytest.approx((3 * 4 + 1) / 10)


def test_times_of_several_clients_are_means() -> None:
    one = {"time/generation/clients": 2, "time/generation/busy": 6000, "time/generation/few": 2000}
    counts = {f"time/generation/{name}": 0 for name in ("engine", "limited", "stragglers", "pipeline", "sequences")}

    found = engine_times(counts | one)["generation"]

    assert (found.clients, found.seconds["busy"], found.seconds["few"]) == (2, 3.0, 1.0)


def test_a_build_records_where_its_time_went(tmp_path: Path) -> None:
    manifest, _ = run_build(tmp_path / "out", delayed(0.05))

    found = load_manifest(tmp_path / "out").runs[-1].time["generation"]
    assert manifest.runs[-1].time["generation"] == found
    assert found.seconds["busy"] > 0
    assert sum(found.seconds.values()) <= manifest.runs[-1].seconds


def test_a_rate_limit_is_seen(tmp_path: Path) -> None:
    # A pause of the endpoint that it asks for by its answer, after twenty good ones.
    answer = budget_of(20, refuse(429))
    slow = {"max_retries": 0, "max_wait_seconds": 0.5}
    with pytest.raises(Exception, match="max_wait_seconds"):
        run_build(tmp_path / "out", answer, requests=slow)

    assert load_manifest(tmp_path / "out").runs[-1].time["generation"].seconds["limited"] > 0
