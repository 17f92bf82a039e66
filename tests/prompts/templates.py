"""Templates of a folder, and inputs for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from prompts.renderer import INPUTS, Template, load_templates
from schemas.base import UsageError

POST: dict[str, Any] = {"title": "Which pet?", "text": "A cat or a dog.", "topics": ["pets"]}
PROMPT = "Which pet?\n\nA cat or a dog."
DIMENSION = {
    "slug": "calm",
    "name": "Calmness",
    "question": "Is the writer calm?",
    "positive": {"label": "Calm", "description": "keeps a cool head", "hint": "Write calmly."},
    "negative": {"label": "Upset", "description": "is easily upset", "hint": "Write in anger."},
}
OPTIONS = [
    {"letter": "A", "label": "", "description": ""},
    {"letter": "B", "label": "Upset", "description": "is easily upset"},
    {"letter": "C", "label": "Calm", "description": "keeps a cool head"},
]


def trait(word: str) -> dict[str, str]:
    fields = ("slug", "name", "group", "label", "description", "hint", "service")
    return {field: f"{word} {field}" for field in fields}


def inputs_of(name: str) -> dict[str, Any]:
    """Return a value for every input of a template."""
    values: dict[str, Any] = {
        "post": PROMPT if name == "portrait_paper" else POST,
        "traits": [trait("calm"), trait("kind")],
        "chosen": "Get a cat.",
        "rejected": "Get a dog.",
        "response": "A cat, they are quiet.",
        "dimension": DIMENSION,
        "portrait": "This person laughs easily.",
        "first": "Get a dog.",
        "second": "Get a cat.",
        "dimensions": [DIMENSION],
        "tags": [DIMENSION | {"slug": "pets"}],
        "options": OPTIONS,
    }
    return {key: values[key] for key in INPUTS[name]}


def write(folder: Path, user: str, *, system: str = "Be kind.") -> Path:
    """Return a folder that overrides `reply`."""
    blocks = f"{{% block system %}}{system}{{% endblock %}}\n{{% block user %}}{user}{{% endblock %}}\n"
    (folder / "reply.j2").write_text(blocks, encoding="utf-8")
    return folder


def load(folder: Path) -> Template:
    return load_templates(folder)["reply"]


def refusal(folder: Path) -> str:
    with pytest.raises(UsageError) as caught:
        load_templates(folder)
    return str(caught.value)
