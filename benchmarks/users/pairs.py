"""Promises about the accepted pairs of all shards, and about the users that they belong to."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np

from benchmarks.users.draws import Count, count_draws, has_forbidden, users_of_splits
from benchmarks.users.ledger import Ledger
from benchmarks.users.tables import Build, Levels, Pairs

SPLITS = ("train", "validation", "test", "test_seen_users")


class PairCheck:
    """What is known of the pairs of the shards that were added, in little memory."""

    def __init__(self, build: Build, ledger: Ledger) -> None:
        self.shared_replies: set[int] = set()
        """Hashes of the replies that two splits have."""
        self._build, self._ledger = build, ledger
        self._splits: dict[int, str] = {}
        self._users: dict[str, Levels] = {}
        self._users_of: dict[str, set[str]] = defaultdict(set)
        self._kinds: Counter[str] = Counter()
        self._single = 0

    def add(self, split: str, pairs: Pairs) -> None:
        """Check the pairs of one shard, and keep what the others need to be compared with."""
        texts, levels, target = pairs.texts, pairs.levels, pairs.target
        for column in ("chosen", "rejected"):
            for reply in map(hash, texts[column]):
                if self._splits.setdefault(reply, split) != split:
                    self.shared_replies.add(reply)
        self._users.update(zip(texts["user_id"], levels["user_direction"], strict=True))
        self._users_of[split].update(texts["user_id"])
        self._kinds.update(texts["kind"])
        self._single += int(((texts["kind"] == "opposite") & ((target != 0).sum(axis=1) == 1)).sum())
        self._check_targets(pairs, target)
        self._check_near(pairs, target)

    def _check_targets(self, pairs: Pairs, target: Levels) -> None:
        sampling, user = self._build.config["sampling"], pairs.levels["user_direction"]
        fits = np.tile(~self._build.topical, (len(target), 1))
        for row, topics in enumerate(pairs.topics):
            fits[row, [self._build.positions[topic] for topic in topics if topic in self._build.positions]] = True
        # A restraint pair shows what does not belong to its post.
        fits[pairs.texts["kind"] == "restraint"] = True
        size, possible = ((levels != 0).sum(axis=1) for levels in (target, user * fits))
        is_part = (target == user * fits * (target != 0)).all(axis=1)
        is_sized = (size >= np.minimum(sampling["min_active"], possible)) & (size <= sampling["max_active"])
        self._ledger.check("targets", is_part & is_sized & (size > 0), pairs.texts["pair_id"])

    def _check_near(self, pairs: Pairs, target: Levels) -> None:
        near = pairs.texts["kind"] == "near"
        traits, kept, ids = target[near], pairs.levels["direction"][near], pairs.texts["pair_id"][near]
        asked = pairs.levels["asked_direction"][near]
        asked = np.where(asked.any(axis=1, keepdims=True), asked, kept)
        flips = (asked != 0).sum(axis=1)
        is_part = (asked == traits * (asked != 0)).all(axis=1) & (kept == asked * (kept != 0)).all(axis=1)
        few = (flips >= 1) & (flips <= self._build.config["kinds"]["max_flips"])
        self._ledger.check("near", is_part & few & (flips < (traits != 0).sum(axis=1)) & kept.any(axis=1), ids)
        self._ledger.check("forbidden", ~has_forbidden((traits - 2 * asked).astype(np.int8), self._build), ids)

    def finish(self) -> None:
        """Check what needs all shards."""
        names, users = list(self._users), np.stack(list(self._users.values()))
        active, limits = (users != 0).sum(axis=1), self._build.config["users"]["active"]
        self._ledger.check("active", (active >= limits["min"]) & (active <= limits["max"]), names)
        self._ledger.check("forbidden", ~has_forbidden(users, self._build), names)
        for promise, counts in zip(("dimensions", "poles"), count_draws(users, self._build), strict=True):
            self._ledger.check(promise, (count.is_likely for count in counts), counts)
        self._check_kinds()
        self._check_splits()

    def _check_kinds(self) -> None:
        shares, asked = self._build.config["kinds"], self._asked()
        lost = asked - self._kinds.total()
        # A pair that no near neighbour exists for is `opposite`.
        opposite = self._kinds["opposite"] if self._build.config["sampling"]["forbidden"] else self._single
        for kind, hidden in (("near", lost + opposite), ("restraint", lost)):
            found, share = self._kinds[kind], shares[kind]
            # Lost pairs may have been of any kind: the count nearest to the expected one is possible.
            nearest = min(max(found, round(asked * share)), found + hidden)
            count = Count(kind, nearest, asked, share)
            self._ledger.check("kinds", [count.is_likely if share else found == 0], [count])
        counted = {kind: number for kind, number in self._build.counts["kinds"].items() if kind != "mined"}
        self._ledger.check("counts", [counted == dict(self._kinds)], [f"{counted} pairs, found {dict(self._kinds)}"])

    def _asked(self) -> int:
        """Return the number of the users' pairs, lost ones included."""
        slots = sum(map(len, users_of_splits(self._build.config).values()))
        return slots * int(self._build.config["users"]["pairs_per_user"])

    def _check_splits(self) -> None:
        config = self._build.config
        expected = users_of_splits(config)
        asked, mining = self._asked(), config.get("mining")
        mined = round(asked * mining["share"] / (1 - mining["share"])) if mining else 0
        stated = [f"{asked} pairs of users asked for, {mined} mined ones"]
        self._ledger.check("splits", [asked + mined == self._build.counts["pairs_asked"]], stated)
        lost = self._build.counts["pairs_lost"]
        for split in SPLITS:
            found, number = self._users_of[split], len(expected[split])
            enough = number - lost // config["users"]["pairs_per_user"] <= len(found) <= number
            self._ledger.check("splits", [enough], [f"{split} has {len(found)} users of {number}"])
            others = {user for other in SPLITS if other != split for user in self._users_of[other]}
            if split in ("validation", "test"):
                self._ledger.check("splits", (user not in others for user in found), found)
        train = self._users_of["train"]
        seen = self._users_of["test_seen_users"]
        self._ledger.check("splits", (user in train for user in seen), seen)
