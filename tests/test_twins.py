"""Both packages are installed alone, so what both need is there twice; and it must be the same."""

from __future__ import annotations

import re

import pytest

from tests import ROOT


@pytest.mark.parametrize(
    ("here", "there"),
    [
        ("schemas/documents.py", "everyuser_train/documents.py"),
        ("schemas/problems.py", "everyuser_train/problems.py"),
        ("pipeline/generation/payload.py", "everyuser_train/payload.py"),
        ("prompts/neutral.py", "everyuser_train/neutral.py"),
        ("pipeline/console/terminal.py", "everyuser_train/terminal.py"),
        ("tests/schemas/test_documents.py", "tests/test_documents.py"),
        ("tests/pipeline/test_terminal.py", "tests/test_terminal.py"),
    ],
)
def test_what_both_packages_need_is_the_same_in_both(here: str, there: str) -> None:
    texts = [
        re.sub(
            r"The\s(training|building)\spackage|from (schemas|pipeline|everyuser_train)\b", "", path.read_text("utf-8")
        )
        for path in (ROOT / here, ROOT / "training" / there)
    ]

    assert texts[0] == texts[1]
