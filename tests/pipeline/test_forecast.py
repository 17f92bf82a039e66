"""Plans: what a build takes, without a model and by a trial, whose replies the build takes over."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pipeline.build import build
from pipeline.driver.forecast import Range, plan_by_trial, plan_without_model
from pipeline.driver.prices import PRICES
from pipeline.io.manifests import load_manifest
from schemas.base import UsageError
from tests.pipeline.commands import assert_one_line, config_file, run, succeed
from tests.pipeline.helpers import DUMMY, Notices, mining, number_of, tiny, write_threads
from tests.pipeline.test_live_counts import often_bad
from tests.stub import StubServer, delayed

PRICE = {"prompt": 1.0, "completion": 10.0}


def test_without_a_model_a_plan_counts_requests_and_asks_nobody(tmp_path: Path) -> None:
    with StubServer() as stub:
        engine = {"kind": "openai", "base_urls": [stub.url], "price": PRICE}
        found = plan_without_model(tiny(engine=engine, attempts=3), PRICES)
        assert stub.bodies == stub.trials == []

    assert (found.basis, found.pairs, found.shards, found.examples) == (
        "rehearsal",
        {"train": 36, "validation": 12, "test": 12},
        5,
        120,
    )
    assert found.stages["replies"]["requests"] == Range(value=120, low=120, high=360)
    assert found.stages["replies"]["completion_tokens"].value == 120 * 256
    assert found.stages["replies"]["prompt_tokens"].value > 120 * 50
    assert found.cost is not None
    assert found.cost.value == pytest.approx(
        (found.stages["replies"]["prompt_tokens"].value + 10 * 120 * 256) / 1e6, rel=0.01
    )
    assert found.hours is None
    assert found.rented[0].gpu_hours[1] is not None


def test_verification_is_a_stage_with_questions(tmp_path: Path) -> None:
    found = plan_without_model(tiny(verification={"mode": "record"}, **DUMMY), PRICES)

    questions = found.stages["verification"]["questions"].value
    # Two replies of each pair, in two orders: the active dimensions, others, and quality.
    assert questions >= 60 * 2 * 2 * 2
    assert found.stages["verification"]["completion_tokens"].value == pytest.approx(questions)


def test_a_trial_measures_and_the_build_asks_nothing_twice(tmp_path: Path) -> None:
    with StubServer(delayed(0.01, often_bad)) as stub:
        engine = {"kind": "openai", "base_urls": [stub.url], "price": PRICE}
        config = tiny(engine=engine, attempts=3, limits={"max_lost_share": 1.0})
        found = plan_by_trial(config, tmp_path / "out", 30, PRICES, lambda _: None)
        tried = len(stub.bodies)
        again = plan_by_trial(config, tmp_path / "out", 30, PRICES, lambda _: None)
        assert len(stub.bodies) == tried

        observer = Notices()
        build(config, tmp_path / "out", observer=observer)
        numbers = [number_of(body) for body in stub.bodies]
    assert len(numbers) == len({*numbers})
    assert any("the replies of a trial" in line for line in observer.lines)

    counts = load_manifest(tmp_path / "out").counts
    assert found.tokens.low <= counts.prompt_tokens + counts.completion_tokens <= found.tokens.high
    assert found.accepted_share is not None
    attempts = counts.pairs_accepted + sum(n for key, n in counts.rejected.items() if key.startswith(("val", "gen")))
    assert found.accepted_share.low <= counts.pairs_accepted / attempts <= found.accepted_share.high
    assert found.hours is not None
    assert again.hours is None
    assert again.tokens == found.tokens


def test_a_trial_of_another_configuration_takes_the_folder_of_the_last_one(tmp_path: Path) -> None:
    with StubServer() as stub:
        engine = {"kind": "openai", "base_urls": [stub.url]}
        plan_by_trial(tiny(engine=engine), tmp_path / "out", 4, PRICES, lambda _: None)
        plan_by_trial(tiny(engine=engine, seed=5), tmp_path / "out", 4, PRICES, lambda _: None)
        assert len(stub.bodies) == 16
        build(tiny(engine=engine), tmp_path / "out")
        # The trial is of another build, so its replies are of no use.
        assert len(stub.bodies) == 16 + 120


def test_a_trial_whose_manifest_is_lost_is_replaced_and_a_wrong_key_deletes_none(tmp_path: Path) -> None:
    with StubServer() as stub:
        engine = {"kind": "openai", "base_urls": [stub.url]}
        plan_by_trial(tiny(engine=engine), tmp_path / "out", 4, PRICES, lambda _: None)
        journals = [path.read_bytes() for path in (tmp_path / "out.trial" / "journal").iterdir()]
        with pytest.raises(UsageError, match="nowhere is not a folder"):
            plan_by_trial(tiny(engine=engine, templates="nowhere"), tmp_path / "out", 4, PRICES, lambda _: None)
        assert journals == [path.read_bytes() for path in (tmp_path / "out.trial" / "journal").iterdir()] != []

        (tmp_path / "out.trial" / "manifest.json").write_text("{")
        plan_by_trial(tiny(engine=engine, seed=5), tmp_path / "out", 4, PRICES, lambda _: None)
        assert len(stub.bodies) == 16


def test_nothing_is_tried_for_a_folder_that_cannot_hold_the_build(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").touch()

    with pytest.raises(UsageError, match=r"is not empty \(mine.txt\) and holds no build"):
        plan_by_trial(tiny(), tmp_path / "out", 4, PRICES, lambda _: None)
    assert not (tmp_path / "out.trial").exists()


@pytest.mark.parametrize(("keys", "message"), [(DUMMY, "engine 'dummy' asks no model"), ({}, "holds a build that is")])
def test_what_cannot_be_tried_is_refused(tmp_path: Path, keys: Mapping[str, Any], message: str) -> None:
    build(tiny(**DUMMY), tmp_path / "out.trial")

    with pytest.raises(UsageError, match=message):
        plan_by_trial(tiny(**keys), tmp_path / "out", 4, PRICES, lambda _: None)


def test_the_command_prints_tables_or_json(tmp_path: Path) -> None:
    with StubServer() as stub:
        config = config_file(tmp_path, stub, name="mine")
        printed = succeed("plan", config, "--price", "prompt=0.1", "--price", "completion=0.4")
        hourly = succeed("plan", config, "--price", "hour=2")
        found = json.loads(succeed("plan", config, "--json"))

    assert printed.startswith("mine: 60 pairs (train 36, validation 12, test 12) in 5 shards, at most 120 examples")
    assert "cost      USD 0.0" in printed
    assert "money by the hour follows from the time, which --trial N measures" in hourly
    assert "a3-highgpu-1g" in printed
    assert found["cost"] is None
    assert_one_line(
        run("plan", config, "--price", "l5=1"), 2, "--price l5=1: the names are", "prompt, completion, hour"
    )
    assert_one_line(run("plan", config, "--price", "prompt"), 2, "--price prompt: '' is no price")


def test_a_trial_beyond_a_limit_says_so_and_continues_with_a_higher_one(tmp_path: Path) -> None:
    with StubServer() as stub:
        config = config_file(tmp_path, stub)
        command = ("plan", config, "--trial", "10", "--output", str(tmp_path / "out"), "--set")
        stopped = run(*command, "limits.max_requests=12")
        assert stopped.code == 3
        last = stopped.err.splitlines()[-1]
        assert last.startswith("error: --trial 10: stopped before limits.max_requests would be passed; ")
        assert 0 < len(stub.bodies) <= 12
        assert run(*command, "limits.max_requests=30").code == 0
        assert len(stub.bodies) == 20


def test_a_build_of_mined_pairs_alone_has_no_plan(tmp_path: Path) -> None:
    write_threads(tmp_path / "threads.jsonl", 4)
    config = tiny(mining=mining(tmp_path / "threads.jsonl"), pairs=None)

    with pytest.raises(UsageError, match=r"all pairs of \w+ are mined, and only sampled pairs can be reckoned"):
        plan_without_model(config, PRICES)
