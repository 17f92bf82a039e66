from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pipeline.report.settings import ReportSettings
from pipeline.report.shown_rows import ShownExamples, ShownRejections
from pipeline.report.source import Build, open_build, read_batches
from schemas.report import ExampleItem, ShownExample, ShownRejection
from tests.pipeline.report.builds import (
    SLUGS,
    Row,
    comment,
    direction,
    feedback,
    pair,
    random_shards,
    rejection,
    rows_of,
    sent,
    write_build,
)


@pytest.fixture(scope="module")
def shards() -> dict[str, list[Row]]:
    """Return four shards with a rare pole in one row of the largest split."""
    shards = random_shards(120)
    for split, pairs in (("train-00000-of-00002", 100), ("train-00001-of-00002", 100)):
        shards[split] += [row for k in range(pairs) for row in pair(f"{split}{k}", direction(tone=1))]
    shards["train-00001-of-00002"] += pair("rare", direction(risk=1), mirror=False)
    return shards


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory, shards: dict[str, list[Row]]) -> Build:
    return open_build(write_build(tmp_path_factory.mktemp("shown"), shards))


def examples_of(build: Build, order: tuple[int, ...] = (0, 1, 2, 3), **settings: Any) -> tuple[ShownExample, ...]:
    chosen = ReportSettings(**settings)
    total = ShownExamples(build.space, build.splits, chosen)
    for shard in order:
        shown = ShownExamples(build.space, build.splits, chosen)
        for batch in read_batches(build, shard):
            shown.add(batch)
        total.merge(sent(shown))
    return total.result(build)


def test_every_pole_is_shown(build: Build) -> None:
    shown = examples_of(build, examples=20)
    poles = {(slug, level) for example in shown for slug, level in example.direction.items()}

    assert len(shown) == 20
    assert poles == {(slug, level) for slug in SLUGS[:4] for level in (1, -1)} | {("risk", 1)}


def test_splits_have_equal_shares(build: Build) -> None:
    splits = Counter(example.split for example in examples_of(build, examples=90))

    assert splits.total() == 90
    assert set(splits) == {"train", "validation", "test"}
    assert min(splits.values()) > 24


def test_users_are_shown_whole(tmp_path: Path) -> None:
    rows = [
        row
        for user in range(12)
        for k in range(3)
        for row in pair(f"u{user}-{k}", direction(tone=1), user=f"u{user}", user_levels=direction(tone=1, risk=1))
    ]
    build = open_build(write_build(tmp_path, {"train-00000-of-00001": rows}))
    shown = examples_of(build, (0,), examples=12)

    # Besides the two rows that show both poles.
    assert sorted(Counter(example.user_id for example in shown).values()) == [3, 3, 3, 3]
    assert {example.user_id[-1]: example.user_direction for example in shown} == {
        "a": {"tone": 1, "risk": 1},
        "b": {"tone": -1, "risk": -1},
    }


def test_few_examples_are_all_shown_in_their_order(build: Build, shards: dict[str, list[Row]]) -> None:
    assert [example.id for example in examples_of(build, examples=10_000)] == [row["id"] for _, row in rows_of(shards)]


def test_no_examples_are_shown_where_none_are_wanted(build: Build) -> None:
    assert examples_of(build, examples=0) == ()


def test_examples_do_not_depend_on_the_order_of_the_shards(build: Build) -> None:
    assert examples_of(build, (3, 1, 0, 2), examples=30) == examples_of(build, examples=30)


def test_the_seed_chooses_the_examples(build: Build) -> None:
    assert examples_of(build, examples=30, seed=1) != examples_of(build, examples=30, seed=2)


def test_examples_fit_the_budget(build: Build) -> None:
    shown = examples_of(build, examples=1000, example_bytes=20_000)
    size = sum(len(example.model_dump_json().encode()) for example in shown)

    assert 18_000 < size <= 20_000


def test_an_example_is_shown_whole(tmp_path: Path) -> None:
    hostile = "</script><script>alert(1)</script> \x00\x1b[31m \u2028 {{data}} 猫"
    rows = pair(
        "p",
        direction(tone=1, risk=-1),
        prompt=hostile,
        chosen=f"{hostile} yes",
        rejected=f"{hostile} no",
        portraits=(f"{hostile} she", "he"),
        comments=[comment(direction(order=-1), "post", hostile)],
        pairs=[feedback(direction(tone=1), "other", "one", "two")],
        support=0.5,
    )
    build = open_build(write_build(tmp_path, {"test-00000-of-00001": rows}))
    first, mirrored = examples_of(build, (0,))

    assert first == ShownExample(
        id="p-a",
        split="test",
        mirrored=False,
        source="sampled",
        prompt=hostile,
        chosen=f"{hostile} yes",
        rejected=f"{hostile} no",
        portrait=f"{hostile} she",
        profile="as the direction says",
        direction={"tone": 1, "risk": -1},
        history=(
            ExampleItem(prompt="post", chosen=hostile, rejected="", profile="Likes little order"),
            ExampleItem(prompt="other", chosen="one", rejected="two", profile="Likes much tone (more of it)"),
        ),
        history_support=0.5,
        kind="opposite",
        user_id="",
        user_direction={},
        user_pairs=0,
    )
    assert mirrored.mirrored
    assert mirrored.direction == {"tone": -1, "risk": 1}


def test_an_enormous_example_does_not_keep_out_the_others(tmp_path: Path) -> None:
    rows = [*pair("large", prompt="x" * 3_000_000), *pair("small")]
    build = open_build(write_build(tmp_path, {"train-00000-of-00001": rows}))

    assert [example.id for example in examples_of(build, (0,))] == ["small-a", "small-b"]


def rejections_of(build: Build, order: tuple[int, ...] = (0, 1), **settings: Any) -> tuple[ShownRejection, ...]:
    chosen = ReportSettings(**settings)
    total = ShownRejections(chosen)
    for shard in order:
        drawn = ShownRejections(chosen)
        drawn.add(build, shard)
        total.merge(sent(drawn))
    return total.result(build)


@pytest.fixture
def rejecting(tmp_path: Path) -> Build:
    """Return 300 rejections of one reason, and a few of two others."""
    rng = random.Random(0)
    many = [rejection(f"r{k}", attempt=rng.randrange(3)) for k in range(300)]
    few: list[Row] = [
        rejection("f1", reason="empty", texts=["Reply:", ""], cleaned=["", ""], final=True),
        rejection("f2", reason="empty"),
        rejection("f3", stage="sample", reason="no_dimension", direction=[0] * 5, texts=[]),
        rejection("f4", stage="annotate", reason="unreadable", direction=[], texts=["</script>"]),
    ]
    shards = {"train-00000-of-00001": pair("a"), "test-00000-of-00001": pair("b")}
    rejected = {"train-00000-of-00001": [*many[:200], *few[:2]], "test-00000-of-00001": [*many[200:], *few[2:]]}
    return open_build(write_build(tmp_path, shards, rejected=rejected))


def test_rare_reasons_are_shown(rejecting: Build) -> None:
    reasons = Counter(shown.reason for shown in rejections_of(rejecting, rejections=20))

    assert reasons.pop("validate/too_short") == 16
    assert reasons == {"validate/empty": 2, "sample/no_dimension": 1, "annotate/unreadable": 1}


def test_rejections_do_not_depend_on_the_order_of_the_shards(rejecting: Build) -> None:
    assert rejections_of(rejecting, (1, 0), rejections=20) == rejections_of(rejecting, rejections=20)


def test_a_rejection_is_shown_whole(rejecting: Build) -> None:
    shown: dict[str, Any] = {one.id: one for one in rejections_of(rejecting, rejections=400)}

    assert len(shown) == 304
    assert shown["f1"] == ShownRejection(
        id="f1",
        split="train",
        reason="validate/empty",
        detail="2 words",
        attempt=0,
        final=True,
        prompt="A post.",
        texts=("Reply:", ""),
        cleaned=("", ""),
        direction={"tone": 1},
    )
    assert (shown["f4"].split, shown["f4"].direction, shown["f4"].texts) == ("test", {}, ("</script>",))


def test_rejections_fit_the_budget(rejecting: Build) -> None:
    shown = rejections_of(rejecting, rejections=400, rejection_bytes=5000)

    assert 4500 < sum(len(one.model_dump_json().encode()) for one in shown) <= 5000


def test_missing_rejections_are_said_to_be_missing(rejecting: Build) -> None:
    drawn = ShownRejections(ReportSettings())
    drawn.add(rejecting, 0)
    assert drawn.is_complete
    rejecting.path(1, "rejected/pairs").unlink()
    drawn.add(rejecting, 1)

    assert not drawn.is_complete
