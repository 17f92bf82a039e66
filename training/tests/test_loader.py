from __future__ import annotations

from pathlib import Path

import pytest

from everyuser_train.config import FitConfig
from everyuser_train.loader import load_config
from schemas.base import UsageError

MINIMAL = "output: out\ndata: {path: owner/name}\npersona: {method: ica}\nmodel: {name: owner/model}\n"


def written(folder: Path, text: str = MINIMAL) -> Path:
    path = folder / "run.yaml"
    path.write_text(text)
    return path


def test_file_options_and_overrides_are_laid_on_each_other(tmp_path: Path) -> None:
    path = written(tmp_path, MINIMAL + "training: {beta: 0.2, epochs: 2, learning_rate: 5e-7}\n")

    config = load_config(FitConfig, path, {"output": "/o", "training.epochs": 3.0}, ["training.epochs=4"])

    assert config.training.beta == 0.2
    assert config.training.learning_rate == 5e-7
    assert config.training.epochs == 4
    assert config.output == "/o"


def test_paths_of_the_file_are_relative_to_it_and_hub_ids_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "here").mkdir()
    (tmp_path / "files" / "data.json").touch()
    path = written(tmp_path / "files", MINIMAL.replace("owner/name", "data.json"))
    monkeypatch.chdir(tmp_path / "here")

    config = load_config(FitConfig, path, {}, ["data.space=own.yaml"])

    assert config.output == str(tmp_path / "files" / "out")
    assert config.data.path == str(tmp_path / "files" / "data.json")
    assert config.data.space == str(tmp_path / "here" / "own.yaml")
    assert config.model.name == "owner/model"


def test_an_empty_section_is_its_defaults(tmp_path: Path) -> None:
    assert load_config(FitConfig, written(tmp_path, MINIMAL + "training:\n"), {}).training.beta == 0.1


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        (MINIMAL, ["training.bta=1"], r"unknown key 'training.bta'; did you mean 'beta'\?"),
        (MINIMAL, ["training.beta=-1"], "'training.beta' is -1; expected a number above 0"),
        (MINIMAL, ["training.beta"], "expected key=value"),
        (MINIMAL, ["output.x=1"], "'output' holds a value"),
        (MINIMAL, ["output={"], "not valid YAML"),
        (MINIMAL.replace("output: out\n", ""), [], "'output' is required: a text"),
        (MINIMAL + "output: twice\n", [], "line 5, .*'output'"),
        ("- a\n", [], "expected keys and values"),
        ("a: [\n", [], "not readable as YAML"),
        ("[" * 100, [], "not readable as YAML: .* more than 64 nested"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, overrides: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        load_config(FitConfig, written(tmp_path, text), {}, overrides)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.yaml: no such file"):
        load_config(FitConfig, tmp_path / "none.yaml", {})


@pytest.mark.parametrize("path", sorted(Path(__file__).parents[1].glob("configs/*-*ca.yaml")), ids=lambda p: p.name)
def test_the_configurations_that_come_along_are_valid(path: Path) -> None:
    ica = load_config(FitConfig, path, {})
    pba = load_config(FitConfig, path.with_name(path.name.replace("ica", "pba")), {})

    assert (ica.persona.method, pba.persona.method) == ("ica", "pba")
    assert ica.output != pba.output


def test_the_papers_recipe() -> None:
    config = load_config(FitConfig, Path(__file__).parents[1] / "configs" / "paper-ica.yaml", {})

    training = config.training
    assert (training.learning_rate, training.batch_size, training.beta) == (5e-7, 128, 0.1)
    assert (training.max_length, training.epochs, config.model.tuning) == (8192, 1, "full")
    assert (config.persona.items_min, config.persona.items_max) == (0, 4)


def test_a_set_value_that_is_no_yaml_is_said_in_words() -> None:
    with pytest.raises(UsageError, match=r"--set seed=\[1: the value is not valid YAML \(did not find expected"):
        load_config(FitConfig, None, {}, ["seed=[1"])
