"""Section `limits`: when a run fails or stops although it could continue."""

from __future__ import annotations

from pydantic import Field

from schemas.base import Record
from schemas.config.fields import Share


class LimitsConfig(Record):
    """Limits beyond which a run fails or stops although it could continue."""

    max_lost_share: Share = Field(0.5, description="Largest share of pairs that may be lost after all attempts.")
    max_unreadable_share: Share = Field(
        0.1,
        description="Largest share of a file's rows (posts or responses) that may be unreadable, checked before any "
        "model is asked. Unreadable rows are left out and counted, and the first is shown. A single one never fails a "
        "run.",
    )
    min_recovery: Share | None = Field(
        None,
        description="Smallest share of the asked dimensions that the judge finds in the replies, over all pairs that "
        "it was asked about, before filtering; null: any. Guessing gives 0.5. Needs `verification`.",
    )
    max_drift: Share | None = Field(
        None,
        description="Largest share of the dimensions outside the direction that differ all the same (beyond "
        "`verification.max_drift`; where that is null, 0.5 or a larger `min_margin`), over the same pairs; null: any. "
        "Needs `verification`.",
    )
    max_quality_gap: Share | None = Field(
        None,
        description="Largest mean of the absolute difference between the qualities of a pair's replies, over the pairs "
        "with both; null: any. Needs `verification`.",
    )

    max_tokens: int | None = Field(
        None,
        ge=1,
        description="Most prompt and completion tokens of the build, over all of its runs; null: any. The build stops "
        "before it passes this or one of the next three limits, and exits with 3. The same command with a higher limit "
        "resumes it.",
    )
    max_requests: int | None = Field(
        None, ge=1, description="Most requests of the build, over all runs; null: any. Trial requests do not count."
    )
    max_cost: float | None = Field(
        None, gt=0, description="Most money that the build costs, over all runs; null: any. Needs `engine.price`."
    )
    max_hours: float | None = Field(
        None,
        gt=0,
        description="Most hours of the build, over all runs, after which no reply is waited for; null: any. What needs "
        "no model is finished all the same.",
    )

    @property
    def has_budget(self) -> bool:
        """Return whether there is a limit on what the build uses."""
        return (self.max_tokens, self.max_requests, self.max_cost, self.max_hours) != (None, None, None, None)

    def allows(self, lost: int, asked: int) -> bool:
        """Return whether so many of the pairs asked for may be lost."""
        return lost <= self.max_lost_share * asked

    @property
    def has_gates(self) -> bool:
        """Return whether there is a limit on what a judge finds."""
        return (self.min_recovery, self.max_drift, self.max_quality_gap) != (None, None, None)
