"""Origin of the rows: the attempt that gave each pair, the models, and the cost."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.report.settings import ReportSettings
from pipeline.report.source import Batch
from schemas.manifest import Manifest
from schemas.report import CostFigures


class FunnelTally:
    """Counts of the rows' models and of the accepted pairs' attempts."""

    def __init__(self) -> None:
        self._models: Counter[str] = Counter()
        self._attempts: Counter[int] = Counter()

    def add(self, batch: Batch) -> None:
        """Count a batch's models."""
        self._models.update(_counts(batch.table["model"]))

    def add_pool(self, pool: pa.Table) -> None:
        """Count the attempts of a pool shard's pairs, also of those without a history."""
        self._attempts.update(_counts(pool["attempt"]))

    def merge(self, other: FunnelTally) -> None:
        """Add the counts of another tally."""
        self._models += other._models
        self._attempts += other._attempts

    @property
    def model(self) -> str:
        """Return the models that wrote or annotated the replies, the most frequent first."""
        return ", ".join(sorted(self._models, key=lambda model: (-self._models[model], model)))

    @property
    def attempts(self) -> tuple[int, ...]:
        """Return the accepted pairs by attempt (first, second ...)."""
        return tuple(self._attempts[attempt] for attempt in range(max(self._attempts, default=-1) + 1))


def cost_of(manifest: Manifest, examples: int, settings: ReportSettings) -> CostFigures:
    """Return the cost of a build.

    Args:
        manifest: Its counts have the tokens of all attempts; its runs have the times, except of killed runs.
        examples: Number of examples.
        settings: Prices and currency, in place of those that the runs have counted by.
    """
    prompt, completion = manifest.counts.prompt_tokens, manifest.counts.completion_tokens
    seconds = sum(run.seconds for run in manifest.runs)
    answered = sum(run.completion_tokens for run in manifest.runs)
    prices, currency, total = (settings.prompt_price, settings.completion_price), settings.currency, None
    if settings.prompt_price is not None and settings.completion_price is not None:
        total = round((prompt * settings.prompt_price + completion * settings.completion_price) / 1e6, 6)
    elif any(run.cost is not None for run in manifest.runs):
        # What each run cost by the prices of its engines: a judge's may differ, and hours may cost too.
        total = round(sum(run.cost or 0.0 for run in manifest.runs), 6)
        price = (manifest.config.get("engine") or {}).get("price") or {}
        prices, currency = (price.get("prompt"), price.get("completion")), price.get("currency", currency)
    return CostFigures(
        prompt_tokens=prompt,
        completion_tokens=completion,
        reasoning_tokens=manifest.counts.reasoning_tokens,
        tokens_per_example=(prompt + completion) / examples,
        seconds=seconds,
        tokens_per_second=answered / seconds if answered and seconds else None,
        currency=None if total is None else currency,
        prompt_price=prices[0],
        completion_price=prices[1],
        total=total,
    )


def _counts(column: Any) -> dict[Any, int]:
    return {entry["values"]: entry["counts"] for entry in pc.value_counts(column).to_pylist()}
