from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.report.source import Build
from pipeline.report.users import UserSample, UserTally
from preference_space.direction import Direction
from schemas.config import BuildConfig
from schemas.manifest import FileEntry
from schemas.report import UserFigures
from tests.pipeline.helpers import made_manifest
from tests.pipeline.report.builds import SLUGS, SPACE, Row, batch_of, comment, direction, feedback, pair, sent

SPLITS = ("train", "test", "test_seen_users")
ONE = direction(tone=1, length=-1, order=1, risk=1)
TWO = direction(tone=-1, humour=1)


def build(**keys: Any) -> Build:
    users = {"persona": "users", "users": {"count": 40, "pairs_per_user": 5}}
    config = BuildConfig.model_validate(users | keys)
    files = tuple(
        FileEntry(path=f"data/{split}-00000-of-00001.parquet", rows=1, bytes=1, sha256="") for split in SPLITS
    )
    return Build(Path("nowhere"), made_manifest(config=config.model_dump(mode="json"), files=files), SPACE)


def figures_of(*parts: list[Row], splits: tuple[int, ...] = (0, 1, 2)) -> UserFigures | None:
    """Return the figures of rows by split, which several processes count."""
    total = UserTally(build(), 1000, 0)
    for split, rows in zip(splits, parts, strict=False):
        tally = UserTally(build(), 1000, 0)
        tally.add(batch_of(rows, split))
        total.merge(sent(tally))
    return total.result()


def found(*parts: list[Row], **keys: Any) -> UserFigures:
    figures = figures_of(*parts, **keys)
    assert figures is not None
    return figures


def rows_of(user: str, levels: list[int], pairs: int, items: Sequence[Row] = ()) -> list[Row]:
    """Return the rows of a user with some pairs."""
    given: dict[str, Any] = {"user": user, "user_levels": levels, "user_pairs": pairs, "pairs": items}
    return [row for k in range(pairs) for row in pair(f"{user}-{k}", levels, **given)]


def test_matched_rows_have_no_users() -> None:
    assert figures_of(pair("p")) is None


def test_users_are_counted_by_split_without_the_opposite_persons() -> None:
    figures = found([*rows_of("u0", ONE, 3), *rows_of("u1", TWO, 5)], rows_of("u2", TWO, 4), rows_of("u1", TWO, 2))

    assert figures.users == 3
    assert [(s.name, s.users, s.fewest, s.mean, s.most) for s in figures.splits] == [
        ("train", 2, 3, 4.0, 5),
        ("test", 1, 4, 4.0, 4),
        ("test_seen_users", 1, 2, 2.0, 2),
    ]


def test_a_user_in_two_row_groups_is_one_user() -> None:
    rows = [*rows_of("u0", ONE, 3), *rows_of("u1", TWO, 2)]
    tally = UserTally(build(), 1000, 0)
    for start in range(0, len(rows), 4):
        batch = batch_of(rows[start : start + 4])
        tally.add(type(batch)(0, 0, start, batch.table))
    # The last user of one shard may be the first of the next one.
    tally.add(batch_of(rows_of("u1", TWO, 2), split=2, shard=1))
    figures = tally.result()

    assert figures is not None
    assert [(s.users, s.mean) for s in figures.splits] == [(2, 2.5), (0, 0.0), (1, 2.0)]
    assert figures.positive == tuple(int(ONE[d] > 0) + int(TWO[d] > 0) for d in range(len(SLUGS)))


def test_seen_users_are_shared_and_others_leak() -> None:
    seen = found(rows_of("u0", ONE, 2), rows_of("u1", ONE, 2), rows_of("u0", ONE, 2))
    leaked = found(rows_of("u0", ONE, 2), rows_of("u0", ONE, 2))

    assert (seen.shared, seen.leaked) == (1, 0)
    assert (leaked.shared, leaked.leaked) == (0, 1)


def test_directions_are_those_of_different_users() -> None:
    mirrored_first = rows_of("u1", TWO, 1)[::-1]
    figures = found([*rows_of("u0", ONE, 2), *mirrored_first], rows_of("u2", TWO, 1), rows_of("u0", ONE, 2))

    assert figures.positive == (1, 0, 2, 1, 1)
    assert figures.negative == (2, 1, 0, 0, 0)
    assert figures.active == (0, 0, 2, 0, 1)
    assert figures.distinct_directions == 2


def test_the_history_shows_a_user_item_by_item() -> None:
    # Pair, comment, pair: the second pair shows one dimension again, and a new one.
    rows = pair(
        "p",
        direction(tone=1),
        user="u0",
        user_levels=ONE,
        comments=[comment(direction(risk=1, order=1, humour=1))],
        pairs=[feedback(direction(tone=1)), feedback(direction(tone=1, length=-1))],
    )
    figures = found(rows)

    assert figures.shown == pytest.approx((0, 1 / 4, 3 / 4, 4 / 4))


def test_items_count_in_the_order_in_which_they_were_dealt() -> None:
    # Of one comment and three pairs, the comment is the last item.
    levels = [direction(**{slug: int(ONE[d])}) for d, slug in enumerate(SLUGS) if ONE[d]]
    row = pair(
        "p", levels[0], user="u0", user_levels=ONE, comments=[comment(levels[0])], pairs=list(map(feedback, levels[1:]))
    )
    tally = UserTally(build(history={"ugc": 1, "pair": 3}), 1000, 0)
    tally.add(batch_of(row))
    figures = tally.result()

    assert len(levels) == 4
    assert figures is not None
    assert figures.shown == pytest.approx((0, 1 / 4, 2 / 4, 3 / 4, 4 / 4))


def test_a_row_with_few_items_counts_with_all_of_them() -> None:
    given: dict[str, Any] = {"user": "u0", "user_levels": TWO}
    none = pair("a", direction(tone=-1), **given)
    two = pair("b", direction(tone=-1), pairs=[feedback(direction(tone=-1)), feedback(TWO)], **given)
    # A level of the opposite pole shows nothing of the user.
    against = pair("c", direction(tone=-1), pairs=[feedback(direction(tone=1))], **given)
    figures = found([*none, *two, *against])

    assert figures.shown == pytest.approx((0, 0.5 / 3, 1 / 3))


def test_the_nearest_user_is_found() -> None:
    levels = np.array([ONE, ONE, TWO], dtype=np.int8)
    sample = UserSample(10, len(SLUGS), 0)
    sample.add(np.arange(3, dtype=np.uint64), levels)
    alike = sample.similarity()

    # Those of one direction have a cosine of 1; the third one disagrees with both, which counts as 0.
    assert alike is not None
    assert alike.mean == pytest.approx(2 / 3)
    assert alike.largest == 1.0


def test_one_user_has_no_nearest_one() -> None:
    assert found(rows_of("u0", ONE, 2)).similarity is None


def test_a_sample_of_users_does_not_depend_on_the_order() -> None:
    rng = np.random.default_rng(0)
    levels: Direction = rng.integers(-1, 2, (50, len(SLUGS)), dtype=np.int8)
    users = rng.integers(0, 2**63, 50).astype(np.uint64)
    samples = []
    for parts in (np.split(np.arange(50), 5), np.split(np.arange(50)[::-1], 2)):
        total = UserSample(20, len(SLUGS), 0)
        for part in parts:
            sample = UserSample(20, len(SLUGS), 0)
            sample.add(users[part], levels[part])
            total.merge(sample)
        samples.append(total)

    assert len(samples[0]) == 20
    assert samples[0].similarity() == samples[1].similarity()


def test_merged_figures_are_those_of_all() -> None:
    rng = random.Random(3)
    users = []
    for number in range(12):
        levels = [rng.choice((-1, 0, 1)) for _ in SLUGS[1:]] + [1]
        items = [feedback([level * rng.randint(0, 1) for level in levels]) for _ in range(rng.randint(0, 3))]
        users.append(rows_of(f"u{number}", levels, rng.randint(1, 4), items))
    parts = [[row for user in users[k : k + 3] for row in user] for k in range(0, 12, 3)]

    whole = [[*parts[0], *parts[2]], [*parts[1], *parts[3]]]
    assert found(*parts, splits=(0, 1, 0, 1)) == found(*whole, splits=(0, 1))
