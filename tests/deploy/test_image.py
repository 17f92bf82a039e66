"""The image, as far as it can be judged without building it: its versions, its files, its entry points."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests import ROOT

DEPLOY = ROOT / "deploy"
BOOT = "/opt/apache/beam/boot"
LAUNCHER = "/opt/google/dataflow/python_template_launcher"


def instructions(text: str) -> list[tuple[str, str]]:
    """The lines of a Dockerfile, continued ones joined, comments left out."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line.strip())]


DOCKERFILE = instructions((DEPLOY / "Dockerfile").read_text(encoding="utf-8"))
TEXT = "\n".join(f"{word} {rest}" for word, rest in DOCKERFILE)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LOCKS = ("locks/cuda.txt", "locks/cuda-gcp.txt", "locks/cuda-s3.txt")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def stages() -> dict[str, list[tuple[str, str]]]:
    """The instructions of each stage, by its name, in order."""
    found: dict[str, list[tuple[str, str]]] = {}
    name = ""
    for word, rest in DOCKERFILE:
        if word == "FROM":
            name = rest.split()[-1]
            found[name] = []
        elif name:
            found[name].append((word, rest))
    return found


def pin(pattern: str, text: str) -> str:
    """The one version that a text names."""
    (version,) = set(re.findall(pattern, text, re.MULTILINE))
    return str(version)


def locked(package: str) -> str:
    """The version that the image's locks have for its Python."""
    text = "".join((ROOT / lock).read_text(encoding="utf-8") for lock in LOCKS)
    return pin(rf"^{package}==(\S+?)(?: ; python_version in '3\.11.*)?$", text)


def variables(word: str) -> dict[str, str]:
    """What all `ENV` or `ARG` instructions set."""
    return {
        name: value
        for instruction, rest in DOCKERFILE
        if instruction == word
        for name, _, value in (entry.partition("=") for entry in rest.split())
    }


def sources() -> list[str]:
    """What is copied or mounted out of the project."""
    copied = [
        path
        for word, rest in DOCKERFILE
        if word == "COPY" and "--from" not in rest
        for path in [part for part in rest.split() if not part.startswith("--")][:-1]
    ]
    return copied + re.findall(r"--mount=type=bind,source=([^,]+),", TEXT)


def test_every_command_is_valid_shell() -> None:
    for word, rest in DOCKERFILE:
        if word == "RUN":
            command = re.sub(r"--mount=\S+ ", "", rest)
            subprocess.run(["sh", "-n", "-c", command], check=True)


def test_beam_is_that_of_the_lock() -> None:
    assert pin(r"apache/beam_python[\d.]+_sdk:(\S+)", TEXT) == locked("apache-beam")


def test_python_is_the_one_that_the_lock_is_for() -> None:
    python = pin(r"^FROM python:(\d+\.\d+)\.\d+-slim-bookworm AS base", TEXT)

    assert python == pin(r'^PYTHONS = \("([\d.]+)"', (ROOT / "locks" / "resolve.py").read_text(encoding="utf-8"))
    assert PROJECT["project"]["requires-python"].startswith(f">={python},")
    assert python == pin(r"apache/beam_python([\d.]+)_sdk", TEXT)
    assert python.replace(".", "") == pin(r"/python(\d+)-template-launcher-base", TEXT)


def test_uv_is_the_one_of_the_makefile() -> None:
    assert pin(r"uv==(\S+)$", TEXT) == pin(r"uv==([\d.]+)", MAKEFILE) == locked("uv")


def test_packages_come_from_the_lock_that_make_setup_uses() -> None:
    assert "LOCK := locks/$(ENGINE).txt" in MAKEFILE
    assert "source=locks,target=/tmp/locks uv pip install" in TEXT
    assert all(f"--requirement /tmp/{lock}" in TEXT for lock in LOCKS)
    assert "pip check" in TEXT


@pytest.mark.parametrize("package", ["vllm", "torch", "gcsfs", "s3fs", "google-cloud-storage", "google-apitools"])
def test_the_lock_has_what_workers_and_launcher_need(package: str) -> None:
    assert locked(package)


def test_every_file_that_is_copied_is_there_and_not_ignored() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    kept = {line[1:] for line in lines if line.startswith("!")}

    assert "*" in lines
    for path in sources():
        assert (ROOT / path).exists(), path
        assert path.split("/")[0] in kept, path


def test_what_the_distribution_is_built_of_is_not_ignored() -> None:
    kept = re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(encoding="utf-8"), re.MULTILINE)
    packages = [name.removesuffix("*") for name in PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]]

    assert {*packages, "pyproject.toml", "setup.py", PROJECT["project"]["readme"], "LICENSE"} <= {*kept}
    assert all((ROOT / name).exists() for name in kept)


def test_no_variable_of_the_build_or_of_the_image_holds_a_secret() -> None:
    assert variables("ARG").keys() == {"LAUNCHER", "MODEL"}
    assert not [
        name for name in variables("ENV") if re.search(r"token|secret|password|credential", name, re.IGNORECASE)
    ]
    assert "--mount=type=secret,id=hf_token" in TEXT


def test_workers_use_the_installed_packages_and_may_fetch_a_model() -> None:
    environment = variables("ENV")

    assert environment["RUN_PYTHON_SDK_IN_DEFAULT_ENVIRONMENT"] == "1"
    assert not [name for name in environment if "OFFLINE" in name]


def test_the_driver_is_found_where_dataflow_mounts_it() -> None:
    environment = variables("ENV")

    assert environment["LD_LIBRARY_PATH"] == "/usr/local/nvidia/lib64:/usr/local/nvidia/lib"
    assert environment["PATH"] == "/usr/local/nvidia/bin:$PATH"  # nvidia-smi, by which a build tells that there is one


def test_the_default_image_is_for_dataflow_which_chooses_the_user() -> None:
    last, steps = [*stages().items()][-1]

    assert last == "dataflow"
    assert "USER" not in {word for word, _ in steps + stages()["base"]}
    assert steps[-1] == ("ENTRYPOINT", '["/opt/everyuser/entrypoint.sh"]')


def test_workers_of_flink_are_not_root() -> None:
    steps = dict(stages()["flink"])

    assert steps["USER"] == "everyuser"
    assert steps["ENTRYPOINT"] == f'["{BOOT}"]'


def test_both_programs_are_where_the_entry_point_looks_for_them() -> None:
    script = (DEPLOY / "entrypoint.sh").read_text(encoding="utf-8")
    targets = {rest.split()[-1] for word, rest in DOCKERFILE if word == "COPY" and "--from" in rest}

    assert targets == {"/opt/apache/beam", LAUNCHER}
    assert f"exec {BOOT}" in script
    assert f"exec {LAUNCHER}" in script


def test_the_launcher_finds_our_code() -> None:
    copied = {path for path in sources() if path.endswith(".py")}
    environment = variables("ENV")

    assert copied == {str(path.relative_to(ROOT)) for path in DEPLOY.glob("*.py")}
    assert environment["FLEX_TEMPLATE_PYTHON_PY_FILE"] == f"{environment['PYTHONPATH']}/deploy/launch.py"


@pytest.mark.parametrize(
    ("arguments", "program"),
    [
        (["--id=1-1", "--logging_endpoint=localhost:1", "--control_endpoint=localhost:2"], "boot"),
        (["--id=1-1"], "boot"),
        (["--semi_persist_dir=/var", "--provision_endpoint=localhost:1"], "boot"),
        (["--id", "1-1", "--artifact_endpoint", "localhost:1"], "boot"),
        (["--worker_pool"], "boot"),
        ([], "launcher"),
        (["--ideal=x", "two words"], "launcher"),
    ],
)
def test_the_entry_point_starts_the_worker_or_the_launcher(tmp_path: Path, arguments: list[str], program: str) -> None:
    script = (DEPLOY / "entrypoint.sh").read_text(encoding="utf-8")
    for name, path in (("boot", BOOT), ("launcher", LAUNCHER)):
        fake = tmp_path / name
        fake.write_text(f'#!/bin/sh\necho {name}\nfor argument in "$@"; do echo "$argument"; done\nexit 7\n')
        fake.chmod(0o755)
        script = script.replace(path, str(fake))
    (tmp_path / "entrypoint.sh").write_text(script, encoding="utf-8")

    done = subprocess.run(["sh", tmp_path / "entrypoint.sh", *arguments], capture_output=True, text=True, check=False)

    assert done.stdout.splitlines() == [program, *arguments]
    assert done.returncode == 7


def test_the_entry_point_can_be_executed() -> None:
    assert os.access(DEPLOY / "entrypoint.sh", os.X_OK)
