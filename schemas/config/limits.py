"""Section `limits`: when a run fails although it could continue."""

from __future__ import annotations

from pydantic import Field

from schemas.base import Record
from schemas.config.fields import Share


class LimitsConfig(Record):
    """Limits beyond which a run fails although it could continue."""

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

    def allows(self, lost: int, asked: int) -> bool:
        """Return whether so many of the pairs asked for may be lost."""
        return lost <= self.max_lost_share * asked

    @property
    def has_gates(self) -> bool:
        """Return whether there is a limit on what a judge finds."""
        return (self.min_recovery, self.max_drift, self.max_quality_gap) != (None, None, None)
