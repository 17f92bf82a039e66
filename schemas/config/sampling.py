"""Sections `splits` and `sampling`: shares of the splits, and the draw of points of the space."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, model_validator

from schemas.base import Record
from schemas.config.fields import Share


def apportion(total: int, shares: Mapping[str, float]) -> dict[str, int]:
    """Return whole numbers that sum to `total`, nearest to the shares (largest remainder; ties to the first)."""
    counts = {key: int(total * share) for key, share in shares.items()}
    by_remainder = sorted(shares, key=lambda key: counts[key] - total * shares[key])
    for key in by_remainder[: total - sum(counts.values())]:
        counts[key] += 1
    return counts


class SplitsConfig(Record):
    """Shares of the splits, of pairs and posts alike. No post is in two splits."""

    train: Share = Field(0.9, description="Share of the train split.")
    validation: Share = Field(0.05, description="Share of the validation split.")
    test: Share = Field(0.05, description="Share of the test split: unseen users on unseen posts.")
    test_seen_users: Share = Field(
        0.0,
        description="Share of the split of users of train on unseen posts; the rest is for new users. Needs `persona` "
        "`users`.",
    )

    @model_validator(mode="after")
    def _sum_to_one(self) -> SplitsConfig:
        shares = self.model_dump()
        if abs(sum(shares.values()) - 1) > 1e-9:
            raise ValueError(
                f"the shares {' + '.join(shares)} must sum to 1, such as 0.9 + 0.05 + 0.05 + 0; "
                f"found {' + '.join(f'{share:g}' for share in shares.values())}"
            )
        return self

    def of_people(self, people: int) -> dict[str, int]:
        """Return how many of the people are in each split but `test_seen_users`, which has people of train."""
        new = {split: share for split, share in self.model_dump().items() if split != "test_seen_users"}
        return apportion(people, {split: share / (1 - self.test_seen_users) for split, share in new.items()})

    def of_users(self, users: int) -> dict[str, int]:
        """Return the users of each split: those of `test_seen_users` are the first users of train."""
        counts = self.of_people(users)
        seen = round(users * self.test_seen_users / (1 - self.test_seen_users))
        return counts | {"test_seen_users": min(seen, counts["train"])}


class Marginal(Record):
    """Weight of a dimension and probability of its poles."""

    weight: float = Field(
        1.0, ge=0, description="Relative weight in the draw of active dimensions; 0 keeps the dimension neutral."
    )
    positive: Share = Field(
        0.5,
        description="Probability of the positive pole where the dimension is active. With `mirror` both poles end up "
        "equally frequent, and this shapes only which poles occur together.",
    )


class Correlation(Record):
    """Correlation of the poles of two dimensions, by a Gaussian copula."""

    a: str = Field(description="Slug of a dimension.")
    b: str = Field(description="Slug of another dimension.")
    rho: float = Field(gt=-1, lt=1, description="Correlation of the two latent normal variables.")


class SamplingConfig(Record):
    """The draw of points of the preference space."""

    min_active: int = Field(3, ge=1, description="Fewest active dimensions of a point.")
    max_active: int = Field(6, ge=1, description="Most active dimensions of a point.")
    dimensions: tuple[str, ...] | None = Field(None, description="Slugs and groups to draw from; null: all.")
    topical_weight: float = Field(
        6.0,
        gt=0,
        description="Weight of an interest tag that is a topic of the post; other dimensions have 1. A tag that is "
        "not a topic of the post is never active.",
    )
    marginals: dict[str, Marginal] = Field(
        default_factory=dict, description="By slug: `weight`, which multiplies the default, and `positive`."
    )
    correlations: tuple[Correlation, ...] = Field(
        default=(), description="List of `{a, b, rho}`: latent correlations of two dimensions' poles."
    )
    forbidden: tuple[Annotated[dict[str, Literal["positive", "negative"]], Field(min_length=1)], ...] = Field(
        default=(),
        description="Combinations of poles that neither a person nor the opposite person may have, each a map of slug "
        "to pole.",
    )

    @model_validator(mode="after")
    def _range(self) -> SamplingConfig:
        if self.min_active > self.max_active:
            raise ValueError(f"min_active ({self.min_active}) is larger than max_active ({self.max_active}); lower it")
        return self
