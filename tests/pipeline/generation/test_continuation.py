from __future__ import annotations

from typing import Any

import orjson
import pytest

from pipeline.generation.completions import Completion
from pipeline.generation.continuation import Partial, continued, joined, unfinished
from pipeline.generation.streaming import assemble
from tests.stub import event

TEXT = "We baked rye bread every Saturday, and my grandmother always said that "
"""More than the shortest text that is worth a continuation."""
BODY = {"messages": [{"role": "user", "content": "Bread?"}], "max_tokens": 100, "reasoning_effort": "none"}


def cut(text: str = TEXT, earlier: Partial | None = None, body: dict[str, Any] = BODY, **more: Any) -> Partial | None:
    stream = assemble(event({"choices": [{"index": 0, "delta": {"content": text, **more}}]}))
    return unfinished(stream, stream.text, orjson.dumps(body), earlier)


def test_the_rest_is_asked_for_with_what_is_left_of_the_limit() -> None:
    partial = cut()
    assert partial is not None

    fields = continued(BODY, partial)

    assert partial == Partial(TEXT.rstrip(), len(TEXT) // 4)
    assert fields == {
        "messages": [*BODY["messages"], {"role": "assistant", "content": TEXT.rstrip()}],  # type: ignore[misc]
        "max_tokens": 100 - partial.tokens,
        "reasoning_effort": "none",
        "continue_final_message": True,
        "add_generation_prompt": False,
    }


def test_a_reply_at_its_limit_has_one_token_left() -> None:
    assert continued({"messages": [], "max_completion_tokens": 5}, Partial(TEXT, 17))["max_completion_tokens"] == 1


def test_the_whole_reply_is_the_beginning_and_the_rest() -> None:
    rest = Completion(" rye keeps.", "length", 80, 4)

    assert joined(Partial("She said that", 3), rest) == Completion("She said that rye keeps.", "length", 80, 7)


def test_a_second_cut_adds_to_the_first() -> None:
    earlier = Partial(TEXT.rstrip(), 17)

    assert cut(" rye keeps", earlier) == Partial(f"{TEXT.rstrip()} rye keeps", 20)
    assert cut("", earlier) == earlier


@pytest.mark.parametrize("text", ["Rye keeps.", f"<think>{TEXT}", f"[THINK]{TEXT}", f"\u25c1think\u25b7{TEXT}"])
def test_a_short_text_and_reasoning_are_not_continued(text: str) -> None:
    assert cut(text) is None
    assert cut(reasoning="Hmm") is None
    assert cut(f"Hmm.</think>{TEXT}") is None


def test_what_may_be_reasoning_without_a_mark_is_not_continued() -> None:
    assert cut(body={"messages": BODY["messages"], "max_tokens": 100}) is None


@pytest.mark.parametrize("field", ["response_format", "structured_outputs", "tools"])
def test_a_constrained_reply_is_not_continued(field: str) -> None:
    assert cut(body=BODY | {field: {"type": "json_object"}}) is None
