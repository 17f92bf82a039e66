from __future__ import annotations

import re
import subprocess
import sys

import pytest
from pydantic import BaseModel

from schemas import config
from schemas.base import Record
from schemas.config import NOT_FINGERPRINTED, BuildConfig, ReplayEngine
from schemas.reference import SECTIONS, reference
from tests import ROOT

MODELS = [
    value
    for value in vars(config).values()
    if isinstance(value, type) and issubclass(value, Record) and value is not Record
]


def is_section(model: type[BaseModel], key: str) -> bool:
    """Return whether a key holds further keys, which have another section."""
    inner = model.model_fields[key].annotation
    return key in ("engine", "source") or (isinstance(inner, type) and issubclass(inner, BaseModel))


def rows(model: type[BaseModel]) -> str:
    """Return the part of the page about one model."""
    title = next(title for title, owner in SECTIONS.items() if owner is model)
    return reference().split(f"## {title or 'Top level'}\n")[1].split("\n## ")[0]


def test_the_page_in_docs_is_up_to_date() -> None:
    page = (ROOT / "docs" / "config.md").read_text(encoding="utf-8")

    assert page == reference(), "run: python -m schemas.reference > docs/config.md"


def test_the_module_prints_the_page() -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "schemas.reference"], cwd=ROOT, capture_output=True, check=True
    ).stdout

    assert printed.decode() == reference()


def test_every_model_of_the_configuration_has_a_section() -> None:
    assert {model.__name__ for model in MODELS} == {model.__name__ for model in SECTIONS.values()}


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_key_of_a_model_occurs_in_its_section(model: type[BaseModel]) -> None:
    page, section = reference(), rows(model)

    for key in model.model_fields:
        assert (
            re.search(rf"^## (\w+\.)*{key}\b", page, re.M) if is_section(model, key) else f"| `{key}` |" in section
        ), key


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_key_but_the_kind_of_an_engine_is_described(model: type[BaseModel]) -> None:
    for key, field in model.model_fields.items():
        assert is_section(model, key) or key == "kind" or field.description, key


def test_defaults_are_those_of_the_models() -> None:
    section = rows(BuildConfig)

    assert re.search(r"\| `attempts` \| a whole number from 1 to 16 \| `4` \|", section)
    assert re.search(r"\| `templates` \| a text or null \| `null` \|", section)
    assert re.search(r"\| `pairs` \| a whole number of at least 1 or null \| `null` \|", section)
    assert re.search(r"\| `journal` \| a text \| required \|", rows(ReplayEngine))


def test_every_default_that_is_shown_below_the_tables_is_there() -> None:
    below = [key for key in config.RulesConfig.model_fields if re.search(rf"`{key}` .*, below \|", reference())]

    assert below == ["refusals", "markup", "control_tokens"]
    assert reference().count(", below |") == len(re.findall("^### Default of ", reference(), re.M)) == len(below)


def test_keys_that_may_change_are_those_that_the_fingerprint_leaves_out() -> None:
    keys = re.search(r"^(`name`.*?) may change between runs", reference(), re.M | re.S)
    base = BuildConfig(pairs=1).fingerprinted()

    assert keys is not None
    assert set(re.findall(r"`(\w+)`", keys[1])) == {"name", *NOT_FINGERPRINTED}
    assert set(base) == set(BuildConfig.model_fields) - {"name", *NOT_FINGERPRINTED, "space", "templates", "seeds"}


def test_the_readme_lists_the_same_keys_that_may_change() -> None:
    row = re.search(r"^\| a changed configuration \|(.*)\|$", (ROOT / "README.md").read_text(encoding="utf-8"), re.M)

    assert row is not None
    assert set(re.findall(r"`(\w+)`", row[1])) == {"name", *NOT_FINGERPRINTED}


def test_every_row_of_every_table_has_four_cells() -> None:
    for line in reference().splitlines():
        if line.startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", line)) == 5, line
