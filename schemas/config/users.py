"""Sections `users` and `kinds`: people with several pairs each, and what the rejected reply of a pair is."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from schemas.base import Record
from schemas.config.fields import Share, with_defaults


class ActiveRange(Record):
    """How many dimensions of a user's direction are active."""

    min: int = Field(8, ge=1, description="Fewest active dimensions of a user.")
    max: int = Field(16, ge=1, description="Most active dimensions of a user.")

    @model_validator(mode="after")
    def _range(self) -> ActiveRange:
        if self.min > self.max:
            raise ValueError(f"min ({self.min}) is larger than max ({self.max}); lower it")
        return self


class UsersConfig(Record):
    """Users, each a point of the space with pairs of its own. Read where `persona` is `users`."""

    count: int = Field(ge=1, description="Different users. Those of `test_seen_users` are among the users of train.")
    pairs_per_user: int = Field(8, ge=2, le=64, description="Pairs of each user in a split, on different posts.")
    active: ActiveRange = Field(
        default_factory=lambda: ActiveRange(),
        description="Active dimensions of a user, drawn as `sampling` says. A pair is written for a part of them that "
        "fits its post, of `sampling.min_active` to `sampling.max_active` dimensions.",
    )
    topical_posts: Share = Field(
        0.5, description="Share of a user's pairs that prefer a post with a topic which the user likes or dislikes."
    )
    min_items: int = Field(
        2,
        ge=0,
        description="Fewest history items of a row. A row has all of the user's other pairs that it can have, at most "
        "`history.ugc` and `history.pair` items.",
    )


class KindsConfig(Record):
    """Shares of the kinds of sampled pairs. The rest are `opposite`: the rejected reply is of the opposite person."""

    near: Share = Field(
        0.0,
        description="Share of pairs whose rejected reply is written for a near neighbour: the same traits but for a "
        "few flipped ones. The pair's direction has the flipped dimensions alone.",
    )
    max_flips: int = Field(2, ge=1, description="Most flipped traits of a near neighbour; the fewest is 1.")
    restraint: Share = Field(
        0.0,
        description="Share of pairs on posts where the person should not matter: the chosen reply answers plainly, the "
        "rejected one shows the person's traits. They are not mirrored, and no history holds them.",
    )
    restraint_posts: Literal["packaged", "marked"] = Field(
        "packaged",
        description="Posts of the restraint pairs: the packaged questions of fact, or the posts of `seeds` whose "
        "column `impersonal` is true.",
    )

    @model_validator(mode="after")
    def _shares(self) -> KindsConfig:
        if self.near + self.restraint > 1:
            raise ValueError(f"near + restraint is {self.near + self.restraint:g}, more than all pairs; lower one")
        return self

    @property
    def reads_facts(self) -> bool:
        """Return whether restraint pairs use the packaged questions of fact."""
        return self.restraint > 0 and self.restraint_posts == "packaged"

    @property
    def reads_marks(self) -> bool:
        """Return whether restraint pairs use the posts of `seeds` that are marked for them."""
        return self.restraint > 0 and self.restraint_posts == "marked"

    def as_read(self) -> KindsConfig:
        """Return the section with defaults of the keys that are about a kind without a share."""
        unread = {"max_flips": self.near, "restraint_posts": self.restraint}
        return with_defaults(self, *(key for key, share in unread.items() if not share))
