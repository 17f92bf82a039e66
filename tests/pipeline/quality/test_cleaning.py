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


LEAD_INS = [
    "Sure! Here's a reply that meets the guidelines:\n\n",
    "Sure, here's the comment:\n\n",
    "Sure! Here's how I would comment:\n\n",
    "Sure, here's a comment from me:\n\n",
    "Sure, I'd be happy to! Here's a reply that follows your instructions:\n\n",
    "Certainly, here's my reply to the post:\n",
    "**Reply:** ",
    "**Reply**: ",
    "Reply\n\n",
    "Response to the post: ",
    "Here is what I would say: ",
    "Here's a possible response that reflects the given traits: ",
    'Here is a reply to the post "My cat: a story": ',
    "Sure, here's what this person might say: ",
    "As a friendly person, I would reply as follows: ",
    "In the voice of a friendly extravert: ",
    "Sure, how about this: ",
    "Sure, let's give it a try!\n\n",
    "Sure thing! Here you go: ",
    "Here's how I'd respond to this: ",
    "Here's how someone like that might reply: ",
    "Sure, here's how someone with these traits would respond to the post: ",
    "I would respond with: ",
    "I would reply with something like this: ",
    "My response would be something like: ",
    "A suitable reply would be:\n",
    "As a person who is young and values humor, I would say: ",
    "This person's reply: ",
    "Here is this person's reply: ",
    "User reply: ",
    "[Reply] ",
    "Hier eine Antwort: ",
    "Sure! Here's a reply that reflects the traits: high extraversion, likes humor: ",
    "Sure! Let me give you a short reply in the voice of the person described:\n\n",
    "Klar! Hier ist eine kurze Antwort auf den Beitrag: ",
    "Meine Antwort: ",
    "Bien s\u00fbr ! Voici une r\u00e9ponse possible : ",
    "\u00a1Claro! Aqu\u00ed tienes una respuesta breve: ",
    "Certo! Ecco una breve risposta: ",
    "Claro! Aqui est\u00e1 uma resposta curta: ",
    "Zeker! Hier is een korte reactie op het bericht: ",
    "Jasne! Oto kr\u00f3tka odpowied\u017a: ",
    "\u041a\u043e\u043d\u0435\u0447\u043d\u043e! \u0412\u043e\u0442 \u043e\u0442\u0432\u0435\u0442: ",
    "\u5f53\u7136\uff01\u4ee5\u4e0b\u662f\u6211\u7684\u56de\u590d\uff1a",
    "\u3082\u3061\u308d\u3093\u3067\u3059\uff01\u4ee5\u4e0b\u306f\u8fd4\u4fe1\u3067\u3059\uff1a",
    "\u4ee5\u4e0b\u306f\u8fd4\u4fe1\u306e\u4f8b\u3067\u3059\uff1a",
]


@pytest.mark.parametrize("lead_in", LEAD_INS)
def test_what_announces_the_reply_is_removed(lead_in: str) -> None:
    assert text_of(lead_in + CALL) == CALL
    assert text_of(f'{lead_in}"{CALL}"') == CALL


def test_an_opener_goes_only_before_a_reply_in_quotation_marks() -> None:
    assert text_of(f'Certainly! "{CALL}"') == CALL
    assert text_of(f"Sure, \u201c{CALL}\u201d") == CALL
    assert text_of(f"Certainly! {CALL}") == f"Certainly! {CALL}"
    assert text_of(f'Yes, "call her" is what I said. {MORE}') == f'Yes, "call her" is what I said. {MORE}'


@pytest.mark.parametrize(
    "speaker",
    [
        *("Assistant: ", "Me: ", "**Anna:** ", "Anna (34): ", "u/sky_walker: ", "@anna: ", "User 1: "),
        *("sky_walker: ", "skywalker512: ", "SkyWalker92: "),
    ],
)
def test_the_name_of_a_speaker_is_removed(speaker: str) -> None:
    assert text_of(speaker + CALL) == CALL


@pytest.mark.parametrize(
    "ending",
    [
        "\n\nBest,\nAnna",
        "\n\nKind regards,\n[Your Name]",
        "\n\nCheers,",
        "\nWith love,",
        "\n\nThis response includes a plan, a favourite dish and a joke.",
        " Best, Anna",
        "\n\n\u2014 A friend",
        "\n- Anna",
        "\n[Your Name]",
        "\n\n---\n\nLet me know if you'd like me to adjust it!",
        "\n\n(Word count: 12)",
        "\n\nNote: this reply uses the traits.",
        "\n\nTraits shown: warmth, wit",
        "\n\nExplanation: the reply shows a kind person.",
        "\nThis reply sounds bold and energetic, and supports the idea.",
        "\n\nThis reply challenges the poster and encourages them.",
        "\n\nThis reply supports the person and mentions complexity.",
        "\n\nThis reply keeps a friendly tone while it suggests a solution.",
        "\n\nThis response gives a humorous take that fits a young person.",
        "\n\nThis reply is a short reply in the voice of a young person.",
        "\n\nThis is a short reply in the voice of a young person.",
        "\n\nThe reply shows low agreeableness.",
        "\n\nIn this reply, I tried to show low agreeableness.",
        "\n\nThis response is written in a warm tone:\n- warmth\n- wit",
        "\n\nFeel free to make any changes!",
        "\n\nFeel free to edit this reply to fit your needs.",
        "\n\nThis reply reflects the traits.\n\nLet me know if you need any changes!",
    ],
)
def test_what_follows_the_reply_is_removed(ending: str) -> None:
    assert text_of(f"{CALL} {MORE}{ending}") == f"{CALL} {MORE}"


@pytest.mark.parametrize(
    "text",
    [
        "Three things I would do: call, write, wait.",
        "My advice: sell it.",
        "Short answer: yes. Long answer: no.",
        "Yes: sell it.",
        "Warning: it bites.",
        "Edit: I was wrong.",
        "Update2: she called.",
        "Step1: call her.",
        "TL;DR: sell it.",
        "PS5: not worth it.",
        "YouTube: great for this.",
        "Here's the thing: you should call her.",
        "Here's what I would do: call her.",
        "Let me give you one piece of advice: call her.",
        "Here's what I'd say to her: leave me alone.",
        "Here is a response you could send her: Dear Anna, no.",
        "Here's the problem with that reply: it is rude.",
        "Here are two possible replies:\n\n1. Call.\n2. Wait.",
        "This is the answer I got from my doctor: rest.",
        "This is how I would reply to her: nope.",
        "The response you got from HR: unreal.",
        "It was 10:30 when I left.",
        "https://example.org is good",
        "Good luck!\nHope this helps!",
        "Milk and eggs:\n- Milk\n- Anna",
        "Bring one thing:\n- Milk",
        "Love,\nthat is all you need.",
        "You got this.\n\nCheers!",
        "Thanks,\nI will try that out and see.",
        "Call her.\n\nThis reply shows up late, sorry.",
        "Call her.\n\nNote: she hates the phone.",
        "Call her.\n\nLet me know if you need a lift.",
        "Call her.\n\nI hope this works out for you.",
        "Call her.\nThis reply sounds harsh, but I mean it.",
        "Call her.\nThis reply gives me hope.",
        "Call her.\nThis reply keeps the peace.",
        "Call her.\nThis response gives the landlord a way out.",
        "Call her.\nThis reply is a mess, sorry.",
        "Call her.\nThe reply shows that he does not care.",
        "Call her.\nIn this reply, he lies.",
        "Call her.\nThoughts: it's okay to be sad.",
        "Call her.\nTraits: patience and wit. Look for these.",
        "Call her.\nExplanation: my dad did this for years.",
        "Call her.\nFeel free to edit this recipe, I use oat milk.",
        "Call her.\nFeel free to make changes to the plan.",
        "Call her.\nWould you like me to write to the landlord?",
        "Call her.\nLet me know if you need any help with moving.\n\nAlso, sell the couch.",
        "Call her.\n\nLet me know if you want to change the date.\n\nAlso, sell the couch.",
        "Call her.\n\nThis reply reflects my mood.\n\nNow, sell the couch.",
        'Great "advice" from somebody who calls himself "expert"',
        'OK "boomer"',
        'OK, "boomer."',
        "Here is her answer: no.",
        "This is my landlord's reply: no.",
        "Below is my mom's comment: eat first.",
        "The following is a comment from my dad: grow up!",
        "Hier ist seine Antwort: nein.",
        "Hier gibt es nur eine Antwort: nein.",
        "How I would respond to it: laugh.",
        "User response: great, sales are up.",
        'A possible reply: "I have to think." Then block her.',
        'I would respond with: "No, thanks." Then leave.',
        "As a nurse, I would say: rest.",
        "As a person who lost a parent, I would say: take your time.",
        "Here you go: https://example.org",
        "Appropriate response: laugh.",
        "[Reply]",
        "ps5: buy it. xbox: skip it.",
        "Windows11: avoid it.",
        "Route66: do it once.",
        "Summer2024: never again.",
        "Sarah: call her. Mike: leave him.",
        "Me: I want to eat well. Also me: pizza.",
        "me: tired, also me: still awake.",
        "Person A: stays calm. Person B: yells.",
        "Me: 1. My mom: 0.",
        "Ich: m\u00fcde. Mein Mann: hellwach.",
        "The obstacle is the way. - Marcus Aurelius",
        "The best city in June? - Lisbon",
        "I moved there for the food.\n- San Francisco",
    ],
)
def test_what_people_write_stays(text: str) -> None:
    assert clean(text, ALL) == Cleaned(text, "stop", ())


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
        (f"{CALL} She said no. So", f"{CALL} She said no."),
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
    clean(text, CleaningConfig(), "length")
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
        *("\n\nThis reply gives ", "\nthe reply shows ", "\nExplanation:", "\n\nThis reply reflects\n\nx", "Anna: a. "),
        *("As a person who is a and likes ", 'I would reply with: "', "Here is a reply with the traits: high "),
    ]
    texts = [piece * (250_000 // len(piece)) for piece in pieces]
    texts += [f"{text}x" for text in texts]

    # A quadratic step takes minutes for one of these texts, and there are many of them.
    done = subprocess.run([sys.executable, "-c", _CLEAN], input=json.dumps(texts), text=True, timeout=120, check=False)

    assert done.returncode == 0
