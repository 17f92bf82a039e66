"""Examples as the trainer and the evaluation see them, whichever loader read them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from everyuser_train.space import Direction


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
    """One preference. Parts of the persona that the data lack are empty, a direction or a profile None.

    `post` identifies the post: intervals are clustered by it. `number` is the row's place in its split, which counts
    for every random choice about it. `portrait_direction` is there where it was inferred; otherwise a portrait says
    what `direction` says. Rows of one pair, which mirror each other, have the same `pair_id`.
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
        """The same example with every preference reversed: the target's and the history pairs', and their directions.

        Comments and portrait cannot be reversed and are left out; so is the profile.
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
