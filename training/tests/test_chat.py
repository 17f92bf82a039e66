from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from everyuser_train import chat
from everyuser_train.chat import Pair, Sampling
from everyuser_train.config import EvalData
from everyuser_train.personas import NO_PERSONA
from schemas.base import UsageError
from tests.small import prepare
from tests.tiny import save_adapters, save_tiny


def test_one_model_with_and_without_its_adapters_is_policy_and_reference(tmp_path: Path) -> None:
    base = save_tiny(tmp_path / "base")
    adapters = save_adapters(tmp_path / "adapters", base)
    sampling = Sampling(max_new_tokens=12, temperature=0)

    shared = Pair(adapters, None, "float32").replies("ica", "tea?", NO_PERSONA, sampling)
    plain = Pair(base, base, "float32").replies("ica", "tea?", NO_PERSONA, sampling)

    assert shared[1] == plain[0] == plain[1]
    assert shared[0] != shared[1]


def test_replies_are_the_seeds(tmp_path: Path) -> None:
    base = save_tiny(tmp_path / "base")
    pair = Pair(base, base, "float32")

    replies = [
        pair.replies("ica", "tea?", NO_PERSONA, Sampling(max_new_tokens=12, temperature=1.0, seed=seed))
        for seed in (1, 1, 2)
    ]

    assert replies[0] == replies[1]
    assert replies[0] != replies[2]
    assert replies[0][0] == replies[0][1]


def test_a_post_without_room_is_refused(tmp_path: Path) -> None:
    base = save_tiny(tmp_path / "base")

    with pytest.raises(UsageError, match="post is too long"):
        Pair(base, base, "float32").replies("ica", "tea " * 400, NO_PERSONA, Sampling(1024, 100))


def test_a_row_is_found_by_its_id(tmp_path: Path) -> None:
    prepare(tmp_path, rows=3)
    data = EvalData(path=str(tmp_path / "data.json"))

    example, space = chat.find_row(data, "row-2")

    assert example.id == "row-2"
    assert chat.find_row(data, None)[0].id == "row-0"
    assert len(chat.persona_of(example, space, "ica", 1).ugc) == 1
    with pytest.raises(UsageError, match="no example with id 'row-9'"):
        chat.find_row(data, "row-9")


def test_written_lines_are_a_portrait_or_preferences() -> None:
    persona = chat.written_persona("likes tea\n\n  old \n")

    assert persona.portrait == "likes tea\nold"
    assert persona.profile == "likes tea, old"


@pytest.mark.parametrize("width", [60, 120])
def test_hostile_text_is_shown_as_text(width: int) -> None:
    stream = io.StringIO()
    console = Console(file=stream, width=width, force_terminal=True, color_system=None)

    chat.show_replies("[link=x]post", "\x1b]0;title\x07ours", "\u202etheirs\x9b2J", console)

    shown = stream.getvalue()
    assert all(text in shown for text in ("[link=x]post", "]0;title ours", "theirs 2J"))
    assert not any(mark in shown for mark in ("\x1b]", "\x07", "\u202e", "\x9b"))
