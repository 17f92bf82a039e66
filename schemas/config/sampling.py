"""Sections `splits` and `sampling`: shares of the splits, and the draw of points of the space."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from schemas.base import Record
from schemas.config.fields import Share


class SplitsConfig(Record):
    """Shares of the pairs, and of the posts, in each split. No post is in two splits."""

    train: Share = Field(0.9, description="Share of the train split.")
    validation: Share = Field(0.05, description="Share of the validation split.")
    test: Share = Field(0.05, description="Share of the test split.")

    @model_validator(mode="after")
    def _sum_to_one(self) -> SplitsConfig:
        if abs(self.train + self.validation + self.test - 1) > 1e-9:
            raise ValueError("the shares train + validation + test must sum to 1")
        return self


class Marginal(Record):
    """How often a dimension is active, and which pole it then takes."""

    weight: float = Field(
        1.0, ge=0, description="Relative weight of the dimension when active ones are drawn; 0 keeps it neutral."
    )
    positive: Share = Field(
        0.5,
        description="Probability of the positive pole, given that the dimension is active. It shapes how poles go "
        "together; taken alone they are even, as each pair is also emitted mirrored.",
    )


class Correlation(Record):
    """A correlation between the poles of two dimensions, by a Gaussian copula."""

    a: str = Field(description="Slug of a dimension.")
    b: str = Field(description="Slug of another dimension.")
    rho: float = Field(gt=-1, lt=1, description="Correlation of the two latent normal variables.")


class SamplingConfig(Record):
    """How points of the preference space are drawn."""

    min_active: int = Field(3, ge=1, description="Smallest number of non-neutral dimensions of a point.")
    max_active: int = Field(6, ge=1, description="Largest number of non-neutral dimensions of a point.")
    dimensions: tuple[str, ...] | None = Field(
        None, description="Draw from these slugs and groups only; by default from all."
    )
    topical_weight: float = Field(
        6.0,
        gt=0,
        description="Weight of an interest tag that fits the post, against 1 for any other dimension. A tag that does "
        "not fit the post is never active.",
    )
    marginals: dict[str, Marginal] = Field(
        default_factory=dict, description="By slug: `weight` (multiplies the default) and `positive`."
    )
    correlations: tuple[Correlation, ...] = Field(
        default=(), description="List of `{a, b, rho}`: latent correlation of two dimensions' poles."
    )
    forbidden: tuple[Annotated[dict[str, Literal["positive", "negative"]], Field(min_length=1)], ...] = Field(
        default=(),
        description="Combinations that never occur together, neither in a person nor in the opposite one, each a map "
        "of slug to pole.",
    )

    @model_validator(mode="after")
    def _range(self) -> SamplingConfig:
        if self.min_active > self.max_active:
            raise ValueError("min_active is larger than max_active")
        return self
