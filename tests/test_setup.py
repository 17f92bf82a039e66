"""What `make` sets up, and what it says of wrong usage."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests import ROOT

LOCKS = sorted(path.relative_to(ROOT) for path in [*ROOT.glob("locks/*.txt"), *ROOT.glob("training/locks/*.txt")])
LOCKS = [path for path in LOCKS if path.stem in ("none", "cpu", "cuda")]
PYTHONS = ("3.11", "3.12", "3.13", "3.14")


def project(folder: str) -> dict[str, object]:
    settings: dict[str, object] = tomllib.loads((ROOT / folder / "pyproject.toml").read_text(encoding="utf-8"))[
        "project"
    ]
    return settings


def make(*arguments: str, folder: str = ".") -> subprocess.CompletedProcess[str]:
    # The tests themselves may run under `make test`, whose settings a make below it would take over.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(
        ["make", "-n", *arguments], cwd=ROOT / folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("lock", LOCKS, ids=str)
def test_every_lock_holds_the_build_backend_for_every_python(lock: Path) -> None:
    text = (ROOT / lock).read_text(encoding="utf-8")

    found = re.findall(r"^setuptools==(\d+)\S*(?: ; python_version in '(.*)')?$", text, re.M)

    assert all(int(version) >= 78 for version, _ in found)
    assert {python for _, pythons in found for python in (pythons.split() if pythons else PYTHONS)} == set(PYTHONS)


@pytest.mark.parametrize("folder", [".", "training"])
def test_the_supported_pythons_are_those_of_locks_and_readme(folder: str) -> None:
    makefile = (ROOT / folder / "Makefile").read_text(encoding="utf-8")

    assert project(folder)["requires-python"] == ">=3.11,<3.15"
    assert "Python 3.11 to 3.14" in (ROOT / folder / "README.md").read_text(encoding="utf-8")
    assert "(3, 11) <= sys.version_info < (3, 15)" in makefile
    assert "Python 3.11 to 3.14 is needed" in makefile
    assert resolver().PYTHONS == PYTHONS


def resolver() -> Any:
    spec = importlib.util.spec_from_file_location("resolve", ROOT / "locks" / "resolve.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pins(name: str) -> dict[tuple[str, str], str]:
    """The versions of a lock by package and marker."""
    lines = [line.partition(" ; ") for line in (ROOT / "locks" / name).read_text().splitlines() if "==" in line]
    return {(pin.partition("==")[0], marker): pin.partition("==")[2] for pin, _, marker in lines}


@pytest.mark.parametrize("engine", ["none", "cpu", "cuda"])
def test_the_locks_of_an_engine_fit_together(engine: str) -> None:
    names = [f"{engine}.txt", *(f"{engine}-{extra}.txt" for extra in resolver().EXTRAS)]
    versions: dict[str, set[str]] = {}
    for name in names:
        for (package, marker), version in pins(name).items():
            if "python" not in marker:
                versions.setdefault(package, set()).add(version)

    assert {package: found for package, found in versions.items() if len(found) > 1} == {}


@pytest.mark.parametrize("engine", ["none", "cpu", "cuda"])
@pytest.mark.parametrize(
    ("extra", "packages"),
    [
        ("gcp", {"google-cloud-storage", "google-apitools", "gcsfs", "google-cloud-dataflow-client"}),
        ("s3", {"s3fs", "botocore"}),
        ("dev", {"pytest", "mypy", "ruff", "hypothesis", "moto"}),
    ],
)
def test_what_few_runs_need_is_in_the_lock_of_an_extra_alone(engine: str, extra: str, packages: set[str]) -> None:
    assert packages <= {package for package, _ in pins(f"{engine}-{extra}.txt")}
    assert not packages & {package for package, _ in pins(f"{engine}.txt")}


def test_locks_of_several_pythons_are_merged_line_by_line() -> None:
    text = resolver().merged({"3.11": "a==1\nb==1\nb-old==1\n", "3.12": "a==1\nb==2\n"})

    assert text.splitlines() == [
        "a==1",
        "b==1 ; python_version in '3.11'",
        "b==2 ; python_version in '3.12'",
        "b-old==1 ; python_version in '3.11'",
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["build-dataset", "RUNNER=spark"], "RUNNER is 'spark'; the runners are local, dataflow and flink"),
        (["build-dataset", "ENGINE=vllm"], "ENGINE is 'vllm'; the engines are cuda, cpu and none"),
        (["build-dataset", "CONFIG=my file.yaml"], "CONFIG is 'my file.yaml': no such file"),
        (["setup", "EXTRAS=aws"], "EXTRAS is 'aws'; the extras are gcp, s3 and dev"),
        (["build-dataset", "CONFIG=configs"], "CONFIG is 'configs': no such file"),
    ],
)
def test_wrong_usage_of_make_is_one_line_before_anything_is_set_up(
    tmp_path: Path, arguments: list[str], said: str
) -> None:
    result = make(*arguments, f"VENV={tmp_path}/venv")

    assert result.returncode == 2
    assert said in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


def test_an_unknown_build_of_pytorch_is_refused(tmp_path: Path) -> None:
    result = make("setup", "TORCH=gpu", f"VENV={tmp_path}/venv", folder="training")

    assert result.returncode == 2
    assert "TORCH is 'gpu'; PyTorch's builds are cuda and cpu" in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "extras"),
    [
        (["build-dataset"], set()),
        (["setup"], set()),
        (["demo"], set()),
        (["build-dataset", "OUTPUT=s3://b/x"], {"s3"}),
        (["build-dataset", "OUTPUT=gs://b/x"], {"gcp"}),
        (["build-dataset", "MODEL=gs://b/model", "OUTPUT=s3://b/x"], {"gcp", "s3"}),
        (["build-dataset", "RUNNER=dataflow", "OUTPUT=gs://b/x"], {"gcp"}),
        (["build-dataset", "RUNNER=flink"], set()),
        (["build-dataset", "CONFIG=bucket.yaml"], {"s3"}),
        (["setup", "EXTRAS=gcp s3"], {"gcp", "s3"}),
        (["lint"], {"dev"}),
        (["test"], {"dev", "gcp", "s3"}),
        (["test-fast"], {"dev", "gcp", "s3"}),
    ],
)
def test_an_extra_is_added_where_something_asks_for_it(tmp_path: Path, arguments: list[str], extras: set[str]) -> None:
    folder = fresh_clone(tmp_path, "none")
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "quickstart.yaml").touch()
    (tmp_path / "bucket.yaml").write_text("seeds:\n  path: s3://b/posts.jsonl # or gs://b/posts.jsonl\n")

    result = make(*arguments, "ENGINE=none", folder=folder)

    assert result.returncode == 0, result.stderr
    assert set(re.findall(r"echo \"adding .* packages to \.venv, which .* \(EXTRAS=(\w+)\)\"", result.stdout)) == extras
    assert set(re.findall(r"--requirement locks/none-(\w+)\.txt", result.stdout)) == extras


def test_an_extra_that_is_there_is_not_added_again(tmp_path: Path) -> None:
    folder = fresh_clone(tmp_path, "none")
    (tmp_path / ".venv" / ".with-s3").touch()

    assert "adding" not in make("build-dataset", "OUTPUT=s3://b/x", "ENGINE=none", folder=folder).stdout


def test_a_configuration_in_a_bucket_is_not_looked_for_here(tmp_path: Path) -> None:
    result = make("build-dataset", "CONFIG=s3://bucket/my.yaml", "ENGINE=none", f"VENV={tmp_path}/venv")

    assert result.returncode == 0, result.stderr
    assert "everyuser build 's3://bucket/my.yaml'" in result.stdout


@pytest.mark.parametrize(("name", "runner"), [("dataflow", "DataflowRunner"), ("flink", "FlinkRunner")])
def test_the_makefile_names_the_runners(tmp_path: Path, name: str, runner: str) -> None:
    result = make("build-dataset", f"RUNNER={name}", "OUTPUT=gs://b/out", "ENGINE=none", f"VENV={tmp_path}/venv")

    assert result.returncode == 0, result.stderr
    assert f"--output 'gs://b/out' -- --runner={runner}" in " ".join(result.stdout.split())


def fresh_clone(folder: Path, installed: str | None) -> str:
    """Make a folder with the Makefile, and a .venv that was set up for an engine; return its name."""
    shutil.copy(ROOT / "Makefile", folder)
    shutil.copy(ROOT / "pyproject.toml", folder)
    shutil.copytree(ROOT / "locks", folder / "locks")
    if installed:
        (folder / ".venv").mkdir()
        (folder / ".venv" / f".{installed}-installed").touch()
    return str(folder)


@pytest.mark.parametrize(
    ("installed", "arguments", "venv", "sets_up"),
    [
        (None, ["demo"], ".venv", True),
        (None, ["demo", "ENGINE=none"], ".venv", True),
        ("none", ["demo", "ENGINE=none"], ".venv", False),
        ("cpu", ["demo"], ".venv", False),
        ("cuda", ["demo"], ".venv", False),
        ("cpu", ["demo", "ENGINE=none"], ".venv-none", True),
        ("cuda", ["build-dataset", "ENGINE=none"], ".venv-none", True),
        ("none", ["build-dataset", "ENGINE=cpu"], ".venv", True),
    ],
)
def test_the_environment_that_is_there_is_taken_and_no_engine_is_removed(
    tmp_path: Path, installed: str | None, arguments: list[str], venv: str, sets_up: bool
) -> None:
    result = make(*arguments, folder=fresh_clone(tmp_path, installed))

    assert result.returncode == 0, result.stderr
    assert f"{venv}/bin/everyuser build quickstart " in result.stdout.replace("'", "")
    assert (f"setting up {venv} " in result.stdout) == sets_up


def test_an_environment_has_the_stamp_of_one_engine(tmp_path: Path) -> None:
    lines = make("setup", "ENGINE=cpu", folder=fresh_clone(tmp_path, "none")).stdout.splitlines()

    assert lines.index("rm -f .venv/.*-installed .venv/.with-*") < lines.index("touch .venv/.cpu-installed")


@pytest.mark.parametrize("model", ["Qwen/Qwen3-8B", "packaged:smollm2-135m-instruct", "/models/my model", "~/model"])
def test_a_model_is_handed_to_the_build_as_it_is_named(tmp_path: Path, model: str) -> None:
    result = make("build-dataset", f"MODEL={model}", f"VENV={tmp_path}/venv", "ENGINE=none")

    assert f"build 'quickstart' --output 'out/quickstart' --set 'generation.model={model}'" in result.stdout


def test_a_folder_with_a_model_is_handed_over_by_its_whole_path(tmp_path: Path) -> None:
    folder = fresh_clone(tmp_path, None)
    (tmp_path / "models" / "mine").mkdir(parents=True)
    (tmp_path / "models" / "mine" / "config.json").write_text("{}")

    result = make("build-dataset", "MODEL=models/mine", "ENGINE=none", folder=folder)

    assert f"--set 'generation.model={tmp_path}/models/mine'" in result.stdout


def test_without_a_model_the_configuration_decides(tmp_path: Path) -> None:
    result = make("build-dataset", "CONFIG=configs/forum.yaml", "ENGINE=none", f"VENV={tmp_path}/venv")

    assert "build 'configs/forum.yaml' --output 'out/forum'" in result.stdout
    assert "generation.model" not in result.stdout


@pytest.mark.parametrize(("runner", "config"), [("local", "quickstart"), ("flink", "configs/quickstart.yaml")])
def test_only_this_machine_chooses_a_model_for_itself(tmp_path: Path, runner: str, config: str) -> None:
    result = make("build-dataset", f"RUNNER={runner}", "ENGINE=none", f"VENV={tmp_path}/venv")

    assert f"build '{config}' --output 'out/quickstart'" in result.stdout
