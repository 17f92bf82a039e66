from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.io.manifests import load_manifest
from pipeline.report import measure as measuring
from pipeline.report.contamination import BenchmarkRuns
from pipeline.report.funnel import cost_of
from pipeline.report.measure import Scope, Tallies, measure
from pipeline.report.settings import ReportSettings
from pipeline.report.source import open_build
from schemas.base import UserError
from schemas.config import BuildConfig
from schemas.manifest import Counts, VerificationCounts
from schemas.report import Report
from tests.pipeline.report.builds import (
    SPACE,
    Row,
    direction,
    pair,
    pooled,
    random_shards,
    rejection,
    report_of,
    rows_of,
    run,
    sent,
    write_build,
)

LONG = "You should call your sister tonight, tell her all of it, and then sleep on it for a whole week or two."
HOSTILE = "</script><script>alert(1)</script> [bold]x[/] {{data}} \x00\x1b[31m \u202e \u2028 ' \" \\ 猫"


@pytest.fixture(scope="module")
def shards() -> dict[str, list[Row]]:
    """Return random rows, with near-duplicate replies within and across splits."""
    shards = random_shards(80)
    shards["train-00000-of-00002"] += pair("planted1", chosen=LONG, rejected=f"{LONG} Or not.")
    shards["train-00001-of-00002"] += [*pair("planted2", chosen=LONG), *pair("planted3", chosen=LONG)]
    shards["test-00000-of-00001"] += [*pair("planted4", chosen=LONG), *pair("planted5", rejected=f"So, {LONG}")]
    return shards


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, shards: dict[str, list[Row]]) -> Path:
    names = [*shards]
    return write_build(
        tmp_path_factory.mktemp("measure"),
        shards,
        rejected={names[0]: [rejection(f"r{k}") for k in range(20)], names[3]: [rejection("s", reason="empty")]},
        pool={names[0]: [pooled(0), pooled(0), pooled(2)], names[1]: [pooled(0), pooled(1)], names[3]: [pooled(0)]},
    )


@pytest.fixture(scope="module")
def report(folder: Path) -> Report:
    return report_of(folder)


def without_date(report: Report) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(report.model_dump_json())
    content.pop("created")
    return content


def once(shards: dict[str, list[Row]]) -> list[tuple[str, Row]]:
    return [(split, row) for split, row in rows_of(shards) if not row["mirrored"]]


def test_rows_pairs_and_posts_are_counted(report: Report, shards: dict[str, list[Row]]) -> None:
    rows, pairs = rows_of(shards), once(shards)

    assert report.examples == len(rows)
    assert report.pairs == len(pairs)
    assert report.posts == len({row["prompt"] for _, row in rows})
    assert [split.name for split in report.splits] == ["train", "validation", "test"]
    for split in report.splits:
        assert split.examples == sum(name == split.name for name, _ in rows)
        assert split.pairs == sum(name == split.name for name, _ in pairs)
        assert split.posts == len({row["prompt"] for name, row in rows if name == split.name})


def test_duplicates_are_counted_within_and_across_splits(report: Report, shards: dict[str, list[Row]]) -> None:
    replies = [(split, row[name]) for split, row in once(shards) for name in ("chosen", "rejected")]
    within = Counter(replies)
    splits: dict[str, set[str]] = {}
    posts: dict[str, set[str]] = {}
    for split, text in replies:
        splits.setdefault(text, set()).add(split)
    for split, row in once(shards):
        posts.setdefault(row["prompt"], set()).add(split)

    assert report.duplicates.replies == len(replies)
    assert report.duplicates.exact_within == sum(number - 1 for number in within.values()) > 2
    assert report.duplicates.exact_across == sum(len(found) > 1 for found in splits.values()) > 1
    assert report.duplicates.posts_across == sum(len(found) > 1 for found in posts.values()) > 1


def test_near_duplicates_are_counted_and_shown(report: Report) -> None:
    # Of train "... Or not."; of test "So, ...". Across: both of train with both of test.
    assert (report.duplicates.near_within, report.duplicates.near_across) == (2, 4)
    assert report.duplicates.near_threshold == 0.8
    assert len(report.duplicates.examples) > 1
    for one, other in report.duplicates.examples:
        assert LONG in one
        assert LONG in other


def test_all_parts_are_there(report: Report, shards: dict[str, list[Row]]) -> None:
    rows = [row for _, row in rows_of(shards)]

    assert report.model == "stub"
    assert sum(report.active) == len(rows)
    assert len(report.dimensions) == 5
    # Mirror images alone would give 0.5; restraint pairs have none.
    assert report.lengths.length_auc == pytest.approx(
        np.mean([0.5 + 0.5 * np.sign(len(row["chosen"]) - len(row["rejected"])) for row in rows])
    )
    assert report.lengths.longer_chosen_unmirrored != 0.5
    assert report.history.support.mean == pytest.approx(np.mean([row["history_support"] for row in rows]))
    assert report.diversity.distinct_directions == len({tuple(row["Preference Direction"]) for row in rows})
    assert report.diversity.sampled == 2 * report.pairs
    assert report.copies.label == 0
    assert report.users is None
    assert {kind.kind: kind.examples for kind in report.kinds} == Counter(row["kind"] for row in rows)
    assert report.attempts == (4, 1, 1)
    assert len(report.shown) == len(rows)
    assert len(report.rejections) == 21
    assert report.counts.prompt_tokens == 9000
    assert (report.notes, report.pace, report.contamination) == ((), (), ())


def test_cost_is_of_all_tokens(folder: Path, report: Report) -> None:
    priced = report_of(folder, prompt_price=2.0, completion_price=10.0, currency="EUR").cost

    assert (report.cost.total, report.cost.currency) == (None, None)
    assert report.cost.tokens_per_example == 10_000 / report.examples
    assert (report.cost.seconds, report.cost.tokens_per_second) == (100, 10)
    assert (priced.total, priced.currency) == (0.028, "EUR")


def test_cost_without_prices_is_that_of_the_runs(folder: Path) -> None:
    manifest = load_manifest(folder)
    runs = tuple(run.model_copy(update={"cost": cost}) for run, cost in zip(manifest.runs, (0.5, None), strict=True))
    engine = {"price": {"prompt": 1.0, "completion": 2.0, "hour": 0.0, "currency": "EUR"}}
    priced = manifest.model_copy(update={"runs": runs, "config": manifest.config | {"engine": engine}})

    cost = cost_of(priced, 10, ReportSettings())

    assert (cost.total, cost.currency, cost.prompt_price, cost.completion_price) == (0.5, "EUR", 1.0, 2.0)


def test_one_price_is_no_price() -> None:
    with pytest.raises(ValueError, match="or neither"):
        ReportSettings(prompt_price=1.0)


def test_two_reports_are_equal_but_for_the_date(folder: Path, report: Report) -> None:
    assert without_date(report_of(folder)) == without_date(report)


def test_number_of_processes_changes_nothing(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "test.txt").write_text(LONG)
    steps: list[tuple[str, int, int]] = []
    contaminated = (tmp_path / "test.txt",)
    settings: Any = {"contamination": contaminated, "diversity_replies": 30, "near_replies": 40, "examples": 9}
    several = measure(
        folder, ReportSettings(workers=2, **settings), lambda what, done, of: steps.append((what, done, of))
    )

    assert without_date(several) == without_date(report_of(folder, **settings))
    assert several.contamination[0].replies == 10
    assert ("shards", 4, 4) in steps
    assert steps[0] == ("benchmarks", 0, 1)
    assert steps[-1] == ("samples", 3, 3)


def test_order_of_the_shards_changes_nothing(folder: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "runs.npy", np.array([1, 2], dtype=np.uint64))
    benchmark = BenchmarkRuns("x", 1, 2, tmp_path / "runs.npy")
    scope = Scope(open_build(folder), ReportSettings(examples=10, near_replies=30, hashes=50), (benchmark,))
    reports = []
    for order in ((0, 1, 2, 3), (3, 1, 2, 0), (2, 3, 0, 1)):
        total = Tallies(scope)
        for shard in order:
            part = Tallies(scope)
            part.add(scope.build, shard)
            total.merge(sent(part))
        reports.append(without_date(measuring._make_report(scope, total, lambda *_: None)))

    assert reports[0] == reports[1] == reports[2]


def test_estimates_are_noted(folder: Path) -> None:
    report = report_of(folder, hashes=50)

    assert any("scaled up" in note for note in report.notes)
    assert report.duplicates.exact_within == pytest.approx(report_of(folder).duplicates.exact_within, rel=0.8)


def test_a_bias_of_one_direction_is_found(tmp_path: Path) -> None:
    rows = [
        row
        for k in range(40)
        for row in pair(
            f"p{k}",
            direction(humour=1 if k % 4 else -1, tone=1 if k % 2 else -1),
            chosen="long, longer" if k % 4 else "short",
            rejected="short" if k % 4 else "long, longer",
        )
    ]
    report = report_of(write_build(tmp_path, {"train-00000-of-00001": rows}))
    found = {figures.slug: (figures.positive_length_auc, figures.negative_length_auc) for figures in report.dimensions}

    assert found["humour"] == (1, 0)
    assert found["tone"] == pytest.approx((0.75, 0.25))
    assert report.lengths.longer_chosen_unmirrored == 0.75


def test_hostile_texts_are_data(tmp_path: Path) -> None:
    rows = pair("p", prompt=HOSTILE, chosen=f"{HOSTILE} yes", rejected=f"{HOSTILE} no", portraits=(HOSTILE, HOSTILE))
    rejected = [rejection("r", detail=HOSTILE, texts=[HOSTILE])]
    name = "train-00000-of-00001"
    report = report_of(write_build(tmp_path, {name: rows}, rejected={name: rejected}))

    assert report.shown[0].prompt == report.shown[0].portrait == HOSTILE
    assert report.rejections[0].detail == report.rejections[0].texts[0] == HOSTILE
    assert Report.model_validate_json(report.model_dump_json()) == report


def test_rows_need_no_mirror_image_and_no_history(tmp_path: Path) -> None:
    rows = [row for k in range(5) for row in pair(f"p{k}", mirror=False)]
    report = report_of(write_build(tmp_path, {"test-00000-of-00001": rows}, mirror=False))

    assert (report.examples, report.pairs, report.duplicates.replies) == (5, 5, 10)
    assert report.history.items == (5,)
    assert report.lengths.comment is None


def test_shards_without_rows_are_no_matter(tmp_path: Path) -> None:
    shards = {"train-00000-of-00002": pair("a"), "train-00001-of-00002": [], "test-00000-of-00001": []}
    report = report_of(write_build(tmp_path, shards))

    assert report.examples == 2
    assert [split.examples for split in report.splits] == [2, 0]


def test_a_dataset_without_its_pool_is_measured_as_far_as_it_goes(folder: Path, tmp_path: Path, report: Report) -> None:
    shutil.copytree(folder, tmp_path / "build")
    shutil.rmtree(tmp_path / "build" / "pool")
    shutil.rmtree(tmp_path / "build" / "rejected")
    alone = report_of(tmp_path / "build")

    assert (alone.attempts, alone.rejections) == ((), ())
    assert [note.split()[0] for note in alone.notes] == ["pool/", "rejected/"]
    assert alone.duplicates == report.duplicates


def test_a_benchmark_of_short_texts_is_said_to_be_one(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "short.jsonl").write_text('{"a": "Too short."}\n')
    report = report_of(folder, contamination=(tmp_path / "short.jsonl",))

    assert report.contamination[0].rows == 1
    assert "holds no text of 13 words" in report.notes[0]


def broken(folder: Path, target: Path) -> Path:
    shutil.copytree(folder, target)
    return target


def fails(folder: Path, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        report_of(folder)
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_no_build_is_wrong_usage(tmp_path: Path) -> None:
    fails(tmp_path / "nothing", "holds no build")
    fails(tmp_path, r"holds no build \(manifest.json is not there\)")


def test_an_unfinished_build_is_wrong_usage(tmp_path: Path) -> None:
    fails(write_build(tmp_path, {"train-00000-of-00001": pair("a")}, status="incomplete"), "holds an unfinished build")


def test_a_build_that_misses_a_gate_is_measured_and_the_report_says_so(tmp_path: Path) -> None:
    keys = {"verification": {"mode": "record"}, "limits": {"min_recovery": 0.9}}
    config = BuildConfig.model_validate({"pairs": 1} | keys).model_dump(mode="json")
    counts = Counts(verification=VerificationCounts(asked=10, recovered=7))
    rows = {"train-00000-of-00001": pair("a")}

    report = report_of(write_build(tmp_path, rows, status="missed_gate", config=config, counts=counts))

    assert report.examples == 2
    (missed,) = report.missed_gates
    assert "the judge found 7 (70.0 %) of 10 asked dimensions" in missed


def test_a_build_without_examples_is_wrong_usage(tmp_path: Path) -> None:
    fails(write_build(tmp_path, {"train-00000-of-00001": []}), "without examples")


@pytest.mark.parametrize("is_link", [False, True])
def test_a_missing_shard_is_wrong_usage(folder: Path, tmp_path: Path, is_link: bool) -> None:
    build = broken(folder, tmp_path / "build")
    shard = build / "data" / "test-00000-of-00001.parquet"
    shard.unlink()
    if is_link:
        shard.symlink_to(tmp_path / "nowhere")

    fails(build, r"test-00000-of-00001.parquet is missing")


@pytest.mark.parametrize("damage", [b"", b"PAR1 nothing PAR1"])
def test_a_damaged_shard_is_wrong_usage(folder: Path, tmp_path: Path, damage: bytes) -> None:
    build = broken(folder, tmp_path / "build")
    (build / "data" / "test-00000-of-00001.parquet").write_bytes(damage)

    fails(build, r"test-00000-of-00001\.parquet was changed")


@pytest.mark.parametrize("part", ["rejected/pairs", "pool"])
def test_what_else_is_damaged_is_wrong_usage(folder: Path, tmp_path: Path, part: str) -> None:
    build = broken(folder, tmp_path / "build")
    path = build / part / "test-00000-of-00001.parquet"
    whole = path.read_bytes()
    footer = int.from_bytes(whole[-8:-4], "little") + 8
    for damaged in (b"PAR1 nothing PAR1", b"\xff" * (len(whole) - footer) + whole[-footer:]):
        path.write_bytes(damaged)
        fails(build, "is damaged")


def test_another_space_is_wrong_usage(folder: Path, tmp_path: Path) -> None:
    build = broken(folder, tmp_path / "build")
    some = SPACE.model_copy(update={"dimensions": SPACE.dimensions[:3]})
    (build / "preference_space.yaml").write_text(some.to_yaml())

    fails(build, r"preference_space\.yaml has changed")


def test_a_damaged_manifest_is_wrong_usage(folder: Path, tmp_path: Path) -> None:
    build = broken(folder, tmp_path / "build")
    (build / "manifest.json").write_text("{}")

    fails(build, "is damaged, edited, or of another version")


def test_an_error_of_another_process_is_the_same(folder: Path, tmp_path: Path) -> None:
    build = broken(folder, tmp_path / "build")
    (build / "data" / "test-00000-of-00001.parquet").write_bytes(b"")

    with pytest.raises(UserError, match=r"was changed after it was built"):
        report_of(build, workers=2)


def test_runs_that_answered_nothing_have_no_speed(tmp_path: Path) -> None:
    report = report_of(write_build(tmp_path, {"train-00000-of-00001": pair("a")}, runs=(run(5.0, 0),)))

    assert (report.cost.seconds, report.cost.tokens_per_second) == (5, None)
