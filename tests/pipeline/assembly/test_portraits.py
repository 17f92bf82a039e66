from __future__ import annotations

import json
from typing import Any

import pytest

from pipeline.assembly.portraits import PaperPortrait
from preference_space.space import load_space

SPACE = load_space("alignx")
SLUG = SPACE.dimensions[0].slug


def portrait(**changes: Any) -> str:
    """A good answer; `changes` replace or, if None, remove a key."""
    answer = {
        "portrait": "This person is kind and patient.",
        "occupation": "nurse",
        "dimensions": {SLUG: "positive"},
        "liked": ["music"],
        "disliked": [],
    }
    return json.dumps({key: value for key, value in (answer | changes).items() if value is not None})


@pytest.mark.parametrize(
    "text",
    [
        portrait(),
        f"```json\n{portrait()}\n```",
        f"Here it is: {portrait()}. Anything else?",
        portrait(age=40, note="Nobody asked."),
        portrait(dimensions={SLUG: "positive", "height": "tall", "shoes": 44}),
    ],
)
def test_a_portrait_is_found_among_what_nobody_asked_for(text: str) -> None:
    read = PaperPortrait.read(text, SPACE)

    assert read == PaperPortrait.read(portrait(), SPACE)
    assert read.text() == "This person is kind and patient. Occupation: nurse. Likes: music."
    assert read.direction(SPACE)[0] == 1


@pytest.mark.parametrize(
    "text",
    [
        "This person is kind.",
        portrait(occupation=None),
        portrait(portrait=["This person", "is kind."]),
        portrait(dimensions={SLUG: "tall"}),
        portrait(dimensions=[SLUG]),
        portrait(liked="music"),
    ],
)
def test_what_is_no_portrait_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        PaperPortrait.read(text, SPACE)
