"""Every path and every Python name that the documentation mentions exists."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from tests import ROOT

PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
FOLDERS = "benchmarks|configs|deploy|docs|everyuser|locks|pipeline|preference_space|prompts|schemas|tests|training"
PATH = re.compile(rf"(?<![\w/.-])(?:{FOLDERS})/[\w./-]*[\w/]")
LINK = re.compile(r"\]\((?!https?:)([^)#]+)(?:#([\w-]+))?\)")
MODULE = re.compile(r"(?<![\w/.])(?:python -m )?((?:benchmarks|deploy|pipeline|schemas)(?:\.(?!md\b)[A-Za-z_]\w*)+)")
MADE = ("training/.venv", "prompts/templates/NAME.j2")
"""Paths that appear later, or that stand for others."""


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


def _exists(name: str) -> bool:
    """Return whether a dotted name is a module, or an attribute of one."""
    module, _, rest = name, "", ""
    while module:
        try:
            found = importlib.import_module(module)
        except ModuleNotFoundError:
            module, _, attribute = module.rpartition(".")
            rest = f"{attribute}.{rest}".rstrip(".")
            continue
        for attribute in filter(None, rest.split(".")):
            if not hasattr(found, attribute):
                return False
            found = getattr(found, attribute)
        return True
    return False
