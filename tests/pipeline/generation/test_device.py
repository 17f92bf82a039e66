from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.generation.device import Device, cpu_cache_gib, cpu_dtype, find_device, total_memory
from pipeline.io.processes import usable_cores
from schemas.config import VllmEngine

CPU = Device(is_cpu=True, size=len(usable_cores()))


@pytest.mark.parametrize(
    ("printed", "code", "device"),
    [
        ("81559", 0, Device(is_cpu=False, size=80)),
        ("24564\n16384", 0, Device(is_cpu=False, size=16)),
        ("[N/A]", 0, Device(is_cpu=False, size=0)),
        ("81559", 9, CPU),
        (None, 0, CPU),
    ],
)
def test_the_device_is_a_gpu_where_nvidia_smi_succeeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, printed: str | None, code: int, device: Device
) -> None:
    if printed is not None:
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\nprintf '{printed}\\n'\nexit {code}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))

    assert find_device(VllmEngine()) == device
    assert find_device(VllmEngine(device="cpu")) == CPU
    assert not find_device(VllmEngine(device="cuda")).is_cpu


@pytest.mark.parametrize(
    ("device", "bound", "words"),
    [
        (Device(is_cpu=True, size=1), 16, "1 CPU core"),
        (Device(is_cpu=True, size=2), 24, "2 CPU cores"),
        (Device(is_cpu=True, size=64), 128, "64 CPU cores"),
        (Device(is_cpu=False, size=4), 32, "GPU memory of 4 GiB"),
        (Device(is_cpu=False, size=24), 144, "GPU memory of 24 GiB"),
        (Device(is_cpu=False, size=139), 512, "GPU memory of 139 GiB"),
        (Device(is_cpu=False, size=0), 128, "GPU memory unknown"),
    ],
)
def test_the_bound_follows_the_device_unless_it_is_given(device: Device, bound: int, words: str) -> None:
    assert device.bound(VllmEngine()) == bound
    assert device.bound(VllmEngine(in_flight=7)) == 7
    assert str(device) == words


@pytest.mark.parametrize(
    ("device", "sizes"),
    [
        (Device(is_cpu=True, size=8), [4, 4]),
        (Device(is_cpu=True, size=5), [3, 2]),
        (Device(is_cpu=True, size=1), [1, 1]),
        (Device(is_cpu=False, size=80), [40, 40]),
        (Device(is_cpu=False, size=0), [0, 0]),
    ],
)
def test_two_servers_get_a_half_each(device: Device, sizes: list[int]) -> None:
    halves = [device.halved(0), device.halved(1)]

    assert [half.size for half in halves] == sizes
    assert all(str(half).startswith("half of the device: ") for half in halves)


def test_the_halves_of_a_cpu_are_of_different_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.generation.device.usable_cores", lambda: [1, 3, 4, 6, 7])
    whole = find_device(VllmEngine(device="cpu"))

    assert whole.cores == [1, 3, 4, 6, 7]
    assert [whole.halved(0).cores, whole.halved(1).cores] == [[1, 3, 4], [6, 7]]


def test_the_cache_of_a_cpu_grows_with_the_sequences_within_the_machines_memory() -> None:
    assert cpu_cache_gib(24) == 2
    assert cpu_cache_gib(10_000_000) < 10_000_000 // 16


@pytest.mark.parametrize(
    ("line", "dtype"),
    [
        ("flags\t\t: fpu avx2 avx512f avx512_bf16 amx_tile", "bfloat16"),
        ("flags\t\t: fpu amx_bf16", "bfloat16"),
        ("Features\t: asimd bf16 i8mm", "bfloat16"),
        ("flags\t\t: fpu f16c avx2 avx512f", "float32"),
        (None, "float32"),
    ],
)
def test_a_cpu_without_instructions_for_bfloat16_computes_in_float32(
    tmp_path: Path, line: str | None, dtype: str
) -> None:
    if line is not None:
        (tmp_path / "cpuinfo").write_text(f"processor\t: 0\n{line}\n")
    assert cpu_dtype(tmp_path / "cpuinfo") == dtype


# Memory


def group(folder: Path, limit: str, file: str = "memory.max") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / file).write_text(f"{limit}\n")


def own(folder: Path, line: str) -> Path:
    path = folder / "own"
    path.write_text(f"{line}\n")
    return path


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"": "max", "a": "1000000", "a/b": "2000000"}, 1_000_000),
        ({"": "max", "a": "2000000", "a/b": "1000000"}, 1_000_000),
        ({"": "3000000", "a": "max", "a/b": "max"}, 3_000_000),
    ],
)
def test_the_smallest_limit_on_the_way_to_the_own_group_counts(
    tmp_path: Path, limits: dict[str, str], expected: int
) -> None:
    for name, limit in limits.items():
        group(tmp_path / "cgroup" / name, limit)

    assert total_memory(tmp_path / "cgroup", own(tmp_path, "0::/a/b")) == expected


def test_limits_of_the_first_version_of_control_groups_count(tmp_path: Path) -> None:
    group(tmp_path / "memory" / "docker", "1000000", "memory.limit_in_bytes")

    assert total_memory(tmp_path, own(tmp_path, "9:memory:/docker")) == 1_000_000
    assert total_memory(tmp_path, own(tmp_path, "9:cpuset:/docker")) > 1_000_000


def test_without_limits_the_memory_is_that_of_the_machine(tmp_path: Path) -> None:
    group(tmp_path / "cgroup", "max")
    machine = total_memory(tmp_path / "none", tmp_path / "missing")

    assert total_memory(tmp_path / "cgroup", own(tmp_path, "0::/")) == machine
    assert machine > 1 << 28
