from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from pipeline.quality.rules import Violation, check_control_tokens, check_pair, check_reply, check_text
from preference_space.space import load_space
from schemas.config import PACKAGED_SPACES, MiningConfig, RulesConfig

RULES = RulesConfig()
GOOD = "I would call your sister tonight and simply tell her how you feel about it."
GERMAN = "Ich würde heute Abend deine Schwester anrufen und ihr einfach sagen, wie du dich dabei fühlst."


def reason(text: str, finish_reason: str = "stop", **rules: Any) -> str | None:
    violation = check_text(text, finish_reason, RulesConfig(**rules))
    return violation.reason if violation else None


def reply_reason(text: str, *prompts: str, **rules: Any) -> str | None:
    violation = check_reply(text, "stop", prompts, RulesConfig(**rules))
    return violation.reason if violation else None


def pair_reason(chosen: str, rejected: str, **rules: Any) -> str | None:
    violation = check_pair(chosen, rejected, RulesConfig(**rules))
    return violation.reason if violation else None


def test_good_text_passes() -> None:
    assert check_text(GOOD, "stop", RULES) is None
    assert check_reply(GOOD, "stop", ["My sister has not called since May."], RULES) is None


@pytest.mark.parametrize("text", ["", "  \n", "...", "?!", "\N{GRINNING FACE}"])
def test_text_without_a_word_is_empty(text: str) -> None:
    assert reason(text) == "empty"


@pytest.mark.parametrize("finish_reason", ["length", "content_filter", "unknown"])
def test_text_that_did_not_stop_by_itself_is_unfinished(finish_reason: str) -> None:
    assert check_text(GOOD, finish_reason, RULES) == Violation("unfinished", f"finish_reason {finish_reason}")


@pytest.mark.parametrize("colon", [":", "\uff1a"])
def test_an_announcement_without_what_it_announces_is_no_reply(colon: str) -> None:
    assert reason(f"This is how I help a friend who is feeling down{colon}") == "lead_in_alone"


def test_one_word_less_than_min_words_is_too_short() -> None:
    assert check_text("Just call her, friend.", "stop", RULES) == Violation("too_short", "4 words")
    assert reason("Just call her tonight, friend.") is None
    assert reason("Just call her tonight, friend.", min_words=6) == "too_short"


@pytest.mark.parametrize(
    "text", ["I\u2019m sorry, but I can\u2019t help with that request.", "I\u2019m just an AI and cannot tell you."]
)
def test_refusal_with_a_typographic_apostrophe_is_a_refusal(text: str) -> None:
    assert reason(text) == "refusal_or_meta"


def test_refusal_is_found_in_any_case_and_on_any_line() -> None:
    assert reason("You should call her.\nHERE IS THE REPLY you wanted.") == "refusal_or_meta"


@pytest.mark.parametrize("pattern", ["as one", "As One", r"As\W+One", "[A-Z]s one", "(?P<word>as) one"])
def test_patterns_match_in_any_case_however_they_are_written(pattern: str) -> None:
    violation = check_text("You two should live AS ONE from now on.", "stop", RulesConfig(refusals=(pattern,)))
    assert violation == Violation("refusal_or_meta", "AS ONE")


def test_without_refusal_patterns_nothing_is_a_refusal() -> None:
    assert reason("As an AI, I have no sister to call.", refusals=()) is None


@pytest.mark.parametrize(
    "text",
    [
        "You should call her tonight.<|im_end|>",
        "You should call <b>her</b> tonight. </s>",
        "<think>She is sad.</think> You should call her tonight.",
        "<reasoning>Call.</reasoning>\n<answer>You should call her tonight, my friend.</answer>",
        "You should call her tonight, my friend.</answer>",
        "<br/>You should call her tonight, my friend.",
        "[INST] You should call her tonight, my friend.",
        "# Advice\nYou should call her tonight, my friend.",
        "You should call her:\n```\ncall(sister)\n```",
        "Reply: you should call her tonight, my friend.",
        "You should call her tonight.\n**Post**: my sister is gone.",
        "You should call her tonight, my fri\ufffdnd.",
        "Hi [Name], you should call her tonight.",
        "Dear [Poster], you should call her tonight.",
        "You should call [insert name] tonight, my friend.",
    ],
)
def test_markup_and_template_junk_is_rejected(text: str) -> None:
    assert reason(text) in ("markup", "control_token")


@pytest.mark.parametrize(
    "text",
    [
        "You are #1 to her, so call her tonight.",
        "I <3 this, and you should call her tonight.",
        "If a < b and b > c, you should call her.",
        "*Do* call her tonight, and be `honest` with her.",
        "My reply: none at all, and you should wait.",
        "Posting: that is what I would do about it.",
        "It is all on the wiki [see below] and in [1].",
    ],
)
def test_plain_signs_are_no_markup(text: str) -> None:
    assert reason(text) is None


def test_text_that_repeats_more_than_the_share_of_trigrams_is_a_loop() -> None:
    # Of the trigrams of "a b c a b c ...", three are distinct: 3 of 6 is the limit, 3 of 7 is beyond it.
    assert reason("call her now call her now call her") is None
    assert check_text("call her now call her now call her now", "stop", RULES) == Violation(
        "repetitive", "3 of 7 trigrams are distinct"
    )
    assert reason("call her now call her now call her", max_repeated_share=0.4) == "repetitive"


def test_text_of_fewer_words_than_a_trigram_is_no_loop() -> None:
    assert reason("yes yes", min_words=1, max_repeated_share=0) is None


def test_language_other_than_the_expected_is_rejected() -> None:
    assert check_text(GERMAN, "stop", RulesConfig(language="en")) == Violation("language", "de")
    assert reason(GOOD, language="de") == "language"
    assert reason(GOOD, language="en") is None
    assert reason(GERMAN, language="de") is None


def test_language_is_not_checked_by_default() -> None:
    assert reason(GERMAN) is None


HINT = "- Bring up a boat and tell how the open sea has made you calm."


def test_eight_words_in_a_row_from_the_persona_are_a_copy() -> None:
    eight = "Well, the Open Sea has made you calm - and happy, I think."
    seven = "Well, the open sea has made you, at last, quite happy, I think."

    assert reply_reason(eight, HINT) is None
    assert check_reply("So, how the OPEN sea -- has made you calm!", "stop", [HINT], RULES) == Violation(
        "copied", "how the open sea has made you calm"
    )
    assert reply_reason(seven, HINT) is None
    assert reply_reason(eight, HINT, copied_ngram=7) == "copied"


def test_eight_words_in_a_row_from_the_post_are_a_copy() -> None:
    post = "Post: My sister\nShe has not called me since the wedding in May. What now?"

    assert reply_reason("Oh no! She has not called me since the wedding? Call her.", "", post) == "copied"
    assert reply_reason("Oh no! She has not called you since the wedding in May?", "", post) is None


def test_words_of_two_lines_of_the_prompt_are_no_copy() -> None:
    assert reply_reason("one two three four five six seven eight nine ten", "one two three four five\nsix") is None
    lines = "one two three four five\nsix seven eight nine ten"
    assert reply_reason("one two three four five six seven eight nine ten", lines) is None


@pytest.mark.parametrize("space", PACKAGED_SPACES)
@pytest.mark.parametrize("field", ["hint", "service"])
def test_every_instruction_of_a_packaged_space_is_long_enough_to_be_recognised_as_a_copy(
    space: str, field: str
) -> None:
    for dimension in load_space(space).dimensions:
        for pole in (dimension.positive, dimension.negative):
            text = getattr(pole, field)
            assert reply_reason(f"I think so. {text}", f"- {text}", refusals=()) == "copied", dimension.slug


def test_reply_must_be_a_good_text_first() -> None:
    assert reply_reason("", HINT) == "empty"


def test_length_ratio_counts_characters_in_both_directions() -> None:
    short, four_times, longer = "a" * 25, "b" * 100, "b" * 101

    assert pair_reason(short, four_times) is None
    assert check_pair(short, longer, RULES) == Violation("length_ratio", "101 against 25 characters")
    assert pair_reason(longer, short) == "length_ratio"
    assert pair_reason(short, longer, max_length_ratio=5) is None


def test_plain_answer_of_a_restraint_pair_may_be_short() -> None:
    plain, personal = "The Amazon River, of course.", "Oh, my dorm room had a map of it. " * 5

    assert check_pair(plain, personal, RULES) == Violation("length_ratio", "170 against 28 characters")
    assert check_pair(plain, personal, RULES, "restraint") is None
    assert check_pair(plain, plain, RULES, "restraint") == Violation("equal", "")


def test_replies_of_the_same_words_are_equal() -> None:
    assert pair_reason("Call her. Tonight!", "call her tonight") == "equal"
    assert pair_reason("Call her tonight!", "call him tomorrow") is None


def test_replies_of_nearly_the_same_letters_are_near_equal() -> None:
    # One letter of ten replaced: 1 - 2 / 20 = 0.9, the limit; one of nine: 0.89.
    assert check_pair("abcdefghij", "abcdefghix", RULES) == Violation("near_equal", "similarity 0.90")
    assert pair_reason("abcdefghi", "abcdefghx") is None
    assert pair_reason("ABCDEFGHIJ", "abcdefghix") == "near_equal"
    assert pair_reason("abcdefghij", "abcdefghix", max_similarity=0.91) is None


@pytest.mark.parametrize(
    "token",
    [
        "<|im_start|>",
        "<|eot_id|>",
        "<|start_header_id|>user<|end_header_id|>",
        "<|channel>thought",
        "<turn|>",
        "<\uff5cbegin\u2581of\u2581sentence\uff5c>",
        "[INST]",
        "[/INST]",
        "<<SYS>>",
        "</s>",
        "<bos>",
        "<start_of_turn>user",
        "<end_of_turn>",
        "[|assistant|]",
        "[AVAILABLE_TOOLS]",
        "<tool_call>",
        "<unused42>",
        "[gMASK]<sop>",
        "]~b]user",
        "[e~[",
        "<think>",
        "</thinking>",
        "[THINK]",
        "\u25c1think\u25b7",
    ],
)
def test_tokens_of_chat_templates_are_rejected_in_any_text(token: str) -> None:
    text = f"{GOOD} {token} And so on."
    assert check_text(text, "stop", RULES) == check_control_tokens(text, RULES)
    assert reason(text) == "control_token"


@pytest.mark.parametrize(
    "text",
    [
        "# A title\n\n* one\n* `two`\n\n> quoted",
        "I <b>do</b><br> like a <-> b, x <= y and [think] | so",
        "map f <|> g, then a || b > c",
        "I am sorry, but I can't help with that.",
        "Answer: 42 [1] [see below] <https://example.org/a|b>",
    ],
)
def test_what_people_format_is_no_token(text: str) -> None:
    assert check_control_tokens(text, RULES) is None


@pytest.mark.parametrize(
    ("character", "name"),
    [
        ("\x00", "U+0000"),
        ("\x08", "U+0008"),
        ("\x1b[31m", "U+001B"),
        ("\u202e", "U+202E"),
        ("\u2067", "U+2067"),
        ("\U000e0041", "U+E0041"),
    ],
)
def test_control_characters_are_refused_by_name(character: str, name: str) -> None:
    assert check_text(f"{GOOD}{character}", "stop", RULES) == Violation("control_character", name)


def test_tabs_and_line_breaks_are_no_control_characters() -> None:
    assert reason(f"\t{GOOD}\r\n{GERMAN}") is None


def test_a_text_is_measured_before_it_is_read() -> None:
    assert check_text("<|" * 11, "stop", RulesConfig(max_characters=21)) == Violation("too_long", "22 characters")
    assert reason("word " * 9_000) == "too_long"


def test_an_unfinished_reply_without_a_word_is_unfinished() -> None:
    assert check_text("", "length", RULES) == Violation("unfinished", "finish_reason length, no text")


def test_words_of_scripts_with_marks_are_counted_once() -> None:
    hindi = "आपकी बहन को आज रात फ़ोन करके बताइए"
    assert reason(hindi, min_words=8) is None
    assert reason(hindi, min_words=9) == "too_short"
    assert reply_reason(hindi, hindi, copied_ngram=9) is None
    assert reply_reason(hindi, hindi, copied_ngram=8) == "copied"


_SEARCHES = """
import json, re, sys
patterns, texts = json.load(sys.stdin)
for pattern in patterns:
    for text in texts:
        re.compile(pattern, re.IGNORECASE | re.MULTILINE).search(text + "!")
"""


def test_no_default_pattern_takes_long_over_a_hostile_text() -> None:
    refusals = rf"\b(?:{'|'.join(RULES.refusals)})"
    patterns = [
        refusals,
        *RULES.refusals,
        *RULES.markup,
        *RULES.control_tokens,
        *MiningConfig.model_fields["bots"].default,
    ]
    pieces = [
        "<|", "<|a", "<\uff5c", "<p ", "</s", "<a|", "[|a", "[/INST", "<<SYS", "<unused1", "\u25c1think", "[", "<", "#",
        "`", "\n", "\n\n:", "\ntitle", "i am a ", "i'm just an ", "i am sorry, but i ", "here is the ", "a", " ", "bot",
    ]  # fmt: skip
    texts = [piece * (250_000 // len(piece)) for piece in pieces]
    texts += [
        "<p " + "a" * 250_000,
        "here is the " + "a" * 250_000,
        "<|" + "a" * 250_000,
        "i'm an " + "\u0e01" * 250_000,
    ]

    # A quadratic pattern takes a minute for one of these texts, and there are many of them.
    done = subprocess.run(
        [sys.executable, "-c", _SEARCHES], input=json.dumps([patterns, texts]), text=True, timeout=120, check=False
    )

    assert done.returncode == 0
