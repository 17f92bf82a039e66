from __future__ import annotations

import doctest
from pathlib import Path

import datasets
import pytest

import everyuser
from tests.forks import python
from tests.pipeline.helpers import DUMMY, tiny


def test_the_tutorial_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")

    failed, attempted = doctest.testmod(everyuser)

    assert failed == 0
    assert attempted > 5


def test_a_file_and_a_configuration_build_the_same_rows(tmp_path: Path) -> None:
    config = tiny(**DUMMY)
    file = tmp_path / "config.yaml"
    file.write_text(config.model_dump_json(exclude_unset=True))

    built = [everyuser.build(given, tmp_path / name) for given, name in ((config, "a"), (str(file), "b"))]

    assert built[0].files == built[1].files
    assert everyuser.read_manifest(tmp_path / "a") == built[0]


def test_a_folder_without_a_build_and_a_wrong_space_are_user_errors(tmp_path: Path) -> None:
    with pytest.raises(everyuser.UserError, match=r"manifest\.json"):
        everyuser.read_manifest(tmp_path)
    with pytest.raises(everyuser.UserError, match=r"none\.yaml"):
        everyuser.open_space(tmp_path / "none.yaml")


def test_the_import_loads_no_beam() -> None:
    code = "import everyuser, sys; print(*{'apache_beam', 'pyarrow', 'datasets'} & {*sys.modules})"
    out, err = python(code).communicate()

    assert (out.strip(), err) == ("", "")
