"""Budgets: builds that stop before they pass a limit, in one process and in two, and continue with a higher one."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.build import build
from pipeline.driver.status import find_status
from pipeline.generation.budget import Budget, Use
from pipeline.generation.completions import Completion
from pipeline.io.manifests import load_manifest
from pipeline.plan import BuildPlan, Spent
from pipeline.runtime import progress
from schemas.base import BudgetError, UserError
from schemas.loader import load_config
from tests.pipeline.generation.asking import make_requests
from tests.pipeline.helpers import prepared, run_build, tiny
from tests.pipeline.processes import BY_TWO, end, finish, openai, shards, start, write_config
from tests.stub import StubServer, delayed

TOKENS = 130
"""Tokens of a request to the stub, and its longest reply is of 256."""
PRICE = {"prompt": 1.0, "completion": 10.0}


def lines_of(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for path in (output / "journal").glob("*.jsonl") for line in path.open()]


def test_a_build_stops_before_its_tokens_and_continues_to_the_same_bytes(tmp_path: Path) -> None:
    whole, _ = run_build(tmp_path / "whole")
    with pytest.raises(BudgetError) as caught:
        run_build(tmp_path / "half", limits={"max_tokens": 60 * TOKENS})
    asked = len(lines_of(tmp_path / "half"))

    manifest = load_manifest(tmp_path / "half")
    (run,) = manifest.runs
    assert run.status == "budget"
    assert 0.8 * 60 * TOKENS < run.prompt_tokens + run.completion_tokens == asked * TOKENS <= 60 * TOKENS
    assert find_status(tmp_path / "half").state == "budget"
    said = re.fullmatch(
        r"stopped before limits.max_tokens = 7800 would be passed: \d+ of 60 pairs are done, for (\d+) tokens, "
        r"(\d+) requests, [\d.e-]+ hours; the rest takes about (\d+) tokens more; the same command with --set "
        r"limits.max_tokens=(\d+) continues",
        str(caught.value),
    )
    assert said, caught.value
    assert int(said[2]) == asked
    assert int(said[1]) + int(said[3]) >= whole.runs[0].prompt_tokens + whole.runs[0].completion_tokens - TOKENS

    again, stub = run_build(tmp_path / "half", limits={"max_tokens": int(said[4])})
    assert len(stub.bodies) == 120 - asked
    assert shards(tmp_path / "half") == shards(tmp_path / "whole")
    assert [run.status for run in again.runs] == ["budget", "complete"]


@pytest.mark.parametrize(("key", "limit"), [("max_requests", 50), ("max_cost", 50 * 400e-6)])
def test_each_limit_stops_a_build(tmp_path: Path, key: str, limit: float) -> None:
    with StubServer() as stub:
        engine = {"kind": "openai", "base_urls": [stub.url], "price": PRICE, "in_flight": 4}
        with pytest.raises(BudgetError, match=f"stopped before limits.{key} = .* would be passed"):
            build(tiny(engine=engine, limits={key: limit}), tmp_path / "out")

    (run,) = load_manifest(tmp_path / "out").runs
    assert run.cost == pytest.approx(run.requests_sent * 400e-6)
    assert 40 <= run.requests_sent <= 50


def test_no_request_is_sent_that_would_end_after_the_hours(tmp_path: Path) -> None:
    # Twenty minutes are left.
    spent = Spent(seconds=2400, began=time.time())
    budget = Budget(BuildPlan(tmp_path, "f", tiny(limits={"max_hours": 1.0}), spent=spent))
    budget.open()

    assert budget.reserve(Use(tokens=1, requests=1))
    budget.release(Use(tokens=1, requests=1), seconds=600)
    assert budget.reserve(Use(tokens=1, requests=1))
    budget.release(Use(tokens=1, requests=1), seconds=1500)
    assert not budget.reserve(Use(tokens=1, requests=1))
    budget.close()


def test_nothing_is_asked_where_the_budget_is_spent(tmp_path: Path) -> None:
    limits = {"max_requests": 50}
    with pytest.raises(BudgetError):
        run_build(tmp_path / "out", limits=limits)

    with StubServer() as stub:
        engine = {"kind": "openai", "base_urls": [stub.url]}
        with pytest.raises(BudgetError, match=r"limits.max_requests = 50 would be passed: .* with a higher limits.max"):
            build(tiny(engine=engine, limits=limits), tmp_path / "out")
        assert stub.bodies == stub.trials == []


def test_a_run_without_requests_says_what_earlier_runs_have_done(tmp_path: Path) -> None:
    with pytest.raises(BudgetError):
        run_build(tmp_path / "out", limits={"max_requests": 50})
    stored = find_status(tmp_path / "out").pairs.done

    with pytest.raises(BudgetError, match=rf"passed: {stored} of 60 pairs are done, for 6500 tokens, 50 requests"):
        run_build(tmp_path / "out", limits={"max_tokens": 3000})
    assert stored >= 12


def test_a_limit_of_few_requests_is_used_up(tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match=r"limits.max_requests = 3 would be passed: .*, 3 requests"):
        run_build(tmp_path / "out", limits={"max_requests": 3})


def test_two_processes_share_a_budget(tmp_path: Path) -> None:
    with StubServer(delayed(0.02)) as stub:
        config = write_config(tmp_path, openai(stub, 4))
        finish(config, tmp_path / "whole")
        total = len(stub.bodies)
        limit = total // 2 * TOKENS

        said = end(start(config, tmp_path / "half", "--set", f"limits.max_tokens={limit}", *BY_TWO), 3)
        asked = len(stub.bodies) - total

        assert said.startswith(f"error: stopped before limits.max_tokens = {limit}")
        assert 0.8 * limit < asked * TOKENS <= limit
        assert len(lines_of(tmp_path / "half")) == asked
        finish(config, tmp_path / "half", *BY_TWO)
        assert len(stub.bodies) == 2 * total
    assert shards(tmp_path / "half") == shards(tmp_path / "whole")


@pytest.mark.parametrize("is_noted", [True, False])
def test_what_a_killed_run_has_used_counts(tmp_path: Path, is_noted: bool) -> None:
    plan = prepared(tmp_path / "out", tiny())
    counters = progress.counters_for(plan.output)
    counters.add("completion_tokens", 7000)
    counters.add("requests_sent", 40)
    counters.flush()
    if is_noted:
        progress.Pace(plan.output, "2026-01-01T00:00:00+00:00").close()
    counters.close()
    # The process is gone, and its counts are left.
    progress._counters.clear()

    with pytest.raises(BudgetError):
        run_build(tmp_path / "out", limits={"max_tokens": 7500})

    first, second = load_manifest(tmp_path / "out").runs
    assert (first.status, first.completion_tokens, first.requests_sent) == ("killed", 7000, 40)
    assert second.prompt_tokens + second.completion_tokens <= 500


def test_processes_take_a_part_of_the_rest_between_two_looks(tmp_path: Path) -> None:
    plan = BuildPlan(tmp_path, "f", tiny(limits={"max_tokens": 1000}), spent=Spent(tokens=200))
    other = progress.Counters(tmp_path)
    other.add("questions", 1)
    other.add("completion_tokens", 100)
    other.set_gauge("reserved/tokens", 60)
    other.flush()
    budget = Budget(plan)
    budget.open()

    assert budget.reserve(Use(tokens=80, requests=1))
    # 1000 - 200 - 100 - 60 are left, and each of two processes takes an eighth.
    assert not budget.reserve(Use(tokens=1, requests=1))
    budget.close()
    other.close()


def test_most_of_a_request_follows_the_prompts_that_were_counted(tmp_path: Path) -> None:
    (request,) = make_requests(1)
    budget = Budget(BuildPlan(tmp_path, "f", tiny(limits={"max_tokens": 1000})))
    first = budget.most(request, None)
    budget.learn(request, Completion("text", "stop", prompt_tokens=3, completion_tokens=4))

    assert (first.tokens, budget.most(request, None).tokens) == (256 + len("post 0"), 256 + 3)


def test_a_limit_of_cost_needs_prices(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("pairs: 1\nlimits: {max_cost: 1.0}\n")

    with pytest.raises(UserError, match=r"limits.max_cost needs engine.price, such as engine.price: \{prompt: 0.1"):
        load_config(path)
    assert load_config(path, ["engine.price.prompt=0.1"]).limits.max_cost == 1.0
    with pytest.raises(UserError, match=r"limits.max_cost would never be reached, as engine.price is 0"):
        load_config(path, ["engine.price={}"])
