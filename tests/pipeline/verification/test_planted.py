"""Verified builds with a known truth: a writer whose faults are planted, a judge whose errors are known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from aiohttp import web

from pipeline.build import build
from pipeline.driver.configuration import read_config
from pipeline.report.measure import measure
from pipeline.report.settings import ReportSettings
from preference_space.space import load_space
from schemas.report import Estimate
from tests.pipeline.helpers import Built, number_of, run_build
from tests.pipeline.processes import finish, openai, replay, shards, start, write_config
from tests.planted import Planted, halo, one_voice, silent, swapped
from tests.stub import StubServer, refuse
from tests.waiting import wait_until

SPACE = load_space("alignx")
DIMENSIONS = (
    *("age_group", "openness", "agreeableness", "extraversion"),
    *("conscientiousness", "need_for_order", "helpfulness", "complexity"),
)
FAULTS = one_voice("age_group", 1) | one_voice("openness", -1) | one_voice("agreeableness", 1) | swapped("extraversion")
FAULTY = {slug for slug, _ in FAULTS}
HONEST = Planted()
PAIRS = 72
FAULTLESS_JUDGE, ERRING_JUDGE = Planted(FAULTS), Planted(FAULTS, error=0.05)


def verified(
    folder: Path,
    planted: Planted,
    mode: str = "record",
    pairs: int = PAIRS,
    kinds: Mapping[str, float] | None = None,
    **settings: Any,
) -> Built:
    """Build pairs that a judge verifies, each in one attempt."""
    keys = {
        "kinds": kinds or {},
        "pairs": pairs,
        "shard_pairs": 32,
        "sampling": {"dimensions": DIMENSIONS, "min_active": 3, "max_active": 5},
        "limits": {"max_lost_share": 1},
        "verification": {"mode": mode, "drift_dimensions": 3, **settings},
    }
    return Built(folder, *run_build(folder, planted, **keys))


class Question(NamedTuple):
    """A dimension of a row that the judge was asked about. `level` is what the writer was asked to show."""

    row: Mapping[str, Any]
    slug: str
    level: int
    kept: int
    margin: float


def questions(rows: list[dict[str, Any]]) -> Iterator[Question]:
    for row in rows:
        columns = zip(row["asked_direction"], row["direction"], row["direction_margin"], strict=True)
        for dimension, (level, kept, margin) in zip(SPACE.dimensions, columns, strict=True):
            if margin is not None:
                yield Question(row, dimension.slug, level, kept, margin)
            else:
                assert level == 0


def seen_margin(planted: Planted, question: Question) -> int:
    """How far apart the judge sees the two replies, in levels."""
    chosen, rejected = (planted.seen(question.row[role], question.slug) for role in ("chosen", "rejected"))
    return chosen - rejected


def test_an_honest_writer_is_recovered_in_full(tmp_path: Path) -> None:
    rows = verified(tmp_path / "out", HONEST).rows("pool")

    asked = list(questions(rows))
    assert len(rows) == PAIRS
    assert all(q.level * q.margin == pytest.approx(1.5, abs=0.02) for q in asked if q.level)
    assert all(q.margin == pytest.approx(0, abs=0.001) for q in asked if not q.level)
    assert Counter(q.row["pair_id"] for q in asked if not q.level) == {row["pair_id"]: 3 for row in rows}
    assert {row["order_agreement"] for row in rows} == {1}
    assert {row["judge"] for row in rows} == {"stub"}


def test_the_judges_margins_are_those_of_what_it_sees(tmp_path: Path) -> None:
    built = verified(tmp_path / "out", ERRING_JUDGE)

    asked = list(questions(built.rows("pool")))
    assert all(q.margin == pytest.approx(0.75 * seen_margin(ERRING_JUDGE, q), abs=0.02) for q in asked)
    assert all(q.kept == q.level for q in asked)
    recovered = sum(q.level * seen_margin(ERRING_JUDGE, q) > 0 for q in asked)
    counts = built.manifest.counts.verification
    assert (counts.asked, counts.recovered) == (sum(q.level != 0 for q in asked), recovered)


def test_the_reports_recovery_is_the_planted_figure_within_its_interval(tmp_path: Path) -> None:
    built = verified(tmp_path / "out", ERRING_JUDGE)

    figures = measure(built.folder, ReportSettings(workers=1), lambda *_: None).verification
    assert figures is not None
    planted = [ERRING_JUDGE.recovery(q.slug, q.level) for q in questions(built.rows("pool")) if q.level]
    assert figures.recovery.number == len(planted)
    assert holds(figures.recovery, sum(planted) / len(planted))
    poles = {
        (dimension.slug, level): pole.recovery
        for dimension in figures.dimensions
        for level, pole in ((1, dimension.positive), (-1, dimension.negative))
        if pole is not None
    }
    assert poles.keys() == {(slug, level) for slug in DIMENSIONS for level in (1, -1)}
    # Of sixteen intervals of 95 % one may miss, and the next one hardly.
    assert sum(not holds(found, ERRING_JUDGE.recovery(*pole)) for pole, found in poles.items()) <= 2
    assert all((found.value < 0.3) == (slug in FAULTY) for (slug, _), found in poles.items())


def holds(estimate: Estimate, figure: float) -> bool:
    assert estimate.low is not None
    assert estimate.high is not None
    return estimate.low <= figure <= estimate.high


def test_filter_makes_neutral_what_was_planted_and_nothing_else(tmp_path: Path) -> None:
    rows = verified(tmp_path / "out", FAULTLESS_JUDGE, "filter").rows("pool")

    for q in questions(rows):
        assert q.kept == (0 if q.slug in FAULTY else q.level)
    assert {q.slug for q in questions(rows) if q.level} == set(DIMENSIONS)


def test_filter_follows_an_erring_judge_question_by_question(tmp_path: Path) -> None:
    built = verified(tmp_path / "out", ERRING_JUDGE, "filter")

    asked = [q for q in questions(built.rows("pool")) if q.level]
    assert [q.kept for q in asked] == [q.level * (q.level * seen_margin(ERRING_JUDGE, q) > 0) for q in asked]
    wrong = [q for q in asked if (q.kept == 0) != (q.slug in FAULTY)]
    assert 0 < len(wrong) < 0.1 * len(asked)


def test_pairs_that_keep_nothing_are_rejected_and_no_others(tmp_path: Path) -> None:
    built = verified(tmp_path / "out", FAULTLESS_JUDGE, "filter", min_dimensions=2)

    rejected = built.rows("rejected/pairs")
    kept = [sum(1 for d in row["direction"] if d) for row in built.rows("pool")]
    assert min(kept) == 2
    assert {(row["stage"], row["reason"]) for row in rejected} == {("verify", "too_few_dimensions")}
    for row in rejected:
        active = {d.slug for d, level in zip(SPACE.dimensions, row["direction"], strict=True) if level}
        assert len(active - FAULTY) < 2
    assert len(rejected) + len(kept) == PAIRS


def test_silence_about_a_pole_halves_the_margin(tmp_path: Path) -> None:
    planted = Planted(silent("openness", -1))
    lenient, strict = (
        verified(tmp_path / str(margin), planted, "filter", pairs=36, min_margin=margin).rows("pool")
        for margin in (0, 1)
    )

    silenced = [q for q in questions(lenient) if q.level and q.slug == "openness"]
    assert all(q.level * q.margin == pytest.approx(0.75, abs=0.02) for q in silenced)
    assert all(q.kept == q.level for q in questions(lenient))
    assert all(q.kept == (0 if q.slug == "openness" else q.level) for q in questions(strict))


def test_drift_that_was_planted_rejects_and_nothing_else(tmp_path: Path) -> None:
    planted = Planted(halo("helpfulness", "complexity"))
    recorded = list(questions(verified(tmp_path / "record", planted).rows("pool")))
    built = verified(tmp_path / "filter", planted, "filter", max_drift=0.5)

    drifted = {q.row["pair_id"][8:] for q in recorded if not q.level and abs(q.margin) > 0.5}
    assert {q.slug for q in recorded if not q.level and abs(q.margin) > 0.001} == {"complexity"}
    rejected = built.rows("rejected/pairs")
    assert {(row["stage"], row["reason"]) for row in rejected} == {("verify", "drift")}
    assert {row["record_id"][8:] for row in rejected} == drifted


# Kinds

KINDS = {"near": 0.35, "restraint": 0.35}


def shown_difference(planted: Planted, question: Question) -> int:
    """How the replies of a pair differ in a dimension of its direction, in levels that the writer shows."""
    chosen, rejected = question.level, -question.level
    if question.row["kind"] == "restraint":
        chosen, rejected = 0, question.level
    first, second = (
        planted.shown([(question.slug, level)] if level else []).get(question.slug, 0) for level in (chosen, rejected)
    )
    return first - second


def test_an_honest_writer_is_recovered_in_full_in_each_kind(tmp_path: Path) -> None:
    built = verified(tmp_path / "out", HONEST, kinds=KINDS)
    rows, counts = built.rows("pool"), built.manifest.counts

    for q in questions(rows):
        assert q.margin == pytest.approx(0.75 * shown_difference(HONEST, q) if q.level else 0, abs=0.02)
    assert counts.kinds == Counter(row["kind"] for row in rows)
    assert counts.kinds.keys() == counts.verification_by_kind.keys() == {"opposite", "near", "restraint"}
    for kind, found in counts.verification_by_kind.items():
        assert (found.pairs, found.pairs_accepted) == (counts.kinds[kind], counts.kinds[kind])
        assert found.recovered == found.verified == found.asked > 0
        assert found.drifted == 0 < found.drift_asked
    total = counts.verification.model_dump()
    parts = [found.model_dump() for found in counts.verification_by_kind.values()]
    assert total == {name: sum(part[name] for part in parts) for name in total}
    assert {row["verified"] for row in built.rows("data")} == {1.0}


def test_filter_keeps_of_each_kind_what_its_replies_show(tmp_path: Path) -> None:
    built = verified(tmp_path / "out", FAULTLESS_JUDGE, "filter", pairs=144, kinds=KINDS)

    asked = [q for q in questions(built.rows("pool")) if q.level]
    for q in asked:
        sign = -1 if q.row["kind"] == "restraint" else 1
        assert q.kept == (q.level if sign * q.level * shown_difference(FAULTLESS_JUDGE, q) > 0 else 0)
    # A plain reply beside one of the wrong voice: of a restraint pair one pole of these dimensions is kept.
    kept = {(q.row["kind"], q.slug) for q in asked if q.kept and q.slug in FAULTY}
    assert kept <= {("restraint", "age_group"), ("restraint", "openness"), ("restraint", "agreeableness")}
    assert kept
    # The kind of a rejected pair says how its margins are meant.
    rejected = built.rows("rejected/pairs")
    assert {row["kind"] for row in rejected} >= {"near", "restraint"}


# Bytes

MORE = f"""
sampling: {{dimensions: [{", ".join(DIMENSIONS)}], min_active: 3, max_active: 5}}
verification: {{mode: filter, min_dimensions: 2, drift_dimensions: 3, max_drift: 0.6}}
limits: {{max_lost_share: 0.9}}
"""


async def troubled(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    """Refuse some requests of writer and judge, always the same ones."""
    return await (refuse(400, "too long") if number_of(body) % 17 == 2 else ERRING_JUDGE)(request, body)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A verified build that nothing disturbed, against a server with faults."""
    folder = tmp_path_factory.mktemp("verified")
    with StubServer(troubled) as stub:
        config = write_config(folder, openai(stub, in_flight=64), pairs=100, more=MORE)
        manifest = build(read_config(str(config), []), folder / "out")
    rejected = manifest.counts.rejected
    assert rejected["verify/too_few_dimensions"] > 0
    assert rejected["verify/http_400"] > 0
    return folder / "out"


def test_replay_gives_the_same_bytes_without_a_judge(built: Path, tmp_path: Path) -> None:
    finish(write_config(tmp_path, replay(built / "journal"), pairs=100, more=MORE), tmp_path / "out")

    assert shards(tmp_path / "out") == shards(built)


@pytest.mark.parametrize("share", [0.3, 0.7])
def test_a_verified_build_killed_and_resumed_gives_the_same_bytes(built: Path, tmp_path: Path, share: float) -> None:
    calls = sum(path.read_bytes().count(b"\n") for path in (built / "journal").glob("verify-*"))
    with StubServer(troubled) as stub:
        config, output = write_config(tmp_path, openai(stub, in_flight=32), pairs=100, more=MORE), tmp_path / "out"
        process = start(config, output)
        wait_until(lambda: sum("prompt" in body for body in [*stub.bodies]) >= share * calls, process)
        process.kill()
        process.communicate()

        finish(config, output)

    assert shards(output) == shards(built)
    # A call of choices is as many sequences as it has questions; no more than those in flight were asked twice.
    sizes = {number_of(body): len(body.get("prompt", [""])) for body in stub.bodies}
    asked = Counter(map(number_of, stub.bodies))
    assert sum((count - 1) * sizes[number] for number, count in asked.items()) <= 32
