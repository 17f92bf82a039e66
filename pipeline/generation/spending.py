"""The spending of one client: what its requests cost, and what they reserve of the build's budget."""

from __future__ import annotations

from pipeline.generation.budget import NOTHING, Budget
from pipeline.generation.completions import Completion
from pipeline.generation.items import Item
from pipeline.runtime.progress import Counters
from schemas.config.engines import PriceConfig


class Spending:
    """Counts money by an engine's price, and reserves from a budget. Either may be missing."""

    def __init__(self, price: PriceConfig | None, budget: Budget | None, counters: Counters) -> None:
        self.budget = budget
        self._price = price
        self._counters = counters

    def reserve(self, item: Item, must: bool) -> bool:
        """Reserve the most that a request may use. Return False where it must wait."""
        assert self.budget is not None  # noqa: S101 - only a client with a budget reserves
        use = self.budget.most(item.request, self._price)
        if not self.budget.reserve(use, must):
            return False
        item.reserved = use
        return True

    def release(self, item: Item, seconds: float) -> None:
        """Release what was reserved for a request that took so long."""
        if self.budget is not None:
            self.budget.release(item.reserved, seconds)
            item.reserved = NOTHING

    def record(self, item: Item, completion: Completion) -> None:
        """Count the cost of a reply."""
        if self._price is not None:
            cost = self._price.nanos(completion.prompt_tokens, completion.completion_tokens)
            self._counters.add("cost_nanos", cost)
        if self.budget is not None:
            self.budget.learn(item.request, completion)
