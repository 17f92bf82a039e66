"""What is counted, as Beam metrics: a runner's own pages show them, and the driver sums a run up from them.

Counters are those of `progress.Counters`, under the namespace `everyuser`; distributions are `queue_milliseconds` (how
long a request waited in the client's queue), `request_milliseconds` and `in_flight`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.runtime.progress import Counters

NAMESPACE = "everyuser"


def emit(counters: Counters) -> None:
    """Pass on to Beam what this process has counted since the last call. Call it where Beam runs a bundle.

    Beam finds the bundle by the thread, so the client's own thread cannot call this.
    """
    from apache_beam.metrics import Metrics

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
        """Return the mean of a distribution, or 0 if nothing was observed."""
        return self.sums[name] / self.numbers[name] if self.numbers[name] else 0.0

    def add(self, result: Any) -> None:
        """Add the metrics of a finished pipeline."""
        from apache_beam.metrics import MetricsFilter

        found: Mapping[str, Any] = result.metrics().query(MetricsFilter().with_namespace(NAMESPACE))
        for counter in found["counters"]:
            # Some runners report attempted values, others committed ones; `result` is the best that each knows.
            self.counts[counter.key.metric.name] += counter.result or 0
        for distribution in found["distributions"]:
            name, value = distribution.key.metric.name, distribution.result
            if value is not None and value.count:
                self.sums[name] += value.sum
                self.numbers[name] += value.count
