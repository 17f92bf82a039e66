"""What is counted, as Beam metrics: a runner's own pages show them, and the driver sums a run up from them.

Counters are those of `progress.Counters`, under the namespace `everyuser`; distributions are `queue_milliseconds` (how
long a request waited in the client's queue), `request_milliseconds` and `in_flight`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from apache_beam.metrics import Metrics, MetricsFilter

from pipeline.runtime.progress import Counters

NAMESPACE = "everyuser"


def emit(counters: Counters) -> None:
    """Hand on what this process counted since the last call. To be called where Beam runs a bundle.

    Beam knows the bundle by the thread, so the client's thread cannot count for itself.
    """
    counts, observed = counters.take_unreported()
    for name, amount in counts.items():
        Metrics.counter(NAMESPACE, name).inc(amount)
    for name, value in observed:
        Metrics.distribution(NAMESPACE, name).update(value)


@dataclass
class Measured:
    """Metrics of a run, summed over its pipelines."""

    counts: Counter[str] = field(default_factory=Counter)
    sums: Counter[str] = field(default_factory=Counter)
    numbers: Counter[str] = field(default_factory=Counter)

    def mean(self, name: str) -> float:
        """Of a distribution; 0 where nothing was observed."""
        return self.sums[name] / self.numbers[name] if self.numbers[name] else 0.0

    def add(self, result: Any) -> None:
        """Take in what a finished pipeline has counted."""
        found: Mapping[str, Any] = result.metrics().query(MetricsFilter().with_namespace(NAMESPACE))
        for counter in found["counters"]:
            # Runners differ in which they know; what was committed is what stayed.
            self.counts[counter.key.metric.name] += counter.result or 0
        for distribution in found["distributions"]:
            name, value = distribution.key.metric.name, distribution.result
            if value is not None and value.count:
                self.sums[name] += value.sum
                self.numbers[name] += value.count
