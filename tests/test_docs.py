"""Paths, links and names of code that the documentation mentions exist."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from schemas.config import BuildConfig
from schemas.documents import parse_yaml
from schemas.loader import build_config
from tests import ROOT

PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
FOLDERS = "benchmarks|configs|deploy|docs|everyuser|locks|pipeline|preference_space|prompts|schemas|tests|training"
PATH = re.compile(rf"(?<![\w/.-])(?:{FOLDERS})/[\w./-]*[\w/]")
LINK = re.compile(r"\]\((?!https?:)([^)#]+)(?:#([\w-]+))?\)")
MODULE = re.compile(r"(?<![\w/.])(?:python -m )?((?:benchmarks|deploy|pipeline|schemas)(?:\.(?!md\b)[A-Za-z_]\w*)+)")
NAME = re.compile(r"`\.?([a-z_]+\.)?(_?[A-Z][a-z]+[A-Z]\w*|[A-Z]+_[A-Z_]+|_[A-Z_]{3,}|[a-z]+_[a-z_]+)(?:\([^`]*\))?`")
MADE = ("training/.venv", "prompts/templates/NAME.j2")
"""Paths that appear later, or that stand for others."""
SETTINGS = [
    (page.name, block)
    for page in PAGES
    for block in re.findall(r"^```yaml\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    if {*parse_yaml(block)} <= {*BuildConfig.model_fields}
]
"""Configurations, or sections of one, that pages show."""
CODE = ("pipeline", "schemas", "preference_space", "prompts", "deploy", "benchmarks", "configs")
KINDS = (".py", ".yaml", ".j2")
THEIRS = {"GPUS_ALL_REGIONS", "IN_USE_ADDRESSES", "SSD_TOTAL_GB"}
"""Names of Google's quotas."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_exist(page: Path) -> None:
    text = page.read_text()
    missing = {path for path in PATH.findall(text) if not path.startswith(MADE) and not (ROOT / path).exists()}

    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    broken = set()
    for name, anchor in LINK.findall(page.read_text()):
        target = page.parent / name
        headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE) if target.suffix == ".md" else []
        anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
        if not target.exists() or (anchor and anchor not in anchors):
            broken.add(f"{name}#{anchor}")

    assert not broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_names_exist(page: Path) -> None:
    missing = {name for name in MODULE.findall(page.read_text()) if not _exists(name)}

    assert not missing


@pytest.mark.parametrize("page", ["docs/design.md", "docs/running-at-scale.md", "CONTRIBUTING.md", "README.md"])
def test_names_in_backticks_occur_in_the_code(page: str) -> None:
    code = "".join(path.read_text() for folder in CODE for path in (ROOT / folder).rglob("*.*") if path.suffix in KINDS)
    missing = {name for _, name in NAME.findall((ROOT / page).read_text()) if name not in code and name not in THEIRS}

    assert not missing


@pytest.mark.parametrize(
    ("page", "stage"), [("docs/design.md", r"\b[A-Z][a-z]+[A-Za-z]*\b"), ("README.md", r"\b[A-Z]{5,}\b")]
)
def test_stages_of_the_pictures_are_those_of_the_dag(page: str, stage: str) -> None:
    picture = (ROOT / page).read_text().split("```")[1]
    dag = (ROOT / "pipeline/dag.py").read_text()
    found = {*re.findall(stage, picture)} - {"PHASE", "PAIRS", "EXAMPLES"}
    named = {name.title() if name.isupper() else name for name in found}

    assert len(named) >= 8
    assert not {name for name in named if not re.search(rf'(class |f?"){name}\b', dag)}


@pytest.mark.parametrize(("page", "block"), SETTINGS)
def test_configurations_are_valid(page: str, block: str) -> None:
    document = parse_yaml(block)
    pairs = {} if {"mining", "users"} & {*document} else {"pairs": 1}

    build_config({"generation": {"model": "m"}} | pairs | document, page)


def _exists(name: str) -> bool:
    """Return whether a dotted name is a module, or an attribute of one."""
    module, _, rest = name, "", ""
    while module:
        try:
            found = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name != module and not module.startswith(f"{error.name}."):
                return True  # It is there, and imports what only the training package's environment has.
            module, _, attribute = module.rpartition(".")
            rest = f"{attribute}.{rest}".rstrip(".")
            continue
        for attribute in filter(None, rest.split(".")):
            if not hasattr(found, attribute):
                return False
            found = getattr(found, attribute)
        return True
    return False
