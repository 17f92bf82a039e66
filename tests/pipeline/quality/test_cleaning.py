from __future__ import annotations

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.quality.cleaning import Cleaned, clean
from schemas.config import CleaningConfig

ALL = CleaningConfig()
CALL = "I would call her tonight."
MORE = "She may well be waiting for it."


def text_of(raw: str) -> str:
    return clean(raw, ALL).text


@pytest.mark.parametrize(
    ("step", "raw"),
    [
        ("reasoning", f"<think>Who is she?</think>\n{CALL}"),
        ("reasoning", f"Who is she?</thinking>{CALL}"),
        ("reasoning", f"[THINK]Who?[/THINK]{CALL}"),
        ("reasoning", f"\u25c1think\u25b7Who?\u25c1/think\u25b7{CALL}"),
        ("whitespace", f"\ufeff\n {CALL}\t\n"),
        ("wrapping", f"```text\n{CALL}\n```"),
        ("wrapping", f"<reply>{CALL}</reply>"),
        ("wrapping", f"> {CALL}"),
        ("wrapping", f"**{CALL}**"),
        ("lead_in", f"Sure! Here's a short reply: {CALL}"),
        ("speaker", f"User123: {CALL}"),
        ("postscript", f"{CALL}\n\nThis reply reflects a warm person."),
        ("sign_off", f"{CALL}\n\nBest regards,\nAnna"),
    ],
)
def test_each_step_removes_its_part_and_can_be_switched_off(step: str, raw: str) -> None:
    assert clean(raw, ALL) == Cleaned(CALL, "stop", (step,))
    if step != "whitespace":
        assert clean(raw, CleaningConfig.model_validate({step: False})).text == raw.strip()


def test_steps_repeat_until_none_finds_anything() -> None:
    raw = f'<think>Hm.</think>```\nSure! Here is a reply:\n\n"**Anna:** {CALL}"\n\nThis reply reflects the person.\n```'
    cleaned = clean(raw, ALL)

    assert cleaned.text == CALL
    assert set(cleaned.steps) == {"reasoning", "wrapping", "postscript", "lead_in", "speaker"}


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("'Call her, don't wait.'", "Call her, don't wait."),
        ("\u201cCall her.\u201d", "Call her."),
        ("\u2018Call her.\u2019", "Call her."),
        ("\u201eRuf sie an.\u201c", "Ruf sie an."),
        ("\u201eZadzwo\u0144.\u201d", "Zadzwo\u0144."),
        ("\u00abAppelle-la.\u00bb", "Appelle-la."),
        ("\u300c\u96fb\u8a71\u3057\u3066\u3002\u300d", "\u96fb\u8a71\u3057\u3066\u3002"),
        ("\" 'Call her.' \"", "Call her."),
        ('"Call" or "write".', '"Call" or "write".'),
        ('"Call" is not "write"', '"Call" is not "write"'),
        ("\u201cCall\u201d is not \u201cwrite\u201d", "\u201cCall\u201d is not \u201cwrite\u201d"),
        ('"Call her.', '"Call her.'),
        ("*Do* call her *tonight*", "*Do* call her *tonight*"),
        ("> Call her?\nYes, do.", "> Call her?\nYes, do."),
        ('"', '"'),
        ('""', ""),
        ("", ""),
    ],
)
def test_marks_around_the_whole_reply_are_removed(raw: str, cleaned: str) -> None:
    assert text_of(raw) == cleaned


def test_lines_keep_their_order_with_one_empty_line_between_paragraphs() -> None:
    assert text_of(f"{CALL}  \r\n\r\n\r\n\r\n{MORE}\r\n- yes \r\n- no") == f"{CALL}\n\n{MORE}\n- yes\n- no"


def test_thinking_that_does_not_end_leaves_nothing_to_judge() -> None:
    assert clean(f"<think>Who is she? {CALL}", ALL, "length") == Cleaned("", "length", ("reasoning",))


# Replies that the limit of tokens cut off


@pytest.mark.parametrize("reason", ["length", "max_tokens", "MAX_TOKENS"])
def test_a_cut_reply_ends_at_its_last_whole_sentence(reason: str) -> None:
    assert clean(f"{CALL} {MORE} And then", ALL, reason) == Cleaned(f"{CALL} {MORE}", "stop", ("cut_at_sentence",))


@pytest.mark.parametrize(
    ("raw", "left"),
    [
        (f"{CALL} Now, D", CALL),
        (f'{CALL} "Do it!" I', f'{CALL} "Do it!"'),
        ("今夜電話します。彼女は待っています。それ", "今夜電話します。彼女は待っています。"),
        (f"{CALL} It costs 3.", CALL),
        (f"{CALL} Ask Dr. Bro", CALL),
        (f"{CALL} Do this:\n1. W", CALL),
        (f"{CALL} See e.g. Bro", CALL),
        (f"{CALL[:-1]}... So", f"{CALL[:-1]}..."),
        (f'"{CALL} And th', CALL),
        (CALL, CALL),
    ],
)
def test_marks_that_end_no_sentence_are_no_end(raw: str, left: str) -> None:
    assert clean(raw, ALL, "length").text == left


def test_a_cut_reply_of_which_too_little_would_be_left_stays_unfinished() -> None:
    raw = f"{CALL} And then we could all go to the beach and talk about"

    assert clean(raw, ALL, "length") == Cleaned(raw, "length", ())
    assert clean(raw, CleaningConfig(min_cut_share=0.1), "length").text == CALL


@pytest.mark.parametrize("reason", ["content_filter", "refusal", "unknown"])
def test_a_reply_that_ended_otherwise_is_not_cut(reason: str) -> None:
    assert clean(f"{CALL} And then", ALL, reason) == Cleaned(f"{CALL} And then", reason, ())


def test_cutting_can_be_switched_off() -> None:
    assert clean(CALL, CleaningConfig(cut_at_sentence=False), "length").finish_reason == "length"


# Any text

_PARTS = (
    *("Reply:", "Sure! Here's my reply:", "Anna:", "Me: ", '"', "'", "**", "*", "```", "\n", "\n\n", "> ", "-", "---"),
    *("<think>", "</think>", "<reply>", "</reply>", "Best,\nAnna", "[Your Name]", "This reply reflects a person.", " "),
    *(CALL, "word", "...", "\u201e", "\u201c", "\u201d", "\ufeff", "\r\n", "Word count: 3"),
)


@given(st.lists(st.sampled_from(_PARTS), max_size=12).map("".join), st.sampled_from(["stop", "length"]))
def test_cleaning_a_cleaned_text_changes_nothing_and_adds_nothing(raw: str, reason: str) -> None:
    once = clean(raw, ALL, reason)

    assert clean(once.text, ALL) == Cleaned(once.text, "stop", ())
    assert len(once.text) <= len(raw)
    assert bool(once.steps) or once.text == raw


_CLEAN = """
import json, sys
from pipeline.quality.cleaning import clean
from schemas.config import CleaningConfig
for text in json.load(sys.stdin):
    for reason in ("stop", "length"):
        clean(text, CleaningConfig(), reason)
"""


def test_no_hostile_text_takes_long() -> None:
    pieces = [
        *("a", " ", "\n", "\n\n", "\t\n", ".", '."', "!?", ":", "\uff1a", ">", "> ", "-", "*", "_", "`", '"', "'"),
        *("Reply:", "Reply: Me: ", "Sure! ", "sure,", "Here is a ", "Anna (", "Me:", "\n- Anna", "\nBest,\nAnna"),
        *(
            "\n[Your Name]",
            "\nThis reply ",
            "\nnote ",
            "<reply>",
            "</think>",
            "<think>",
            "\u201e",
            "1.",
            "\n1.",
            "Dr. ",
        ),
        *("\u56de\u590d\uff1a", "\u4ee5\u4e0b", "as a ", "in the voice of ", "\ufeff", "\n---", "@a", "a_"),
    ]
    texts = [piece * (60_000 // len(piece)) for piece in pieces]
    texts += [f"{text}x" for text in texts]

    # A quadratic step takes minutes for one of these texts, and there are many of them.
    done = subprocess.run([sys.executable, "-c", _CLEAN], input=json.dumps(texts), text=True, timeout=120, check=False)

    assert done.returncode == 0
