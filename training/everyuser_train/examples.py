"""Examples, the common form of all datasets."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from preference_space.direction import Direction
from schemas.records import Kind as PairKind


class UgcItem(NamedTuple):
    """A post of the persona's history and the comment that the persona left there."""

    prompt: str
    comment: str
    direction: Direction | None = None


class PairItem(NamedTuple):
    """A post of the persona's history, the reply that the persona preferred and the other one."""

    prompt: str
    chosen: str
    rejected: str
    direction: Direction | None = None


@dataclass(frozen=True, eq=False)
class Example:
    """One preference. Missing parts of the persona are empty; a missing direction or profile is None.

    Attributes:
        number: Index of the row in its split; random draws about the example depend on it.
        post: Identifies the post. Confidence intervals are clustered by it.
        portrait_direction: What the portrait says; if None, the portrait stands for `direction`.
        pair_id: Equal for the two rows of a pair, which mirror each other.
        kind: What the rejected reply is; None where the dataset does not tell.
        user_id: The user, whose other pairs are the history; None without users.
        user_direction: All that is true of the user, of which `direction` is a part.
    """

    number: int
    id: str
    post: str
    prompt: str
    chosen: str
    rejected: str
    direction: Direction | None
    profile: str | None
    portrait: str
    ugc: tuple[UgcItem, ...]
    pair: tuple[PairItem, ...]
    portrait_direction: Direction | None = None
    pair_id: str | None = None
    kind: PairKind | None = None
    user_id: str | None = None
    user_direction: Direction | None = None

    def flipped(self) -> Example:
        """Return the example with reversed preferences and directions, in the target and in the history pairs.

        Comments, portrait and profile cannot be reversed and are left out.
        """
        return Example(
            self.number,
            self.id,
            self.post,
            self.prompt,
            self.rejected,
            self.chosen,
            _opposite(self.direction),
            None,
            "",
            (),
            tuple(PairItem(item.prompt, item.rejected, item.chosen, _opposite(item.direction)) for item in self.pair),
            user_direction=_opposite(self.user_direction),
        )


def user_of(user_id: str) -> str:
    """Return a user's identifier without its last letter, so that a user and its mirror image have the same."""
    return re.sub("-[ab]$", "", user_id)


def _opposite(direction: Direction | None) -> Direction | None:
    return None if direction is None else (-direction).astype("int8")
