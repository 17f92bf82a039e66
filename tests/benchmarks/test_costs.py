from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.costs import main, size_of
from pipeline.driver.prices import MACHINES, PRICES, SOURCES, THROUGHPUTS, Throughput, hours, machine_hour
from pipeline.io.manifests import write_manifest
from schemas.base import UserError
from schemas.manifest import Counts, Manifest
from tests.pipeline.helpers import made_manifest

COUNTS = Counts(
    pairs_asked=100,
    pairs_accepted=100,
    examples=200,
    rejected={"generate/timeout": 10, "validate/unfinished": 40, "assemble/history_too_short": 7},
    prompt_tokens=60_000,
    completion_tokens=15_000,
)


def manifest(**keys: Any) -> Manifest:
    config = {"portrait": "template", "mining": None, "generation": {"model": "some/model", "max_tokens": 256}}
    return made_manifest(**{"config": config, "counts": COUNTS} | keys)


def build(folder: Path, **keys: Any) -> str:
    write_manifest(folder, manifest(**keys))
    return str(folder)


def test_tokens_are_those_of_all_attempts() -> None:
    size = size_of(manifest())

    assert size.replies == 2 * 150 / 200  # what was rejected when histories were drawn cost no reply
    assert (size.prompt, size.completion) == (200, 50)
    assert size.millions(1_000_000) == (300, 75)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"status": "incomplete"}, "not finished"),
        ({"counts": COUNTS.model_copy(update={"completion_tokens": 0})}, "counted no tokens"),
    ],
)
def test_a_build_that_tells_no_tokens_is_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        size_of(manifest(**keys))


# Seconds a million: 0.1 h for a million completion tokens at 2,777.8 tokens/s. The source "c" has half as many prompt
# tokens as completion tokens.
@pytest.mark.parametrize(
    ("throughput", "prompt", "completion", "expected"),
    [
        (Throughput("m", "g2-standard-8", "c", 1e6 / 360), 3, 1, (0.1, 0.4)),
        (Throughput("m", "g2-standard-8", "c", 1e6 / 360, 2e6 / 360), 3, 1, (0.1, 0.2)),
        (Throughput("m", "g2-standard-8", "c", None, 2e6 / 360), 3, 1, (None, 0.2)),
        (Throughput("m", "g2-standard-8", "c", 1e6 / 360), 0.2, 1, (None, 0.1)),
        (Throughput("m", "g2-standard-8", "c", 1e6 / 360, 1.5e6 / 360), 0.2, 1, (0.08, 0.1)),
        (Throughput("m", "g2-standard-8", "yours", 1e6 / 360), 3, 1, (0.1, 0.1)),
    ],
)
def test_hours_lie_between_what_the_source_tells(
    throughput: Throughput, prompt: float, completion: float, expected: tuple[float | None, float | None]
) -> None:
    assert hours(throughput, prompt, completion) == pytest.approx(expected)


@pytest.mark.parametrize("prompt_cost", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("prompt", [0.1, 0.5, 1.5, 6.0])
def test_the_bounds_hold_whatever_a_prompt_token_costs(prompt: float, prompt_cost: float) -> None:
    ratio = SOURCES["c"].prompt_ratio
    seconds = 360 * (1 + ratio * prompt_cost)  # of the source's million completion tokens, with their prompts
    source = Throughput("m", "g2-standard-8", "c", 1e6 / seconds, (1 + ratio) * 1e6 / seconds)

    low, high = hours(source, prompt, 1)

    assert low is not None
    assert high is not None
    assert low - 1e-9 <= 0.1 * (1 + prompt * prompt_cost) <= high + 1e-9


def test_every_figure_has_a_source_and_every_machine_a_price() -> None:
    assert all(
        (throughput.source in SOURCES) == bool(throughput.output or throughput.total) for throughput in THROUGHPUTS
    )
    assert {throughput.machine for throughput in THROUGHPUTS} <= MACHINES.keys()
    assert {machine.gpu for machine in MACHINES.values()} <= PRICES.keys()


def test_a_machine_costs_its_gpus_vcpus_memory_and_disk() -> None:
    prices = {"l4": 1.0, "vcpu": 0.1, "gib": 0.01, "ssd": 0.001}

    assert machine_hour("g2-standard-8", prices, 200) == pytest.approx(1 + 0.8 + 0.32 + 0.2)


def test_tables_hold_a_users_own_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # 75 million completion tokens at 1,000 tokens/s are 20.8 hours, 150 million are 41.7.
    main(
        [
            build(tmp_path),
            *("--examples", "1000000", "--completion-tokens", "100", "--gpus", "2"),
            *("--measured", "mine", "g2-standard-8", "1000"),
            *("--price", "l4=0.68", "--price", "vcpu=0.02", "--price", "gib=0.005", "--disk-gb", "0"),
        ]
    )

    said = capsys.readouterr().out
    assert "| completion tokens a reply | 50 | 100 |" in said
    row = "| mine | `g2-standard-8` (1 x L4) | 1,000 output | yours |"
    assert f"{row} 21 | 10.4 | 21 | 17.8 |" in said
    assert f"{row} 42 | 21 | 42 | 36 |" in said
    assert "| to be measured | none found |  |  |  |  |" in said
    assert "- yours:" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--price", "l5=1"], "the names are"),
        (["--price", "l4=nothing"], "'nothing' is no price"),
        (["--gpus", "0"], "'0' is no number above 0"),
        (["--measured", "mine", "g9", "1000"], "the machines are"),
        (["--measured", "mine", "g2-standard-8", "-1"], "'-1' is no number above 0"),
    ],
)
def test_wrong_usage_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main([build(tmp_path), *arguments])

    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("changed", [{"portrait": "model"}, {"mining": {"share": 1.0}}])
def test_builds_with_other_requests_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changed: dict[str, Any]
) -> None:
    with pytest.raises(SystemExit):
        main([build(tmp_path, config=manifest().config | changed)])

    assert "two replies for each attempt" in capsys.readouterr().err


def test_a_folder_without_a_build_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([str(tmp_path)])

    assert "holds no build" in capsys.readouterr().err
