"""The promises of a build with users, and the cases that were checked for each."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from itertools import compress

import numpy as np

PROMISES = {
    "rows": "A row is an accepted pair of its shard as a user or, mirrored, the opposite user sees it.",
    "complete": "An accepted pair has rows, or a reason in rejected/examples.",
    "counts": "The manifest counts the pairs of each kind, and the rows.",
    "mirror": "A pair has one row and its exact mirror image, with the history; a restraint pair has one row.",
    "user": "A user has one direction in all rows and splits, and the opposite user its opposite.",
    "part": "A row's direction is a part of its user's direction.",
    "portrait": "A user has one portrait, of a model one in each split; so has the opposite user.",
    "profile": "The profile is the labels of the row's direction.",
    "user_pairs": "`user_pairs` is the number of pairs of the user that have rows in the split.",
    "history": "A history item is another pair of the same user and split, seen from the row's side.",
    "items": "No history holds a restraint pair, and no comment is of a near pair.",
    "sizes": "A history has all items that it can have, dealt in turn, and at least `min_items`.",
    "repeats": "No post and no reply is twice in a row, the history included.",
    "contradiction": "No history item contradicts the row's direction.",
    "support": "`history_support` is the share of the direction that the items show, at least `min_support` but for "
    "restraint pairs.",
    "own_posts": "No post serves a user twice, in any split.",
    "impersonal": "No post serves both restraint pairs and others.",
    "posts": "No post is in two splits.",
    "replies": "No reply is in two splits.",
    "splits": "Each split has its own users, as many as configured; `test_seen_users` those of train.",
    "targets": "A pair is for a part of its user, of the configured size; it fits the post, but for restraint.",
    "near": "A near pair has 1 to `max_flips` flipped traits, always fewer than all; its direction has no other.",
    "kinds": "The kinds have the configured shares, within chance.",
    "active": "A user has an active number of dimensions within the range.",
    "dimensions": "Numbers of active dimensions, and the dimensions, are as frequent as configured, within chance.",
    "poles": "Poles are as frequent and as correlated as configured, within chance.",
    "forbidden": "Neither a user, nor the opposite, nor a near neighbour has a forbidden combination.",
}


@dataclass
class Verdict:
    """Cases of one promise."""

    checked: int = 0
    violations: int = 0
    first: str = ""


class Ledger:
    """Counts of cases and violations by promise."""

    def __init__(self) -> None:
        self.verdicts = {promise: Verdict() for promise in PROMISES}
        self._values: dict[str, dict[Hashable, Hashable]] = {promise: {} for promise in PROMISES}

    @property
    def broken(self) -> list[str]:
        """Return the promises with violations."""
        return [promise for promise, verdict in self.verdicts.items() if verdict.violations]

    def check(self, promise: str, kept: Iterable[bool], cases: Iterable[object]) -> None:
        """Count cases. `kept` says of each whether it keeps the promise; `cases` name them in messages."""
        flags = np.fromiter(kept, dtype=bool)
        verdict = self.verdicts[promise]
        verdict.checked += len(flags)
        if not flags.all():
            verdict.violations += int((~flags).sum())
            verdict.first = verdict.first or str(next(compress(cases, ~flags)))

    def check_constant(
        self, promise: str, keys: Iterable[Hashable], values: Iterable[Hashable], cases: Iterable[object]
    ) -> None:
        """Check that each key always has the value that it had first."""
        known = self._values[promise]
        given = zip(keys, values, strict=True)
        self.check(promise, (known.setdefault(key, value) == value for key, value in given), cases)

    def table(self) -> str:
        """Return the verdicts as lines, one for each promise."""
        lines = [
            f"{verdict.checked:>9} {verdict.violations or 'none':>9}  {PROMISES[promise]}"
            + (f"\n{'':>21}first: {verdict.first}" if verdict.violations else "")
            for promise, verdict in self.verdicts.items()
        ]
        return "\n".join([f"{'checked':>9} {'violated':>9}", *lines])
