"""Section `verification`: a judge says of every sampled pair what its replies show."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from schemas.config.choices import ChoicesConfig
from schemas.config.engines import DummyEngine, OpenAiEngine, VllmEngine
from schemas.config.fields import ReadsOff, Share, with_defaults
from schemas.packaged_models import check_packaged

JudgeEngine = Annotated[VllmEngine | OpenAiEngine | DummyEngine, Field(discriminator="kind")]

_DRIFT = 0.5
_FILTERS = ("max_margin", "min_dimensions", "min_share", "min_quality", "max_quality_gap")
"""Thresholds of `filter` alone. The others also count what is found, and give the column `verified`."""


class VerificationConfig(ChoicesConfig):
    """Questions to a judge about both replies of every sampled pair: does each show what it was asked to show?

    The score of a reply in a dimension is the judge's probability of the positive pole less that of the negative one,
    averaged over the orders of the options. The margin is the chosen reply's score less the rejected one's, from -2 to
    2. A dimension is *recovered* if its margin has the sign that was asked for.
    """

    mode: Annotated[Literal["off", "record", "filter"], ReadsOff] = Field(
        "off",
        description="`record`: store margins, qualities and judge, and change nothing else. `filter`: dimensions that "
        "the replies do not show become neutral, and pairs beyond the thresholds below are drawn again.",
    )
    model: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="Model of the judge; null: `generation.model`."
    )
    engine: JudgeEngine | None = Field(
        None,
        description="Engine of the judge, a section like `engine` of kind `vllm`, `openai` or `dummy`; null: that of "
        "the build. `engine: {kind: replay}` replays the judge too. May change between runs, as `engine` may.",
    )
    orders: int = Field(
        3,
        ge=1,
        le=6,
        description="Orders of the three options that each question is asked in. With 3 or 6 each option is in each "
        "place equally often, so that a judge who prefers a place is no better than one who does not answer.",
    )
    drift_dimensions: int = Field(
        2, ge=0, description="Dimensions outside the direction, drawn for each pair, that the judge is asked about too."
    )
    quality: bool = Field(
        True, description="Ask of each reply whether it answers the post and reads well, whoever the person is."
    )
    min_margin: float = Field(
        0.0,
        ge=0,
        lt=2,
        description="`filter`: a dimension whose margin in the asked direction is not above this becomes neutral.",
    )
    max_margin: float | None = Field(
        None,
        gt=0,
        le=2,
        description="`filter`: largest mean margin of the dimensions that are kept; null: any. Above it the pair is "
        "too easy.",
    )
    min_dimensions: int = Field(
        1,
        ge=1,
        description="`filter`: fewest dimensions that a pair keeps; a `near` pair never has to keep more than it was "
        "written to differ in.",
    )
    min_share: Share = Field(0.0, description="`filter`: smallest share of its asked dimensions that a pair keeps.")
    max_drift: float | None = Field(
        None,
        gt=0,
        lt=2,
        description="`filter`: largest margin, of either sign, of a dimension outside the direction; null: any.",
    )
    min_quality: Share | None = Field(
        None, description="`filter`: smallest quality of either reply, from 0 (poor) to 1 (good); null: any."
    )
    max_quality_gap: Share | None = Field(
        None,
        description="`filter`: largest difference of the two qualities, so that the better reply is not the preferred "
        "one for being better; null: any.",
    )

    def as_read(self) -> VerificationConfig:
        """Return the section with defaults where `mode` makes no use of a key."""
        if self.mode == "off":
            return VerificationConfig()
        read = self.without_unread_votes()
        return read if self.mode == "filter" else with_defaults(read, *_FILTERS)

    @property
    def is_on(self) -> bool:
        """Return whether pairs are verified."""
        return self.mode != "off"

    @field_validator("model")
    @classmethod
    def _is_packaged(cls, model: str | None) -> str | None:
        return model and check_packaged(model)

    @property
    def drift_margin(self) -> float:
        """Return the margin above which a dimension outside the direction counts as drift."""
        return max(self.min_margin, _DRIFT) if self.max_drift is None else self.max_drift

    @model_validator(mode="after")
    def _thresholds_can_be_met(self) -> VerificationConfig:
        if self.max_margin is not None and self.max_margin <= self.min_margin:
            raise ValueError(f"max_margin ({self.max_margin}) is not above min_margin ({self.min_margin}); raise it")
        if not self.quality and (self.min_quality is not None or self.max_quality_gap is not None):
            raise ValueError("min_quality and max_quality_gap need 'quality: true'")
        if self.max_drift is not None and not self.drift_dimensions:
            raise ValueError("max_drift needs drift_dimensions of 1 or more")
        return self
