"""The blind sample of a build: a sheet for reviewers, and its key.

Both are a pure function of the build's files and the settings. So no key is stored: scoring draws the sample again, and
the sheet's digest says whether it is the one that was labelled. Replies are ordered by a hash of their texts, and the
pole in question by one of the dimension. The sheet would be the same if the replies' roles were swapped; neither its
source nor this code tells a reviewer which reply is the chosen one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow.compute as pc

from pipeline.io.shards import read_groups
from pipeline.reading.text import hash_texts
from pipeline.report.source import Build, place_of, read_columns, reading_stored, row_of, shard_of
from pipeline.report.texts import Hashes, Integers, rehash
from preference_space.direction import from_released
from preference_space.levels import claimed
from preference_space.space import Dimension
from schemas.base import UsageError
from schemas.review import ReviewSettings, Sheet, SheetDimension, SheetPair, SheetPole


@dataclass(frozen=True)
class Question:
    """The key of one question. Its levels say which pole the chosen reply is to show more."""

    pair: Drawn
    dimension: int
    first: int
    """Level that the answer "first" stands for."""

    @property
    def asked(self) -> int:
        """Return the level before filtering."""
        return self.pair.asked[self.dimension]

    @property
    def stored(self) -> int:
        """Return the level in the dataset; 0 where verification dropped the dimension or the pair."""
        return self.pair.stored[self.dimension]

    @property
    def margin(self) -> float | None:
        """Return the judge's margin towards the positive pole."""
        return self.pair.margins[self.dimension] if self.pair.margins else None


@dataclass(frozen=True)
class Drawn:
    """A pair of the sample. Levels say how the chosen reply differs from the rejected one (`levels.claimed`).

    `asked` are those before filtering, `stored` those of the dataset: neutral for a pair that verification refused.
    """

    name: str
    """Identity in the build."""
    post_id: str
    prompt: str
    chosen: str
    rejected: str
    asked: tuple[int, ...]
    stored: tuple[int, ...]
    margins: tuple[float | None, ...]
    judge: str
    is_before: bool
    """Whether it was drawn from the pairs before filtering, and all that was asked is in question."""


@dataclass(frozen=True)
class Sample:
    """A sheet with its key: questions by the sheet's pair and the dimension's slug."""

    sheet: Sheet
    key: dict[tuple[str, str], Question]


def draw_sample(build: Build, settings: ReviewSettings) -> Sample:
    """Draw the pairs with the lowest hashes of their ids, from all splits together.

    Where verification filtered, the share `before` of the pairs comes from all that the judge saw, refused ones too.
    These are asked about as they were before. The others come from the dataset.

    Raises:
        UsageError: A file that says what was asked before filtering is missing.
    """
    is_filtered = build.manifest.config["verification"]["mode"] == "filter"
    before = round(settings.pairs * settings.before) if is_filtered else 0
    kept = _find_kept(build)
    found = [kept, _find_refused(build)] if before else [kept]
    keys, places = (np.concatenate(column) for column in zip(*found, strict=True))
    is_kept = np.arange(len(keys)) < len(kept.keys)
    order = np.lexsort((places, ~is_kept, rehash(keys, settings.seed)))
    # The dataset's pairs continue where the others end, so those of both parts are a fair sample of the dataset.
    first, rest = order[:before], order[before:]
    rest = rest[is_kept[rest]][: settings.pairs - before]
    drawn = [
        *_read_kept(build, places[first[is_kept[first]]], is_before=True),
        *_read_refused(build, places[first[~is_kept[first]]]),
        *_read_kept(build, places[rest], is_before=False),
    ]
    return _sample_of(build, settings, drawn)


class _Found(NamedTuple):
    """Candidates: hashes of their identities, and their places in the build."""

    keys: Hashes
    places: Integers


_KEPT, _REFUSED, _POOL = "data", "rejected/pairs", "pool"


def _find_kept(build: Build) -> _Found:
    """Find the pairs of the dataset, without mirror images."""
    keys, places = [], []
    for shard in range(len(build.manifest.files)):
        table = read_columns(build.path(shard, _KEPT), ["pair_id", "mirrored"])
        if table is None:
            raise _missing(build, shard, _KEPT)
        rows = np.flatnonzero(~table["mirrored"].to_numpy())
        keys.append(hash_texts(table["pair_id"].take(rows).to_pylist()))
        places.append(place_of(shard, rows))
    return _Found(np.concatenate(keys), np.concatenate(places))


def _find_refused(build: Build) -> _Found:
    """Find the attempts that the judge saw and verification refused."""
    keys, places = [], []
    for shard in range(len(build.manifest.files)):
        table = read_columns(build.path(shard, _REFUSED), ["record_id", "attempt", "stage", "direction_margin"])
        if table is None:
            raise _missing(build, shard, _REFUSED)
        is_judged = pc.greater(pc.list_value_length(table["direction_margin"]), 0)
        rows = np.flatnonzero(pc.and_(pc.equal(table["stage"], "verify"), is_judged).to_numpy())
        refused = table.take(rows)
        names = map(_attempt_name, refused["record_id"].to_pylist(), refused["attempt"].to_pylist())
        keys.append(hash_texts(names))
        places.append(place_of(shard, rows))
    return _Found(np.concatenate(keys), np.concatenate(places))


def _read_kept(build: Build, places: Integers, is_before: bool) -> Iterator[Drawn]:
    for shard, rows in _rows(build, places, _KEPT):
        asked = _asked_directions(build, shard) if is_before else {}
        for row in rows:
            stored = from_released(row["Preference Direction"]).tolist()
            yield Drawn(
                name=row["pair_id"],
                post_id=row["post_id"],
                prompt=row["prompt"],
                chosen=row["chosen"],
                rejected=row["rejected"],
                # Empty for a pair that no judge saw, such as a mined one.
                asked=_claimed(asked.get(row["pair_id"]) or stored, row["kind"]),
                stored=_claimed(stored, row["kind"]),
                margins=tuple(row["direction_margin"]),
                judge=row["judge"],
                # What no judge saw was not filtered.
                is_before=is_before and bool(row["judge"]),
            )


def _claimed(direction: list[int], kind: str) -> tuple[int, ...]:
    levels: list[int] = claimed(np.array([direction], dtype=np.int8), [kind])[0].tolist()
    return tuple(levels)


def _asked_directions(build: Build, shard: int) -> dict[str, list[int]]:
    """Return the directions before filtering by pair, which only the pool has."""
    table = read_columns(build.path(shard, _POOL), ["pair_id", "asked_direction"])
    if table is None:
        raise _missing(build, shard, _POOL)
    return dict(zip(table["pair_id"].to_pylist(), table["asked_direction"].to_pylist(), strict=True))


def _read_refused(build: Build, places: Integers) -> Iterator[Drawn]:
    for _, rows in _rows(build, places, _REFUSED):
        for row in rows:
            chosen, rejected = row["cleaned"]
            yield Drawn(
                name=_attempt_name(row["record_id"], row["attempt"]),
                post_id=row["post_id"],
                prompt=row["prompt"],
                chosen=chosen,
                rejected=rejected,
                asked=_claimed(row["direction"], row["kind"]),
                stored=(0,) * len(row["direction"]),
                margins=tuple(row["direction_margin"]),
                judge="",
                is_before=True,
            )


def _rows(build: Build, places: Integers, folder: str) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """Yield whole rows by shard, in the build's order. Only row groups with such rows are read."""
    of_shard: dict[int, list[int]] = {}
    for place in np.sort(places).tolist():
        of_shard.setdefault(shard_of(place), []).append(row_of(place))
    for shard, rows in of_shard.items():
        with reading_stored():
            table = read_groups(build.path(shard, folder), np.array(rows))
        yield shard, table.to_pylist()


def _missing(build: Build, shard: int, folder: str) -> UsageError:
    return UsageError(
        f"{build.path(shard, folder)} is missing; restore it"
        + ("" if folder == _KEPT else ", or review the dataset alone with --before 0")
    )


def _attempt_name(record_id: str, attempt: int) -> str:
    return f"{record_id} attempt {attempt}"


def _sample_of(build: Build, settings: ReviewSettings, drawn: list[Drawn]) -> Sample:
    pairs: dict[str, SheetPair] = {}
    key: dict[tuple[str, str], Question] = {}
    for pair in drawn:
        # Of the texts alone: an id of the row or the attempt, even hashed, would tell what verification refused.
        name = _digest(pair.prompt, *sorted((pair.chosen, pair.rejected)))
        replies = sorted((pair.chosen, pair.rejected), key=lambda text: _digest(settings.seed, name, text))
        questions: dict[str, int] = {}
        for d in np.flatnonzero(pair.asked).tolist():
            slug = build.space.dimensions[d].slug
            questions[slug] = 1 if int(_digest(settings.seed, name, slug), 16) % 2 else -1
            key[name, slug] = Question(pair, d, questions[slug] * (1 if replies[0] == pair.chosen else -1))
        pairs[name] = SheetPair(
            id=name,
            prompt=pair.prompt,
            replies=(replies[0], replies[1]),
            questions={slug: "positive" if level > 0 else "negative" for slug, level in questions.items()},
        )
    # Another order than that of the draw, in which pairs before filtering come first.
    in_order = sorted(pairs, key=lambda name: _digest(settings.seed, "order", name))
    asked = np.any(np.array([pair.asked for pair in drawn]) != 0, axis=0)
    sheet = Sheet(
        name=build.manifest.name,
        fingerprint=build.manifest.fingerprint,
        style=build.manifest.config["style"],
        settings=settings,
        dimensions={
            d.slug: _sheet_dimension(d) for d, is_asked in zip(build.space.dimensions, asked, strict=True) if is_asked
        },
        pairs=tuple(pairs[name] for name in in_order),
    )
    return Sample(sheet, key)


def _sheet_dimension(dimension: Dimension) -> SheetDimension:
    positive, negative = (
        SheetPole(label=pole.label, description=pole.description) for pole in (dimension.positive, dimension.negative)
    )
    return SheetDimension(name=dimension.name, question=dimension.question, positive=positive, negative=negative)


def _digest(*parts: int | str) -> str:
    return hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).hexdigest()
