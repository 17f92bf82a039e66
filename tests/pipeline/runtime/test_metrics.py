from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from pipeline.runtime import metrics, progress
from pipeline.runtime.metrics import Measured
from pipeline.runtime.progress import Counters, counters_for


@pytest.fixture
def output(tmp_path: Path) -> Iterator[Path]:
    """A build's folder. Its counts are deleted at the end."""
    yield tmp_path
    progress.delete_counts(tmp_path)


@pytest.fixture
def counts(tmp_path: Path) -> Iterator[Counters]:
    found = Counters(tmp_path)
    yield found
    found.close()


def run(work: Callable[[int], int], elements: int) -> Any:
    """The result of a pipeline that does `work` for 0, 1, 2, ..."""
    pipeline = beam.Pipeline(runner=FnApiRunner())
    _ = pipeline | beam.Create(range(elements)) | "work" >> beam.Map(work)
    result = pipeline.run()
    result.wait_until_finish()
    return result


# What a process counts


def test_what_was_counted_is_handed_out_once(counts: Counters) -> None:
    counts.add("asked", 2)
    counts.add("asked", 3)
    counts.add("settled", 1)

    assert counts.take_unreported() == (Counter(asked=5, settled=1), [])
    assert counts.take_unreported() == (Counter(), [])

    counts.add("asked", 1)

    assert counts.take_unreported() == (Counter(asked=1), [])
    assert (counts.get("asked"), counts.get("settled")) == (6, 1)


def test_what_was_observed_is_handed_out_once_and_in_order(counts: Counters) -> None:
    for value in (3, 1, 3):
        counts.observe("queue_milliseconds", value)
    counts.observe("in_flight", 0)

    assert counts.take_unreported()[1] == [("queue_milliseconds", value) for value in (3, 1, 3)] + [("in_flight", 0)]
    assert counts.take_unreported()[1] == []


def test_values_that_are_no_sums_are_not_handed_out(counts: Counters) -> None:
    counts.set_gauge("in_flight", 7)

    assert counts.take_unreported() == (Counter(), [])
    assert counts.get("in_flight") == 7


def test_threads_that_count_and_drain_at_once_lose_nothing(counts: Counters) -> None:
    over, drained = threading.Event(), Counter[str]()
    observed: list[tuple[str, int]] = []

    def count() -> None:
        for value in range(2000):
            counts.add("asked", 1)
            counts.observe("in_flight", value)

    def drain() -> None:
        while not over.is_set():
            fresh, values = counts.take_unreported()
            drained.update(fresh)
            observed.extend(values)

    drainer, counters = threading.Thread(target=drain), [threading.Thread(target=count) for _ in range(4)]
    for thread in (drainer, *counters):
        thread.start()
    for thread in counters:
        thread.join()
    over.set()
    drainer.join()
    fresh, values = counts.take_unreported()

    assert drained + fresh == Counter(asked=8000)
    assert sorted(value for _, value in [*observed, *values]) == sorted([*range(2000)] * 4)


# What is reported to Beam


def test_a_pipeline_tells_each_count_and_each_value_once(output: Path) -> None:
    def work(number: int) -> int:
        counts = counters_for(output)
        counts.add("asked", 2)
        if number == 0:
            counts.add("only_once", 1)
        counts.observe("queue_milliseconds", 10 * number)
        metrics.emit(counts)
        metrics.emit(counts)
        return number

    measured = Measured()
    measured.add(run(work, 5))

    assert measured.counts == Counter(asked=10, only_once=1)
    assert measured.numbers == Counter(queue_milliseconds=5)
    assert measured.sums == Counter(queue_milliseconds=100)


def test_what_another_thread_counts_is_told_where_a_bundle_runs(output: Path) -> None:
    def work(number: int) -> int:
        thread = threading.Thread(target=counters_for(output).add, args=("settled", number))
        thread.start()
        thread.join()
        metrics.emit(counters_for(output))
        return number

    measured = Measured()
    measured.add(run(work, 5))

    assert measured.counts == Counter(settled=10)


def test_what_was_counted_before_the_first_bundle_is_told_with_it(output: Path) -> None:
    counters_for(output).add("asked", 100)

    def work(number: int) -> int:
        metrics.emit(counters_for(output))
        return number

    measured = Measured()
    measured.add(run(work, 3))

    assert measured.counts == Counter(asked=100)


def test_metrics_of_others_are_left_out() -> None:
    def work(number: int) -> int:
        beam.metrics.Metrics.counter("another", "asked").inc()
        beam.metrics.Metrics.distribution("another", "in_flight").update(5)
        return number

    measured = Measured()
    measured.add(run(work, 3))

    assert measured == Measured()


def test_a_pipeline_that_counts_nothing_adds_nothing() -> None:
    measured = Measured()
    measured.add(run(abs, 3))

    assert measured == Measured()


def test_two_steps_of_a_pipeline_are_summed(output: Path) -> None:
    def work(number: int) -> int:
        counters_for(output).add("asked", 1)
        counters_for(output).observe("in_flight", number)
        metrics.emit(counters_for(output))
        return number

    pipeline = beam.Pipeline(runner=FnApiRunner())
    _ = pipeline | beam.Create(range(3)) | "first" >> beam.Map(work) | beam.Reshuffle() | "second" >> beam.Map(work)
    result = pipeline.run()
    result.wait_until_finish()
    measured = Measured()
    measured.add(result)

    assert measured.counts == Counter(asked=6)
    assert (measured.numbers["in_flight"], measured.sums["in_flight"]) == (6, 6)


def test_pipelines_are_summed(output: Path) -> None:
    def work(number: int) -> int:
        counters_for(output).add("asked", number)
        counters_for(output).observe("request_milliseconds", 10 + number)
        metrics.emit(counters_for(output))
        return number

    measured = Measured()
    for elements in (4, 3):
        measured.add(run(work, elements))

    assert measured.counts == Counter(asked=6 + 3)
    assert measured.sums["request_milliseconds"] == 40 + 6 + 30 + 3
    assert measured.numbers["request_milliseconds"] == 7
    assert measured.mean("request_milliseconds") == pytest.approx(79 / 7)


def test_the_mean_of_nothing_is_nothing() -> None:
    assert Measured().mean("in_flight") == 0.0


def test_zero_is_a_value_like_others(output: Path) -> None:
    def work(number: int) -> int:
        counters_for(output).observe("queue_milliseconds", 0)
        metrics.emit(counters_for(output))
        return number

    measured = Measured()
    measured.add(run(work, 2))

    assert measured.numbers["queue_milliseconds"] == 2
    assert measured.mean("queue_milliseconds") == 0.0


def test_each_measurement_has_counts_of_its_own() -> None:
    one, another = Measured(), Measured()
    one.counts["asked"] += 1

    assert another == Measured()
