"""The quickstart, `everyuser build quickstart`: a packaged configuration, with the best model that this machine runs.

That is the larger packaged model, or the small one on a small machine. Where vLLM is not installed, the quickstart
replays the recorded replies of the larger one. Keys of the command line are never changed, and a build that exists
keeps its model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pipeline.driver.machine import Machine
from pipeline.generation.recording import read_recording, replays_recording
from pipeline.io.manifests import DamagedManifestError, find_manifest
from pipeline.io.storage import AnyPath
from schemas.config import PACKAGED, BuildConfig, VllmEngine
from schemas.loader import load_config
from schemas.manifest import Manifest
from schemas.packaged_models import LARGE, SMALL

NAME = "quickstart"
CONFIG = Path(__file__).with_name("quickstart.yaml")

_CPU_PAIRS = {LARGE: 24}
"""Pairs of a model with which the quickstart ends within nine minutes on two cores, from nothing."""

_MEMORY = {"bfloat16": 10, "float32": 16}
"""GiB with which a CPU serves the larger model beside the build: its server takes 8 and 14."""
_CORES = {"bfloat16": 2, "float32": 4}
"""Cores with which a CPU serves the larger model within those minutes."""
_GPU_MEMORY = 8
_DISK = 7
"""GiB for the larger model's parts (1.1), the file that they make (1.1) and its conversion (3.4)."""

_OWN_BUILDS = (
    "for a build of your own ask an endpoint, such as Ollama or llama.cpp's server: everyuser build quickstart "
    "--output out/own --set generation.model=qwen2.5:7b "
    "--set 'engine={kind: openai, base_urls: [\"http://localhost:11434/v1\"]}'; or take a model of the Hub on a Linux "
    "x86-64 machine: make build-dataset MODEL=Qwen/Qwen2.5-7B-Instruct"
)


class Quickstart(NamedTuple):
    """The configuration, and a line that says what was chosen; empty where nothing was."""

    config: BuildConfig
    choice: str


def load_quickstart(overrides: Sequence[str], output: AnyPath, machine: Machine | None = None) -> Quickstart:
    """Return the quickstart as this machine builds it.

    Args:
        overrides: Values of `--set`.
        output: The build's folder. A build in it keeps its model and its number of pairs.
        machine: The machine; None: this one.
    """
    given = _load(overrides)
    if replays_recording(given):
        return _replay(overrides)
    if not isinstance(given.engine, VllmEngine):
        return Quickstart(given, "")
    stored = _find_stored(output)
    if stored is not None and stored.recording is not None:
        return _replay(overrides)
    if stored is not None:
        kept = {"generation.model": stored.config["generation"]["model"], "pairs": stored.config["pairs"]}
        return Quickstart(_configure(kept, overrides), "")
    names_model = "model" in given.generation.model_fields_set
    machine = machine or Machine.current(given.engine)
    if not machine.has_vllm and given.engine.command is None:
        # Rows of another configuration were not recorded. They need vLLM, and the build says so.
        is_recorded = not names_model and given.fingerprinted() == _load().fingerprinted()
        return _replay(overrides) if is_recorded else Quickstart(given, "")
    if names_model:
        model, why = given.generation.model, "as asked"
    else:
        model, why = _best_model(machine)
    sized = {"pairs": _CPU_PAIRS[model]} if model in _CPU_PAIRS and machine.device.is_cpu else {}
    config = _configure({"generation.model": model, **sized}, overrides)
    return Quickstart(config, f"model {model}, {why}; {config.pairs} pairs")


def _replay(overrides: Sequence[str]) -> Quickstart:
    recording = read_recording()
    replay = {"generation.model": recording.model, "engine": {"kind": "replay", "journal": PACKAGED}}
    choice = f"replays the recorded replies of {recording.model} ({recording.date}); {_OWN_BUILDS}"
    return Quickstart(_configure(replay, overrides), choice)


def _configure(chosen: Mapping[str, object], overrides: Sequence[str]) -> BuildConfig:
    """Return the configuration with what was chosen, where the command line does not set it."""
    return _load([*(f"{key}={json.dumps(value)}" for key, value in chosen.items()), *overrides])


def _load(overrides: Sequence[str] = ()) -> BuildConfig:
    """Return the configuration. It names no files, so relative paths are the command line's: of the working folder."""
    return load_config(CONFIG, overrides, f"{NAME} (packaged)", str(Path.cwd()))


def _best_model(machine: Machine) -> tuple[str, str]:
    """Return the packaged model for a machine, and the reason."""
    device, needed, found, where = machine.device, _MEMORY[machine.dtype], machine.memory, "memory"
    if not device.is_cpu:
        # A GPU of unknown size is a large one that shares the machine's memory.
        needed, found, where = _GPU_MEMORY, device.size or machine.memory, "GPU memory"
    if found < needed:
        return SMALL, f"as {LARGE} needs {needed} GiB of {where} and {found:.1f} are there"
    if not machine.has_large and machine.free_disk < _DISK:
        return SMALL, f"as {LARGE} needs {_DISK} GiB of disk and {machine.free_disk:.1f} are free in the cache"
    if device.is_cpu and device.size < (cores := _CORES[machine.dtype]):
        return SMALL, f"as {LARGE} is slow on fewer than {cores} cores in {machine.dtype} (this CPU: {device.size})"
    return LARGE, f"as {found:.0f} GiB of {where} suffice"


def _find_stored(output: AnyPath) -> Manifest | None:
    try:
        found = find_manifest(output)
    except DamagedManifestError:
        return None
    # The folder of another build is refused later.
    return found if found is not None and found.name == NAME else None
