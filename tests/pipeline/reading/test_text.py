from __future__ import annotations

import pytest

from pipeline.reading.text import (
    clean_text,
    count_words,
    find_control_character,
    is_blank,
    is_placeholder,
    normalise,
    remove_controls,
    to_slug,
    words,
)

SCOTLAND = "\U0001f3f4\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", []),
        ("Two Words, don't 3.14 a_b", ["two", "words", "don", "t", "3", "14", "a_b"]),
        ("हिन्दी में लिखा", ["हिन्दी", "में", "लिखा"]),
        ("مُحَمَّدٌ رسول", ["مُحَمَّدٌ", "رسول"]),
        ("می\u200cخواهم ක්\u200dරියා", ["می\u200cخواهم", "ක්\u200dරියා"]),  # noqa: RUF001, Persian is meant
        ("ภาษาไทย ง่าย", ["ภ", "า", "ษ", "า", "ไ", "ท", "ย", "ง่", "า", "ย"]),
        ("မြန်မာ ខ្មែរ", ["မြ", "န်", "မာ", "ខ្", "មែ", "រ"]),
        ("東京2024 がん", ["東", "京", "2024", "が", "ん"]),
        ("か\u3099ん", ["が", "ん"]),
        ("cafe\u0301 CAFÉ", ["café", "café"]),
        ("x² ½ Ⅻ", ["x²", "½", "ⅻ"]),
        ("I ❤\ufe0f it, 1\ufe0f\u20e3 👩\u200d👩", ["i", "it", "1\ufe0f\u20e3"]),
        ("\u0301 \u200d", []),
        ("𠮷野家", ["𠮷", "野", "家"]),
    ],
)
def test_words_are_runs_of_letters_digits_and_marks(text: str, found: list[str]) -> None:
    assert words(text) == found


def test_texts_with_and_without_marks_are_split_alike() -> None:
    text = "One TWO three_4, naïve x² 5.6 ・東京・ ½ ① カタカナ ー ﾊﾝ!"
    assert words(f"{text} क्या") == [*words(text), "क्या"]


def test_a_word_counts_once_however_it_is_encoded() -> None:
    assert count_words("हिन्दी में लिखा हुआ वाक्य") == 5
    assert count_words("cafe\u0301") == count_words("café") == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Hello, WORLD!", "hello   world"),
        ("cafe\u0301 au lait", "Café au lait"),
        ("आप कैसे हैं?", "आप  कैसे हैं"),
    ],
)
def test_texts_that_read_the_same_are_normalised_alike(one: str, other: str) -> None:
    assert normalise(one) == normalise(other)


@pytest.mark.parametrize(("one", "other"), [("कल", "कील"), ("มา", "ม่า"), ("?!", "!?")])
def test_marks_tell_texts_apart(one: str, other: str) -> None:
    assert normalise(one) != normalise(other)


@pytest.mark.parametrize("text", ["", " \n\u3000", "\u200b\u200b\ufeff", "\u3164 \u115f\u1160\uffa0", "\u00ad\u202e"])
def test_a_text_of_which_nothing_is_seen_is_blank(text: str) -> None:
    assert is_blank(text)
    assert not is_blank(f"{text}\u00e9")


@pytest.mark.parametrize(
    ("text", "expected"), [("Mental-Health UK", "mental_health_uk"), ("हिन्दी भाषा", "हिन्दी_भाषा"), (" (art) ", "art")]
)
def test_a_topic_becomes_a_slug(text: str, expected: str) -> None:
    assert to_slug(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("&gt; quoted\n\nTom &amp; Jerry &lt;3", "> quoted\n\nTom & Jerry <3"),
        ("it&#39;s &quot;so&quot; &#x27;here&#X27; &eacute;", "it's \"so\" 'here' é"),
        ("one\n\n&amp;#x200B;\n\ntwo", "one\n\n\n\ntwo"),
        ("one\n\n&#x200B;\n\ntwo", "one\n\n\n\ntwo"),
        ("a&amp;nbsp;b", "a b"),
        ("write &amp;lt; for a bracket", "write &lt; for a bracket"),
        ("AT&T, &unknown; and &notin it; &copy", "AT&T, &unknown; and &notin it; &copy"),
        ("a null&#0; and &#27;[31m, half &#xD800;", "a null\ufffd and [31m, half \ufffd"),
    ],
)
def test_entities_of_a_dump_are_undone_once(text: str, expected: str) -> None:
    assert clean_text(text, escaped=True) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("&gt; quoted, and Tom &amp; Jerry", "> quoted, and Tom & Jerry"),
        ("Is `a &lt; b` the same as `a < b` in HTML?", "Is `a &lt; b` the same as `a < b` in HTML?"),
        ("R&D wrote &lt;b&gt; here", "R&D wrote &lt;b&gt; here"),
        ("fish & chips", "fish & chips"),
    ],
)
def test_entities_are_undone_where_the_text_can_only_be_escaped(text: str, expected: str) -> None:
    assert clean_text(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "[deleted]",
        " [Removed] ",
        "[ removed ]",
        "[unavailable]",
        "\\[deleted\\]",
        "*[deleted]*",
        "[deleted by user]",
        "[removed by reddit]",
        "[ Removed by Reddit ]",
        "[ Removed by Reddit on account of violating the [content policy](/help/contentpolicy). ]",
        "[ Removed by reddit in response to a copyright notice. ]",
        "[Removed by\u00a0moderator]",
        "[removed for breaking rule 3]",
        "[comment removed]",
        "[This post has been deleted.]",
        "[account deleted]",
        "[redacted]",
        "Comment removed by moderator",
        "deleted by user",
        "This comment was removed by a moderator.",
    ],
)
def test_placeholders_are_known_in_every_spelling(text: str) -> None:
    assert is_placeholder(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "deleted",
        "I [removed] it by hand",
        "[removed] the old hinge, then it closed [photo]",
        "Removed by mistake",
        "[delete]",
        "My post was removed by a moderator, and nobody says why",
        "[deleted] " * 40,
    ],
)
def test_what_people_write_is_no_placeholder(text: str) -> None:
    assert not is_placeholder(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\x00b\x08c\x7fd\x9fe\ufffef", "abcdef"),
        ("\x1b[1;31mred\x1b[0m and \x1b]0;title\x07so on\x1b", "red and so on"),
        ("one\r\ntwo\nthree\x0cfour\x85five\tsix", "one\r\ntwo\nthree\nfour\nfive\tsix"),
        ("left\u200f right \u200e zero\u200bwidth", "left\u200f right \u200e zero\u200bwidth"),
        ("a\u202ab\u202ec\u2066d\u2069e\U000e0001f\U000e0041g\U000e007fh", "abcdefgh"),
        (f"{SCOTLAND}\U000e0068 and \U0001f3f4", f"{SCOTLAND} and \U0001f3f4"),
        ("\ufeffone \ufefftwo", "one \ufefftwo"),
    ],
)
def test_control_characters_go_and_line_breaks_stay(text: str, expected: str) -> None:
    assert remove_controls(text) == expected
    assert find_control_character(expected) is None


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a\x00b\x1b", "U+0000"),
        ("\x1b[0m", "U+001B"),
        ("a\tb\r\nc", None),
        ("a\u202eb", "U+202E"),
        ("a\U000e0068", "U+E0068"),
    ],
)
def test_a_control_character_is_named(text: str, found: str | None) -> None:
    assert find_control_character(text) == found
