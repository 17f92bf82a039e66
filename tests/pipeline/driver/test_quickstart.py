"""The model that the quickstart takes, on machines of all kinds."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from pipeline.driver.machine import Machine
from pipeline.driver.quickstart import CONFIG, Quickstart, load_quickstart
from pipeline.generation import recording
from pipeline.generation.device import Device
from pipeline.io.manifests import write_manifest
from schemas.base import UsageError
from schemas.config import ReplayEngine, VllmEngine
from schemas.loader import load_config
from schemas.manifest import Recording
from schemas.packaged_models import LARGE, SMALL
from tests.pipeline.helpers import made_manifest

CORES = Device(is_cpu=True, size=4)
OLD_LAPTOP = Machine(device=CORES, dtype="float32", memory=16, free_disk=7, has_large=False, has_vllm=True)
"""A machine that is just large enough for the larger model."""

OLLAMA = ["generation.model=qwen", "engine={kind: openai, base_urls: ['http://localhost:11434/v1']}"]
RECORDED = Recording(
    model=LARGE, date="2030-01-31", versions={}, pairs=64, pairs_accepted=64, examples=128, rejected={}
)


@pytest.fixture(autouse=True)
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "RECORDED", tmp_path / "recorded")
    (tmp_path / "recorded").mkdir()
    (tmp_path / "recorded" / "about.json").write_text(RECORDED.model_dump_json())


def load(folder: Path, *overrides: str, **facts: Any) -> Quickstart:
    return load_quickstart(overrides, folder / "out", dataclasses.replace(OLD_LAPTOP, **facts))


def store(folder: Path, *overrides: str, recorded: bool = False) -> None:
    """Leave a build of the quickstart in the output folder."""
    config = load_config(CONFIG, overrides).model_dump(mode="json")
    (folder / "out").mkdir()
    write_manifest(
        folder / "out",
        made_manifest(name="quickstart", status="incomplete", config=config, recording=RECORDED if recorded else None),
    )


@pytest.mark.parametrize(
    "facts",
    [
        {},
        {"memory": 10, "dtype": "bfloat16", "device": Device(is_cpu=True, size=2)},
        {"free_disk": 1, "has_large": True},
    ],
)
def test_a_machine_with_memory_and_disk_takes_the_larger_model_and_fewer_pairs(
    tmp_path: Path, facts: dict[str, Any]
) -> None:
    config, choice = load(tmp_path, **facts)

    assert (config.generation.model, config.pairs) == (LARGE, 24)
    assert choice.startswith(f"model {LARGE}, as 1")
    assert choice.endswith("GiB of memory suffice; 24 pairs")


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        ({"memory": 15.6}, "needs 16 GiB of memory and 15.6 are there"),
        ({"memory": 9.9, "dtype": "bfloat16"}, "needs 10 GiB of memory and 9.9 are there"),
        ({"free_disk": 6.9}, "needs 7 GiB of disk and 6.9 are free in the cache"),
        ({"device": Device(is_cpu=True, size=3)}, "is slow on fewer than 4 cores in float32 (this CPU: 3)"),
        (
            {"device": Device(is_cpu=True, size=1), "dtype": "bfloat16"},
            "is slow on fewer than 2 cores in bfloat16 (this CPU: 1)",
        ),
        ({"device": Device(is_cpu=False, size=6)}, "needs 8 GiB of GPU memory and 6.0 are there"),
    ],
)
def test_a_small_machine_takes_the_small_model_and_says_why(tmp_path: Path, facts: dict[str, Any], why: str) -> None:
    config, choice = load(tmp_path, **facts)

    assert (config.generation.model, config.pairs) == (SMALL, 64)
    assert choice == f"model {SMALL}, as {LARGE} {why}; 64 pairs"


def test_a_gpu_builds_all_pairs_by_the_larger_model(tmp_path: Path) -> None:
    config, choice = load(tmp_path, device=Device(is_cpu=False, size=24), memory=12.0)

    assert (config.generation.model, config.pairs) == (LARGE, 64)
    assert "24 GiB of GPU memory suffice" in choice


@pytest.mark.parametrize(("model", "pairs"), [(SMALL, 64), (LARGE, 24), ("Qwen/Qwen3-8B", 64), ("/models/a: b", 64)])
def test_a_model_that_is_named_is_taken(tmp_path: Path, model: str, pairs: int) -> None:
    config, choice = load(tmp_path, f'generation.model="{model}"', memory=4)

    assert (config.generation.model, config.pairs) == (model, pairs)
    assert choice == f"model {model}, as asked; {pairs} pairs"


def test_relative_paths_start_from_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    config, _ = load(tmp_path, "generation.model=./mine", "seeds.path=posts.jsonl")

    assert (config.generation.model, config.seeds.path) == (str(tmp_path / "mine"), str(tmp_path / "posts.jsonl"))


def test_pairs_that_are_named_are_built(tmp_path: Path) -> None:
    config, choice = load(tmp_path, "pairs=100")

    assert (config.generation.model, config.pairs) == (LARGE, 100)
    assert choice.endswith("; 100 pairs")


@pytest.mark.parametrize("overrides", [OLLAMA, ["generation.model=dummy", "engine.kind=dummy"]])
def test_another_engine_takes_nothing_from_this_machine(tmp_path: Path, overrides: list[str]) -> None:
    assert load(tmp_path, *overrides) == (load_config(CONFIG, overrides), "")


@pytest.mark.parametrize("facts", [{"memory": 64}, {"has_vllm": False}])
def test_a_build_that_exists_keeps_its_model(tmp_path: Path, facts: dict[str, Any]) -> None:
    store(tmp_path, f"generation.model={SMALL}", "pairs=48")

    config, choice = load(tmp_path, **facts)

    assert (config.generation.model, config.pairs, choice) == (SMALL, 48, "")
    assert load(tmp_path, f"generation.model={LARGE}").config.generation.model == LARGE


def test_a_replay_that_exists_stays_one(tmp_path: Path) -> None:
    store(tmp_path, f"generation.model={LARGE}", "engine={kind: replay, journal: packaged}", recorded=True)

    assert load(tmp_path).config.engine == ReplayEngine(kind="replay", journal="packaged")


@pytest.mark.parametrize(
    ("overrides", "facts"),
    [
        ([], {"has_vllm": False}),
        (["requests.journal=false"], {"has_vllm": False}),
        (["engine.kind=replay", "engine.journal=packaged"], {}),
    ],
)
def test_without_an_engine_or_on_request_the_recorded_replies_are_replayed(
    tmp_path: Path, overrides: list[str], facts: dict[str, Any]
) -> None:
    config, choice = load(tmp_path, *overrides, **facts)

    assert config.engine == ReplayEngine(kind="replay", journal="packaged")
    assert (config.generation.model, config.pairs) == (LARGE, 64)
    assert choice.startswith(f"replays the recorded replies of {LARGE} (2030-01-31); for a build of your own ")
    for way in ("Ollama", "llama.cpp", "--set 'engine={kind: openai, base_urls: [", "make build-dataset MODEL="):
        assert way in choice
    assert "\n" not in choice


@pytest.mark.parametrize("override", ["pairs=65", f"generation.model={SMALL}", "seed=1"])
def test_without_an_engine_rows_that_were_not_recorded_are_not_replayed(tmp_path: Path, override: str) -> None:
    config, _ = load(tmp_path, override, has_vllm=False)

    assert config.engine == VllmEngine()


def test_a_command_that_starts_vllm_elsewhere_is_an_engine(tmp_path: Path) -> None:
    config, _ = load(tmp_path, "engine.command=[vllm]", has_vllm=False)

    assert isinstance(config.engine, VllmEngine)


def test_a_wrong_model_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'packaged:llama' is no packaged model") as caught:
        load(tmp_path, "generation.model=packaged:llama")

    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("quickstart (packaged): ")


def test_relative_paths_are_of_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    config, _ = load(tmp_path, "seeds.path=own/posts.jsonl")

    assert config.seeds.path == str(tmp_path / "own" / "posts.jsonl")


def test_the_file_in_configs_is_the_packaged_one() -> None:
    from tests import ROOT

    assert (ROOT / "configs" / "quickstart.yaml").resolve() == CONFIG.resolve()
