"""Algorithm 1 of the paper in plain loops: what `pipeline.mining` and `pipeline.assembly` must give.

It follows the paper's description (one-hot levels, K-means, two clusters, a reply of each, sign of the difference,
explicit cosine, majority vote, criterion) and this project's rules on top (no contradiction, no repetition, support).

Shared with the code under test are inputs only, not steps of the algorithm: the counter-based numbers of the draws, the
seed of a thread's K-means, scikit-learn's K-means itself, the rules for two texts (`check_pair`), and how ties between
equally similar views are broken. Of the latter: views stand on a circle, in the order of their number; a view that is
mirrored has the number of the row that mirrors its own (`order` read backwards); counting begins at the target's
`shift`; the last is served first. `SHORTLIST` has the value that `pipeline.assembly.matching` has: strict histories are
covered from the most similar candidates, and from the others only where those do not fill the history.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import mul
from typing import NamedTuple

from sklearn.cluster import KMeans

from pipeline.quality.rules import check_pair
from schemas.config import HistoryConfig, MiningConfig, RulesConfig

Levels = tuple[int, ...]
Shares = Sequence[Sequence[float]]

SHORTLIST = 64


def sign(number: float) -> int:
    return (number > 0) - (number < 0)


@lru_cache(maxsize=1 << 16)
def direction_of(chosen: Levels, rejected: Levels) -> Levels:
    return tuple(sign(high - low) for high, low in zip(chosen, rejected, strict=True))


@lru_cache(maxsize=1 << 16)
def hot(levels: Levels) -> tuple[int, ...]:
    return tuple(int(level == pole) for level in levels for pole in (1, 0, -1))


@lru_cache(maxsize=1 << 16)
def length(levels: Levels) -> float:
    return math.sqrt(sum(number * number for number in hot(levels)))


@lru_cache(maxsize=1 << 20)
def cosine(a: Levels, b: Levels) -> float:
    product: int = sum(map(mul, hot(a), hot(b)))
    return product / (length(a) * length(b))


def vote(parts: Sequence[Levels]) -> Levels:
    """Return the majority of each dimension: a pole of more than half, or none."""
    return tuple(
        next((pole for pole in (1, -1) if 2 * sum(level == pole for level in column) > len(column)), 0)
        for column in zip(*parts, strict=True)
    )


def meets_criterion(parts: Sequence[Levels]) -> bool:
    """Return whether some active dimension has the same sign in every part, as the paper requires."""
    return any(column[0] != 0 and len(set(column)) == 1 for column in zip(*parts, strict=True))


def partition(levels: Sequence[Levels], most: int, seed: int) -> list[int]:
    """Return the cluster of each response, numbered as they appear."""
    if len(set(levels)) <= most:
        found: list[object] = [*levels]
    else:
        found = [*KMeans(n_clusters=most, n_init=1, random_state=seed).fit_predict([hot(row) for row in levels])]
    appeared = [label for k, label in enumerate(found) if label not in found[:k]]
    return [appeared.index(label) for label in found]


def draw(labels: Sequence[int], numbers: Sequence[float]) -> tuple[int, int]:
    """Return the positions of chosen and rejected: two different clusters, then a member of each."""

    def take(some: Sequence[int], number: float) -> int:
        return some[math.floor(number * len(some))]

    clusters = sorted(set(labels))
    first = take(clusters, numbers[0])
    second = take([cluster for cluster in clusters if cluster != first], numbers[1])
    chosen, rejected = ([k for k, label in enumerate(labels) if label == cluster] for cluster in (first, second))
    return take(chosen, numbers[2]), take(rejected, numbers[3])


def margin_of(chosen: Shares, rejected: Shares, direction: Levels) -> float:
    """Return half the mean distance of expected levels in active dimensions, less that in the others."""
    distances: dict[bool, list[float]] = {True: [], False: []}
    for a, b, level in zip(chosen, rejected, direction, strict=True):
        distances[level != 0].append(abs((a[0] - a[1]) - (b[0] - b[1])) / 2)
    mean = {active: sum(found) / len(found) if found else 0.0 for active, found in distances.items()}
    return mean[True] - mean[False]


@dataclass(frozen=True)
class Slot:
    """What became of one of a thread's pairs: positions of chosen and rejected, and why attempts were refused."""

    pair: tuple[int, int] | None
    attempt: int
    refused: list[str]


def mine(
    texts: Sequence[str],
    levels: Sequence[Levels],
    shares: Sequence[Shares],
    numbers: Sequence[Sequence[Sequence[float]]],
    seed: int,
    mining: MiningConfig,
    rules: RulesConfig,
) -> list[Slot]:
    """Return a thread's pairs. `numbers` are four for each attempt of each pair."""
    if len(texts) < 2:
        return [Slot(None, 0, ["too_few_responses"]) for _ in numbers]
    if len(set(levels)) == 1:
        return [Slot(None, 0, ["one_cluster"]) for _ in numbers]
    labels = partition(levels, mining.clusters, seed)
    slots: list[Slot] = []
    for attempts in numbers:
        refused: list[str] = []
        found = None
        for four in attempts:
            chosen, rejected = draw(labels, four)
            violation = check_pair(texts[chosen], texts[rejected], rules)
            margin = margin_of(shares[chosen], shares[rejected], direction_of(levels[chosen], levels[rejected]))
            if any(slot.pair in ((chosen, rejected), (rejected, chosen)) for slot in slots):
                refused.append("repeated")
            elif not mining.min_margin <= margin <= mining.max_margin:
                refused.append("margin")
            elif violation:
                refused.append(violation.reason)
            else:
                found = chosen, rejected
                break
        slots.append(Slot(found, len(refused), refused))
    return slots


@dataclass(frozen=True)
class Entry:
    """A mined pair, or one that is mirrored: the post, both replies and their levels."""

    post: str
    chosen: str
    rejected: str
    chosen_levels: Levels
    rejected_levels: Levels

    @property
    def direction(self) -> Levels:
        return direction_of(self.chosen_levels, self.rejected_levels)

    def mirrored(self) -> Entry:
        return Entry(self.post, self.rejected, self.chosen, self.rejected_levels, self.chosen_levels)


class View(NamedTuple):
    row: int
    is_mirrored: bool

    def mirrored(self) -> View:
        return View(self.row, not self.is_mirrored)


@dataclass(frozen=True)
class Person:
    """A history, as views of the entries."""

    ugc: list[View]
    pair: list[View]
    support: float


def seen(entries: Sequence[Entry], view: View) -> Entry:
    return entries[view.row].mirrored() if view.is_mirrored else entries[view.row]


def places(order: Sequence[float], shift: float) -> dict[View, int]:
    """Return the place of every view on the circle of ties."""
    rows = len(order)
    views = [View(row, is_mirrored) for is_mirrored in (False, True) for row in range(rows)]
    numbered = sorted(views, key=lambda view: order[rows - 1 - view.row] if view.is_mirrored else order[view.row])
    start = int(shift * 2 * rows)
    return {view: (place + start) % (2 * rows) for place, view in enumerate(numbered)}


@dataclass(frozen=True)
class Part:
    """A part of the history of `person`: how similar an item is to the target, and what it shows of the person."""

    person: Entry
    similarity: Callable[[Entry], float]
    shows: Callable[[Entry], Levels]

    def supported(self, item: Entry) -> set[int]:
        shown = self.shows(item)
        return {d for d, level in enumerate(self.person.direction) if level and shown[d] == level}

    def is_contradicted(self, item: Entry) -> bool:
        shown = self.shows(item)
        return any(level and shown[d] == -level for d, level in enumerate(self.person.direction))


def ugc_part(person: Entry) -> Part:
    return Part(person, lambda item: cosine(person.chosen_levels, item.chosen_levels), lambda item: item.chosen_levels)


def pair_part(person: Entry) -> Part:
    def similarity(item: Entry) -> float:
        """Return the smaller cosine, as both replies must be similar."""
        to_chosen = cosine(person.chosen_levels, item.chosen_levels)
        return min(to_chosen, cosine(person.rejected_levels, item.rejected_levels))

    return Part(person, similarity, lambda item: item.direction)


def pick(
    part: Part,
    size: int,
    entries: Sequence[Entry],
    place: dict[View, int],
    rules: HistoryConfig,
    used: set[int],
    covered: set[int],
) -> list[View]:
    """Return up to `size` views. Add their rows to `used` and their dimensions to `covered`."""

    def fitting(views: Sequence[View]) -> list[View]:
        """Return the views that repeat no used post or reply."""
        posts = {entries[row].post for row in used}
        replies = {reply for row in used for reply in (entries[row].chosen, entries[row].rejected)}
        fits = [item.post not in posts and not {item.chosen, item.rejected} & replies for item in entries]
        return [view for view in views if fits[view.row]]

    items = {view: seen(entries, view) for view in place}
    # Cosines of as many matches are the same but for rounding, and those of one more are farther apart than that.
    near = [view for view, item in items.items() if part.similarity(item) > rules.min_similarity + 1e-9]
    if rules.consistency == "strict":
        near = [view for view in near if not part.is_contradicted(items[view])]
    near.sort(key=lambda view: (-part.similarity(items[view]), -place[view]))
    supported = {view: part.supported(items[view]) for view in near}
    picked: list[View] = []
    for candidates in (near[:SHORTLIST], near):
        while len(picked) < size:
            free = fitting(candidates)
            if not free:
                break
            if rules.consistency == "strict":
                # Stable: of several that are equal in this, the most similar stays first.
                free.sort(key=lambda view: (-len(supported[view] - covered), -len(supported[view])))
            picked.append(free[0])
            used.add(free[0].row)
            covered |= supported[free[0]]
    return picked


def people(
    entries: Sequence[Entry],
    target: int,
    rules: HistoryConfig,
    sides: Sequence[int],
    order: Sequence[float],
    shift: float,
) -> list[Person] | str:
    """Return the histories of the person who prefers the chosen reply and of the opposite one, or why there is none."""
    place, used, covered = places(order, shift), {target}, set[int]()
    pair = pick(pair_part(entries[target]), rules.pair, entries, place, rules, used, covered)
    if len(pair) < rules.pair:
        return "history_too_short"
    result = []
    for side in sides:
        person = entries[target] if side > 0 else entries[target].mirrored()
        # What the opposite person wrote repeats nothing of the pairs, but is chosen by itself.
        by_now = {*covered}
        ugc = pick(ugc_part(person), rules.ugc, entries, place, rules, {*used}, by_now)
        if len(ugc) < rules.ugc:
            return "history_too_short"
        views = pair if side > 0 else [view.mirrored() for view in pair]
        support = len(by_now) / sum(level != 0 for level in person.direction)
        if rules.consistency == "paper":
            wrote = [seen(entries, view).chosen_levels for view in ugc]
            preferred = [seen(entries, view).direction for view in views]
            if not meets_criterion([person.direction, *(vote(part) for part in (wrote, preferred) if part)]):
                return "history_inconsistent"
        elif support < rules.min_support and rules.ugc + rules.pair:
            return "history_without_support"
        result.append(Person(ugc, views, support))
    return result
