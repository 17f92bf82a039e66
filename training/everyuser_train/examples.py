"""Examples, the common form of all datasets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from preference_space.direction import Direction


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
        portrait_direction: Inferred from the portrait; if None, the portrait stands for `direction`.
        pair_id: Equal for the two rows of a pair, which mirror each other.
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
            None if self.direction is None else (-self.direction).astype("int8"),
            None,
            "",
            (),
            tuple(
                PairItem(
                    item.prompt,
                    item.rejected,
                    item.chosen,
                    None if item.direction is None else (-item.direction).astype("int8"),
                )
                for item in self.pair
            ),
        )
